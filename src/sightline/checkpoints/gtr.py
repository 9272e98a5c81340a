"""What a training of GTR, or of its detector, begins with: of a file, whatever fits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from sightline.checkpoints.files import read_weights
from sightline.checkpoints.official import COUNTER
from sightline.errors import CheckpointError
from sightline.models.centernet2 import CenterNet2

BACKBONE, BOTTOM_UP = "backbone.", "backbone.bottom_up."
FEDERATED = ("freq_weight", "fed_loss_cls_weights")  # in official files, for training alone; the data says it too


class Taken(NamedTuple):
    """Names of a file's tensors: of those that were taken, and those that were `dropped`; and of the network's, which
    the file lacks, so that they are `fresh`."""

    taken: list[str]
    dropped: list[str]
    fresh: list[str]


def take_what_fits(network: CenterNet2, path: str | Path) -> Taken:
    """Load the tensors of a file that fit a network by name and shape, in place.

    A tracker takes those of its detector: of CH_FPN_1x neither the cascade nor the last convolution of the tower, which
    is plain there. A detector takes those of DLA-34 or Res2Net-101 alone, whose names lack "backbone.bottom_up.".
    Raises `CheckpointError` for a file of which nothing fits.
    """
    path, ours = Path(path), network.state_dict()
    given = {name: torch.from_numpy(value) for name, value in read_weights(path).tensors.items()}
    given = {name: value for name, value in given.items() if not name.endswith(FEDERATED)}
    if not any(name.startswith(BACKBONE) for name in given):
        given = {f"{BOTTOM_UP}{name}": value for name, value in given.items()}
    fit = {
        name: value.to(ours[name].dtype)
        for name, value in given.items()
        if name in ours and ours[name].shape == value.shape
    }
    if not fit:
        raise CheckpointError(
            f"init {path.name!r}: got {len(given)} tensors, none of which fits; expected a detector, a backbone or a "
            "tracker of this kind. Give another file, or none."
        )
    network.load_state_dict(fit, strict=False)
    fresh = [name for name in ours if name not in fit and not name.endswith(COUNTER)]
    return Taken(list(fit), [name for name in given if name not in fit], fresh)
