"""Files written by `torch.save`, read without running or importing anything they name, and without torch.

Official weights are pickles, and a pickle is a program: `torch.load` would run it, and with `weights_only=True` it
refuses the released tracker files, which hold the training settings beside the weights. Here the pickle's opcodes are
decoded by `pickletools` and played on a machine that knows lists, dicts, numbers and strings. Whatever a file names,
class or function, becomes a `Stub` that remembers two strings; a call gives another stub, unless the name stands in
the short table `_Machine.rebuild`, whose functions are ours and build arrays.

The machine is our own, rather than a `pickle.Unpickler` with a strict `find_class`, because CPython's C unpickler can
be brought down before it asks for a class: hashing a deep tuple overflows the C stack (a crash, not an exception), and
five bytes that name a high memo slot allocate gigabytes. pickletools decodes and does nothing else.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sightline.errors import CheckpointError

MAX_PICKLE_BYTES = 16 * 2**20  # names and sizes, not numbers: 100 bytes a tensor, so room for 150,000 of them
MAX_GROWTH = 8  # arrays may take this many times the file's size: bfloat16 doubles, tied weights are copied
ALWAYS_FREE_BYTES = 64 * 2**20  # whatever the file's size
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # first pickle of torch's layout before 1.6
_SHOWN = reprlib.Repr()  # what a file says is quoted, but not at length
_SHOWN.maxstring = _SHOWN.maxother = 60

# What the standard library and NumPy raise on damaged bytes; warnings, of odd escapes, where they are errors.
_DAMAGE = (
    ValueError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError, RuntimeError, OSError,
    struct.error, zipfile.BadZipFile, zlib.error, Warning,
)  # fmt: skip

# Storage class as named by a file, and its element type.
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
}
_NAMED_BESIDE = {"torch.uint16", "torch.uint32", "torch.uint64"}  # stored as bytes, the type named with the tensor
_AS_STORED = {"bfloat16": "uint16", "bool": "uint8"}  # types whose bytes NumPy must not take at face value
# Opcodes that put their own argument on the stack.
_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


@dataclass(frozen=True)
class Stub:
    """Something the file names, by module and name, that was neither imported nor called."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def read_torch_file(path: str | Path) -> dict[Any, Any]:
    """The dictionary that `torch.save` wrote: zip archives (since 1.6) and the stream before them.

    Containers come back as plain `dict`, `list`, `tuple` and `set`, tensors and parameters as C-contiguous NumPy arrays
    of their own (bfloat16 widened to float32, every other type as stored), objects of any other class as `Stub`.
    Everything in the file is read, an optimizer's state too.

    Raises `CheckpointError` for a missing, damaged or foreign file, and for one whose tensors reach outside their
    storage or unfold to far more memory than the file has bytes.
    """
    path = Path(path)
    with open_weights(path) as file, blamed_on(path):
        file_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(512)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            tree = _read_zip(file, file_bytes)
        elif start.startswith(b"\x80"):
            tree = _read_stream(file, file_bytes)
        elif start[257:262] == b"ustar":
            raise CheckpointError(
                "got a tar archive, torch's layout before 0.1.10; expected a later one. "
                "Load it with the torch of its time and save it again."
            )
        else:
            raise _foreign(start)
        if not isinstance(tree, dict):
            what = _SHOWN.repr(str(tree)) if isinstance(tree, Stub) else f"a {type(tree).__name__}"
            raise CheckpointError(f"got {what}; expected a dictionary of tensors. Save the model's state_dict().")
        return tree


def open_weights(path: Path) -> BinaryIO:
    """Open a file for reading, or say in one sentence why it cannot be one of weights."""
    try:
        if path.is_dir():
            raise CheckpointError(f"weights {str(path)!r}: got a folder; expected a file. Name the file inside it.")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"weights {str(path)!r}: got a device or pipe; expected a file. Copy it to disk.")
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"weights {str(path)!r}: got {reason}; expected a readable file. Check the path."
        ) from error
    if not path.stat().st_size:
        file.close()
        raise CheckpointError(f"weights {str(path)!r}: got an empty file; expected weights. Download it again.")
    return file


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Put the file's name before every sentence about it, and turn what damaged bytes raise into one."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"weights {path.name!r}: {error}") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {_SHOWN.repr(str(error))}"
        raise CheckpointError(
            f"weights {path.name!r}: got damaged data ({reason}); expected a whole file of torch.save. "
            "Download it again."
        ) from error


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 numbers, given as their bits, in float32: the same sign, exponent and upper seven bits of mantissa."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def _foreign(start: bytes) -> CheckpointError:
    return CheckpointError(
        f"got a file that begins with {start[:16]!r}; expected one of torch.save or safetensors. "
        "Check the download: a web page is often saved in place of the file."
    )


def _read_zip(file: BinaryIO, file_bytes: int) -> object:
    """One archive: `<root>/data.pkl`, the storages' bytes in `<root>/data/<key>`, and maybe `<root>/byteorder`."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0] + "constants.pkl" in names:
            kind = "a TorchScript program" if roots else "a zip archive without data.pkl"
            raise CheckpointError(f"got {kind}; expected one that torch.save wrote. Save the model's state_dict().")
        # torch.save stores without compression: an archive larger inside than outside is a bomb.
        inside = sum(entry.file_size for entry in entries)
        stored = all(e.compress_type == zipfile.ZIP_STORED and e.compress_size == e.file_size for e in entries)
        if inside > file_bytes or not stored:
            raise ValueError(f"entries unfold to {inside} bytes")

        root = roots[0]
        byte_order = archive.read(root + "byteorder") if root + "byteorder" in names else b"little"
        orders: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}
        machine = _Machine(file_bytes)
        if archive.getinfo(root + "data.pkl").file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"data.pkl is larger than {MAX_PICKLE_BYTES} bytes")
        tree = machine.run(io.BytesIO(archive.read(root + "data.pkl")))
        for key in machine.wanted():
            machine.fill(key, archive.read(f"{root}data/{key}"), orders[byte_order])
        return tree


def _read_stream(file: BinaryIO, file_bytes: int) -> object:
    """Five pickles in a row (magic number, version, system, the tree, the storages' keys), then the storages."""
    pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    machine = _Machine(file_bytes)
    magic_number = machine.run(pickles)
    if not isinstance(magic_number, int) or magic_number != MAGIC_NUMBER:
        raise _foreign(pickles.getvalue())
    _version, _system, tree, keys = (machine.run(pickles) for _ in range(4))
    if not isinstance(keys, list):
        raise TypeError("storage keys that are no list")
    file.seek(pickles.tell())
    for key in keys:
        storage = machine.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count or storage.num_bytes > file_bytes:
            raise ValueError(f"storage {key} holds {count} elements, not {storage.count}")
        machine.fill(key, file.read(storage.num_bytes), "<")  # torch wrote this layout in little-endian everywhere
    if absent := machine.wanted():
        raise ValueError(f"storage {absent[0]} is not in the file")
    return tree


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file, not read yet; `dtype` is torch's name of their type."""

    key: str
    dtype: str
    count: int

    @property
    def stored(self) -> np.dtype[Any]:
        return np.dtype(_AS_STORED.get(self.dtype, self.dtype))

    @property
    def num_bytes(self) -> int:
        return self.count * self.stored.itemsize


@dataclass(frozen=True)
class _Tensor:
    """An array that waits for its numbers, and where they lie in the storage, counted in elements."""

    array: NDArray[Any]
    storage: _Storage
    offset: int
    stride: tuple[int, ...]


@dataclass
class _NumpyType:
    """A pickled `numpy.dtype`, of numbers only; NumPy's own constructor never sees the file's arguments."""

    code: str
    order: str = "<"


class _Machine:
    """The pickle machine reduced to data: `run` gives the tree with empty arrays in it, `fill` gives them numbers.

    The two are apart because the stream layout has its storages behind the pickle. Where a file is not what
    `torch.save` writes, the methods raise what Python raises; `blamed_on` makes the sentence.
    """

    def __init__(self, file_bytes: int) -> None:
        self.room = max(MAX_GROWTH * file_bytes, ALWAYS_FREE_BYTES)
        self.storages: dict[str, _Storage] = {}
        self.waiting: dict[str, list[_Tensor]] = {}
        self.rebuild: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": _ordered_dict,
            "torch.Size": _counts,
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor_of_type,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": self.from_type,
            "numpy.dtype": _numpy_type,
            "numpy.core.multiarray.scalar": _numpy_scalar,
            "numpy._core.multiarray.scalar": _numpy_scalar,
            "_codecs.encode": _latin1,  # how protocol 2 spells bytes
        }

    def run(self, pickle: BinaryIO) -> Any:
        """Play one pickle to its end and leave the stream behind it."""
        stack: list[Any] = []
        below: list[list[Any]] = []  # what lies under each mark
        memo: dict[int, Any] = {}
        opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(pickle)

        def above_mark() -> list[Any]:
            nonlocal stack
            items, stack = stack, below.pop()
            return items

        for opcode, arg, _ in opcodes:
            match opcode.name:
                case name if name in _CONSTANTS:
                    stack.append(arg)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE":
                    stack.append(True)
                case "NEWFALSE":
                    stack.append(False)
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_SET":
                    stack.append(set())
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                    stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
                case "MARK":
                    below.append(stack)
                    stack = []
                case "TUPLE":
                    items = above_mark()
                    stack.append(tuple(items))
                case "LIST":
                    items = above_mark()
                    stack.append(items)
                case "DICT":
                    items = above_mark()
                    stack.append(_put({}, items))
                case "FROZENSET":
                    items = above_mark()
                    stack.append(_put(set(), items))
                case "APPEND" | "SETITEM" as name:
                    items = [stack.pop() for _ in range(1 if name == "APPEND" else 2)][::-1]
                    _put(stack[-1], items)
                case "APPENDS" | "SETITEMS" | "ADDITEMS":
                    items = above_mark()
                    _put(stack[-1], items)
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[arg])
                case "DUP":
                    stack.append(stack[-1])
                case "POP" if stack:
                    stack.pop()
                case "POP" | "POP_MARK":
                    above_mark()
                case "GLOBAL":
                    stack.append(_named(*arg.split(" ", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_named(module, name))
                case "REDUCE" | "NEWOBJ":
                    args, called = stack.pop(), stack.pop()
                    stack.append(self.call(called, args))
                case "NEWOBJ_EX":
                    _, args, called = stack.pop(), stack.pop(), stack.pop()
                    stack.append(self.call(called, args))
                case "OBJ":
                    called, *rest = above_mark()
                    stack.append(self.call(called, tuple(rest)))
                case "INST":
                    rest = above_mark()
                    stack.append(self.call(_named(*arg.split(" ", 1)), tuple(rest)))
                case "BUILD":
                    # Only a number type has a state worth keeping: a stub has none, and what torch hangs on a
                    # state_dict are version numbers of its modules.
                    state = stack.pop()
                    if isinstance(stack[-1], _NumpyType):
                        stack[-1].order = {"<": "<", ">": ">", "|": "<"}[state[1]]
                case "BINPERSID":
                    stack.append(self.persistent(stack.pop()))
                case "STOP":
                    return stack.pop()
                case "PROTO" | "FRAME":
                    pass
                case name:
                    raise ValueError(f"opcode {name}")
        raise EOFError("the pickle does not end")

    def call(self, called: object, args: object) -> Any:
        """What a class or function that the file names gives: our array or container, or a stub of the same name."""
        if not isinstance(called, Stub) or not isinstance(args, tuple):
            raise TypeError(f"call of {type(called).__name__} with {type(args).__name__}")
        ours = self.rebuild.get(str(called))
        return replace(called) if ours is None else ours(*args)

    def persistent(self, name: object) -> object:
        """A storage, by torch's tuple of kind, element type, key, device and number of elements."""
        match name:
            case ("storage", Stub() as kind, str(key), _, int(count), *view) if count >= 0 and view in ([], [None]):
                storage = _Storage(key, _STORAGES[str(kind)], count)
                if self.storages.setdefault(key, storage) != storage:
                    raise ValueError(f"storage {key} is declared twice, differently")
                return storage
            case ("module", Stub() as module, *_):  # a class with its source text, in files of whole models
                return module
            case _:
                raise ValueError("unknown persistent id")

    def tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        _requires_grad: object = False,
        _hooks: object = None,
        lazy: object = None,
    ) -> NDArray[Any]:
        """An array of `size`, still empty, whose every element has been seen to lie inside the storage."""
        if not isinstance(storage, _Storage) or lazy:  # lazy: a conjugation or sign that torch did not carry out
            raise ValueError("tensor without a plain storage")
        shape, steps, (start,) = _counts(size), _counts(stride), _counts((offset,))
        if len(shape) != len(steps):
            raise ValueError(f"tensor of {len(shape)} sizes and {len(steps)} strides")
        dtype = np.dtype("float32" if storage.dtype == "bfloat16" else storage.dtype)
        count = math.prod(shape)
        last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        if count and last >= storage.count:
            raise ValueError(f"tensor reaches element {last} of a storage of {storage.count}")
        self.room -= count * dtype.itemsize
        if self.room < 0:
            raise ValueError("tensors unfold to far more bytes than the file has")
        array = np.empty(shape, dtype)
        if count:
            self.waiting.setdefault(storage.key, []).append(_Tensor(array, storage, start, steps))
        return array

    def tensor_of_type(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        _requires_grad: object,
        _hooks: object,
        dtype: object,
        lazy: object = None,
    ) -> NDArray[Any]:
        """`tensor` of an element type younger than torch's storage classes: its storage counts bytes."""
        if not isinstance(storage, _Storage) or storage.dtype != "uint8" or str(dtype) not in _NAMED_BESIDE:
            raise ValueError(f"tensor of type {dtype}")
        name = str(dtype).removeprefix("torch.")
        typed = replace(storage, dtype=name, count=storage.count // np.dtype(name).itemsize)
        return self.tensor(typed, offset, size, stride, lazy=lazy)

    def from_type(self, rebuild: object, _type: object, args: object, _state: object) -> Any:
        """A tensor of a subclass or with attributes of its own: the tensor alone."""
        return self.call(rebuild, args)

    def wanted(self) -> list[str]:
        """Keys of the storages that tensors wait for."""
        return list(self.waiting)

    def fill(self, key: str, raw: bytes, order: Literal["<", ">"]) -> None:
        """Copy one storage's numbers, of byte order `<` or `>`, into the arrays that wait for them."""
        for tensor in self.waiting.pop(key, ()):
            if len(raw) != tensor.storage.num_bytes:
                raise ValueError(f"storage {key} has {len(raw)} bytes, declared {tensor.storage.num_bytes}")
            stored = np.frombuffer(raw, tensor.storage.stored.newbyteorder(order))
            # A dimension of one element may carry any stride; it is never stepped along.
            steps = [step if n > 1 else 0 for n, step in zip(tensor.array.shape, tensor.stride, strict=True)]
            strides = [step * stored.itemsize for step in steps]
            view = as_strided(stored[tensor.offset :], tensor.array.shape, strides, writeable=False)
            tensor.array[...] = _widened(view) if tensor.storage.dtype == "bfloat16" else view


def _put(target: Any, items: list[Any]) -> Any:
    """Add items, for a dict key and value in turn, to a container; what is put into a stub is dropped."""
    match target:
        case list():
            target.extend(items)
        case dict():
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        case set():
            target.update(map(_key, items))
        case Stub():
            pass
        case _:
            raise TypeError(f"items for a {type(target).__name__}")
    return target


def _key(key: Any) -> Any:
    """A key that is safe to hash: plain, or a tuple of plain ones (a deep tuple overflows the C stack)."""
    for part in key if isinstance(key, tuple) else (key,):
        if part is not None and not isinstance(part, str | bytes | int | float | Stub | np.generic):
            raise TypeError(f"key of type {type(part).__name__}")
    return key


def _named(module: object, name: object) -> Stub:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name that is no string")
    return Stub(module, name)


def _counts(values: object) -> tuple[int, ...]:
    """Sizes, strides or offsets: at most NumPy's 64 of them, none negative."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise ValueError("sizes that are no short tuple")
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("sizes that are no counts")
    return tuple(values)


def _ordered_dict(pairs: object = ()) -> dict[Any, Any]:
    if not isinstance(pairs, tuple | list):
        raise TypeError("an OrderedDict of no pairs")
    return {_key(key): value for key, value in pairs}


def _parameter(data: object, *_: object) -> object:
    return data


def _numpy_type(code: object, *_: object) -> _NumpyType:
    if not isinstance(code, str) or not re.fullmatch("[biufc][1-9][0-9]?", code):
        raise ValueError(f"NumPy type {code}")
    return _NumpyType(code)


def _numpy_scalar(kind: object, raw: object) -> Any:
    if not isinstance(kind, _NumpyType) or not isinstance(raw, bytes):
        raise TypeError("a NumPy scalar that is no number")
    (number,) = np.frombuffer(raw, kind.order + kind.code)
    return number


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"bytes spelt in {encoding}")
    return text.encode("latin1")
