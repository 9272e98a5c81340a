"""What a tracker remembers of a target: one template a frame, in values that share what they hold.

A memory is never changed; `appended` makes the next one, which shares all but a few references with the one before.
So an old state costs only what it alone still holds, and whatever no state holds any more is freed.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ProtocolError, SightlineError

Array = NDArray[np.float32]

CHUNK = 32  # templates; a state of its own costs no more than so many references


class Kept:
    """One template that nobody changes: in RAM, or in a slot of its store's file. Equal where the numbers are."""

    __slots__ = ("slot", "store", "values")

    def __init__(self, values: Array | None, store: TemplateStore | None = None, slot: int = -1) -> None:
        self.values, self.store, self.slot = values, store, slot
        if values is not None:
            values.flags.writeable = False

    def read(self) -> Array:
        """The numbers, read-only; from the file a fresh copy each time."""
        if self.values is not None:
            return self.values
        assert self.store is not None
        return self.store.read(self.slot)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Kept) and np.array_equal(self.read(), other.read()))

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> Kept:
        return self

    def __reduce__(self) -> tuple[type[Kept], tuple[Array]]:
        return Kept, (self.read(),)

    def __del__(self) -> None:
        if self.store is not None:
            self.store.release(self)


class TemplateStore:
    """Where the templates of one tracker lie, for all of its states: in RAM up to `budget_mb`, beyond it in a file.

    The file is a temporary one in the folder that TMPDIR names; it goes with the last state, or with the process. A
    template stays where it was put, and its room is used again as soon as no state holds it. It is read and written
    rather than mapped, since mapped pages count as the memory of the process.
    """

    def __init__(self, budget_mb: float) -> None:
        self.budget_bytes = int(budget_mb * 1e6)
        self.ram_bytes = 0
        self.file_bytes = 0
        self._file: IO[bytes] | None = None
        self._free: list[int] = []
        self._shape: tuple[int, ...] = ()
        self._lock = threading.RLock()  # states may be let go in another thread, or while this one is in here

    def keep(self, values: Array) -> Kept:
        """Put a template away; all have one shape. Raises `SightlineError` where the file cannot be written."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        with self._lock:
            if self.ram_bytes + values.nbytes <= self.budget_bytes:
                self.ram_bytes += values.nbytes
                return Kept(values, self)
            return Kept(None, self, self._write(values))

    def release(self, kept: Kept) -> None:
        with self._lock:
            if kept.values is not None:
                self.ram_bytes -= kept.values.nbytes
            else:
                self._free.append(kept.slot)

    def read(self, slot: int) -> Array:
        values = np.empty(self._shape, np.float32)
        with self._lock:
            assert self._file is not None
            self._file.seek(slot * values.nbytes)
            self._file.readinto(values)  # type: ignore[attr-defined]  # a raw file has it
        values.flags.writeable = False
        return values

    def _write(self, values: Array) -> int:
        assert self._shape in ((), values.shape)
        slot = self._free.pop() if self._free else self.file_bytes // values.nbytes
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed with the store
                weakref.finalize(self, self._file.close)
            self._file.seek(slot * values.nbytes)
            left = values.data.cast("B")
            while left:
                left = left[self._file.write(left) :]
        except OSError as reason:
            if slot * values.nbytes < self.file_bytes:
                self._free.append(slot)
            raise SightlineError(
                f"memory of templates: got '{reason.strerror}' on writing {values.nbytes} bytes to the temporary "
                f"folder; expected room for all beyond the budget of {self.budget_bytes / 1e6:g} MB. Free some space, "
                "set TMPDIR, or load with memory='bounded:64'."
            ) from reason
        self._shape = values.shape
        self.file_bytes = max(self.file_bytes, (slot + 1) * values.nbytes)
        return slot


class TemplateMemory(Protocol):
    """The templates of one target by frame: index 0 is that of its first frame."""

    @property
    def kind(self) -> str: ...

    @property
    def count(self) -> int:
        """Templates ever put in, so the index of the next."""
        ...

    def at(self, index: int) -> Kept:
        """The template to use for frame `index`."""
        ...

    def appended(self, kept: Kept, oldest: int) -> TemplateMemory:
        """With one more; besides index 0 none below `oldest` will be asked for again."""
        ...

    def items(self) -> tuple[tuple[int, Kept], ...]:
        """Every template held, with its index."""
        ...


@dataclass(frozen=True)
class ExactMemory:
    """Holds all that can still be asked for, and at most `CHUNK` - 1 templates more."""

    first: Kept
    tail: tuple[Kept, ...]
    full: tuple[tuple[Kept, ...], ...] = ()
    start: int = 0  # index of the first template in `full`, or else in `tail`

    kind = "exact"

    @property
    def count(self) -> int:
        return self.start + CHUNK * len(self.full) + len(self.tail)

    def at(self, index: int) -> Kept:
        """Raises `ProtocolError` for one that was let go: the state was made by another rule."""
        if index == 0:
            return self.first
        if not self.start <= index < self.count:
            raise ProtocolError(
                f"memory of templates: got asked for frame {index}; expected 0 or {self.start} to {self.count - 1}, "
                "which it holds. Use the rule and the number of templates that made the state."
            )
        chunk, place = divmod(index - self.start, CHUNK)
        return (self.full[chunk] if chunk < len(self.full) else self.tail)[place]

    def appended(self, kept: Kept, oldest: int) -> ExactMemory:
        full, tail = self.full, (*self.tail, kept)
        if len(tail) == CHUNK:
            full, tail = (*full, tail), ()
        gone = max(0, min(oldest, self.count) - self.start) // CHUNK  # the chunk of the newest always stays
        return ExactMemory(self.first, tail, full[gone:], self.start + gone * CHUNK)

    def items(self) -> tuple[tuple[int, Kept], ...]:
        held = (*(kept for chunk in self.full for kept in chunk), *self.tail)
        return (0, self.first), *enumerate(held, start=self.start)


@dataclass(frozen=True)
class BoundedMemory:
    """Holds at most `limit` templates: the first, the newest, and others as evenly as they come.

    One too many costs the oldest besides the first, if the next will do for all that can still be asked for; else the
    one whose two neighbours are closest in time, the oldest of equals. In place of one that is gone the nearest in time
    is used, the older of two. With a limit of 16 or more that is never further off than 0.75 / limit of the frames
    seen (tried to frame 20,000); the first limit - 1 frames are as with `ExactMemory`.
    """

    limit: int
    indices: tuple[int, ...]
    templates: tuple[Kept, ...]

    @property
    def kind(self) -> str:
        return f"bounded:{self.limit}"

    @property
    def count(self) -> int:
        return self.indices[-1] + 1

    def at(self, index: int) -> Kept:
        return self.templates[min(range(len(self.indices)), key=lambda place: abs(self.indices[place] - index))]

    def appended(self, kept: Kept, oldest: int) -> BoundedMemory:
        indices, templates = (*self.indices, self.count), (*self.templates, kept)
        if len(indices) <= self.limit:
            return BoundedMemory(self.limit, indices, templates)
        places = range(1, len(indices) - 1)
        out = 1 if indices[2] <= oldest else min(places, key=lambda place: indices[place + 1] - indices[place - 1])
        return BoundedMemory(self.limit, indices[:out] + indices[out + 1 :], templates[:out] + templates[out + 1 :])

    def items(self) -> tuple[tuple[int, Kept], ...]:
        return tuple(zip(self.indices, self.templates, strict=True))


def limit_of(kind: str) -> int | None:
    """N of "bounded:N", None of "exact"; else `ProtocolError`."""
    if kind == "exact":
        return None
    name, _, limit = kind.partition(":")
    if name != "bounded" or not (limit.isascii() and limit.isdigit()) or int(limit) < 2:
        raise ProtocolError(
            f"memory: got {kind!r}; expected 'exact' or 'bounded:N' with N of at least 2, as 'bounded:64'. Choose one."
        )
    return int(limit)


def memory_of(kind: str, items: Sequence[tuple[int, Kept]]) -> TemplateMemory:
    """A memory that holds these: one pair (0, template) for a new target, `items()` for one that was put down."""
    limit = limit_of(kind)
    if limit is not None:
        return BoundedMemory(limit, tuple(index for index, _ in items), tuple(kept for _, kept in items))
    (_, first), *rest = items
    held = [kept for _, kept in rest] or [first]
    whole = len(held) // CHUNK * CHUNK
    full = tuple(tuple(held[place : place + CHUNK]) for place in range(0, whole, CHUNK))
    return ExactMemory(first, tuple(held[whole:]), full, rest[0][0] if rest else 0)
