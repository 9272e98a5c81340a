"""SPMTrack's two files in the released formats, with the weights of the filling rule."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightline.building import bare_model, resolve
from sightline.checkpoints.files import write_safetensors
from sightline.models.dinov2 import DINOv2, DINOv2Config
from sightline.models.spmtrack import is_trained
from sightline.models.vit import resize_pos_embed
from sightline.trackers.zoo import ZOO
from tests.parity.fill import parameter


class Files(NamedTuple):
    """What was trained, `model.bin`, and the backbone beside it, a `.pth` of `torch.save`."""

    delta: Path
    backbone: Path


def filled_state(name: str) -> dict[str, Tensor]:
    """Every tensor of a model's network, filled by its name."""
    shapes = {key: tuple(value.shape) for key, value in bare_model(name).state_dict().items()}
    return {key: torch.from_numpy(parameter(key, shape).astype(np.float32)) for key, shape in shapes.items()}


def write_files(folder: Path, name: str) -> Files:
    """Both files of a model, such that the joined network is that of `filled_state`.

    The backbone's positions are those whose resizing gives the filled ones, but for rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / "model.bin", folder / "dinov2.pth")
    config = resolve(ZOO[name].preset)
    state = filled_state(name)
    trained = {key: value.numpy() for key, value in state.items() if is_trained(key)}
    scalars = {"expert_alpha": np.array(config.rank), "use_rsexpert": np.array(False)}
    write_safetensors(files.delta, trained | scalars, {})
    torch.save(dinov2_state(state, config.backbone), files.backbone)
    return files


def dinov2_state(state: dict[str, Tensor], config: DINOv2Config) -> dict[str, Tensor]:
    """The frozen tensors of a network as DINOv2's file has them."""
    with torch.device("meta"):
        names = DINOv2(config).state_dict()
    found = {}
    for key, value in names.items():
        ours = key.replace(".proj.", ".proj.linear.") if ".attn.proj." in key else key
        if ".mlp." in key:
            prefix, last = key.rsplit(".", 1)
            ours = f"{prefix}.linear.{last}"
        if ".qkv." in key:
            prefix, last = key.rsplit(".", 1)
            found[key] = torch.cat([state[f"{prefix}.{part}.linear.{last}"] for part in "qkv"])
        elif key == "pos_embed":
            found[key] = torch.cat([torch.ones(1, 1, config.width), before_resizing(state[key], config.grid)], dim=1)
        else:
            found[key] = state.get(ours, torch.ones(value.shape))
    return found


def before_resizing(positions: Tensor, grid: int) -> Tensor:
    """(1, grid * grid, C) positions that `resize_pos_embed` turns into (1, G * G, C).

    Resizing is one linear map for rows and columns, so its pseudo-inverse does, as G is not beyond the grid.
    """
    side = round(positions.shape[1] ** 0.5)
    if grid < side:  # enlarged: no positions give just these
        return torch.from_numpy(parameter("pos_embed", (1, grid * grid, positions.shape[2])).astype(np.float32))
    rows = torch.eye(grid).repeat_interleave(grid, dim=0)[None]  # (1, grid * grid, grid): the same in every column
    resizing = resize_pos_embed(rows, side)[0].unflatten(0, (side, side))[:, 0].double()  # (G, grid)
    inverse = torch.linalg.pinv(resizing)
    known = positions[0].double().unflatten(0, (side, side))
    return torch.einsum("ag,bh,ghc->abc", inverse, inverse, known).flatten(0, 1)[None].float()
