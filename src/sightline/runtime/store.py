"""Where weights lie: inside the package, and in the cache, which notices damage. Offline, always.

The cache holds `models/NAME`, what `sightline models add` was given, and `exports/NAME-KEY`, graphs made of a weights
file. Each of them is a shelf: one folder of files under a name of its own, and `manifest.json`, which names that folder
and says what each file must be. The manifest is replaced in one step and last, so there is always one whole set of
files, the old or the new, whoever else reads or writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from sightline import __version__
from sightline.errors import CheckpointError
from sightline.files import NO_ROOM, atomic_path

BUNDLED = Path(__file__).resolve().parent.parent / "weights"
MANIFEST = "manifest.json"
FORMAT = 1
GRACE_S = 3600  # what a manifest does not name stays so long: another process may be writing it


@dataclass(frozen=True)
class FileFacts:
    """What one file must be: hexadecimal SHA-256, and size in bytes."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Stored:
    """A set of files in the cache, as its manifest tells of it. `added` is a date and time in ISO format, UTC;
    `source_name` and `source_sha256` are of the file or folder they were made from, `version` is Sightline's."""

    folder: Path
    files: Mapping[str, FileFacts]
    source_name: str
    source_sha256: str
    added: str
    version: str

    def verify(self) -> None:
        """Raise `CheckpointError` unless every file is there and has its SHA-256; reads all of them."""
        for name, facts in self.files.items():
            path = self.folder / name
            try:
                size, sha256 = path.stat().st_size, sha256_of(path)
            except OSError as error:
                raise CheckpointError(
                    f"{path}: got '{error.strerror}'; expected the file that was kept here."
                ) from error
            if size != facts.num_bytes or sha256 != facts.sha256:
                raise CheckpointError(
                    f"{path}: got damaged data, {size:,} bytes of sha256 {sha256[:12]}...; "
                    f"expected {facts.num_bytes:,} bytes of {facts.sha256[:12]}..."
                )

    @property
    def num_bytes(self) -> int:
        return sum(facts.num_bytes for facts in self.files.values())


def bundled_folder(name: str) -> Path:
    """The folder of a model inside the package: encode.onnx and track.onnx; NAME.safetensors lies beside it."""
    return BUNDLED / name


def cache_folder() -> Path:
    """`SIGHTLINE_CACHE`, or `sightline` in the user's cache folder. Not created here."""
    if own := os.environ.get("SIGHTLINE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightline"


def model_shelf(name: str) -> Path:
    """Where the weights lie that were added for a model."""
    return cache_folder() / "models" / name


def export_shelf(name: str, key: str) -> Path:
    """Where the graphs lie that were made of a weights file; `key` stands for the file and all that was chosen."""
    return cache_folder() / "exports" / f"{name}-{key}"


def find(shelf: Path) -> Stored | None:
    """What lies on a shelf, by its manifest alone (`verify` looks at the files); None where nothing does.

    Raises `CheckpointError` for a manifest that is damaged or of another version.
    """
    path = shelf / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        files = {
            plain(name): FileFacts(str(facts["sha256"]), int(facts["bytes"]))
            for name, facts in content["files"].items()
        }
        if not files:
            raise ValueError("no files")
        about = [str(content[key]) for key in ("source_name", "source_sha256", "added", "sightline")]
        return Stored(shelf / plain(content["folder"]), files, *about)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(
            f"cache {shelf}: cannot be read: got '{error.strerror}'; expected a folder of yours. "
            "Check its rights, or set SIGHTLINE_CACHE to another folder."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: got damaged data; expected a manifest of format {FORMAT}.") from error


def find_whole(shelf: Path) -> Stored | None:
    """What lies on a shelf, verified; None where nothing does. Raises `CheckpointError` where it is damaged."""
    stored = find(shelf)
    while stored:
        try:
            stored.verify()
            break
        except CheckpointError:
            replaced = find(shelf)
            if replaced == stored:
                raise
            stored = replaced  # while we read
    return stored


def plain(name: str) -> str:
    """A name that stays inside its folder, or `ValueError`."""
    if name != Path(name).name or name in ("", ".", ".."):
        raise ValueError(name)
    return name


@contextmanager
def put(shelf: Path, *, source_name: str, source_sha256: str) -> Iterator[Path]:
    """An empty folder to fill; when the block ends well, the shelf holds its files and no others.

    Until then, and if the block fails, the shelf stays as it was. Raises `CheckpointError` where the cache cannot be
    written or has no room.
    """
    name = token_hex(4)
    part, whole = shelf / f"{name}.part", shelf / name
    try:
        part.mkdir(parents=True)
        yield part
        files = {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in sorted(part.iterdir())
        }
        part.rename(whole)
        manifest = {
            "format": FORMAT,
            "folder": name,
            "files": files,
            "source_name": source_name,
            "source_sha256": source_sha256,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
            "sightline": __version__,
        }
        with atomic_path(shelf / MANIFEST, CheckpointError) as path:
            path.write_text(json.dumps(manifest, indent=2) + "\n")
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(whole, ignore_errors=True)
        with suppress(OSError):
            shelf.rmdir()  # if it is empty
        if isinstance(error, OSError) and is_ours(error, shelf):
            raise CheckpointError(
                f"cache {shelf}: cannot be written: got '{error.strerror}'; expected a folder of yours with room. "
                "Free some space, or set SIGHTLINE_CACHE to another folder."
            ) from error
        raise
    clear(shelf, keep=name)


def is_ours(error: OSError, shelf: Path) -> bool:
    """Whether an error is about the cache, and not about a file that the block of `put` read."""
    places = {str(shelf), *map(str, shelf.parents)}
    return error.errno in NO_ROOM or str(error.filename) in places or str(error.filename).startswith(f"{shelf}{os.sep}")


def clear(shelf: Path, keep: str) -> None:
    """Remove the folders of a shelf that are neither `keep` nor new."""
    for folder in shelf.iterdir():
        with suppress(OSError):  # another process clears too
            if folder.is_dir() and folder.name != keep and time.time() - folder.stat().st_mtime > GRACE_S:
                shutil.rmtree(folder)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
