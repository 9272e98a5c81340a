"""`sightline convert`: an official weights file, checked tensor by tensor and rewritten as safetensors; or the start of
a training, made of an initialisation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import tyro

from sightline.building import checked_weights
from sightline.errors import CheckpointError
from sightline.runtime.store import sha256_of

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # in the file, but not parameters


def convert(
    official: Annotated[
        tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[FILE]", help_behavior_hint="")
    ] = None,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = tyro.MISSING,
    backbone: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    init: Annotated[str | None, tyro.conf.arg(metavar="FILE|none", help_behavior_hint="")] = None,
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
) -> None:
    """Rewrite an official weights file as safetensors; with --init, write weights that a training starts from.

    Nothing that a file names is run or imported.

    Args:
        official: Weights as released: OSTrack_ep0300.pth.tar, MobileViT_Track_ep0100.pth.tar, SPMTrack's model.bin.
        output: The safetensors file to write.
        backbone: DINOv2's file, which SPMTrack's is joined to: dinov2_vitb14_pretrain.pth. One file comes out.
        model: Name of the model, as in `sightline models`; by default recognised from the tensors.
        init: Start of --model: "none" for its own initialisation, or a file. OSTrack: a ViT-B/16 of MAE, DeiT or
            AugReg with timm's names; OneTrack-M: one of its own width and patches, the tiny one EfficientNet-Lite0;
            mvt: MobileViT-S; sightline-nano: EfficientNet-Lite0; each also a tracker's file.
        seed: Of what --init leaves to chance.
    """
    if (official is None) == (init is None):
        raise CheckpointError(
            f"convert: got {'no file' if init is None else 'a file and --init'}; expected one of the two. Write: "
            "sightline convert FILE -o OUT, or: sightline convert --init FILE|none --model NAME -o OUT"
        )
    if backbone and init:
        raise CheckpointError("convert --init: got a backbone; expected it as --init. Leave --backbone out.")
    for source in (official or Path(init or ""), backbone):
        if source and output.exists() and source.exists() and output.samefile(source):
            raise CheckpointError(
                f"cannot write weights {str(output)!r}: got the input itself; expected another file. Name another "
                "output."
            )
    if official:
        convert_official(official, output, model, backbone)
    elif model:
        write_start(model, str(init), output, seed)
    else:
        raise CheckpointError("convert --init: got no model; expected one. Name it with --model.")


def convert_official(path: Path, output: Path, model: str | None, backbone: Path | None) -> None:
    from sightline.checkpoints.files import SOURCE_SHA256, write_safetensors

    checked = checked_weights(path, model, backbone)
    tensors = checked.weights.tensors
    write_safetensors(output, tensors, checked.metadata)
    parameters = sum(math.prod(t.shape) for key, t in tensors.items() if not key.endswith(BUFFERS))
    note = f" ({checked.note})" if checked.note else ""
    print(
        f"{output}: {checked.name}{note}, {len(tensors)} tensors, {parameters:,} parameters, "
        f"source sha256 {checked.metadata[SOURCE_SHA256]}"
    )


def write_start(name: str, init: str, output: Path, seed: int) -> None:
    from sightline.checkpoints import files
    from sightline.checkpoints.starts import NONE, SEED, START, start_model

    start = start_model(name, init, seed=seed)
    tensors = {key: value.numpy() for key, value in start.model.state_dict().items()}
    metadata = {files.MODEL: name, files.FORMAT_VERSION: files.OUR_FORMAT_VERSION, START: start.title, SEED: str(seed)}
    if init != NONE:
        metadata |= {files.SOURCE_NAME: Path(init).name, files.SOURCE_SHA256: sha256_of(Path(init))}
    files.write_safetensors(output, tensors, metadata)
    print("\n  ".join([f"{output}: {name}, to be trained, from {start.title}", *start.notes]))
