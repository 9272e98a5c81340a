"""GTR from the command line: files in the released container through `track`, `models add`, `convert` and `export`, in
torch and in ONNX Runtime.

gtr-tiny runs here, and gtr-tao's row with a small network; the three released sizes in slow tests. The weights are
those of the filling rule, with which a detector finds things everywhere; exported graphs give the same identities, and
boxes within 0.02 px.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from sightline.building import empty_model
from sightline.checkpoints.official import recognise
from sightline.cli import main
from sightline.datasets.lvis import class_names
from sightline.errors import ExportMismatch, ProtocolError
from sightline.export.verify import verify
from sightline.imaging.resize import prepared
from sightline.models import gtr
from sightline.models.session import TorchSession
from sightline.trackers.gtr import GTRTracker, size_in_network
from sightline.trackers.zoo import ZOO
from tests.e2e.scene import HEIGHT, WIDTH, names_in, pictures, read_rows, write_clip, write_images
from tests.parity.gtr_fill import fill, manifest

pytestmark = pytest.mark.torch

Capture = pytest.CaptureFixture[str]
NUM_FRAMES = 6
TINY, TAO = "gtr-tiny", "gtr-tao"
# So that boxes have sides, and no level of the pyramid is switched off.
PLUS = {"bbox_pred.bias": 3.0, ".scale": 1.0, "edge_weights": 0.5}
FEW = ["--set", "max_objects=12", "--threads", "1"]
BOXES_ATOL = 0.02  # pixels


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clip, as a video and as images, and the cache. Emptied at the end: weights are large."""
    home = tmp_path_factory.mktemp("workshop")
    write_clip(home / "clip.mp4", pictures(NUM_FRAMES))
    write_images(home / "frames", pictures(NUM_FRAMES))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(home / "cache"))
        yield home
    torch.set_num_threads(threads)
    shutil.rmtree(home)


@pytest.fixture(autouse=True)
def small_tao(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of gtr-tao has a network of a tenth of its width here, unless the test is slow."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(gtr, "GTR_TAO", gtr.GTR_TAO_TINY)


def write_file(path: Path, name: str) -> Path:
    """As detectron2 writes them: weights under `model`, and beside them what a training goes on with."""
    with torch.device("meta"):
        network = empty_model(name)
    state: dict[str, Tensor] = fill(network, plus=PLUS).state_dict()
    if name == TAO:  # of the federated loss
        rare = {f"roi_heads.box_predictor.{stage}.freq_weight": torch.ones(1203) for stage in range(3)}
        state |= rare | {"roi_heads.box_predictor.0.fed_loss_cls_weights": torch.ones(1203)}
    first = next(iter(state.values()))
    torch.save(
        {
            "model": state,
            "optimizer": {
                "state": {0: {"step": 8000, "exp_avg": first}},
                "param_groups": [{"lr": 5e-5, "params": [0]}],
            },
            "scheduler": {"last_epoch": 8000, "base_lrs": [5e-5]},
            "iteration": 7999,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def file(workshop: Path) -> Path:
    return write_file(workshop / "tiny.pth", TINY)


@pytest.fixture
def tao_file(workshop: Path) -> Path:
    path = workshop / "tao.pth"
    return path if path.exists() else write_file(path, TAO)


@pytest.fixture(scope="module")
def expected(workshop: Path, file: Path) -> np.ndarray:
    """The rows of the clip by torch."""
    return tracked(workshop, TINY, "--weights", str(file))


@pytest.fixture(scope="module")
def graphs(workshop: Path, file: Path) -> Path:
    """The exported folder, as the command made it."""
    folder = workshop / "graphs"
    assert main(["export", TINY, "--weights", str(file), "-o", str(folder)]) == 0
    return folder


def tracked(workshop: Path, name: str, *arguments: str) -> np.ndarray:
    """MOTChallenge rows of the clip through the command."""
    results = workshop / "boxes.txt"
    command = ["track", str(workshop / "frames"), "--model", name, *FEW, "--results", str(results), *arguments]
    assert main(command) == 0
    return read_rows(results.read_text())


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """The same identities on the same frames, boxes and scores but for rounding, and for the order that follows it."""
    if ours.shape != theirs.shape:
        return False
    ours, theirs = (rows[np.lexsort((rows[:, 6], rows[:, 1], rows[:, 0]))] for rows in (ours, theirs))
    return (
        np.array_equal(ours[:, :2], theirs[:, :2])
        and np.allclose(ours[:, 2:6], theirs[:, 2:6], rtol=0, atol=BOXES_ATOL)
        and np.allclose(ours[:, 6], theirs[:, 6], rtol=0, atol=2e-4)
    )


# Tracking


def test_everything_is_found_drawn_and_written(workshop: Path, file: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["track", str(workshop / "clip.mp4"), "--model", TINY, "--weights", str(file), *FEW]
    for suffix in ("csv", "json"):
        assert main([*command, "-o", f"{tmp_path}/out.mp4", "--results", f"{tmp_path}/out.{suffix}"]) == 0
    assert re.search(r"6 frames, .* \d+ tracks: .*out.mp4 and .*out.json", capsys.readouterr().out)
    with av.open(f"{tmp_path}/out.mp4") as video:
        drawn = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(drawn) == NUM_FRAMES and drawn[0].shape == (HEIGHT, WIDTH, 3)
    assert np.abs(drawn[0].astype(int) - pictures(1)[0]).max() > 100  # there are boxes in it

    with (tmp_path / "out.csv").open() as text:
        rows = list(csv.DictReader(text))
    content = json.loads((tmp_path / "out.json").read_text())
    targets = [(frame["frame_index"], one) for frame in content["frames"] for one in frame["targets"]]
    assert [(int(row["frame_index"]), int(row["target_id"])) for row in rows] == [(i, one["id"]) for i, one in targets]
    assert {row["label"] for row in rows} == {one["label"] for _, one in targets} == {"person"}
    assert {one["confirmed"] for _, one in targets} == {True}
    assert content["num_tracks"] == len({one["id"] for _, one in targets}) >= 5
    assert content["stages_ms"].keys() >= {"prepare", "detect", "decode", "embed", "associate", "assign"}


def test_the_tracks_are_those_of_the_video_in_the_end(expected: np.ndarray) -> None:
    ids, counts = np.unique(expected[:, 1], return_counts=True)
    assert len(ids) >= 5 and counts.min() >= 5  # shorter ones are dropped
    assert set(expected[:, 0]) == set(range(1, NUM_FRAMES + 1))
    assert (expected[:, 4:6] > 0).all() and np.ptp(expected[:, 2]) > 50


def test_added_or_converted_the_file_tracks_alike(
    workshop: Path, file: Path, expected: np.ndarray, capsys: Capture
) -> None:
    converted = workshop / "tiny.safetensors"
    assert main(["convert", str(file), "--model", TINY, "-o", str(converted)]) == 0
    assert f"{ZOO[TINY].num_parameters:,} parameters" in capsys.readouterr().out
    assert np.array_equal(tracked(workshop, TINY, "--weights", str(converted)), expected)
    assert main(["models", "add", TINY, str(file)]) == 0
    assert np.array_equal(tracked(workshop, TINY), expected)
    assert same(tracked(workshop, TINY, "--set", "streaming=true"), expected)


def test_a_setting_is_heard(workshop: Path, file: Path, expected: np.ndarray) -> None:
    for setting in ("window=2", "object_from=0.88", "variant=paper", "side_px=256", "min_boxes=1"):
        assert not same(tracked(workshop, TINY, "--weights", str(file), "--set", setting), expected), setting
    assert not len(tracked(workshop, TINY, "--weights", str(file), "--set", "object_from=1"))  # finds nothing


@pytest.mark.parametrize("name", [TINY, "gtr-mot", TAO])
def test_a_frame_may_have_any_size(name: str) -> None:
    """Here the smallest map has one cell, as a network sees 128 px of a frame or less; each is of two frames."""
    torch.manual_seed(0)
    session = TorchSession(empty_model(name))
    config = replace(ZOO[name].tracker, side_px=64, longest_px=128, object_from=0.0, max_objects=8)
    tracker = GTRTracker(session, config, class_names=class_names() if config.classify else ("person",))
    for height, width in ((1, 1), (20, 20), (64, 48), (1, 300), (300, 1)):
        size = size_in_network(height, width, config)
        image, _ = prepared(noise(height, width), size, config.mean, config.std, config.pad_to)
        assert session.run("detect", {"image": image})["reg_4"].shape == (1, 4, 1, 1)
        state = tracker.init()
        for _ in range(2):
            state = tracker.update(noise(height, width), state)
        assert [len(frame) for frame in state.window] == [8, 8]
        assert np.isfinite([track.xywh for track in state.tracks]).all()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_network_that_norms_single_cells_says_so() -> None:
    network = gtr.GTR(replace(gtr.GTR_TINY, channels=32)).eval()
    tracker = GTRTracker(TorchSession(network), replace(ZOO[TINY].tracker, side_px=64))
    with pytest.raises(ProtocolError, match=r"^frame 0: graph 'detect': .*Expected more than 1 value per channel"):
        tracker.update(noise(20, 20), tracker.init())


# Classes


def labels(path: Path) -> list[list[str]]:
    """Frame by frame."""
    return [[one["label"] for one in frame["targets"]] for frame in json.loads(path.read_text())["frames"]]


def test_classes_are_named_and_some_kept(workshop: Path, tao_file: Path, tmp_path: Path) -> None:
    command = ["track", str(workshop / "clip.mp4"), "--model", TAO, "--weights", str(tao_file), "--threads", "1"]
    command += ["--set", "side_px=192", "--set", "max_objects=4", "--set", "min_boxes=1", "--max-frames", "3"]
    assert main([*command, "-o", f"{tmp_path}/all.mp4", "--results", f"{tmp_path}/all.json"]) == 0
    every = labels(tmp_path / "all.json")
    assert len(every) == 3 and all(len(frame) == 300 for frame in every)  # a box has several classes
    assert {name for frame in every for name in frame} <= set(class_names())
    first, second = sorted(set(every[0]))[:2]
    for suffix in ("csv", "json"):
        chosen = f"{first.upper()},{second.replace('_', ' ')}"
        assert main([*command, "--classes", chosen, "--results", f"{tmp_path}/some.{suffix}"]) == 0
    kept = labels(tmp_path / "some.json")
    assert kept == [[name for name in frame if name in (first, second)] for frame in every]
    with (tmp_path / "some.csv").open() as text:
        assert [row["label"] for row in csv.DictReader(text)] == [name for frame in kept for name in frame]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--model", TAO, "--classes", "persn"],
            "class: got 'persn'; expected one of 1203 names. Did you mean 'person'",
        ),
        (["--model", TAO, "--classes", "person,"], "class: got ''; expected one of 1203 names."),
        (["--model", "gtr-mot", "--classes", "dog"], "class: got 'dog'; expected person."),
        (["--model", "sightline-nano", "--classes", "person"], "classes: got 'person' for sightline-nano, which knows"),
        (["--model", "gtr-mot", "--box", "1,2,3,4"], "gtr-mot: got target boxes; expected none, since it finds"),
        (["--model", "gtr-mot", "--pick"], "gtr-mot: got target boxes; expected none, since it finds"),
        (["--model", "gtr-mot", "--set", "window=1"], "window=1; expected a whole number from 2 on"),
        (["--model", "gtr-mot", "--set", "windw=8"], "option of gtr-mot: got 'windw'"),
        (["--model", "gtr-mot", "--weights", "none.pth"], "weights none.pth: no such file or folder."),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    arguments: list[str], sentence: str, workshop: Path, tmp_path: Path, capsys: Capture
) -> None:
    outputs = ["-o", f"{tmp_path}/out.mp4", "--results", f"{tmp_path}/out.csv"]
    if "window=1" in arguments:
        arguments = [*arguments, "--weights", str(write_file(workshop / "mot.pth", TINY)), "--model", TINY]
    assert main(["track", str(workshop / "clip.mp4"), *arguments, *outputs]) == 2
    said = capsys.readouterr().err
    assert re.match(r"error: [^\n]*\n$", said) and sentence in said
    assert not names_in(tmp_path)


@pytest.mark.parametrize("what", ["raises", "nan"])
def test_a_detector_that_fails_on_the_way_is_told_with_the_frame(
    what: str, workshop: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    whole, calls = TorchSession.run, list[str]()

    def run(self: TorchSession, graph: str, arrays: Any) -> Any:
        calls.append(graph)
        answer = whole(self, graph, arrays)
        if calls.count("detect") == 4 and graph == "embed":
            if what == "raises":
                raise MemoryError("no memory left")
            answer["embeddings"][0, 0] = np.nan
        return answer

    monkeypatch.setattr(TorchSession, "run", run)
    command = ["track", str(workshop / "clip.mp4"), "--model", TINY, "--weights", str(file), *FEW]
    assert main([*command, "-o", f"{tmp_path}/out.mp4", "--results", f"{tmp_path}/out.csv"]) == 2
    said = capsys.readouterr().err
    told = {"raises": "graph 'embed': got no memory left", "nan": "got embeddings that are nan or infinite"}
    assert re.search(rf"error: frame 3: {told[what]}", said) and said.count("\n") == 1
    assert not names_in(tmp_path)


# Files


def test_a_file_is_recognised_by_its_content() -> None:
    for name, model in (("GTR_MOT_FPN", "gtr-mot"), ("GTR_MOTFull_FPN", "gtr-mot"), ("GTR_TAO_DR2101", "gtr-tao")):
        tensors = {key: np.broadcast_to(np.float32(0), about["shape"]) for key, about in manifest(name).items()}
        found = recognise(tensors)
        assert found and found.model == model and ("gtr-mot-full" in found.note) == (model == "gtr-mot")
    for name in ("CH_FPN_1x", "C2_LVISCOCO_DR2101_4x"):  # detectors alone
        tensors = {key: np.broadcast_to(np.float32(0), about["shape"]) for key, about in manifest(name).items()}
        assert recognise(tensors) is None


def test_a_file_of_another_model_is_refused(file: Path, tao_file: Path, tmp_path: Path, capsys: Capture) -> None:
    for path, name in ((file, "gtr-mot"), (file, "ostrack-256"), (tao_file, TINY)):
        assert main(["convert", str(path), "--model", name, "-o", f"{tmp_path}/x.safetensors"]) == 2
        assert re.search(r"error: weights '\w+\.pth' (miss|have|hold) ", capsys.readouterr().err)
    assert not names_in(tmp_path)


def test_what_the_federated_loss_leaves_in_a_file_is_passed_over(
    tao_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "tao.safetensors"
    assert main(["convert", str(tao_file), "--model", TAO, "-o", str(path)]) == 0
    with torch.device("meta"):
        assert f"{len(empty_model(TAO).state_dict())} tensors" in capsys.readouterr().out


# Export


def test_every_graph_is_exported(graphs: Path, file: Path) -> None:
    assert names_in(graphs) == ["associate.onnx", "association.onnx", "detect.onnx", "embed.onnx"]
    content = onnx.load(graphs / "detect.onnx")
    onnx.checker.check_model(content, full_check=True)
    assert [side.dim_param or side.dim_value for side in content.graph.input[0].type.tensor_type.shape.dim] == [
        1,
        3,
        "128*height",
        "128*width",
    ]
    for name in names_in(graphs):
        assert b".py" not in (graphs / name).read_bytes()


def test_the_graphs_give_what_torch_gives(graphs: Path) -> None:
    report = verify(fill(empty_model(TINY), plus=PLUS), graphs, repeats=1)
    assert max(report.differences.values()) <= report.tolerance == 1e-4
    levels = {f"{kind}_{level}" for kind in ("reg", "agn") for level in range(5)}
    assert report.differences.keys() == {"p3", *levels, "embeddings", "logits", "association"}
    assert report.timed == "20 objects on 288 x 512"
    assert set(report.torch_ms) == set(report.runtime_ms) == {"detect", "embed", "associate", "association"}


@pytest.mark.parametrize(
    ("weight", "array"),
    [
        ("proposal_generator.centernet_head.bbox_tower.9.offset.bias", "reg_0"),
        ("roi_heads.asso_head.fc2.bias", "embeddings"),
        ("roi_heads.transformer.encoder.layers.0.linear2.bias", "logits"),
    ],
)
def test_one_weight_changed_is_seen(weight: str, array: str, graphs: Path) -> None:
    model = fill(empty_model(TINY), plus=PLUS)
    model.get_parameter(weight).data.add_(0.02)
    with pytest.raises(ExportMismatch, match=rf"got {array} \d\.\de-0\d away from torch for 1 object on a small image"):
        verify(model, graphs, repeats=1)


def test_the_graphs_track_alike_without_torch(
    workshop: Path, graphs: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    assert same(tracked(workshop, TINY, "--weights", str(graphs)), expected)
    assert same(tracked(workshop, TINY, "--weights", str(graphs), "--set", "streaming=true"), expected)
    assert not same(tracked(workshop, TINY, "--weights", str(graphs), "--set", "window=2"), expected)


def test_a_folder_that_lacks_a_graph_is_told(graphs: Path, workshop: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in names_in(graphs):
        if name != "embed.onnx":
            shutil.copy(graphs / name, tmp_path)
    assert main(["track", str(workshop / "clip.mp4"), "--model", TINY, "--weights", str(tmp_path)]) == 2
    assert "got no embed.onnx; expected detect.onnx and embed.onnx and associate.onnx" in capsys.readouterr().err


# The released sizes


@pytest.fixture(scope="module")
def released(workshop: Path) -> Callable[[str], Path]:
    """The file of a released model."""

    def get(name: str) -> Path:
        path = workshop / ZOO[name].official_file
        return path if path.exists() else write_file(path, name)

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gtr-mot", "gtr-mot-full", "gtr-tao"])
def test_a_released_model_from_its_file_to_its_graphs(
    name: str, workshop: Path, released: Callable[[str], Path], capsys: Capture
) -> None:
    path, small = released(name), ["--set", "side_px=256", "--set", "min_boxes=2"]
    small += (
        ["--set", "class_from=0.85"] if name == "gtr-tao" else []
    )  # else rounding decides which classes are left out
    expected = tracked(workshop, name, "--weights", str(path), *small)
    assert len(expected) >= 10
    converted = workshop / f"{name}.safetensors"
    assert main(["convert", str(path), *(["--model", name] if "full" in name else []), "-o", str(converted)]) == 0
    assert re.search(rf"{name}( \(or gtr-mot-full, .*\))?, \d+ tensors", capsys.readouterr().out)
    assert np.array_equal(tracked(workshop, name, "--weights", str(converted), *small), expected)
    if "full" in name:  # the same network
        return
    graphs = workshop / f"{name}-graphs"
    assert main(["export", name, "--weights", str(path), "-o", str(graphs), "--check"]) == 0
    said = capsys.readouterr().out
    named = [f"{graph}.onnx" for graph in ("association", "associate", "classify", "embed", "detect")]
    assert ", ".join(one for one in named if name == "gtr-tao" or "classify" not in one) + f" of {name}" in said
    differences = re.findall(r"^(?:reg_|agn_|logits|class_scores|boxes)\S* +(\S+e-\d\d)$", said, re.MULTILINE)
    assert len(differences) >= 11 and max(map(float, differences)) <= 1e-4
    assert same(tracked(workshop, name, "--weights", str(graphs), *small), expected)
    shutil.rmtree(graphs)
