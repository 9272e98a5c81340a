"""From a row of the zoo to its weights, and to the torch network that takes them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import CheckpointError, MissingExtra, SightlineError
from sightline.runtime.session import Session
from sightline.runtime.store import BUNDLED, Stored, bundled_folder, find_whole, model_shelf, sha256_of
from sightline.trackers.zoo import entry_of

if TYPE_CHECKING:
    import torch

    from sightline.checkpoints.files import Weights

ADDED = "weights.safetensors"  # name in the cache of a torch network's weights


# Where weights are


def added(name: str) -> Stored | None:
    """The weights in the cache that were added for a model, every file of them verified; None where none were.

    Raises `CheckpointError`, which names the file, where they are damaged.
    """
    try:
        return find_whole(model_shelf(name))
    except CheckpointError as error:
        raise CheckpointError(f"{error} Run again: sightline models add {name} FILE") from error


def located(name: str, weights: str | Path | None) -> Path:
    """The weights to load: the file or folder that was given, else the bundled folder of graphs, else those added.

    Raises `CheckpointError` where there are none, which says how to get them.
    """
    entry = entry_of(name)
    if weights is not None:
        path = Path(weights)
        if not path.exists():
            raise CheckpointError(f"weights {path}: no such file or folder. Check the path.")
        return path
    if entry.bundled:
        return bundled_folder(entry.bundled)
    if stored := added(name):
        (*others, last) = sorted(stored.files)
        return stored.folder if others else stored.folder / last
    raise CheckpointError(
        f"{name}: got no weights; expected a file, since none is inside the package or in the cache. Run "
        f"'sightline models {name}' for the page and the file's name, then 'sightline models add {name} FILE'; "
        "or pass weights= (--weights)."
    )


def weights_file(name: str, weights: str | Path | None) -> Path:
    """The file that holds a model's tensors: the one given, the bundled one in half precision, or the one added."""
    path = located(name, weights)
    if not path.is_dir():
        return path
    if weights is None and entry_of(name).bundled:
        return BUNDLED / f"{entry_of(name).bundled}.safetensors"
    raise CheckpointError(
        f"weights {path}: got a folder of exported graphs for torch; expected a weights file. "
        "Use backend 'onnx', or pass the file they were exported from."
    )


# Torch networks


def need_torch(what: str, extra: str = "torch") -> None:
    """Raise `MissingExtra`, which names the extra to install, unless torch is there; loads nothing."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(f"{what} needs torch, which is not installed. Run: pip install 'sightline[{extra}]'")


def build_model(
    name: str, weights: str | Path | None, options: Mapping[str, Any] | None = None
) -> tuple[torch.nn.Module, str]:
    """The torch network of a model with its weights, in eval mode on the CPU, and the weights file's SHA-256.

    weights: an official or converted file, None for the bundled or added one. options: fields of the model's config.
    """
    path = weights_file(name, weights)
    need_torch(f"the torch network of {name!r}")
    import torch

    from sightline.checkpoints.files import read_weights
    from sightline.checkpoints.official import check_against

    model = empty_model(name, options)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    tensors = read_weights(path).tensors
    check_against(tensors, expected, source=path.name, model=name)
    state = {key: torch.from_numpy(value).float() for key, value in tensors.items()}
    model.load_state_dict(state, strict=False)  # strictness is check_against's, which explains
    return model.eval(), sha256_of(path)


def empty_model(name: str, options: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The torch network of a model with random weights."""
    entry = entry_of(name)
    if not entry.model:
        raise SightlineError(
            f"{name}: got a model that is an ONNX file alone; expected one with a torch network. Use backend 'onnx'."
        )
    need_torch(f"the torch network of {name!r}")
    preset = resolve(entry.preset)
    model: torch.nn.Module = resolve(entry.model)(replace(preset, **(options or {})))
    return model


def expected_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model's network, from one built without memory."""
    need_torch("checking official weights")
    import torch

    with torch.device("meta"):
        state = empty_model(name).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def resolve(path: str) -> Any:
    """The object that a table names as `module:name`."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def torch_session(
    name: str, weights: str | Path | None, options: Mapping[str, Any], device: str, threads: int
) -> Session:
    """A torch model as a session; `threads` is torch's process-wide setting."""
    model, _ = build_model(name, weights, options)
    import torch

    from sightline.models.session import TorchSession

    if threads:
        torch.set_num_threads(threads)
    try:
        return TorchSession(model, device)
    except (RuntimeError, AssertionError) as error:  # torch's two ways of saying that there is no such device
        reason = str(error).partition("\n")[0]
        raise SightlineError(
            f"device: got {device!r}; expected one that torch has here ({reason}). Try 'cpu'."
        ) from error


# Files


@dataclass(frozen=True)
class Checked:
    """A weights file that holds every tensor of the model `name`, and what a converted file says of its source.

    note: what else is to be known of such a file, maybe nothing.
    """

    name: str
    weights: Weights
    metadata: dict[str, str]
    note: str = ""


def checked_weights(path: Path, name: str | None = None) -> Checked:
    """Read an official or converted file and compare it with a model tensor by tensor, by default the one it fits.

    Raises `CheckpointError` for a file that is damaged, of another model, or of none that is known.
    """
    from sightline.checkpoints import files
    from sightline.checkpoints.official import check_against, recognise

    weights = files.read_weights(path)
    known = recognise(weights.tensors)
    if known and not known.model:
        raise CheckpointError(
            f"weights {path.name!r}: got {known.title}; expected a tracker's weights. {known.advice} "
            f"As a file: sightline convert --init {path.name} --model NAME -o START.safetensors"
        )
    if name is None and known is None:
        first, tensor = next(iter(weights.tensors.items()))
        raise CheckpointError(
            f"weights {path.name!r}: got {len(weights.tensors)} tensors that look like no model's, first {first} "
            f"{tensor.shape}; expected OSTrack's or MVT's. Name the model with --model."
        )
    model, note = (known.model, known.note) if name is None and known else (name or "", "")
    check_against(weights.tensors, expected_shapes(model), source=path.name, model=model)
    metadata = {
        files.MODEL: model,
        files.FORMAT_VERSION: files.OUR_FORMAT_VERSION,
        files.SOURCE_NAME: path.name,
        files.SOURCE_SHA256: sha256_of(path),
    }
    return Checked(model, weights, metadata, note)
