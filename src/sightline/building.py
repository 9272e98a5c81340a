"""From a row of the zoo to its weights, and to the torch network that takes them."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import CheckpointError, MissingExtra, ProtocolError, SightlineError
from sightline.runtime.session import Session
from sightline.runtime.store import BUNDLED, Stored, bundled_folder, find_whole, model_shelf, sha256_of
from sightline.trackers.zoo import ZOO, Entry, TrackerConfig, entry_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

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
        raise CheckpointError(f"{error} Run again: {add_command(name)}") from error


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
        f"'sightline models {name}' for the page and the file's name, then '{add_command(name)}'; "
        f"or pass weights= (--weights){' and backbone= (--backbone)' if entry.join else ''}."
    )


def add_command(name: str) -> str:
    """How to keep the weights of a model."""
    return f"sightline models add {name} FILE{' --backbone FILE' if entry_of(name).join else ''}"


def check_backbone(name: str, backbone: str | Path | None, weights: Path | None = None) -> Path | None:
    """The path of a backbone, if one was given; `SightlineError` for one that is not there, or not wanted."""
    if backbone is None:
        return None
    if name not in ZOO or not ZOO[name].join:
        takers = ", ".join(taker for taker, entry in ZOO.items() if entry.join)
        raise SightlineError(f"{name}: got a backbone; expected none, since only {takers} take one. Leave it out.")
    path = Path(backbone)
    if not path.exists():
        raise CheckpointError(f"backbone {path}: no such file. Check the path.")
    if weights and weights.is_dir():
        raise CheckpointError(
            f"{name}: got the backbone {path.name!r} beside exported graphs, which hold it; expected these alone. "
            "Leave the backbone out."
        )
    return path


def source_of(path: Path, backbone: Path | None) -> tuple[str, str]:
    """Name and SHA-256 of a weights file, or of two with a plus between."""
    files = [path, *([backbone] if backbone else [])]
    return " + ".join(file.name for file in files), " + ".join(sha256_of(file) for file in files)


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
    name: str,
    weights: str | Path | None,
    options: Mapping[str, Any] | None = None,
    backbone: str | Path | None = None,
) -> tuple[torch.nn.Module, str]:
    """The torch network of a model with its weights, in eval mode on the CPU, and the weights file's SHA-256.

    weights: an official or converted file, None for the bundled or added one. options: fields of the model's config.
    backbone: the file of the frozen part, where the weights are what was trained alone; then there are two SHA-256.
    """
    frozen, path = check_backbone(name, backbone), weights_file(name, weights)
    need_torch(f"the torch network of {name!r}")
    import torch

    from sightline.checkpoints.files import read_weights

    tensors = tensors_for(bare_model(name, options), name, read_weights(path), frozen)
    model = empty_model(name, options)
    state = {key: torch.from_numpy(value).float() for key, value in tensors.items()}
    model.load_state_dict(state, strict=False)  # strictness is tensors_for's, which explains
    return model.eval(), source_of(path, frozen)[1]


def tensors_for(
    network: torch.nn.Module, name: str, weights: Weights, backbone: Path | None
) -> dict[str, NDArray[Any]]:
    """Every tensor of a network by name, of one file or two; `CheckpointError` where they do not fit.

    network: of the model `name`; only names and shapes are looked at.
    """
    from sightline.checkpoints.files import MODEL
    from sightline.checkpoints.official import check_against

    if join := entry_of(name).join:
        tensors: dict[str, NDArray[Any]] = resolve(join)(weights, backbone, network, name)
        return tensors
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    unused = entry_of(name).unused
    tensors = {key: value for key, value in weights.tensors.items() if not (unused and key.endswith(unused))}
    told = weights.metadata.get(MODEL, "")
    check_against(tensors, expected, source=weights.path.name, model=name, told=told)
    return tensors


def model_for_inference(
    name: str, weights: str | Path | None, options: Mapping[str, Any], backbone: str | Path | None = None
) -> tuple[torch.nn.Module, str]:
    """What `build_model` gives, or the faster copy that the model's row names: neither to be trained nor saved."""
    model, sha256 = build_model(name, weights, options, backbone)
    if fused := entry_of(name).fused:
        model = resolve(fused)(model)
    return model, sha256


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
    """Name and shape of every tensor of a model's network."""
    return {key: tuple(value.shape) for key, value in bare_model(name).state_dict().items()}


def bare_model(name: str, options: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The torch network of a model without memory for its weights."""
    need_torch("checking official weights")
    import torch

    with torch.device("meta"):
        return empty_model(name, options)


def resolve(path: str) -> Any:
    """The object that a table names as `module:name`."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def tracker_of(name: str, weights: str | Path | None) -> TrackerConfig:
    """The loop's constants of a model: the row's, but for those that the header of its weights names.

    Raises `CheckpointError` where these are not what the loop takes.
    """
    from sightline.checkpoints.files import TRACKER, read_header

    config, path = entry_of(name).tracker, weights_file(name, weights)
    told = read_header(path).get(TRACKER)
    if told is None:
        return config
    try:
        return type(config).from_json(config.to_json() | json.loads(told))
    except (ValueError, TypeError, ProtocolError) as error:
        raise CheckpointError(
            f"weights {path.name!r}: got {TRACKER} {told!r:.80} in the header; expected fields of the tracker's config "
            f"({error}). Train or convert it again."
        ) from error


def classes_of(entry: Entry) -> tuple[str, ...]:
    """The names of the classes that a multi-object model finds."""
    classes = entry.classes
    return tuple(resolve(classes)()) if isinstance(classes, str) else classes


def torch_session(
    name: str,
    weights: str | Path | None,
    options: Mapping[str, Any],
    device: str,
    threads: int,
    backbone: str | Path | None = None,
) -> Session:
    """A torch model as a session; `threads` is torch's process-wide setting."""
    model, _ = model_for_inference(name, weights, options, backbone)
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
    """The weights of every tensor of the model `name`, of one file or two, and what a converted file says of these.

    note: what else is to be known of such a file, maybe nothing.
    """

    name: str
    weights: Weights
    metadata: dict[str, str]
    note: str = ""


def checked_weights(path: Path, name: str | None = None, backbone: Path | None = None) -> Checked:
    """Read an official or converted file and compare it with a model tensor by tensor, by default the one it fits.

    backbone: the file of the frozen part, where the first has what was trained alone; it is joined to that. Raises
    `CheckpointError` for a file that is damaged, of another model, or of none that is known.
    """
    from sightline.checkpoints import files
    from sightline.checkpoints.official import recognise

    weights = files.read_weights(path)
    known = recognise(weights.tensors)
    if known and not known.model:
        start = f" As a file: sightline convert --init {path.name} --model NAME -o START.safetensors"
        raise CheckpointError(
            f"weights {path.name!r}: got {known.title}; expected a tracker's weights. {known.advice}"
            f"{start if known.init_with else ''}"
        )
    if name is None and known is None:
        first, tensor = next(iter(weights.tensors.items()))
        raise CheckpointError(
            f"weights {path.name!r}: got {len(weights.tensors)} tensors that look like no model's, first {first} "
            f"{tensor.shape}; expected OSTrack's, MVT's, SPMTrack's or GTR's. Name the model with --model."
        )
    model, note = (known.model, known.note) if name is None and known else (name or "", "")
    backbone = check_backbone(model, backbone)
    tensors = tensors_for(bare_model(model), model, weights, backbone)
    source, sha256 = source_of(path, backbone)
    metadata = {
        files.MODEL: model,
        files.FORMAT_VERSION: files.OUR_FORMAT_VERSION,
        files.SOURCE_NAME: source,
        files.SOURCE_SHA256: sha256,
    }
    if told := weights.metadata.get(files.TRACKER):
        metadata[files.TRACKER] = told
    return Checked(model, replace(weights, tensors=tensors), metadata, note)
