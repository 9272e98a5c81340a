"""Files that try to run code, reach outside their storages or exhaust memory, written opcode by opcode."""

from __future__ import annotations

import builtins
import operator
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sightline.checkpoints.untrusted import MAGIC_NUMBER, MAX_PICKLE_BYTES, Stub, read_torch_file
from sightline.errors import CheckpointError

FOUR = np.arange(4, dtype="<f4").tobytes()
PROTO = b"\x80\x02"


# An assembler for pickles: each function gives the opcodes that leave one value on the stack.
def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def group(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def numbers(*values: int) -> bytes:
    return group(*map(number, values))


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(function: bytes, *args: bytes) -> bytes:
    return function + group(*args) + b"R"


def table(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(count: int = 4, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return group(text("storage"), named("torch", kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), **kind: object) -> bytes:
    arguments = (storage(**kind), number(offset), numbers(*size), numbers(*stride), b"\x89", b"N")
    return called(named("torch._utils", "_rebuild_tensor_v2"), *arguments)


def archive(path: Path, content: bytes, storages: dict[str, bytes] | None = None, **entries: bytes) -> Path:
    """The zip layout around one pickle that is complete but for its first and last opcode."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", PROTO + content + b".")
        file.writestr("model/version", "3\n")
        for key, raw in ({"0": FOUR} if storages is None else storages).items():
            file.writestr(f"model/data/{key}", raw)
        for name, raw in entries.items():
            file.writestr(f"model/{name}", raw)
    return path


def stream(path: Path, content: bytes, keys: list[str], *storages: bytes, count: int = 4) -> Path:
    """The layout before torch 1.6 around one such pickle."""
    front = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC_NUMBER, 1001, {"little_endian": True}))
    tail = pickle.dumps(keys, protocol=2) + b"".join(struct.pack("<q", count) + raw for raw in storages)
    path.write_bytes(front + PROTO + content + b"." + tail)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


@pytest.fixture
def sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every hostile payload tries to make."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ran"


class Calls:
    """Pickles as a call of `function`, as an attack does."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


TOUCH = "open('ran', 'w').close()"
SHELL = f'{sys.executable} -c "{TOUCH}"'
PAYLOADS = {
    "os.system": Calls(os.system, SHELL),
    "subprocess": Calls(subprocess.Popen, [sys.executable, "-c", TOUCH]),
    "eval": Calls(eval, TOUCH),
    "exec": Calls(exec, TOUCH),
    "open": Calls(open, "ran", "w"),
    "import": Calls(builtins.__import__, "os"),
    "getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
    "attrgetter": Calls(operator.attrgetter, "system"),
    "methodcaller": Calls(operator.methodcaller, "system", SHELL),
    "compile": Calls(exec, Calls(compile, TOUCH, "x", "exec")),
    "map": Calls(list, Calls(map, eval, [TOUCH])),
}


def test_the_payloads_are_live(path: Path, sentinel: Path) -> None:
    """Negative control: what `pickle` would do with the same bytes."""
    pickle.loads(pickle.dumps(PAYLOADS["eval"], protocol=2))
    assert sentinel.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_call_in_a_pickle_is_not_made(payload: str, protocol: int, path: Path, sentinel: Path) -> None:
    content = pickle.dumps({"net": PAYLOADS[payload], "epoch": 3}, protocol=protocol)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", content)
    tree = read_torch_file(path)
    assert isinstance(tree["net"], Stub)
    assert tree["epoch"] == 3
    assert not sentinel.exists()


SYSTEM = named("posix", "system")
TRICKS = {
    "reduce": called(SYSTEM, text(SHELL)),
    "newobj": SYSTEM + group(text(SHELL)) + b"\x81",
    "newobj_ex": SYSTEM + group(text(SHELL)) + b"}\x92",
    "inst": b"(" + text(SHELL) + b"iposix\nsystem\n",
    "obj": b"(" + SYSTEM + text(SHELL) + b"o",
    "stack_global": text("posix") + text("system") + b"\x93" + group(text(SHELL)) + b"R",
    "dotted stack_global": text("os") + text("path.os.system") + b"\x93" + group(text(SHELL)) + b"R",
    "getattr chain": called(
        called(named("builtins", "getattr"), called(named("builtins", "__import__"), text("os")), text("system")),
        text(SHELL),
    ),
    "function of code": called(
        called(named("types", "FunctionType"), called(named("marshal", "loads"), text(TOUCH)), b"}")
    ),
    "rebuild through type": called(
        named("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, SYSTEM, group(text(SHELL)), b"}"
    ),
    "state of a stub": named("os", "environ") + table(__setstate__=SYSTEM, __class__=SYSTEM) + b"b",
    "slots of a stub": SYSTEM + group(b"N", table(module=text("x"))) + b"b",
    "items of a stub": called(named("os", "environ")) + b"(" + text("PATH") + text("") + b"u",
    "hooks": called(
        named("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", called(SYSTEM, text(SHELL))
    ),
    "persistent module": group(text("module"), SYSTEM, text("x.py"), text(TOUCH)) + b"Q",
    "torch.load": called(named("torch.serialization", "load"), text("other.pth")),
    "numpy.load": called(named("numpy", "load"), text("other.npy")),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_an_opcode_trick_gives_data(trick: str, path: Path, sentinel: Path) -> None:
    tree = read_torch_file(archive(path, table(x=TRICKS[trick], epoch=number(3))))
    assert isinstance(tree["x"], Stub | np.ndarray)
    assert tree["epoch"] == 3
    assert not sentinel.exists()
    assert "PATH" in os.environ


def test_a_stub_keeps_nothing_but_its_name(path: Path) -> None:
    settings = called(named("lib.train.admin.settings", "Settings")) + table(lr=number(1)) + b"b"
    tree = read_torch_file(archive(path, table(settings=settings)))
    assert tree == {"settings": Stub("lib.train.admin.settings", "Settings")}


def test_naming_a_module_does_not_import_it(path: Path) -> None:
    assert "this" not in sys.modules
    read_torch_file(archive(path, table(x=called(named("this", "s")))))
    assert "this" not in sys.modules


def test_a_plain_tensor_is_read(path: Path) -> None:
    """Negative control of all the refusals below: the same assembler, nothing wrong."""
    np.testing.assert_array_equal(read_torch_file(archive(path, table(w=tensor())))["w"], [0, 1, 2, 3])
    strided = tensor(1, (2, 2), (0, 2))
    np.testing.assert_array_equal(read_torch_file(archive(path, table(w=strided)))["w"], [[1, 3], [1, 3]])
    np.testing.assert_array_equal(read_torch_file(stream(path, table(w=tensor()), ["0"], FOUR))["w"], [0, 1, 2, 3])
    unused = tensor(size=(1, 4), stride=(2**62, 1))
    np.testing.assert_array_equal(read_torch_file(archive(path, table(w=unused)))["w"], [[0, 1, 2, 3]])


OUTSIDE = {
    "size": tensor(size=(5,)),
    "offset": tensor(offset=1),
    "huge offset": tensor(offset=2**62),
    "stride": tensor(stride=(2,)),
    "huge stride": tensor(size=(2,), stride=(2**62,)),
    "two dimensions": tensor(size=(2, 2), stride=(3, 1)),
    "negative offset": tensor(offset=-1),
    "negative size": tensor(size=(-4,)),
    "two negative sizes": tensor(size=(-2, -2), stride=(2, 1)),
    "negative stride": tensor(offset=3, stride=(-1,)),
    "more sizes than strides": tensor(size=(2, 2)),
    "65 dimensions": tensor(size=(1,) * 65, stride=(1,) * 65),
    "sizes above 64 bits": tensor(size=(2**63,), stride=(0,)),
    "sizes in text": called(
        named("torch._utils", "_rebuild_tensor_v2"), storage(), number(0), text("4"), numbers(1), b"\x89", b"N"
    ),
    "boolean size": called(
        named("torch._utils", "_rebuild_tensor_v2"), storage(), number(0), b"\x88\x85", numbers(1), b"\x89", b"N"
    ),
    "expansion bomb": tensor(size=(2**20, 2**20), stride=(0, 0)),
    "overflowing expansion": tensor(size=(2**40, 2**40), stride=(0, 0)),
    "expansion bomb in pieces": b"(" + tensor(size=(2**21,), stride=(0,)) * 9 + b"t",
    "empty and too big": tensor(size=(0, 2**62, 2**62), stride=(1, 1, 1)),
    "no storage": called(
        named("torch._utils", "_rebuild_tensor_v2"), text("0"), number(0), numbers(4), numbers(1), b"\x89", b"N"
    ),
    "storage of one type declared as another": tensor(count=4, kind="DoubleStorage"),
    "storage declared too large": tensor(count=5),
    "storage declared too small": tensor(count=3, size=(3,)),
    "storage declared huge": tensor(count=2**60),
    "storage of negative count": tensor(count=-1),
    "storage of unknown type": tensor(kind="QInt8Storage"),
    "storage not in the file": tensor(key="1"),
    "storage outside the root": tensor(key="../version"),
    "storage declared twice": group(tensor(), tensor(kind="IntStorage")),
    "lazy conjugation": called(
        named("torch._utils", "_rebuild_tensor_v2"),
        *(storage(), number(0), numbers(4), numbers(1), b"\x89", b"N", table(conj=b"\x88")),
    ),
    "type that is not torch's": called(
        named("torch._utils", "_rebuild_tensor_v3"),
        *(storage(16, kind="ByteStorage"), number(0), numbers(4), numbers(1), b"\x89", b"N", named("os", "uint16")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_tensor_outside_its_storage_is_refused(case: str, path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^weights 'weights.pth': got damaged data"):
        read_torch_file(archive(path, table(w=OUTSIDE[case])))


DAMAGED = {
    "persistent id of text": text("storage") + b"Q",
    "persistent id of numbers": numbers(1, 2) + b"Q",
    "persistent id with a stub for key": group(text("storage"), named("torch", "FloatStorage"), SYSTEM) + b"Q",
    "old storage view": group(
        text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(4), numbers(0, 1, 2)
    ) + b"Q",
    "stack underflow": b"0" * 9,
    "no mark": b"t" * 3,
    "unknown memo": b"h\x07",
    "unknown opcode": b"\xff",
    "extension": b"\x82\x01",
    "out-of-band buffer": b"\x97",
    "text persistent id": b"P0\n",
    "global named by number": number(1) + number(2) + b"\x93",
    "call of a number": called(number(1)),
    "call with a list": SYSTEM + b"]R",
    "wrong number of arguments": called(named("torch._utils", "_rebuild_tensor_v2"), number(1)),
    "items for a number": number(1) + number(2) + b"a",
    "odd items": b"}(" + number(1) + b"u",
    "list as key": b"}]" + number(1) + b"s",
    "dict in a set": b"\x8f(}\x90",
    "dict of no pairs": called(named("collections", "OrderedDict"), b"](" + number(1) + b"e"),
    "size of text": called(named("torch", "Size"), text("12")),
    "numpy object type": called(named("numpy", "dtype"), text("O8")),
    "numpy structured type": called(named("numpy", "dtype"), text("f4,f4")),
    "numpy scalar of no type": called(named("numpy._core.multiarray", "scalar"), SYSTEM, text("x")),
    "foreign codec": called(named("_codecs", "encode"), text("x"), text("rot13")),
    "long text that is not there": b"\x8d" + struct.pack("<Q", 2**62),
    "long bytes that are not there": b"\x8e" + struct.pack("<Q", 2**62),
    "endless decimal": b"I" + b"9" * 5000 + b"\n",
    "broken unicode": b"X\x01\x00\x00\x00\xff",
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_damaged_pickle_is_one_sentence(case: str, layout: str, path: Path) -> None:
    content = table(x=DAMAGED[case])
    written = archive(path, content) if layout == "zip" else stream(path, content, ["0"], FOUR)
    with pytest.raises(CheckpointError, match=r"^weights 'weights.pth': got damaged data .* Download it again\.$"):
        read_torch_file(written)


def test_a_deep_tuple_as_key_is_refused(path: Path) -> None:
    """Hashing it overflows the C stack: `pickle.Unpickler` dies of this file, whatever its `find_class` says."""
    deep = b")" + b"\x85" * 1_000_000
    with pytest.raises(CheckpointError, match="key of type tuple"):
        read_torch_file(archive(path, b"}" + deep + number(1) + b"s"))


def test_deep_nesting_as_value_is_read(path: Path) -> None:
    assert read_torch_file(archive(path, table(x=b")" + b"\x85" * 100_000, epoch=number(3))))["epoch"] == 3


def test_deep_rebuilding_is_refused(path: Path) -> None:
    again = named("torch._tensor", "_rebuild_from_type_v2")
    nested = group(*[SYSTEM] * 4)
    for _ in range(3000):
        nested = group(again, SYSTEM, nested, b"N")
    with pytest.raises(CheckpointError, match="RecursionError"):
        read_torch_file(archive(path, table(x=again + nested + b"R")))


def test_a_high_memo_slot_costs_nothing(path: Path) -> None:
    """`pickle.Unpickler` would fill 16 bytes for every slot below it: 34 GB here."""
    archive(path, b"}r\xff\xff\xff\x7f")
    tracemalloc.start()
    assert read_torch_file(path) == {}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_a_pickle_that_is_too_long_is_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="larger than"):
        read_torch_file(archive(path, table(x=text("x" * MAX_PICKLE_BYTES))))
    with pytest.raises(CheckpointError, match="got damaged data"):
        read_torch_file(stream(path, table(x=text("x" * MAX_PICKLE_BYTES)), []))


def test_compression_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", PROTO + table(w=tensor(count=2**24, size=(2**24,))) + b".")
        file.writestr("model/data/0", bytes(4 * 2**24))
    with pytest.raises(CheckpointError, match="entries unfold to"):
        read_torch_file(path)


@pytest.mark.parametrize("declared", [0, 15, 17, 2**20, 2**32 - 1])
@pytest.mark.parametrize("field", [20, 24], ids=["compressed", "uncompressed"])
def test_an_entry_that_lies_about_its_size_is_refused(declared: int, field: int, path: Path) -> None:
    data = bytearray(archive(path, table(w=tensor())).read_bytes())
    directory = data.rindex(b"PK\x01\x02")  # the last entry's, which is the storage
    data[directory + field : directory + field + 4] = struct.pack("<I", declared)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="weights 'weights.pth': got damaged data"):
        read_torch_file(path)


def test_an_entry_that_covers_its_neighbours_is_refused(path: Path) -> None:
    data = bytearray(archive(path, table(w=tensor(count=500)), {key: bytes(1000) for key in "012"}).read_bytes())
    entry = data.index(b"model/data/0", data.index(b"PK\x01\x02")) - 46
    struct.pack_into("<II", data, entry + 20, 2000, 2000)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="entries unfold to"):
        read_torch_file(path)


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order_is_honoured(order: str, path: Path) -> None:
    raw = np.arange(4, dtype="<f4" if order == "little" else ">f4").tobytes()
    tree = read_torch_file(archive(path, table(w=tensor()), {"0": raw}, byteorder=order.encode()))
    np.testing.assert_array_equal(tree["w"], [0, 1, 2, 3])
    assert tree["w"].dtype == np.float32


def test_an_unknown_byte_order_is_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="middle"):
        read_torch_file(archive(path, table(w=tensor()), byteorder=b"middle"))


@pytest.mark.parametrize(
    ("declared", "keys", "storages", "count"),
    [
        (4, ["0"], [FOUR], 3),
        (4, ["0"], [FOUR], 5),
        (4, ["0"], [FOUR], -1),
        (4, ["0"], [FOUR[:-1]], 4),
        (4, ["0"], [], 4),
        (4, ["1"], [FOUR], 4),
        (4, [], [], 4),
        (2**50, ["0"], [FOUR], 2**50),
    ],
)
def test_a_stream_that_lies_about_its_storages_is_refused(
    declared: int, keys: list[str], storages: list[bytes], count: int, path: Path
) -> None:
    with pytest.raises(CheckpointError, match="weights 'weights.pth': got damaged data"):
        read_torch_file(stream(path, table(w=tensor(count=declared)), keys, *storages, count=count))


def test_any_byte_but_zero_is_true(path: Path) -> None:
    tree = read_torch_file(archive(path, table(w=tensor(kind="BoolStorage")), {"0": b"\x00\x01\x02\xff"}))
    np.testing.assert_array_equal(tree["w"].view(np.uint8), [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "got an empty file; expected weights"),
        (b"<html><title>Sign in</title>", r"got a file that begins with b'<html><title>Sig'.*a web page"),
        (pickle.dumps({"net": 1}, protocol=2), "expected one of torch.save or safetensors"),
        (pickle.dumps(np.arange(3), protocol=2), "expected one of torch.save or safetensors"),
        (b"\x80\x02" * 40, "got damaged data"),
        (b"PK\x03\x04" + bytes(40), "got damaged data"),
        (bytes(257) + b"ustar" + bytes(250), "got a tar archive"),
    ],
)
def test_another_file_is_one_sentence(content: bytes, sentence: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        read_torch_file(path)


def test_another_zip_is_one_sentence(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "")
    with pytest.raises(CheckpointError, match=r"got a zip archive without data\.pkl"):
        read_torch_file(path)
    with pytest.raises(CheckpointError, match="got a TorchScript program"):
        read_torch_file(archive(path, table(w=tensor()), **{"constants.pkl": b""}))


def test_a_file_without_a_dictionary_is_one_sentence(path: Path) -> None:
    with pytest.raises(CheckpointError, match="got a ndarray; expected a dictionary of tensors"):
        read_torch_file(archive(path, tensor()))
    with pytest.raises(CheckpointError, match=r"got 'models\.resnet\.ResNet'; expected a dictionary of tensors"):
        read_torch_file(archive(path, named("models.resnet", "ResNet")))


def test_a_path_that_is_no_file_is_one_sentence(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    for path, got in ((tmp_path / "no.pth", "No such file"), (tmp_path, "a folder"), (fifo, "a device or pipe")):
        with pytest.raises(CheckpointError, match=f"got {got}"):
            read_torch_file(path)
    with pytest.raises(CheckpointError, match="null byte"):
        read_torch_file("a\0b")
