"""From a model's name to a tracker that runs: `load`, and `build_model` for those who want the torch network."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sightline import __version__
from sightline.errors import CheckpointError, MissingExtra, SightlineError, UnknownModel
from sightline.runtime.onnx import OnnxSession
from sightline.runtime.session import Session
from sightline.runtime.store import BUNDLED, bundled_folder, cache_folder, sha256_of
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO, Entry

if TYPE_CHECKING:
    import torch

Backend = Literal["auto", "onnx", "torch"]
log = logging.getLogger("sightline")
MAX_THREADS = 256  # many more than any machine gains from, and few enough that a slip of the finger hangs none
# Fields of `TemplateSearchConfig` that a person may choose; the others belong to the weights.
TRACKER_FIELDS = ("template_factor", "search_factor", "crop", "map_back", "window", "clip_margin_px")


def load(
    name: str = "sightline-nano",
    *,
    weights: str | Path | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int = 0,
    **options: Any,
) -> TemplateSearchTracker:
    """A tracker by name, ready for `init`.

    weights: an official file (`OSTrack_ep0300.pth.tar`), a converted `.safetensors`, or a folder made by `sightline
    export`; None takes the weights inside the package, which only sightline-nano has. backend: "onnx" (no torch
    needed for the bundled model and exported folders; other files are exported once into the cache), "torch", or
    "auto": onnx where graphs are at hand and no device but the CPU is named, torch otherwise. device: of torch, for
    example "cuda". threads: of the network on the CPU, 0 for the back end's own choice. options: fields of the
    tracker's config (`window=0.5`) and of the model's (`ce_keep_ratios=(0.9, 0.9, 0.9)`).

    Raises `UnknownModel`, `CheckpointError` (missing, damaged or wrong weights), `MissingExtra` (no torch).
    """
    entry = entry_of(name)
    tracker_options, model_options = sort_options(name, entry, options)
    if not 0 <= threads <= MAX_THREADS:
        raise SightlineError(
            f"threads: got {threads}; expected 0 to {MAX_THREADS}. Pass 0 to leave it to the back end."
        )
    graphs = graphs_of(name, entry, weights)
    if graphs and model_options:
        raise CheckpointError(
            f"{name}: got {sorted(model_options)} for exported graphs; expected them at export. "
            "Export with these options, or pass the weights file."
        )
    if backend == "auto":
        backend = "onnx" if graphs and device == "cpu" else "torch"
    session: Session
    if backend == "onnx":
        if device != "cpu":
            raise SightlineError(f"device: got {device!r} for ONNX Runtime; expected 'cpu'. Use backend='torch'.")
        folder = graphs or cached_export(name, entry, weights, model_options)
        onnx = OnnxSession(folder, threads)
        if onnx.metadata["model"] != name:
            raise CheckpointError(
                f"exported model {folder}: got {onnx.metadata['model']!r}; expected {name!r}. "
                f"Pass --model {onnx.metadata['model']}."
            )
        session, config = onnx, TemplateSearchConfig.from_json(onnx.metadata["tracker"])
    elif backend == "torch":
        if graphs and weights is not None:
            raise CheckpointError(
                f"weights {weights}: got a folder of exported graphs for torch; expected a weights file. "
                "Use backend 'onnx', or pass the file they were exported from."
            )
        session, config = torch_session(name, weights, model_options, device, threads), entry.tracker
    else:
        raise SightlineError(f"backend: got {backend!r}; expected 'auto', 'onnx' or 'torch'. Choose one.")
    return TemplateSearchTracker(session, replace(config, **tracker_options), name)


def entry_of(name: str) -> Entry:
    """The zoo's row of that name; `UnknownModel` names the nearest ones."""
    if name not in ZOO:
        raise UnknownModel(f"model: got {name!r}; expected one of {', '.join(ZOO)}.{nearest(name, ZOO)}")
    return ZOO[name]


def sort_options(name: str, entry: Entry, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the tracker and of the model, apart; an unknown one is a `SightlineError` with the nearest names."""
    known = (*TRACKER_FIELDS, *entry.options)
    for option in options:
        if option not in known:
            raise SightlineError(
                f"option of {name}: got {option!r}; expected one of {', '.join(known)}.{nearest(option, known)}"
            )
    tracker = {key: value for key, value in options.items() if key in TRACKER_FIELDS}
    return tracker, {key: value for key, value in options.items() if key in entry.options}


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1) or [known for known in names if name and name in known]
    return f" Did you mean {close[0]!r}?" if close else ""


def graphs_of(name: str, entry: Entry, weights: str | Path | None) -> Path | None:
    """The folder of exported graphs that needs no torch: the bundled one or the one given; None for a weights file."""
    if weights is not None:
        path = Path(weights)
        if not path.exists():
            raise CheckpointError(f"weights {path}: no such file or folder. Check the path.")
        return path if path.is_dir() else None
    if not entry.bundled:
        raise CheckpointError(
            f"{name}: got no weights; expected a file, since none is inside the package. "
            f"Pass weights= (--weights): the official {entry.official_file}, a converted file or an exported folder."
        )
    return bundled_folder(entry.bundled)


def weights_file(name: str, weights: str | Path | None) -> Path:
    """The file that holds a model's tensors: the one given, or the bundled one in half precision."""
    if weights is not None:
        return Path(weights)
    entry = entry_of(name)
    graphs_of(name, entry, None)
    return BUNDLED / f"{entry.bundled}.safetensors"


def need_torch(what: str, extra: str = "torch") -> None:
    """Raise `MissingExtra`, which names the extra to install, unless torch is there; loads nothing."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(f"{what} needs torch, which is not installed. Run: pip install 'sightline[{extra}]'")


def build_model(
    name: str, weights: str | Path | None, options: Mapping[str, Any] | None = None
) -> tuple[torch.nn.Module, str]:
    """The torch network of a model with its weights, in eval mode on the CPU, and the weights file's SHA-256.

    weights: an official or converted file, None for the bundled one. options: fields of the model's config.
    """
    need_torch(f"the torch network of {name!r}")
    import torch

    from sightline.checkpoints.files import read_weights
    from sightline.checkpoints.official import check_against

    path = weights_file(name, weights)
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


def cached_export(name: str, entry: Entry, weights: str | Path | None, options: Mapping[str, Any]) -> Path:
    """Graphs of a weights file, exported once into the cache and found there ever after."""
    path = weights_file(name, weights)
    chosen = json.dumps(dict(options), sort_keys=True, default=list)
    recipe = f"{__version__} {sha256_of(path)} {chosen} {entry.tracker.to_json()}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    folder = cache_folder() / "exports" / f"{name}-{key}"
    if not (folder / "track.onnx").is_file():
        log.info("exporting %s for ONNX Runtime into %s, once; it may take a minute", path.name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        export_model(name, path, options, folder)
    return folder


def export_model(name: str, weights: str | Path | None, options: Mapping[str, Any], folder: Path) -> torch.nn.Module:
    """Write the graphs of a model's weights into `folder`; returns the torch network that they were made from.

    Raises what `build_model` and `export.onnx.export_onnx` raise.
    """
    need_torch(f"export of {name!r}", "export")
    from sightline.export.onnx import export_onnx

    entry = entry_of(name)
    model, sha256 = build_model(name, weights, options)
    export_onnx(
        model,
        folder,
        name=name,
        tracker=entry.tracker,
        options=options,
        weights_sha256=sha256,
        notice=entry.notice,
    )
    return model
