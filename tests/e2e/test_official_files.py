"""From a weights file as it was released to boxes: converted, in torch, in ONNX Runtime, as an exported folder.

The files are made here, in the official format, with the weights of the parity tests; so the boxes that the official
code gave on the synthetic clip are known. Tolerance 0.02 px.
"""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import sightline
from sightline.cli import main
from sightline.loading import expected_shapes
from sightline.trackers.template_search import TemplateSearchTracker
from tests.e2e.scene import names_in, read_rows, write_images
from tests.parity.fill import parameter, synthetic_video

pytestmark = pytest.mark.torch

PARITY = Path(__file__).parents[1] / "parity" / "data"
STORED = {
    "ostrack-256-ce": "ostrack/ostrack_256_ce.npz",
    "ostrack-256": "ostrack/ostrack_256.npz",
    "mvt": "mvt/mvt.npz",
}
START_XYWH = (100.0, 90.0, 64.0, 48.0)
BOX = "100,90,64,48"
BOXES = {"atol": 0.02, "rtol": 0.0}  # pixels
NAMES = {"ostrack-256-ce": "OSTrack_ep0300.pth.tar", "mvt": "MobileViT_Track_ep0100.pth.tar"}


def official_boxes(name: str) -> np.ndarray:
    with np.load(PARITY / STORED[name]) as arrays:
        return arrays["track_boxes_xywh"]


def write_official(path: Path, name: str) -> None:
    """The container of the official trainers: weights under `net`, beside them objects of classes that no one has."""
    module = types.ModuleType("lib_of_a_research_fork")
    module.Settings = type("Settings", (), {"__module__": module.__name__})
    settings = module.Settings()
    settings.__dict__ |= {"device": torch.device("cpu"), "batchsize": 32, "env": {"workspace_dir": "/data"}}
    state = {
        key: torch.from_numpy(np.asarray(parameter(key, shape), np.int64 if key.endswith("tracked") else np.float32))
        for key, shape in expected_shapes(name).items()
    }
    sys.modules[module.__name__] = module
    try:
        content = {"epoch": 300, "actor_type": "Actor", "net_type": "Net", "net": state, "net_info": None}
        torch.save(content | {"constructor": None, "stats": {"train": settings}, "settings": settings}, path)
    finally:
        del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the synthetic clip as images; the cache lies in it too. Emptied at the end: weights are large."""
    folder = tmp_path_factory.mktemp("workshop")
    write_images(folder / "frames", synthetic_video())
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def official(workshop: Path) -> Callable[[str], Path]:
    """The official file of a model, made when it is first asked for."""

    def make(name: str) -> Path:
        path = workshop / NAMES[name]
        if not path.exists():
            write_official(path, name)
        return path

    return make


@pytest.fixture(scope="module")
def converted(workshop: Path, official: Callable[[str], Path]) -> Callable[[str], Path]:
    """The same, gone through `sightline convert`."""

    def make(name: str) -> Path:
        path = workshop / f"{name}.safetensors"
        if not path.exists():
            assert main(["convert", str(official(name)), "-o", str(path)]) == 0
        return path

    return make


def tracked(workshop: Path, name: str, weights: Path, *arguments: str) -> np.ndarray:
    """Boxes of the eight frames through the command."""
    results = workshop / "boxes.txt"
    given = ["--box", BOX, "--model", name, "--weights", str(weights), "--threads", "1", "--results", str(results)]
    assert main(["track", str(workshop / "frames"), *given, *arguments]) == 0
    return read_rows(results.read_text())


def followed(tracker: TemplateSearchTracker, num_frames: int = 3) -> np.ndarray:
    """Boxes of the first frames through the library."""
    frames = synthetic_video()[:num_frames]
    return np.array([result.xywh for result in sightline.track(frames, [START_XYWH], model=tracker)])


def agree(ours: np.ndarray, others: np.ndarray) -> bool:
    return ours.shape == others.shape and np.allclose(ours, others, **BOXES)


@pytest.mark.parametrize("name", ["ostrack-256-ce", "mvt"])
def test_a_converted_file_gives_the_official_boxes(name: str, workshop: Path, converted: Callable[[str], Path]) -> None:
    """In torch, in ONNX Runtime, and from the folder of graphs that the latter leaves in the cache."""
    expected = official_boxes(name)
    assert len(expected) == 8
    assert agree(tracked(workshop, name, converted(name), "--backend", "torch"), expected)
    assert agree(tracked(workshop, name, converted(name), "--backend", "onnx"), expected)
    (folder,) = (workshop / "cache" / "exports").glob(f"{name}-*/*/")
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = sightline.load(name, weights=converted(name), backend="onnx", threads=1)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == made  # from the cache
    same = sightline.load(name, weights=folder, threads=1)
    assert np.array_equal(followed(same), followed(again))
    assert agree(followed(same), expected[:3])


@pytest.mark.parametrize("name", ["mvt", pytest.param("ostrack-256-ce", marks=pytest.mark.slow)])
def test_the_official_file_itself_will_do(name: str, workshop: Path, official: Callable[[str], Path]) -> None:
    assert agree(tracked(workshop, name, official(name)), official_boxes(name))


def test_elimination_is_a_choice_at_run_time(official: Callable[[str], Path]) -> None:
    """One file, loaded with elimination on, off, elsewhere, harder, and by other template tokens."""

    def boxes(name: str, **options: object) -> np.ndarray:
        return followed(sightline.load(name, weights=official("ostrack-256-ce"), threads=1, **options), 2)

    on, off = boxes("ostrack-256-ce"), boxes("ostrack-256-ce", ce_layers=())
    assert agree(on, official_boxes("ostrack-256-ce")[:2])
    assert agree(off, official_boxes("ostrack-256")[:2])
    assert not agree(on, off)
    assert np.array_equal(boxes("ostrack-256", ce_layers=[3, 6, 9]), on)
    found = [on, off]
    for options in (
        {"ce_layers": (2, 5), "ce_keep_ratios": (0.8, 0.5)},
        {"ce_template_tokens": "all"},
        {"ce_template_tokens": "2x2"},
        {"ce_template_tokens": "box"},
    ):
        found.append(boxes("ostrack-256-ce", **options))
        assert not any(np.array_equal(found[-1], other) for other in found[:-1]), options


def test_fusion_is_a_choice_at_run_time(official: Callable[[str], Path]) -> None:
    fused, apart = (
        followed(sightline.load("mvt", weights=official("mvt"), threads=1, fusion=fusion)) for fusion in (True, False)
    )
    assert agree(fused, official_boxes("mvt")[:3])
    assert np.abs(fused - apart).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mvt", {"fusion": False}),
        ("ostrack-256-ce", {"ce_layers": ()}),
        ("ostrack-256-ce", {"ce_keep_ratios": 0.4}),
        ("ostrack-256-ce", {"ce_layers": (2, 5, 8), "ce_keep_ratios": (0.8, 0.5, 0.6), "ce_template_tokens": "box"}),
        ("ostrack-256-ce", {"ce_template_tokens": "all"}),
        ("ostrack-256-ce", {"ce_template_tokens": "2x2"}),
    ],
    ids=str,
)
def test_the_runtime_makes_the_same_choice(
    name: str, options: dict[str, object], workshop: Path, official: Callable[[str], Path]
) -> None:
    """Exported once into the cache with these options; eight frames, so that a difference would add up."""
    exports = workshop / "cache" / "exports"
    before = names_in(exports) if exports.exists() else []
    onnx, eager = (
        followed(sightline.load(name, weights=official(name), backend=backend, threads=1, **options), 8)
        for backend in ("onnx", "torch")
    )
    assert agree(onnx, eager)
    (made,) = set(names_in(exports)) - set(before)
    shutil.rmtree(exports / made)


@pytest.mark.parametrize("name", ["mvt", pytest.param("ostrack-256-ce", marks=pytest.mark.slow)])
def test_an_exported_folder_needs_no_torch(
    name: str,
    workshop: Path,
    converted: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = workshop / f"{name}-graphs"
    assert main(["export", name, "--weights", str(converted(name)), "-o", str(folder), "--check"]) == 0
    told = capsys.readouterr().out
    assert names_in(folder) == ["encode.onnx", "track.onnx"]
    for word in ("score_map", "size_map", "offset_map", "encode", "track"):
        assert word in told
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    assert agree(tracked(workshop, name, folder), official_boxes(name))

    assert main(["track", str(workshop / "frames"), "--box", BOX, "--weights", str(folder)]) == 2
    assert f"got {name!r}; expected 'sightline-nano'. Pass --model {name}." in capsys.readouterr().err
    option = {"mvt": {"fusion": False}, "ostrack-256-ce": {"ce_layers": ()}}[name]
    with pytest.raises(sightline.SightlineError, match="Export with these options, or pass the weights file"):
        sightline.load(name, weights=folder, **option)


@pytest.mark.parametrize(
    ("file", "model", "sentence"),
    [
        ("mvt", "ostrack-256-ce", 'this looks like an MVT file. Load "mvt".'),
        ("ostrack-256-ce", "mvt", 'this looks like an OSTrack-256 file. Load "ostrack-256-ce".'),
        ("ostrack-256-ce", "ostrack-384-ce", "backbone.pos_embed_z: got (1, 64, 768), expected (1, 144, 768)"),
        ("ostrack-256-ce", "sightline-nano", 'this looks like an OSTrack-256 file. Load "ostrack-256-ce".'),
    ],
)
def test_a_file_of_another_model_is_explained(
    file: str, model: str, sentence: str, workshop: Path, official: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    out = workshop / "boxes.json"
    common = ["--weights", str(official(file)), "--model", model, "--results", str(out)]
    assert main(["track", str(workshop / "frames"), "--box", BOX, *common]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith(f"error: weights '{NAMES[file]}'")
    assert sentence in told.err
    assert not out.exists()
    assert main(["convert", str(official(file)), "-o", str(workshop / "wrong.safetensors"), "--model", model]) == 2
    assert sentence in capsys.readouterr().err
    assert not (workshop / "wrong.safetensors").exists()


def test_damaged_files_are_refused(
    workshop: Path, official: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = workshop / "half.pth.tar"
    path.write_bytes(official("mvt").read_bytes()[: official("mvt").stat().st_size // 2])
    for arguments in (
        ["track", workshop / "frames", "--box", BOX, "--model", "mvt", "--weights", path],
        ["convert", path, "-o", workshop / "wrong.safetensors"],
    ):
        assert main([str(argument) for argument in arguments]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: weights 'half.pth.tar'")
        assert told.count("\n") == 1
    assert not (workshop / "wrong.safetensors").exists()
