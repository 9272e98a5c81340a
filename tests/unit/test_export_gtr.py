"""The exported graphs of models that find their targets against torch, graph by graph, for any number of objects; and
GTR's official identities through its exported association.

The whole of gtr-tiny, detector included, is exported and compared in tests/e2e/test_gtr_commands.py, since that takes
half a minute; the full sizes in tests/contracts/test_zoo.py. Tolerances: scores, logits and maps 1e-4, boxes 1e-3 px.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sightline.building import empty_model
from sightline.errors import ExportMismatch, ProtocolError
from sightline.export.detection_graphs import LONGEST, free_axes, one_pass, patches
from sightline.export.onnx import export_onnx, save_graph
from sightline.export.verify import Report, largest_difference, verify
from sightline.models.gtr import GTR, GTR_MOT, GTR_TAO, GTR_TAO_TINY, Heads
from sightline.models.roi_align import roi_align
from sightline.models.session import TorchSession
from sightline.runtime.onnx import OnnxSession
from sightline.runtime.replay import RecordingSession, ReplaySession
from sightline.runtime.session import Arrays
from sightline.trackers import gtr as gtr_loop
from sightline.trackers.onetrack_m import OneTrackMTracker
from sightline.trackers.zoo import ZOO
from tests.parity import fill as by_name
from tests.parity.gtr_fill import fill
from tests.parity.test_gtr_tracking import CASES, MODES, config_of, follow, frames_of, official, weights

pytestmark = pytest.mark.torch

ATOL = 1e-4
BOXES_ATOL = 1e-3  # pixels
LONG, LONG_MODE = CASES[0]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(model: nn.Module, calls: dict[str, Arrays], folder: Path, tracker: gtr_loop.GTRConfig) -> OnnxSession:
    """Some graphs of a model, each traced on what it is called with here."""
    folder.mkdir(parents=True)
    session = TorchSession(model)
    description = {"format": 1, "model": "gtr", "tracker": tracker.to_json(), "graphs": list(calls)}
    for graph, arrays in calls.items():
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        outputs, free = tuple(session.run(graph, arrays)), free_axes(arrays, tracker)
        save_graph(model, graph, inputs, outputs, free, json.dumps(description), folder / f"{graph}.onnx")
    return OnnxSession(folder, threads=1)


def objects(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    return rng.standard_normal((count, width), dtype=np.float32)


def boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """(count, 4) xyxy, many of them partly outside an image of height and width, some without area."""
    corners = rng.uniform(-60, np.array(size[::-1]) + 40, (count, 2))
    return np.hstack([corners, corners + rng.uniform(-8, 150, (count, 2))]).astype(np.float32)


# Boxes


class Pooled(nn.Module):
    """RoIAlign alone."""

    graphs = ("embed",)

    def embed(self, p3: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        return {"pooled": roi_align(p3, boxes, 7, 1 / 8)}


def test_what_lies_under_a_box_is_what_torch_sees(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p3 = rng.standard_normal((1, 3, 20, 28), dtype=np.float32)
    model, trace = Pooled(), {"p3": p3, "boxes": boxes(rng, 3, (160, 224))}
    runtime = save(model, {"embed": trace}, tmp_path / "pool", gtr_loop.GTR_MOT)
    assert [node.op_type for node in onnx.load(tmp_path / "pool" / "embed.onnx").graph.node][-1] == "RoiAlign"
    edges = np.float32(
        [
            [0, 0, 224, 160],  # the whole map
            [-500, -500, 800, 700],  # and more of it
            [-7.5, -7.4, 3, 3],  # samples within a cell of the border, and beyond
            [221, 157, 231, 167.5],
            [-100, 20, -50, 60],  # outside
            [225, 30, 300, 90],
            [50, 50, 50, 90],  # no area
            [90, 90, 40, 30],
            [60.3, 40.1, 60.9, 40.6],  # within a cell
            [0.5, 3, 223.5, 4],
        ]
    )
    for regions in (edges, boxes(rng, 400, (160, 224)), edges[:1], edges[:0]):
        arrays = {"p3": p3, "boxes": regions}
        found, expected = (each.run("embed", arrays)["pooled"] for each in (runtime, TorchSession(model)))
        assert found.shape == (len(regions), 3, 7, 7)
        np.testing.assert_allclose(found, expected, atol=ATOL)
    shifted = TorchSession(model).run("embed", {"p3": p3, "boxes": edges + 0.1})["pooled"]
    assert np.abs(runtime.run("embed", {"p3": p3, "boxes": edges})["pooled"] - shifted).max() > 10 * ATOL


@dataclass(frozen=True)
class Exported:
    reference: TorchSession
    runtime: OnnxSession
    folder: Path


@pytest.fixture(scope="module")
def tao(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What a small GTR of 1203 classes says of given boxes and objects."""
    folder, rng = tmp_path_factory.mktemp("export") / "tao", np.random.default_rng(0)
    model = fill(GTR(GTR_TAO_TINY))
    p3 = rng.standard_normal((1, GTR_TAO_TINY.channels, 12, 20), dtype=np.float32)
    regions = {"p3": p3, "boxes": boxes(rng, 4, (96, 160))}
    calls = {
        "embed": regions,
        "classify": {**regions, "size": np.float32([90, 155])},
        "associate": {"features": objects(rng, 5, 64), "queries": objects(rng, 3, 64)},
        "association": {},
    }
    return Exported(TorchSession(model), save(model, calls, folder, gtr_loop.GTR_TAO), folder)


@pytest.mark.parametrize(("count", "cells"), [(3, (12, 20)), (1, (9, 7)), (300, (20, 31)), (0, (5, 5))])
def test_boxes_are_told_apart_as_in_torch(count: int, cells: tuple[int, int], tao: Exported) -> None:
    rng = np.random.default_rng(1)
    size = np.float32([8 * cells[0] - 6, 8 * cells[1] - 3])
    p3 = rng.standard_normal((1, GTR_TAO_TINY.channels, *cells), dtype=np.float32)
    regions = {"p3": p3, "boxes": boxes(rng, count, (8 * cells[0], 8 * cells[1]))}
    for graph, arrays in (("embed", regions), ("classify", {**regions, "size": size})):
        found, expected = (each.run(graph, arrays) for each in (tao.runtime, tao.reference))
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.dtype == np.float32 and array.shape[0] == count
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=BOXES_ATOL if name == "boxes" else ATOL)
            assert not count or np.ptp(array) > 100 * ATOL


@pytest.mark.parametrize(("count", "queries"), [(7, 3), (1, 1), (6, 6), (700, 40), (9, 0)])
def test_objects_are_related_as_in_torch(count: int, queries: int, tao: Exported) -> None:
    rng = np.random.default_rng(2)
    arrays = {"features": objects(rng, count, 64), "queries": objects(rng, queries, 64)}
    found, expected = (each.run("associate", arrays)["logits"] for each in (tao.runtime, tao.reference))
    assert found.shape == (queries, count)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)
    assert not queries or np.abs(found).max() > 100 * ATOL


def test_the_associations_weights_come_by_name(tao: Exported) -> None:
    found, expected = (each.run("association", {}) for each in (tao.runtime, tao.reference))
    assert found.keys() == expected.keys() and len(found) == 24
    assert all(np.array_equal(value, expected[name]) for name, value in found.items())
    assert tao.runtime.inputs("association") == ()


def test_each_graph_takes_what_the_model_does(tao: Exported) -> None:
    assert tao.runtime.graphs == tao.reference.graphs[1:] == ("embed", "classify", "associate", "association")
    for graph in tao.runtime.graphs:
        assert tao.runtime.inputs(graph) == tao.reference.inputs(graph)
    rng = np.random.default_rng(3)
    with pytest.raises(ProtocolError, match="graph 'associate': got .* expected .*'objects', 64"):
        tao.runtime.run("associate", {"features": objects(rng, 5, 63), "queries": objects(rng, 3, 64)})
    with pytest.raises(ProtocolError, match="got graph 'detect'; expected one of"):
        tao.runtime.run("detect", {})


def test_a_file_says_what_is_free_and_no_path_of_this_machine(tao: Exported) -> None:
    declared = {}
    for path in tao.folder.iterdir():
        onnx.checker.check_model(path, full_check=True)
        assert b".py" not in path.read_bytes()
        graph = onnx.load(path).graph
        if path.name != "association.onnx":
            declared |= {
                value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
                for value in (*graph.input, *graph.output)
            }
    assert declared == {
        "p3": [1, GTR_TAO_TINY.channels, "rows", "columns"],
        "boxes": ["objects", 4],
        "size": [2],
        "embeddings": ["objects", 64],
        "class_scores": ["objects", 1204],
        "next_boxes": ["objects", 4],
        "features": ["objects", 64],
        "queries": ["queries", 64],
        "logits": ["queries", "objects"],
    }


# Identities


class Association(nn.Module):
    """What of GTR relates objects, at its full width, with the weights of a stored video."""

    graphs = ("associate", "association")
    associate, association = GTR.associate, GTR.association

    def __init__(self, video: str) -> None:
        super().__init__()
        config = GTR_TAO if video == "track_tao" else GTR_MOT
        self.roi_heads = Heads(replace(config, channels=32, num_classes=0))
        given = {name: torch.from_numpy(array) for name, array in weights(video).items()}
        left_out = self.roi_heads.load_state_dict(given, strict=False)
        assert not left_out.unexpected_keys and all("asso_head" in name for name in left_out.missing_keys)


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Exported]]:
    """The association of a stored video."""
    home, made = tmp_path_factory.mktemp("association"), dict[str, Exported]()

    def get(video: str) -> Exported:
        network = "tao" if video == "track_tao" else "mot"
        if network not in made:
            rng = np.random.default_rng(0)
            calls = {"associate": {"features": objects(rng, 5, 1024), "queries": objects(rng, 3, 1024)}}
            model, folder = Association(video).eval(), home / network
            runtime = save(model, calls | {"association": {}}, folder, gtr_loop.GTR_MOT)
            made[network] = Exported(TorchSession(model), runtime, folder)
        return made[network]

    yield get
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def answers(related: Callable[[str], Exported]) -> Callable[[str, int], Any]:
    """What the exported association says on a stored video; it depends on the window, and on no other rule."""
    made: dict[tuple[str, int], Any] = {}

    def get(video: str, window: int) -> Any:
        if (video, window) not in made:
            recording = RecordingSession(related(video).runtime)
            follow(video, replace(config_of(video, MODES[video][0]), window=window), recording)
            made[video, window] = recording.answers
        return made[video, window]

    return get


def identities(states: list[gtr_loop.GTRState]) -> list[list[int]]:
    return [[track.track_id for track in state.tracks] for state in states]


@pytest.mark.parametrize(("video", "window"), [("track_long", 32), ("track_tao", 16)])
def test_logits_of_a_full_window_are_those_of_torch(
    video: str, window: int, related: Callable[[str], Exported]
) -> None:
    frames = [detections.embeddings for detections in frames_of(video)][-window:]
    arrays = {"features": np.concatenate(frames), "queries": frames[-1]}
    found, expected = (
        each.run("associate", arrays)["logits"] for each in (related(video).runtime, related(video).reference)
    )
    assert found.shape == (len(frames[-1]), sum(map(len, frames))) and np.ptp(found) > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize(("video", "mode"), CASES)
def test_identities_are_the_official_ones(video: str, mode: str, answers: Callable[[str, int], Any]) -> None:
    """On `track_short` some frames are empty: the graph is never asked about no objects."""
    config = config_of(video, mode)
    states = follow(video, config, ReplaySession(answers(video, config.window)))
    assert identities(states) == official(video, mode)["raw_ids"]


def test_identities_are_the_official_ones_in_streaming(related: Callable[[str], Exported]) -> None:
    video, mode = "track_short", MODES["track_short"][0]
    states = follow(video, config_of(video, mode, streaming=True), related(video).runtime)
    assert identities(states) == official(video, mode)["raw_ids"]


def test_identities_of_another_network_are_others(related: Callable[[str], Exported]) -> None:
    states = follow(LONG, config_of(LONG, LONG_MODE, with_iou=False, centre_gate=0.0), related("track_tao").runtime)
    assert identities(states) != official(LONG, "no_iou")["raw_ids"]


# OneTrack-M


@pytest.fixture(scope="module")
def onetrack(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name = "onetrack-m-tiny"
    folder, model = tmp_path_factory.mktemp("export") / name, by_name.fill(empty_model(name))
    export_onnx(model, folder, name=name, tracker=ZOO[name].tracker, options={}, weights_sha256="0" * 64)
    return Exported(TorchSession(model), OnnxSession(folder, threads=1), folder)


def test_a_window_of_frames_gives_the_maps_of_torch(onetrack: Exported) -> None:
    assert sorted(path.name for path in onetrack.folder.iterdir()) == ["tokens.onnx", "track.onnx"]
    assert onetrack.runtime.graphs == onetrack.reference.graphs == ("tokens", "track")
    report = verify(onetrack.reference.model, onetrack.folder, repeats=1)
    assert report.differences.keys() == {"tokens", "heat_map", "size_map", "displacement_map"}
    assert max(report.differences.values()) <= report.tolerance == 1e-4
    assert report.torch_ms.keys() == report.runtime_ms.keys() == {"tokens", "track"}
    bias = onetrack.reference.model.get_parameter("heat_head.2.bias").data
    bias += 0.01
    try:
        with pytest.raises(ExportMismatch, match=r"got heat_map \d\.\de-0\d away from torch for a window of"):
            verify(onetrack.reference.model, onetrack.folder, repeats=1)
    finally:
        bias -= 0.01


def test_a_window_of_frames_gives_the_tracks_of_torch(onetrack: Exported) -> None:
    config = replace(ZOO["onetrack-m-tiny"].tracker, detected_from=0.0, started_from=0.0, nms_iou=1.0)
    frames, found = [patches(np.random.default_rng(number), (90, 120)) for number in range(4)], []
    for session in (onetrack.reference, onetrack.runtime):
        tracker = OneTrackMTracker(session, config)
        state, tracks = tracker.init(), []
        for frame in frames:
            state = tracker.update(frame, state)
            tracks += state.tracks
        found.append(tracks)
    expected, ours = found
    assert len(ours) >= 20
    assert [(one.frame_index, one.track_id) for one in ours] == [(one.frame_index, one.track_id) for one in expected]
    np.testing.assert_allclose([one.xywh for one in ours], [one.xywh for one in expected], atol=0.02)


# The report


@pytest.mark.parametrize(
    ("name", "largest", "unit"),
    [
        ("logits", 200, 1),
        ("class_scores", 0.5, 1),
        ("agn_0", 9, 1),
        ("boxes", 80, 1),
        ("boxes", -1600, 16),
        ("p3", 0.5, 1),
        ("embeddings", 9, 9),
    ],
)
def test_logits_scores_and_maps_are_compared_as_they_are(name: str, largest: float, unit: float) -> None:
    expected, found = {name: np.array([largest, 0.0])}, {name: np.array([largest, 0.5])}
    assert largest_difference(name, expected, found) == pytest.approx(0.5 / unit)


@pytest.mark.parametrize(("length", "expected"), [(1.0, 1.0), (3.0, 3.0), (400.0, LONGEST)])
def test_objects_are_related_by_features_of_ordinary_length(length: float, expected: float) -> None:
    calls = dict[str, Any]()

    def call(graph: str, arrays: Any) -> Arrays:
        calls[graph] = arrays
        answers = {"detect": {"p3": 0}, "embed": {"embeddings": np.float32([[0.6, 0.8], [0.3, 0.4]]) * length}}
        return answers.get(graph, {graph: np.zeros(1)})

    one_pass(call, {"image": np.zeros(1), "boxes": np.zeros((2, 4))}, gtr_loop.GTR_MOT)
    features, queries = (calls["associate"][name] for name in ("features", "queries"))
    assert np.array_equal(queries, features[:1]) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), [expected, expected / 2], rtol=1e-6)


def test_a_report_names_what_was_timed() -> None:
    times = {"detect": 20.0, "embed": 1.04}
    report = Report("gtr", 1e-4, {"logits": 2.5e-6}, times, {"detect": 9, "embed": 0.5}, "20 objects on 877 x 1560")
    assert report.table().splitlines()[2:] == [
        "array             largest difference",
        "logits                       2.5e-06",
        "",
        "20 objects on 877 x 1560   torch ms  runtime ms",
        "detect                         20.0         9.0",
        "embed                           1.0         0.5",
    ]
