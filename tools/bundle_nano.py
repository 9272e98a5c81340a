"""Put trained sightline-nano weights into the package: half-precision safetensors and the ONNX graphs made from them.

    python tools/bundle_nano.py RUN/nano-001911.safetensors RUN/nano-003227.safetensors RUN/nano-004186.safetensors

Several checkpoints of one run are averaged, which steadies what a single one may lose by chance.
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
    parser.add_argument("weights", type=Path, nargs="+")
    sources = [read_weights(path) for path in parser.parse_args().weights]
    half = {
        name: np.mean([source.tensors[name] for source in sources], axis=0, dtype=np.float64).astype(np.float16)
        for name in sources[0].tensors
        if not name.endswith("num_batches_tracked")
    }
    path = BUNDLED / f"{NAME}.safetensors"
    write_safetensors(
        path, half, {**sources[-1].metadata, "sightline.model": NAME, "sightline.notice": ZOO[NAME].notice}
    )
    model, sha256 = build_model(NAME, path)
    folder = bundled_folder(NAME)
    tracker = ZOO[NAME].tracker
    export_onnx(model, folder, name=NAME, tracker=tracker, options={}, weights_sha256=sha256, notice=ZOO[NAME].notice)
    print(verify(model, folder).table())


if __name__ == "__main__":
    main()
