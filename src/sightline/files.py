"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from sightline.errors import SightlineError

__all__ = ["NO_ROOM", "atomic_path"]

# What only a writer meets. Other errors of the body (a source that cannot be read, say) are not ours to explain.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def atomic_path(path: str | Path, error: type[SightlineError] = SightlineError) -> Iterator[Path]:
    """A path to write to, beside `path`, that takes its place when the block ends well and vanishes when it does not.

    The file exists, empty, on entry, so that a folder that cannot be written is refused before any work is done;
    its name keeps the suffix of `path`. A link is followed: the file it points at is replaced. Raises `error` where
    `path` is no place for a file, where it cannot be created or moved, and in place of an `OSError` of the block that
    tells of a full disk.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise error(f"{path}: got something that is not a file; expected a file or a free name. Choose another name.")
    partial = target.with_name(f".{target.stem}.{token_hex(4)}.part{target.suffix}")
    try:
        partial.touch(exist_ok=False)
    except OSError as reason:
        raise error(_sentence(path, reason, "a folder that can be written. Create it or choose another")) from reason
    try:
        yield partial
        os.replace(partial, target)
    except OSError as reason:
        if reason.errno not in NO_ROOM and reason.filename != str(partial):
            raise
        raise error(_sentence(path, reason, "room for the whole file. Free some space or write elsewhere")) from reason
    finally:
        partial.unlink(missing_ok=True)


def _sentence(path: str | Path, reason: OSError, expected: str) -> str:
    return f"{path}: cannot be written: got '{reason.strerror}'; expected {expected}."
