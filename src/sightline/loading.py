"""From a name to a tracker that runs: `load`, and `build_model` for those who want the torch network."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import cv2
import numpy as np

from sightline import __version__
from sightline.building import (
    build_model,
    check_backbone,
    classes_of,
    empty_model,
    expected_shapes,
    located,
    model_for_inference,
    need_torch,
    resolve,
    source_of,
    torch_session,
    tracker_of,
    weights_file,
)
from sightline.errors import CheckpointError, ProtocolError, SightlineError
from sightline.options import VARIANT, check_known, kinds_of, parse_settings, sort_options, variant_of
from sightline.runtime.onnx import OnnxSession
from sightline.runtime.session import Session
from sightline.runtime.sidecar import SidecarSession, read_sidecar
from sightline.runtime.store import BUNDLED, export_shelf, find, find_whole, put
from sightline.trackers.opencv import OPENCV, OpenCVTracker
from sightline.trackers.protocol import MultiObjectTracker, Tracker
from sightline.trackers.template_search import TemplateSearchConfig
from sightline.trackers.zoo import MULTI_OBJECT, TRACKERS, BoxTrackerConfig, Entry, MultiObjectConfig, entry_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "Backend",
    "build_model",
    "cached_export",
    "empty_model",
    "entry_of",
    "expected_shapes",
    "export_model",
    "load",
    "need_torch",
    "parse_options",
    "resolve",
    "sort_options",
    "weights_file",
]

log = logging.getLogger("sightline")
Backend = Literal["auto", "onnx", "torch"]
MAX_THREADS = 256  # many more than any machine gains from, and few enough that a slip of the finger hangs none
MultiObjectName = Literal[  # rows that find their targets by themselves
    "gtr-mot",
    "gtr-mot-full",
    "gtr-tao",
    "gtr-tiny",
    "onetrack-m-b16",
    "onetrack-m-b32",
    "onetrack-m-l16",
    "onetrack-m-tiny",
]
SIZES = ("template_px", "search_px", "stride", "num_templates")  # which a network may be bound to


@overload
def load(
    name: MultiObjectName,
    *,
    weights: str | Path | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int = 0,
    **options: Any,
) -> MultiObjectTracker: ...
@overload
def load(
    name: str | Path = "sightline-nano",
    *,
    weights: str | Path | None = None,
    backbone: str | Path | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int = 0,
    **options: Any,
) -> Tracker: ...
def load(
    name: str | Path = "sightline-nano",
    *,
    weights: str | Path | None = None,
    backbone: str | Path | None = None,
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int = 0,
    **options: Any,
) -> Tracker | MultiObjectTracker:
    """A tracker by name, ready for `init`.

    name: one that `sightline models` lists, or the path of a sidecar, a `.toml` file that says how to run an ONNX file.
    weights: an official file (`OSTrack_ep0300.pth.tar`), a converted `.safetensors`, or a folder made by `sightline
    export`; None takes those inside the package, then those that `sightline models add` put into the cache. Nothing is
    downloaded. backbone: the file of the frozen part, for weights that have only what was trained, as SPMTrack's.
    backend: "onnx" (no torch needed for the bundled model, exported folders and sidecars; other files are exported once
    into the cache), "torch", or "auto": onnx where graphs are at hand and no device but the CPU is named, torch
    otherwise. device: of torch, for example "cuda". threads: of the network on the CPU, 0 for the back end's own
    choice. options: fields of the tracker's config (`window=0.5`) and of the model's (`ce_layers=(3, 6, 9)`).

    What comes back is a `TemplateSearchTracker`, SPMTrack's `SPMTrackTracker`, or for one of OpenCV's own an
    `OpenCVTracker`; the first two have `config` and `session` besides. A model that finds its targets by itself is a
    `MultiObjectTracker`: its `init` takes nothing, and `update` gives states whose `tracks` are all it knows.

    Raises `UnknownModel`, `CheckpointError` (missing, damaged or wrong weights), `MissingExtra` (no torch, or OpenCV
    without its trackers), and `SightlineError` for an option that is unknown or does not fit the network.
    """
    name = str(name)
    if not 0 <= threads <= MAX_THREADS:
        raise SightlineError(
            f"threads: got {threads}; expected 0 to {MAX_THREADS}. Pass 0 to leave it to the back end."
        )
    if backend not in ("auto", "onnx", "torch"):
        raise SightlineError(f"backend: got {backend!r}; expected 'auto', 'onnx' or 'torch'. Choose one.")
    backbone = check_backbone(name, backbone)
    if name in OPENCV:
        return load_opencv(name, weights, backend, device, threads, options)
    if name.endswith(".toml"):
        return load_sidecar(name, Path(name), weights, backend, device, threads, options)
    entry = entry_of(name)
    if entry.sidecar:
        files = located(name, weights)
        return load_sidecar(name, BUNDLED / entry.sidecar, files, backend, device, threads, options)
    return load_network(name, entry, weights, backbone, backend, device, threads, options)


def load_network(
    name: str,
    entry: Entry,
    weights: str | Path | None,
    backbone: Path | None,
    backend: Backend,
    device: str,
    threads: int,
    options: dict[str, Any],
) -> Tracker | MultiObjectTracker:
    """A row of the zoo that has a torch network, in torch or as exported graphs."""
    tracker_options, network_options = sort_options(name, entry, options)
    path = located(name, weights)
    graphs = path if path.is_dir() else None
    check_backbone(name, backbone, path)
    if graphs and network_options:
        raise CheckpointError(
            f"{name}: got {sorted(network_options)} for exported graphs; expected them at export. "
            "Export with these options, or pass the weights file."
        )
    if backend == "auto":
        backend = "onnx" if graphs and device == "cpu" else "torch"
    session: Session
    if backend == "onnx":
        refuse_device(device)
        session = onnx = OnnxSession(graphs or cached_export(name, path, network_options, backbone), threads)
        if onnx.metadata["model"] != name:
            raise CheckpointError(
                f"exported model {path}: got {onnx.metadata['model']!r}; expected {name!r}. "
                f"Pass --model {onnx.metadata['model']}."
            )
        exported = onnx.metadata["tracker"]
        if not isinstance(
            entry.tracker, MultiObjectConfig
        ):  # the threshold is the row's: it may have been chosen after the export
            exported = exported | {"tracked_from": entry.tracker.tracked_from}
        config = type(entry.tracker).from_json(exported)
    else:
        session = torch_session(name, weights if graphs else path, network_options, device, threads, backbone)
        config = tracker_of(name, weights if graphs else path)
    if isinstance(config, MultiObjectConfig):
        if chosen := tracker_options.pop(VARIANT, None):
            config = variant_of(entry, chosen)
        finder: MultiObjectTracker = MULTI_OBJECT[type(config)](
            session, replace(config, **tupled(tracker_options)), name, classes_of(entry)
        )
        return finder
    return with_options(name, session, config, tracker_options)


def load_sidecar(
    name: str,
    sidecar_path: Path,
    files: str | Path | None,
    backend: Backend,
    device: str,
    threads: int,
    options: dict[str, Any],
) -> Tracker:
    """An ONNX file with a sidecar; files: it or its folder, None for the sidecar's own folder."""
    if backend == "torch":
        raise SightlineError(f"backend: got 'torch' for {name}, an ONNX file; expected 'auto' or 'onnx'. Choose one.")
    refuse_device(device)
    tracker_options, _ = sort_options(name, None, options)
    sidecar = read_sidecar(sidecar_path)
    sort_options(str(sidecar_path), None, sidecar.tracker)  # its values are a person's too
    config = TemplateSearchConfig.from_json(sidecar.tracker)
    session = SidecarSession(sidecar, Path(files) if files else None, threads)
    return with_options(sidecar.name, session, config, tracker_options)


def load_opencv(
    name: str, weights: str | Path | None, backend: Backend, device: str, threads: int, options: dict[str, Any]
) -> OpenCVTracker:
    """One of OpenCV's own trackers. weights: the file, or the folder of the files, that it reads; `threads` is OpenCV's
    process-wide setting."""
    for option in options:
        check_known(name, option, ())
    if backend != "auto" or device != "cpu":
        raise SightlineError(
            f"{name}: got backend {backend!r} and device {device!r} for a tracker that OpenCV runs itself; expected "
            "none. Leave them out."
        )
    tracker = OpenCVTracker(name, weights)
    if threads:
        cv2.setNumThreads(threads)
    return tracker


def refuse_device(device: str) -> None:
    if device != "cpu":
        raise SightlineError(f"device: got {device!r} for ONNX Runtime; expected 'cpu'. Use backend='torch'.")


def with_options(name: str, session: Session, config: BoxTrackerConfig, options: dict[str, Any]) -> Tracker:
    """A tracker whose config has the options; sizes that its network does not take are refused here, not on the way."""
    plain = tupled(options)
    tracker: Tracker = TRACKERS[type(config)](session, replace(config, **plain), name)
    changed = {key: plain[key] for key in SIZES if key in plain and plain[key] != getattr(config, key)}
    if changed:
        frame = np.zeros((64, 64, 3), dtype=np.uint8)
        try:
            tracker.update(frame, tracker.init(frame, xywh=(16, 16, 32, 32)))
        except (ProtocolError, CheckpointError) as error:
            got = ", ".join(f"{key}={value}" for key, value in changed.items())
            own = ", ".join(f"{key}={getattr(config, key)}" for key in changed)
            raise SightlineError(
                f"{name}: got {got}; expected {own}, which the network is made for. Leave it as it is."
            ) from error
    return tracker


def tupled(options: Mapping[str, Any]) -> dict[str, Any]:
    """A list will do for a tuple."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def parse_options(name: str | Path, settings: Iterable[str]) -> dict[str, Any]:
    """Options for `load` from texts such as `window=0.5`, `ce_layers=3,6,9` and `ce_layers=`, by their types.

    Raises `SightlineError` for an option that the tracker does not have, which tells the nearest, and for a value of
    another kind; `UnknownModel` for the tracker itself.
    """
    name = str(name)
    if name in OPENCV:
        kinds: dict[str, Any] = {}
    else:
        kinds = kinds_of(None if name.endswith(".toml") else entry_of(name))
    return parse_settings(name, kinds, settings)


def cached_export(
    name: str, weights: str | Path | None, options: Mapping[str, Any], backbone: Path | None = None
) -> Path:
    """Graphs of a weights file, or of one and its backbone's, exported once into the cache and found there ever after;
    made again if damaged."""
    path = weights_file(name, weights)
    source, sha256 = source_of(path, backbone)
    chosen = json.dumps(dict(options), sort_keys=True, default=list)
    recipe = f"{__version__} {sha256} {chosen} {tracker_of(name, path).to_json()}"
    shelf = export_shelf(name, hashlib.sha256(recipe.encode()).hexdigest()[:16])
    try:
        if stored := find_whole(shelf):
            return stored.folder
    except CheckpointError as error:
        log.warning("%s It is exported again.", error)
    log.info("exporting %s for ONNX Runtime into %s, once; it may take a minute", source, shelf)
    with put(shelf, source_name=source, source_sha256=sha256) as folder:
        export_model(name, path, options, folder, backbone)
    stored = find(shelf)
    assert stored
    return stored.folder


def export_model(
    name: str,
    weights: str | Path | None,
    options: Mapping[str, Any],
    folder: Path,
    backbone: str | Path | None = None,
) -> torch.nn.Module:
    """Write the graphs of a model's weights into `folder`; returns the torch network that they were made from.

    Raises what `build_model` and `export.onnx.export_onnx` raise.
    """
    need_torch(f"export of {name!r}", "export")
    from sightline.export.onnx import export_onnx

    entry = entry_of(name)
    model, sha256 = model_for_inference(name, weights, options, backbone)
    export_onnx(
        model,
        folder,
        name=name,
        tracker=tracker_of(name, weights),
        options=options,
        weights_sha256=sha256,
        notice=entry.notice,
    )
    return model
