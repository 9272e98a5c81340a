"""What torch writes, read back without it; which file is which; safetensors in and out; `sightline convert`."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch as safetensors_torch
import torch
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.checkpoints.files import (
    FORMAT_VERSION,
    MODEL,
    SOURCE_NAME,
    SOURCE_SHA256,
    read_weights,
    write_safetensors,
)
from sightline.checkpoints.official import SIGNATURES, check_against, recognise, tensors_of
from sightline.checkpoints.untrusted import Stub, read_torch_file
from sightline.cli.convert import convert
from sightline.errors import CheckpointError, MissingExtra, UnknownModel
from sightline.loading import expected_shapes

pytestmark = pytest.mark.torch

LAYOUTS = {"zip": True, "stream": False}
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def save(tree: object, path: Path, layout: str = "zip", protocol: int = 2) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=LAYOUTS[layout], pickle_protocol=protocol)
    return path


def official_tree(weights: dict[str, torch.Tensor]) -> dict[str, object]:
    """A container as the official trainers write it, with the pickled instance of a class of theirs."""
    return {
        "epoch": 300,
        "actor_type": "OSTrackActor",
        "net_type": "OSTrack",
        "net": OrderedDict(weights),
        "net_info": None,
        "constructor": None,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 4e-4}]},
        "stats": OrderedDict(train=OrderedDict({"Loss/total": Settings(), "IoU": np.float64(0.5)})),
        "settings": Settings(),
    }


class Settings:
    """Stands for the trainers' class; its module does not exist where the file is read."""

    __module__ = "lib.train.admin.settings"
    __qualname__ = "Settings"

    def __init__(self) -> None:
        self.use_gpu = True
        self.device = torch.device("cpu")


@pytest.fixture
def _official_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lib", "lib.train", "lib.train.admin", "lib.train.admin.settings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["lib.train.admin.settings"], "Settings", Settings, raising=False)


# Reading


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_comes_back(dtype: torch.dtype, layout: str, tmp_path: Path) -> None:
    tensor = torch.tensor([0, 1, 2, 3, 100, 101]).to(dtype).reshape(2, 3)
    read = read_torch_file(save({"w": tensor}, tmp_path / "w", layout))["w"]
    widened = tensor.float() if dtype is torch.bfloat16 else tensor
    np.testing.assert_array_equal(read, widened.numpy(), strict=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_widens_exactly(layout: str, tmp_path: Path) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    read = read_torch_file(save({"w": every}, tmp_path / "w", layout))["w"]
    np.testing.assert_array_equal(read.view(np.uint32), every.float().numpy().view(np.uint32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool], ids=str)
def test_every_view_comes_back(dtype: torch.dtype, layout: str, tmp_path: Path) -> None:
    base = torch.arange(120).remainder(7).to(dtype).reshape(2, 3, 4, 5)
    views = {
        "whole": base,
        "transposed": base.permute(3, 1, 0, 2),
        "slice": base[1:, ::2, 1:3, ::3],
        "expanded": base[0, 0, 0, :1].expand(6, 5),
        "scalar": base[1, 2, 3, 4],
        "empty": base[:, 3:],
        "one": base[:1, :1, :1, :1],
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base.float()),
    }
    read = read_torch_file(save(views, tmp_path / "w", layout))
    for name, view in views.items():
        np.testing.assert_array_equal(read[name], view.detach().to(torch.float32).numpy(), err_msg=name)
        assert read[name].shape == tuple(view.shape), name
        assert read[name].flags.c_contiguous, name
        assert read[name].flags.owndata, name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("_official_modules")
def test_an_official_container_is_read(layout: str, protocol: int, tmp_path: Path, monkeypatch) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = save(official_tree(model.state_dict()), tmp_path / "OSTrack_ep0300.pth.tar", layout, protocol)
    for name in [name for name in sys.modules if name == "lib" or name.startswith("lib.")]:
        monkeypatch.delitem(sys.modules, name)
    tree = read_torch_file(path)
    assert tree["settings"] == Stub("lib.train.admin.settings", "Settings")
    assert tree["stats"]["train"]["IoU"] == 0.5
    assert tree["optimizer"]["param_groups"] == [{"lr": 4e-4}]
    assert (tree["epoch"], tree["net_type"], tree["net_info"]) == (300, "OSTrack", None)
    weights = tensors_of(tree)
    assert list(weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(weights[name], tensor.numpy(), strict=True)


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"got 'torch\.nn\.modules\.linear\.Linear'; .* Save the model's state_dict"
    ):
        read_torch_file(save(torch.nn.Linear(2, 2), tmp_path / "w"))


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = save({"net": {"w": torch.ones(2)}}, tmp_path / "w.pth")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sightline.checkpoints.files import read_weights\n"
        f"print(read_weights({str(path)!r}).tensors['w'].sum())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "2.0\n"


# Damage

SMALL = {"net": {"conv.weight": torch.arange(6.0).reshape(2, 3).t(), "bn.steps": torch.tensor(3)}, "epoch": 3}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("small")
    return {layout: save(SMALL, folder / layout, layout).read_bytes() for layout in LAYOUTS}


def read_or_refuse(path: Path, content: bytes) -> dict[object, object] | None:
    path.write_bytes(content)
    try:
        return read_torch_file(path)
    except CheckpointError:
        return None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_refused(layout: str, small: dict[str, bytes], tmp_path: Path) -> None:
    whole = small[layout]
    assert read_or_refuse(tmp_path / "w", whole) is not None
    for length in range(0, len(whole), 5):
        assert read_or_refuse(tmp_path / "w", whole[:length]) is None, length


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_give_data_or_one_error(
    layout: str, small: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(small[layout])
    places = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), min_size=1, max_size=4)
    for place, flip in data.draw(places):
        content[place] ^= flip
    tree = read_or_refuse(tmp_path / "w", bytes(content))
    if tree is not None and layout == "zip":  # whose checksums guard every name and number
        np.testing.assert_array_equal(tree["net"]["conv.weight"], [[0, 3], [1, 4], [2, 5]])


# Names


def of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensors of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


W = np.ones(2, np.float32)


def test_the_weights_are_found_in_every_container() -> None:
    for tree in ({"net": {"w": W}, "model": {"x": W}}, {"model": {"w": W}}, {"state_dict": {"w": W}}, {"w": W}):
        assert list(tensors_of(tree)) == ["w"]
    assert list(tensors_of({"ema": {"w": W}, "net": {"x": W}}, ("ema",))) == ["w"]
    assert list(tensors_of({"model": W})) == ["model"]  # a tensor of that name is no container


def test_the_prefix_of_parallel_training_goes_if_all_have_it() -> None:
    assert list(tensors_of({"net": {"module.a": W, "module.b": W}})) == ["a", "b"]
    assert list(tensors_of({"net": {"module.a": W, "b": W}})) == ["module.a", "b"]


@pytest.mark.parametrize(
    ("tree", "got"),
    [
        ({}, "got no tensors"),
        ({"net": {}}, "got no tensors"),
        ({"epoch": 3, "weights": {"w": W}}, "got 'epoch' as 3"),
        ({"net": {"w": Stub("torch._utils", "_rebuild_qtensor")}}, r"got 'w' as torch\._utils\._rebuild_qtensor"),
        ({"net": {1: W}}, "got 1 as"),
    ],
)
def test_no_weights_is_one_sentence(tree: dict[object, object], got: str) -> None:
    with pytest.raises(CheckpointError, match=got + ".*; expected tensors by name, at the top or under net, model"):
        tensors_of(tree)


@pytest.mark.parametrize(
    ("model", "recognised", "count"),
    [
        ("ostrack-256", "ostrack-256-ce", 242),
        ("ostrack-256-ce", "ostrack-256-ce", 242),
        ("ostrack-384-ce-got10k", "ostrack-384-ce", 242),
        ("mvt", "mvt", 334),
    ],
)
def test_every_model_is_recognised_by_its_own_tensors(model: str, recognised: str, count: int) -> None:
    expected = expected_shapes(model)
    assert len(expected) == count
    signature = recognise(of(expected))
    assert signature is not None
    assert signature.model == recognised
    check_against(of(expected), expected, source="x", model=model)
    assert expected_shapes(signature.model) == expected


def test_no_two_signatures_take_one_file() -> None:
    for signature in SIGNATURES:
        assert [other for other in SIGNATURES if recognise(of(dict(signature.marks)), [other])] == [signature]


def test_another_size_is_explained() -> None:
    with pytest.raises(CheckpointError) as caught:
        check_against(
            of(expected_shapes("ostrack-384")), expected_shapes("ostrack-256"), source="x.pth.tar", model="ostrack-256"
        )
    assert str(caught.value) == (
        "weights 'x.pth.tar' have 2 of 242 tensors in another shape, first backbone.pos_embed_z: got (1, 144, 768), "
        'expected (1, 64, 768): this looks like an OSTrack-384 file. Load "ostrack-384-ce".'
    )


def test_another_family_is_explained() -> None:
    ostrack, mvt = expected_shapes("ostrack-256"), expected_shapes("mvt")
    with pytest.raises(
        CheckpointError, match=r'^weights \'x\' miss 1\d\d of 242 .*looks like an MVT file\. Load "mvt"\.$'
    ):
        check_against(of(mvt), ostrack, source="x", model="ostrack-256")
    with pytest.raises(CheckpointError, match=r'an OSTrack-256 file\. Load "ostrack-256-ce"\.$'):
        check_against(of(ostrack), mvt, source="x", model="mvt")


def test_lost_added_and_foreign_tensors_are_counted() -> None:
    expected = {"a.weight": (2,), "b.weight": (3, 4), "b.bias": (3,), "b.num_batches_tracked": ()}

    def sentence(shapes: dict[str, tuple[int, ...]]) -> str:
        with pytest.raises(CheckpointError) as caught:
            check_against(of(shapes), expected, source="x", model="toy")
        return str(caught.value)

    unknown = "this looks like no file that Sightline knows. Give the official weights of toy."
    assert sentence({"a.weight": (2,)}) == f"weights 'x' miss 2 of 4 tensors, first b.weight (3, 4): {unknown}"
    assert sentence(expected | {"c": (5,)}) == f"weights 'x' hold 1 tensor unknown to toy, first c (5,): {unknown}"
    assert sentence({"c": (1,)}).startswith("weights 'x' miss 3 of 4 tensors, first a.weight (2,) and hold 1 tensor")
    check_against(of({k: v for k, v in expected.items() if "num" not in k}), expected, source="x", model="toy")
    with pytest.raises(CheckpointError, match=r"this file is of bear\. Name that model, or give the weights of toy\.$"):
        check_against(of({"c": (1,)}), expected, source="x", model="toy", told="bear")


def test_a_cut_file_of_the_right_model_is_not_sent_elsewhere() -> None:
    expected = expected_shapes("mvt")
    cut = {name: shape for name, shape in expected.items() if "offset" not in name}
    with pytest.raises(CheckpointError, match="looks like an MVT file that was cut or changed. Download"):
        check_against(of(cut), expected, source="x", model="mvt")


def test_an_unknown_model_is_one_sentence() -> None:
    with pytest.raises(UnknownModel, match="model: got 'ostrack'; expected one of "):
        expected_shapes("ostrack")


# Safetensors


def test_what_we_write_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "strided": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "expanded": np.broadcast_to(np.float16(2), (2, 2)),
        "big": np.arange(3, dtype=">i4"),
        "scalar": np.array(7),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    write_safetensors(path, tensors, {MODEL: "toy"})
    theirs, ours = safetensors_torch.load_file(path), read_weights(path)
    assert (ours.format, ours.metadata, ours.path) == ("safetensors", {MODEL: "toy"}, path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(theirs[name].numpy(), tensor, err_msg=name)
        np.testing.assert_array_equal(ours.tensors[name], tensor, err_msg=name)
        assert ours.tensors[name].shape == tensor.shape
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_the_kind_of_file_is_told_by_content(tmp_path: Path) -> None:
    safetensors_torch.save_file({"w": torch.ones(2)}, tmp_path / "a.pth")
    save({"w": torch.ones(2)}, tmp_path / "b.safetensors")
    save({"w": torch.ones(2)}, tmp_path / "c.safetensors", "stream")
    assert [read_weights(tmp_path / name).format for name in ("a.pth", "b.safetensors", "c.safetensors")] == [
        *("safetensors", "torch", "torch")
    ]


def test_damaged_safetensors_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": W}, {})
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], whole[:8] + b"{" * (len(whole) - 8), whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="weights 'x.safetensors': got damaged data"):
            read_weights(path)


def test_types_that_numpy_or_safetensors_lack_are_one_sentence(tmp_path: Path) -> None:
    safetensors_torch.save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="weights 'x': got tensors that NumPy cannot hold .*bfloat16"):
        read_weights(tmp_path / "x")
    with pytest.raises(CheckpointError, match="cannot write weights .*complex128"):
        write_safetensors(tmp_path / "y", {"w": np.ones(2, complex)}, {})
    assert os.listdir(tmp_path) == ["x"]


def test_a_later_format_version_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x", {"w": W}, {FORMAT_VERSION: "2"})
    with pytest.raises(CheckpointError, match="got format version 2; expected 1. Update Sightline"):
        read_weights(tmp_path / "x")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(call: str, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": W}, {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="x.safetensors: cannot be written: got 'No space left on device'"):
        write_safetensors(path, {"w": 2 * W}, {})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x.safetensors"]
    np.testing.assert_array_equal(read_weights(path).tensors["w"], W)


def test_an_output_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder: got something that is not a file"):
        write_safetensors(tmp_path / "folder", {"w": W}, {})
    with pytest.raises(CheckpointError, match="got 'No such file or directory'"):
        write_safetensors(tmp_path / "no" / "x", {"w": W}, {})
    assert os.listdir(tmp_path) == ["folder"]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sightline\[torch\]'"):
        write_safetensors(tmp_path / "x", {"w": W}, {})


# The verb


@pytest.fixture
def mvt_file(tmp_path: Path, _official_modules: None) -> Path:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.tensor(5) if not shape and "num_batches" in name else torch.rand(shape, generator=generator)
        for name, shape in expected_shapes("mvt").items()
    }
    return save(official_tree(weights), tmp_path / "MobileViT_Track_ep0100.pth.tar")


def test_convert_writes_every_number_and_where_it_came_from(mvt_file: Path, capsys) -> None:
    output = mvt_file.with_name("x.safetensors")
    tyro.cli(convert, args=[str(mvt_file), "-o", str(output)])
    sha256 = hashlib.sha256(mvt_file.read_bytes()).hexdigest()
    said = capsys.readouterr().out
    assert said == f"{output}: mvt, 334 tensors, 5,480,405 parameters, source sha256 {sha256}\n"
    written = read_weights(output)
    assert written.metadata == {MODEL: "mvt", FORMAT_VERSION: "1", SOURCE_NAME: mvt_file.name, SOURCE_SHA256: sha256}
    official = read_weights(mvt_file).tensors
    assert written.tensors.keys() == official.keys()
    for name, tensor in official.items():
        np.testing.assert_array_equal(written.tensors[name], tensor, strict=True)


def test_convert_to_another_model_is_refused(mvt_file: Path) -> None:
    output = mvt_file.with_name("x.safetensors")
    with pytest.raises(CheckpointError, match='an MVT file. Load "mvt"'):
        convert(mvt_file, output, model="ostrack-256")
    with pytest.raises(CheckpointError, match="got the input itself"):
        convert(mvt_file, mvt_file)
    assert not output.exists()


@pytest.mark.parametrize(
    "signature", [known for known in SIGNATURES if known.init_with], ids=lambda known: known.init_with
)
def test_convert_sends_initial_weights_to_training(signature, tmp_path: Path) -> None:
    weights = {name: torch.zeros(shape) for name, shape in signature.marks.items()}
    path = save({"model": weights} if "ostrack" in signature.init_with else weights, tmp_path / "init.pth")
    with pytest.raises(
        CheckpointError, match=f"init.pth': got .* Start a training from it with {signature.init_with}."
    ):
        convert(path, tmp_path / "x")
    assert os.listdir(tmp_path) == ["init.pth"]


def test_convert_of_unknown_weights_asks_for_the_model(tmp_path: Path) -> None:
    path = save({"fc.weight": torch.zeros(2, 3)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"got 1 tensors that look like no model's, first fc.weight \(2, 3\)"):
        convert(path, tmp_path / "x")
