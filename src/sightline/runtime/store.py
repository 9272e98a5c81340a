"""Where weights lie: those inside the package, and the cache for exports of a person's own files. Offline, always."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BUNDLED = Path(__file__).resolve().parent.parent / "weights"


def bundled_folder(name: str) -> Path:
    """The folder of a model inside the package: encode.onnx and track.onnx; NAME.safetensors lies beside it."""
    return BUNDLED / name


def cache_folder() -> Path:
    """`SIGHTLINE_CACHE`, or `sightline` in the user's cache folder. Not created here."""
    if own := os.environ.get("SIGHTLINE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sightline"


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
