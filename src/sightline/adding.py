"""From a file that a person has to weights in the cache, checked: what `sightline models add` does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from sightline.building import ADDED, check_backbone, checked_weights, need_torch
from sightline.errors import CheckpointError
from sightline.runtime.onnx import FILES, OnnxSession
from sightline.runtime.sidecar import Sidecar, SidecarSession, read_sidecar
from sightline.runtime.store import BUNDLED, Stored, find, model_shelf, put, sha256_of
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import entry_of


def add_weights(name: str, path: str | Path, backbone: str | Path | None = None) -> Stored:
    """Check a file against a model, convert it and keep it in the cache, where `load(name)` finds it from then on.

    path: an official or converted weights file (needs torch), a folder made by `sightline export`, or for a model that
    is an ONNX file that file. backbone: the file of the frozen part, beside weights that have only what was trained;
    both are kept as one. What was kept for this model before is replaced, in one step. Raises `UnknownModel`, and
    `CheckpointError` for a file that is missing, damaged or of another model and for a cache that cannot be written.
    """
    entry, path = entry_of(name), Path(path)
    backbone = check_backbone(name, backbone, path)
    if entry.bundled:
        raise CheckpointError(
            f"{name}: got a file to add; expected none, since its weights are inside the package. "
            "Pass yours with weights= (--weights)."
        )
    if not path.exists():
        raise CheckpointError(f"weights {path}: no such file or folder. Check the path.")
    shelf = model_shelf(name)
    if entry.sidecar:
        sidecar = read_sidecar(BUNDLED / entry.sidecar)
        try_out(sidecar, path)
        files = {sidecar.file: path if path.is_file() else path / sidecar.file}
        keep(shelf, files, path.name, sha256_of(files[sidecar.file]))
    elif path.is_dir():
        exported = OnnxSession(path, threads=1)
        if exported.metadata["model"] != name:
            raise CheckpointError(
                f"exported model {path}: got {exported.metadata['model']!r}; expected {name!r}. "
                f"Run: sightline models add {exported.metadata['model']} {path}"
            )
        files = {file: path / file for file in FILES if (path / file).exists()}
        keep(shelf, files, path.name, str(exported.metadata.get("weights_sha256", "")))
    else:
        need_torch(f"checking {path.name} against {name!r}")
        checked = checked_weights(path, name, backbone)
        from sightline.checkpoints import files as formats

        about = checked.metadata
        with put(shelf, source_name=about[formats.SOURCE_NAME], source_sha256=about[formats.SOURCE_SHA256]) as folder:
            formats.write_safetensors(folder / ADDED, checked.weights.tensors, checked.metadata)
    stored = find(shelf)
    assert stored
    return stored


def keep(shelf: Path, files: dict[str, Path], source_name: str, source_sha256: str) -> None:
    """Copies of the files, each under its name."""
    with put(shelf, source_name=source_name, source_sha256=source_sha256) as folder:
        for name, path in files.items():
            shutil.copyfile(path, folder / name)


def try_out(sidecar: Sidecar, path: Path) -> None:
    """Track a black square in a black frame, so that every name and shape is seen to be what the sidecar says."""
    session = SidecarSession(sidecar, path, threads=1)
    tracker = TemplateSearchTracker(session, TemplateSearchConfig.from_json(sidecar.tracker), sidecar.name)
    frame = np.zeros((64, 64, 3), dtype=np.uint8)
    tracker.update(frame, tracker.init(frame, xywh=(16, 16, 32, 32)))
