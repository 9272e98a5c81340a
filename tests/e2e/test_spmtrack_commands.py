"""SPMTrack as a person uses it: two files as they were released, the verbs that take them, the seven sets of its paper.

The small model stands for the others wherever the size does not matter; B follows the synthetic clip in a slow test, to
the boxes that the official code gave there. Tolerance 0.02 px.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sightline
from sightline.cli import main
from sightline.datasets import single
from sightline.datasets.sot_text import read_rows as read_boxes
from sightline.datasets.table import DATASETS
from sightline.geometry.boxes import xyxy_to_xywh
from sightline.trackers.spmtrack import BOUNDED, SPMTrackTracker
from sightline.video.source import Source, open_source
from tests.e2e.scene import names_in, read_rows, write_images
from tests.parity.fill import synthetic_video
from tests.spmtrack_files import Files, write_files
from tests.trees import images, numbered, write

pytestmark = pytest.mark.torch

TINY, B = "spmtrack-tiny", "spmtrack-b"
START_XYWH = (100.0, 90.0, 64.0, 48.0)
BOX = "100,90,64,48"
BOXES = {"atol": 0.02, "rtol": 0.0}  # pixels
SLOW_B = pytest.param(B, marks=pytest.mark.slow)


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
def files(workshop: Path) -> Callable[[str], Files]:
    """The two files of a model, made when they are first asked for."""

    def make(name: str) -> Files:
        made = Files(workshop / name / "model.bin", workshop / name / "dinov2.pth")
        return made if made.backbone.exists() else write_files(workshop / name, name)

    return make


def given(model: str, files: Files) -> list[str]:
    return ["--model", model, "--weights", str(files.delta), "--backbone", str(files.backbone), "--threads", "1"]


def tracked(workshop: Path, *arguments: str) -> np.ndarray:
    """Boxes of the eight frames through the command."""
    results = workshop / "boxes.txt"
    assert main(["track", str(workshop / "frames"), "--box", BOX, "--results", str(results), *arguments]) == 0
    return read_rows(results.read_text())


@pytest.mark.slow
def test_the_released_formats_give_the_official_boxes(workshop: Path, files: Callable[[str], Files]) -> None:
    """By both rules of which templates to use."""
    with np.load(Path(__file__).parents[1] / "parity/data/spmtrack/spmtrack_b_tracking.npz") as arrays:
        stored = {rule: xyxy_to_xywh(arrays[f"{rule}_rule_boxes_xyxy"]) for rule in ("default", "lasot")}
    for rule, expected in stored.items():
        found = tracked(workshop, *given(B, files(B)), "--set", f"rule={rule}")
        assert found.shape == (8, 4)
        np.testing.assert_allclose(found, expected, **BOXES)
    assert np.abs(stored["default"] - stored["lasot"]).max() > 0.1  # the control


def test_two_files_or_one_in_torch_or_in_onnx_runtime(
    workshop: Path, files: Callable[[str], Files], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = files(TINY)
    expected = tracked(workshop, *given(TINY, both))
    assert expected.shape == (8, 4) and np.ptp(expected, axis=0).min() > 0.1

    merged = workshop / "merged.safetensors"
    assert main(["convert", str(both.delta), "--backbone", str(both.backbone), "-o", str(merged)]) == 0
    assert np.array_equal(tracked(workshop, "--model", TINY, "--weights", str(merged), "--threads", "1"), expected)

    assert main(["models", "add", TINY, str(both.delta), "--backbone", str(both.backbone)]) == 0
    assert np.array_equal(tracked(workshop, "--model", TINY, "--threads", "1"), expected)

    onnx = tracked(workshop, *given(TINY, both), "--backend", "onnx")
    np.testing.assert_allclose(onnx, expected, **BOXES)
    assert len(names_in(workshop / "cache" / "exports")) == 1
    assert np.array_equal(tracked(workshop, *given(TINY, both), "--backend", "onnx"), onnx)
    assert len(names_in(workshop / "cache" / "exports")) == 1  # from the cache

    graphs, weights = workshop / "graphs", ["--weights", str(both.delta), "--backbone", str(both.backbone)]
    assert main(["export", TINY, *weights, "-o", str(graphs), "--check"]) == 0
    capsys.readouterr()
    assert main(["track", str(workshop / "frames"), "--box", BOX, *given(TINY, both)[:2],
                 "--weights", str(graphs), "--backbone", str(both.backbone)]) == 2  # fmt: skip
    assert "got the backbone 'dinov2.pth' beside exported graphs, which hold it" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    found = tracked(workshop, "--model", TINY, "--weights", str(graphs), "--threads", "1", "--set", "num_templates=3")
    np.testing.assert_allclose(found, expected, **BOXES)


def test_the_number_of_templates_is_a_choice_at_run_time(workshop: Path, files: Callable[[str], Files]) -> None:
    both, found = files(TINY), []
    for num_templates in (1, 2, 3, 5):
        tracker = sightline.load(
            TINY, weights=both.delta, backbone=both.backbone, threads=1, num_templates=num_templates
        )
        assert isinstance(tracker, SPMTrackTracker)
        found.append([result.xywh for result in sightline.track(synthetic_video(), [START_XYWH], model=tracker)])
    assert all(one != other for number, one in enumerate(found) for other in found[:number])
    with pytest.raises(sightline.SightlineError, match="got search_px=224; expected search_px=196, which the network"):
        sightline.load(TINY, weights=both.delta, backbone=both.backbone, threads=1, search_px=224)


# The memory


class Loaded(Exception):  # it ends the command where the tracker is asked for
    """With what a tracker was asked for."""


@pytest.mark.parametrize(
    ("is_endless", "model", "settings", "memory"),
    [
        (True, TINY, {}, BOUNDED),
        (True, TINY, {"memory": "exact"}, "exact"),
        (True, TINY, {"memory": "bounded:5"}, "bounded:5"),
        (True, TINY, {"rule": "lasot"}, BOUNDED),
        (True, "sightline-nano", {}, None),
        (True, "csrt", {}, None),
        (False, TINY, {}, None),
        (False, TINY, {"memory": "bounded:5"}, "bounded:5"),
    ],
)
def test_a_source_without_a_known_end_gets_a_bounded_memory(
    is_endless: bool, model: str, settings: dict[str, str], memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the library and at the command line; what was set is never changed."""
    frames = synthetic_video()[:2]

    def opened(source: object, start: int = 0) -> Source:
        return open_source(iter(frames) if is_endless else frames, start)

    def loaded(name: str, **options: Any) -> None:
        raise Loaded(options.get("memory"), options.get("rule"))

    for module in ("sightline.tracking", "sightline.cli.track"):
        monkeypatch.setattr(f"{module}.open_source", opened)
        monkeypatch.setattr(f"{module}.load", loaded)
    expected = (memory, settings.get("rule"))
    with pytest.raises(Loaded) as asked:
        list(sightline.track("rtsp://camera/1", [START_XYWH], model=model, **settings))
    assert asked.value.args == expected
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with pytest.raises(Loaded) as asked:
        main(["track", "rtsp://camera/1", "--box", BOX, "--model", model, *flags])
    assert asked.value.args == expected


# The seven sets of the paper

LENGTH = 6  # so many that the two rules differ
TRUTH = "".join(f"{10 + step},{8 + step},20,16\n" for step in range(LENGTH))
FIRST = TRUTH.partition("\n")[0] + "\n"
LISTS = {
    "lasot_train": tuple(f"cat-{number}" for number in range(2, 21)),  # cat-1 is the test set
    "nfs": ("bee",),
    "otb100": ("Board",),
    "uav123": (f"bird1_1 1 {LENGTH}",),
}
# Data set -> its one sequence, the folder of the frames, their pattern, the annotations.
TREES: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "lasot": ("cat-1", "LaSOT/cat/cat-1/img", "{:08d}.jpg", {
        "LaSOT/cat/cat-1/groundtruth.txt": TRUTH,
        "LaSOT/cat/cat-1/full_occlusion.txt": ",".join("0" * LENGTH),
        "LaSOT/cat/cat-1/out_of_view.txt": ",".join("0" * LENGTH),
    }),
    "got10k": ("GOT-10k_Test_000001", "GOT-10k/test/GOT-10k_Test_000001", "{:08d}.jpg", {
        "GOT-10k/test/list.txt": "GOT-10k_Test_000001\n",
        "GOT-10k/test/GOT-10k_Test_000001/groundtruth.txt": FIRST,
    }),
    "trackingnet": ("b_3", "TrackingNet/TEST/frames/b_3", "{}.jpg", {"TrackingNet/TEST/anno/b_3.txt": FIRST}),
    "tnl2k": ("adv_1", "TNL2K/TNL2K_test_subset/adv_1/imgs", "{:05d}.png", {
        "TNL2K/TNL2K_test_subset/adv_1/groundtruth.txt": TRUTH,
    }),
    "uav123": ("bird1_1", "UAV123/data_seq/UAV123/bird1", "{:06d}.jpg", {"UAV123/anno/UAV123/bird1_1.txt": TRUTH}),
    "nfs30": ("bee", "nfs30/sequences/bee", "{:05d}.jpg", {"nfs30/anno/nfs_bee.txt": TRUTH}),
    "otb100": ("Board", "OTB/Board/img", "{:04d}.jpg", {"OTB/Board/groundtruth_rect.txt": TRUTH}),
}  # fmt: skip
OF_A_SERVER = {"got10k": ["--split", "test"], "trackingnet": []}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree of each, and lists as long as they are."""
    root = tmp_path / "data"
    for _, folder, pattern, texts in TREES.values():
        images(root / folder, numbered(LENGTH, pattern))
        for name, text in texts.items():
            write(root / name, text)
    monkeypatch.setattr(single, "packaged", LISTS.__getitem__)
    for dataset in OF_A_SERVER:
        monkeypatch.setitem(DATASETS[dataset].splits, "test", 1)
    return root


@pytest.mark.parametrize("model", [TINY, SLOW_B])
def test_the_seven_sets(
    model: str, data: Path, files: Callable[[str], Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dataset, (sequence, *_) in TREES.items():
        out, report, archive = tmp_path / "out" / dataset, tmp_path / f"{dataset}.json", tmp_path / "archive" / dataset
        arguments = ["eval", *given(model, files(model)), "--dataset", dataset, "--data", str(data), "--out", str(out)]
        if dataset in OF_A_SERVER:
            assert main([*arguments, *OF_A_SERVER[dataset], "--submission", str(archive)]) == 0
            (path,) = archive.iterdir()
            with zipfile.ZipFile(path) as packed:
                assert any(sequence in name for name in packed.namelist())
        else:
            assert main([*arguments, "--report", str(report)]) == 0
            scores = json.loads(report.read_text())["trackers"][0]["overall"]
            assert 0 < scores["auc"]["value"] <= 1
        boxes = read_boxes(out / f"{sequence}.txt")
        assert boxes.shape == (LENGTH, 4) and boxes[0].tolist() == [10, 8, 20, 16]
        assert np.ptp(boxes[1:], axis=0).max() > 0 and np.isfinite(boxes).all()
    capsys.readouterr()


def test_the_rule_of_lasot_is_a_setting(data: Path, files: Callable[[str], Files], tmp_path: Path) -> None:
    found = {}
    for rule in ("default", "lasot"):
        out = tmp_path / rule
        arguments = ["--dataset", "lasot", "--data", str(data), "--out", str(out), "--set", f"rule={rule}"]
        assert main(["eval", *given(TINY, files(TINY)), *arguments]) == 0
        assert json.loads((out / "run.json").read_text())["settings"] == {"rule": rule}
        found[rule] = read_boxes(out / "cat-1.txt")
    same = np.array_equal(found["default"][:4], found["lasot"][:4])
    assert same and not np.array_equal(found["default"][4:], found["lasot"][4:])  # they part at frame 4


def test_results_belong_to_both_files(
    data: Path, files: Callable[[str], Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, other = files(TINY), tmp_path / "other.pth"
    content = torch.load(both.backbone)
    torch.save({**content, "norm.bias": content["norm.bias"] + 1}, other)
    arguments = ["--dataset", "otb100", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["eval", *given(TINY, both), *arguments]) == 0
    assert main(["eval", *given(TINY, both._replace(backbone=other)), *arguments]) == 2
    assert "got results with weights_sha256" in capsys.readouterr().err
