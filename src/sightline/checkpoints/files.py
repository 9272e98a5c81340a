"""Weights files: any of the known kinds in, told apart by content; safetensors out, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sightline.checkpoints.official import tensors_of
from sightline.checkpoints.untrusted import blamed_on, open_weights, read_torch_file
from sightline.errors import CheckpointError, MissingExtra
from sightline.files import atomic_path

# What Sightline writes into a safetensors header; every value is a string.
MODEL = "sightline.model"
FORMAT_VERSION = "sightline.format_version"
SOURCE_NAME = "sightline.source_name"
SOURCE_SHA256 = "sightline.source_sha256"
TRACKER = "sightline.tracker"  # JSON: fields of the tracker's config that a training measured on its data
OUR_FORMAT_VERSION = "1"

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Weights:
    """The tensors of one file by official name; `metadata` is a safetensors header's, empty for a torch file."""

    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, str]
    path: Path
    format: Literal["safetensors", "torch"]


def read_weights(path: str | Path) -> Weights:
    """Read safetensors or a file of `torch.save`, whichever the content says it is; the suffix is not looked at.

    Raises `CheckpointError` for a missing, empty, damaged or foreign file, and `MissingExtra` for safetensors without
    that package.
    """
    path = Path(path)
    with open_weights(path) as file:
        start = file.read(9)
    if int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES and start[8:] == b"{":
        return _read_safetensors(path)
    tree = read_torch_file(path)
    with blamed_on(path):
        return Weights(tensors_of(tree), {}, path, "torch")


def read_header(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, of which no tensor is read; {} of a file of `torch.save`.

    Raises `CheckpointError` for a missing or empty file, and `MissingExtra` as `read_weights` does.
    """
    with open_weights(Path(path)) as file:
        start = file.read(9)
    if int.from_bytes(start[:8], "little") > MAX_HEADER_BYTES or start[8:] != b"{":
        return {}
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            return dict(opened.metadata() or {})
    except safetensors.SafetensorError:
        return {}  # who reads its tensors will say what is wrong


def write_safetensors(path: str | Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under its name only once all of it is on the disk; a file of that name is replaced.

    Raises `CheckpointError`, with nothing left behind, if it cannot be written or a tensor is of a type that the
    format lacks (complex128).
    """
    path = Path(path)
    safetensors = _safetensors()
    # The writer copies memory as it lies, so every array must lie in C order.
    in_order = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        content = safetensors.numpy.save(in_order, dict(metadata))
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"cannot write weights {str(path)!r}: got {error}; expected tensors of safetensors' types. Convert them."
        ) from error

    with atomic_path(path, CheckpointError) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_safetensors(path: Path) -> Weights:
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        for tensor in tensors.values():
            if tensor.dtype.kind not in "biufc":  # a type that another package taught NumPy
                raise TypeError(str(tensor.dtype))
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"weights {path.name!r}: got damaged data ({error}); expected a whole safetensors file. Download it again."
        ) from error
    except TypeError as error:  # NumPy has no such element type
        raise CheckpointError(
            f"weights {path.name!r}: got tensors that NumPy cannot hold ({error}); expected float32. Save them so."
        ) from error
    version = metadata.get(FORMAT_VERSION, OUR_FORMAT_VERSION)
    if version != OUR_FORMAT_VERSION:
        raise CheckpointError(
            f"weights {path.name!r}: got format version {version}; expected {OUR_FORMAT_VERSION}. "
            "Update Sightline, or convert the official file again."
        )
    return Weights(tensors, metadata, path, "safetensors")


def _safetensors() -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtra(
            "safetensors files need safetensors, which is not installed. Run: pip install 'sightline[torch]'"
        ) from error
    return safetensors
