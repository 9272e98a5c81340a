"""`sightline export`: a model as ONNX graphs that need no torch, checked against it if asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sightline.errors import ExportMismatch
from sightline.loading import entry_of, export_model, sort_options
from sightline.runtime.onnx import FILES


def export(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")],
    /,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")],
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    backbone: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    check: tyro.conf.FlagCreatePairsOff[bool] = False,
    ce_layers: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="[N ...]", help_behavior_hint="")] = None,
    ce_keep_ratios: Annotated[
        tuple[float, ...] | None, tyro.conf.arg(metavar="R [R ...]", help_behavior_hint="")
    ] = None,
    ce_template_tokens: Annotated[
        Literal["centre", "2x2", "box", "all"] | None,
        tyro.conf.arg(metavar="{centre,2x2,box,all}", help_behavior_hint=""),
    ] = None,
    fusion: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")] = True,
    compression: Annotated[
        Literal["shared", "per_expert"] | None,
        tyro.conf.arg(metavar="{shared,per_expert}", help_behavior_hint=""),
    ] = None,
    every_frame: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Write the graphs of a model as .onnx files; `sightline track --weights FOLDER` then runs them without torch.

    Most models have encode.onnx and track.onnx, those that find their targets others. Weights of more than 1.8 GB are
    put beside them, into track.onnx.data.

    Args:
        name: A name from `sightline models`.
        output: Folder to write: a new or empty one, or that of an earlier export.
        weights: An official or converted weights file; by default the bundled one.
        backbone: DINOv2's file, beside SPMTrack's weights where these have only what was trained.
        check: Compare the graphs with torch on seeded images, print the differences and the time of each stage.
        ce_layers: OSTrack's blocks that eliminate candidates, counted from 0; no number switches elimination off.
        ce_keep_ratios: Share of the candidates that each of these blocks keeps: one for all, or one per block.
        ce_template_tokens: Template tokens whose attention ranks the candidates.
        fusion: Keep MVT's template and search region apart until the correlation.
        compression: SPMTrack's compress matrices: one for all experts of a layer, or one for each.
        every_frame: OneTrack-M's maps of all frames of a window, which its mode=clip needs.
    """
    given = {
        "ce_layers": ce_layers,
        "ce_keep_ratios": ce_keep_ratios,
        "ce_template_tokens": ce_template_tokens,
        "compression": compression,
    }
    chosen: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    if not fusion:
        chosen["fusion"] = False
    if every_frame:
        chosen["every_frame"] = True
    _, options = sort_options(name, entry_of(name), chosen)
    model = export_model(name, weights, options, output, backbone)
    print(f"{output}: {', '.join(file for file in FILES if (output / file).exists())} of {name}")
    if check:
        from sightline.export.verify import verify

        try:
            print(verify(model, output).table())
        except ExportMismatch as mismatch:
            print(f"error: {mismatch}", file=sys.stderr)
            return 1
    return 0
