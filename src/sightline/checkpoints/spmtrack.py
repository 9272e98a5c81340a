"""SPMTrack's two files: what was trained, and the frozen DINOv2 that it was trained beside.

A released file, `model.bin`, is safetensors in spite of its name. It holds the trained tensors alone and two scalars,
`expert_alpha` and `use_rsexpert`; we call it a delta. Our trainings are saved the same way. Together with the backbone
it makes one merged file, which has every tensor of the network under its official name and no scalars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.checkpoints.files import Weights, read_weights
from sightline.checkpoints.official import Shape, check_against
from sightline.errors import CheckpointError
from sightline.models.dinov2 import DINOv2
from sightline.models.spmtrack import SPMTrack, from_dinov2, is_trained, trainable_parameters
from sightline.trackers.zoo import entry_of

ALPHA, RANK_STABILISED = "expert_alpha", "use_rsexpert"
SCALARS = (ALPHA, RANK_STABILISED)
BACKBONE = "sightline.backbone_sha256"  # in the header of our deltas: of the frozen tensors they were trained beside
UNUSED = ("cls_token", "mask_token")  # of DINOv2, which the tracker has no place for
Tensors = Mapping[str, NDArray[Any]]


def delta_of(model: SPMTrack) -> dict[str, NDArray[Any]]:
    """The tensors of a released file: copies of what is trained, official names, and the two scalars."""
    trained = {name: value.detach().float().cpu().numpy().copy() for name, value in trainable_parameters(model).items()}
    return trained | {ALPHA: np.array(model.config.rank), RANK_STABILISED: np.array(False)}


def delta_file(model: SPMTrack) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What a training keeps: a delta, and the header that tells its backbone from every other."""
    frozen = {name: value.cpu().numpy() for name, value in model.state_dict().items() if not is_trained(name)}
    return delta_of(model), {BACKBONE: frozen_sha256(frozen)}


def frozen_sha256(tensors: Tensors) -> str:
    """Of a network's frozen tensors in float32, but for the positions, which are resized and so not alike to the bit on
    every machine."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not is_trained(name) and "pos_embed" not in name:
            digest.update(name.encode() + np.ascontiguousarray(tensors[name], dtype=np.float32).tobytes())
    return digest.hexdigest()


def backbone_beside(init: str, backbone: str) -> str:
    """The file that a run's deltas go with, of a run that began so; "" for none, where the run must keep all weights.

    init: "none", or a file of a backbone, of a whole tracker or of what was trained alone, then with `backbone`.
    """
    if backbone or init in ("", "none"):
        return backbone
    return "" if any(map(is_trained, read_weights(init).tensors)) else init


def load_delta(model: SPMTrack, tensors: Tensors, source: str = "delta") -> None:
    """Put a delta into a network, in place; the backbone stays. Any number of them may follow each other.

    source: names it in the sentence. Raises `CheckpointError` for one that does not fit; nothing is changed then.
    """
    expected = {name: tuple(value.shape) for name, value in trainable_parameters(model).items()}
    trained = checked_delta(tensors, expected, source, "this network")
    state = {name: torch.from_numpy(value).float() for name, value in trained.items()}
    model.load_state_dict(state, strict=False)  # strictness is checked_delta's, which explains


def joined(weights: Weights, backbone: Path | None, network: SPMTrack, name: str) -> dict[str, NDArray[Any]]:
    """Every tensor of a network, from a merged file alone or from a delta and its backbone's file.

    network: of the model `name`; only names and shapes are looked at, so it may be on the "meta" device. backbone: a
    DINOv2 file with its official names, read after the delta was found to fit; its positions are resized.

    Raises `CheckpointError` where a file is damaged, of another size or in the other's place, where there is one too
    few or too many, and where our own delta was trained beside another backbone.
    """
    source = weights.path.name
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    held = weights.tensors.keys() - set(SCALARS)
    if held and not any(map(is_trained, held)):
        raise CheckpointError(
            f"weights {source!r}: got none of the trained tensors of {name}; expected a file with them, as model.bin. "
            "If this is DINOv2's file, pass it with --backbone (backbone=), beside that."
        )
    if not all(map(is_trained, held)):
        check_against(weights.tensors, expected, source=source, model=name)
        if backbone:
            raise CheckpointError(
                f"weights {source!r}: got a merged file, and the backbone {backbone.name!r} besides; expected one file "
                "that holds everything, or what was trained and a backbone. Leave the backbone out."
            )
        return weights.tensors
    trained = checked_delta(
        weights.tensors, {key: shape for key, shape in expected.items() if is_trained(key)}, source, name
    )
    if backbone is None:
        file = entry_of(name).backbone_file or f"the one that {name} was trained beside"
        raise CheckpointError(
            f"weights {source!r}: got what was trained alone; expected the file of its backbone besides: {file}. "
            "Pass it with --backbone (backbone=), or join the two first with sightline convert."
        )
    frozen = frozen_tensors(read_weights(backbone), network, name)
    if weights.metadata.get(BACKBONE) not in (None, frozen_sha256(frozen)):
        raise CheckpointError(
            f"backbone {backbone.name!r}: got other weights than those that {source!r} was trained beside; expected "
            "the same. Pass the file that the training began from."
        )
    return trained | frozen


def checked_delta(tensors: Tensors, expected: Mapping[str, Shape], source: str, model: str) -> dict[str, NDArray[Any]]:
    """A delta without its scalars, found to fit: every trained tensor in its shape, and a scale that is ours.

    The experts are scaled by alpha / rank, which is 1 in our networks. The official code writes the scalars unless
    alpha is 1, so a file without them has another scale and is refused.
    """
    trained = {name: value for name, value in tensors.items() if name not in SCALARS}
    check_against(trained, expected, source=source, model=model)
    rank = next(shape[1] for name, shape in expected.items() if ".routed_experts." in name)
    alpha, is_stabilised = (tensors.get(name) for name in SCALARS)
    if alpha is None or alpha.size != 1 or alpha.item() != rank:
        got = "none, which means 1" if alpha is None else alpha.tolist()
        raise CheckpointError(
            f"weights {source!r}: {ALPHA}: got {got}; expected {rank}, the rank of the experts, which are not scaled "
            "here. Give a file that was trained so."
        )
    if is_stabilised is None or is_stabilised.size != 1 or is_stabilised.item():
        got = "none" if is_stabilised is None else is_stabilised.tolist()
        raise CheckpointError(
            f"weights {source!r}: {RANK_STABILISED}: got {got}; expected false, as in every released file. Give a file "
            "that was trained so."
        )
    return trained


def frozen_tensors(backbone: Weights, network: SPMTrack, name: str) -> dict[str, NDArray[Any]]:
    """The tensors of a network that come from a DINOv2 file, under our names."""
    with torch.device("meta"):
        published = DINOv2(network.config.backbone).state_dict()
    needed = {key: tuple(value.shape) for key, value in published.items() if key not in UNUSED}
    tensors = {key: value for key, value in backbone.tensors.items() if key not in UNUSED}
    check_against(tensors, needed, source=backbone.path.name, model=f"the backbone of {name}")
    state = {key: torch.from_numpy(value).float() for key, value in tensors.items()}
    return {key: value.contiguous().numpy() for key, value in from_dinov2(state, network.config.search_grid).items()}
