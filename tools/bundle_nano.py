"""Put trained sightline-nano weights into the package: half-precision safetensors and the ONNX graphs made from them.

    python tools/bundle_nano.py RUN/nano-004000.safetensors

Torch and ONNX Runtime then hold the same numbers, both rounded to half precision once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sightline.checkpoints.files import read_weights, write_safetensors
from sightline.export.onnx import export_onnx
from sightline.export.verify import verify
from sightline.loading import build_model
from sightline.runtime.store import BUNDLED, bundled_folder
from sightline.trackers.zoo import ZOO

NAME = "sightline-nano"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    source = read_weights(parser.parse_args().weights)
    half = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in source.tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    path = BUNDLED / f"{NAME}.safetensors"
    write_safetensors(path, half, {**source.metadata, "sightline.model": NAME, "sightline.notice": ZOO[NAME].notice})
    model, sha256 = build_model(NAME, path)
    folder = bundled_folder(NAME)
    tracker = ZOO[NAME].tracker
    export_onnx(model, folder, name=NAME, tracker=tracker, options={}, weights_sha256=sha256, notice=ZOO[NAME].notice)
    print(verify(model, folder).table())


if __name__ == "__main__":
    main()
