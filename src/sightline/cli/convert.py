"""`sightline convert`: an official weights file, checked tensor by tensor and rewritten as safetensors."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated

import tyro

from sightline.errors import CheckpointError
from sightline.loading import expected_shapes

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # in the file, but not parameters


def convert(
    official: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")],
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
) -> None:
    """Rewrite an official weights file as safetensors. Nothing that the file names is run or imported.

    Args:
        official: Weights as released: OSTrack_ep0300.pth.tar, MobileViT_Track_ep0100.pth.tar.
        output: The safetensors file to write.
        model: Name of the model, as in `sightline models`; by default recognised from the tensors.
    """
    from sightline.checkpoints import files
    from sightline.checkpoints.official import check_against, recognise

    if output.exists() and official.exists() and output.samefile(official):
        raise CheckpointError(
            f"cannot write weights {str(output)!r}: got the input itself; expected another file. Name another output."
        )
    weights = files.read_weights(official)
    known = recognise(weights.tensors)
    if known and not known.model:
        raise CheckpointError(
            f"weights {official.name!r}: got {known.title}; expected a tracker's weights. {known.advice}"
        )
    if model:
        name, note = model, ""
    elif known:
        name, note = known.model, f" ({known.note})" if known.note else ""
    else:
        first, tensor = next(iter(weights.tensors.items()))
        raise CheckpointError(
            f"weights {official.name!r}: got {len(weights.tensors)} tensors that look like no model's, first {first} "
            f"{tensor.shape}; expected OSTrack's or MVT's. Name the model with --model."
        )
    check_against(weights.tensors, expected_shapes(name), source=official.name, model=name)

    with official.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    metadata = {
        files.MODEL: name,
        files.FORMAT_VERSION: files.OUR_FORMAT_VERSION,
        files.SOURCE_NAME: official.name,
        files.SOURCE_SHA256: sha256,
    }
    files.write_safetensors(output, weights.tensors, metadata)

    parameters = sum(math.prod(t.shape) for key, t in weights.tensors.items() if not key.endswith(BUFFERS))
    print(f"{output}: {name}{note}, {len(weights.tensors)} tensors, {parameters:,} parameters, source sha256 {sha256}")
