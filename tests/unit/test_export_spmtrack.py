"""SPMTrack's exported graphs against torch: any number of targets and templates, weights inside the file or beside it.

The tiny network and B run here, L in a slow test, and G, which takes about twelve gigabytes and ends up as a graph with
5.4 GB of weights beside it, with

    python -m tests.unit.test_export_spmtrack giant

Tolerances: sigmoid scores and boxes 1e-4; tracked boxes 0.02 px.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sightline.cli import main
from sightline.errors import CheckpointError, ExportMismatch, ProtocolError
from sightline.export import onnx as export_module
from sightline.export.examples import example
from sightline.export.onnx import export_onnx
from sightline.export.verify import largest_difference, run, verify
from sightline.models.dinov2 import DINOv2Config
from sightline.models.session import TorchSession
from sightline.models.spmtrack import SPMTRACK_B, SPMTRACK_G, SPMTRACK_L, SPMTRACK_TINY, SPMTrack, fused
from sightline.models.spmtrack import SPMTrackConfig as NetworkConfig
from sightline.runtime.onnx import OnnxSession
from sightline.runtime.session import Arrays
from sightline.trackers.spmtrack import SPMTrackConfig, SPMTrackTracker
from sightline.trackers.zoo import ZOO
from tests.parity.fill import synthetic_video
from tests.parity.test_spmtrack import filled

MAPS_ATOL = 1e-4
BOXES = {"atol": 0.02, "rtol": 0.0}  # pixels
STARTS = [(100.0, 90.0, 64.0, 48.0), (20.0, 30.0, 40.0, 60.0)]

SMALL = NetworkConfig(  # all that B is not: G's feed-forward, a compress matrix for each expert
    DINOv2Config(width=24, depth=1, heads=3, ffn="swiglu", image_px=56),
    template_px=28,
    search_px=56,
    rank=4,
    compression="per_expert",
)
SMALL_TRACKER = SPMTrackConfig(template_px=28, search_px=56)
TINY_TRACKER = ZOO["spmtrack-tiny"].tracker
NETWORKS = {"b": SPMTRACK_B, "l": SPMTRACK_L, "g": SPMTRACK_G}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Exported:
    model: SPMTrack  # as it was before its copy was fused
    folder: Path
    tracker: SPMTrackConfig

    def sessions(self) -> tuple[TorchSession, OnnxSession]:
        return TorchSession(self.model), OnnxSession(self.folder, threads=1)


def write(model: nn.Module, folder: Path, tracker: SPMTrackConfig, name: str = "spmtrack") -> None:
    export_onnx(model, folder, name=name, tracker=tracker, options={}, weights_sha256="0" * 64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """spmtrack-tiny, its weights beside the graph."""
    folder, model = tmp_path_factory.mktemp("export") / "tiny", filled(SPMTRACK_TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "LARGEST", 1_000_000)
        write(fused(model), folder, TINY_TRACKER)
    return Exported(model, folder, TINY_TRACKER)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One narrow block, its weights inside the graph."""
    folder, model = tmp_path_factory.mktemp("export") / "small", filled(SMALL)
    write(fused(model), folder, SMALL_TRACKER)
    return Exported(model, folder, SMALL_TRACKER)


def check_close(expected: Arrays, found: Arrays) -> None:
    assert found.keys() == expected.keys() == {"template_tokens", "score_map", "box_map", "query"}
    for array in found:
        assert found[array].dtype == np.float32
        assert largest_difference(array, expected, found) <= MAPS_ATOL, array
    assert np.ptp(expected["score_map"]) > 100 * MAPS_ATOL  # else agreement would say little


# The same numbers


@pytest.mark.parametrize(("num_targets", "num_templates"), [(1, 3), (2, 3), (5, 3), (1, 1), (2, 5)])
def test_maps_are_those_of_torch_for_any_number_of_targets_and_templates(
    num_targets: int, num_templates: int, tiny: Exported
) -> None:
    tracker = replace(tiny.tracker, num_templates=num_templates)
    inputs = example(np.random.default_rng(1), num_targets, tracker, masked=False)
    assert len(inputs["template"]) == len(inputs["foreground"]) == num_targets * num_templates
    check_close(*(run(session, inputs, tracker) for session in tiny.sessions()))


def test_both_graphs_take_what_the_tracker_gives(tiny: Exported) -> None:
    reference, runtime = tiny.sessions()
    assert runtime.inputs("encode") == reference.inputs("encode") == ("template", "foreground")
    assert runtime.inputs("track") == ("search", "template_tokens", "query")


def test_tracked_boxes_are_those_of_torch(tiny: Exported) -> None:
    frames = synthetic_video()
    trackers = [SPMTrackTracker(session, tiny.tracker) for session in tiny.sessions()]
    states = [[tracker.init(frames[0], xywh=box) for box in STARTS] for tracker in trackers]
    for frame in frames[1:]:
        states = [tracker.update_many(frame, own) for tracker, own in zip(trackers, states, strict=True)]
        for ours, theirs in zip(*states, strict=True):
            np.testing.assert_allclose(theirs.xywh, ours.xywh, **BOXES)
            assert theirs.score == pytest.approx(ours.score, abs=MAPS_ATOL)
    moved = [np.abs(np.subtract(state.xywh, box)).max() for state, box in zip(states[0], STARTS, strict=True)]
    assert min(moved) > 1


def test_the_query_of_the_frame_before_is_heard(small: Exported) -> None:
    _, runtime = small.sessions()
    tokens = np.random.default_rng(0).standard_normal((2, 3, 4, 24), dtype=np.float32)
    inputs = {"search": np.zeros((2, 3, 56, 56), np.float32), "template_tokens": tokens}
    first = runtime.run("track", {**inputs, "query": np.zeros((2, 24), np.float32)})
    then = runtime.run("track", {**inputs, "query": first["query"]})
    assert np.abs(then["query"] - first["query"]).min(axis=1).max() > 1e-6
    assert np.abs(then["score_map"] - first["score_map"]).max() > 1e-4


def check_published(name: str, folder: Path) -> dict[str, float]:
    """Export a published size and pass one frame of one target through torch and the graphs: largest differences."""
    tracker = ZOO[f"spmtrack-{name}"].tracker
    model = fused(filled(NETWORKS[name]))  # that this copy is the network is shown above, and in the parity tests
    inputs = example(np.random.default_rng(3), 1, tracker, masked=False)
    expected = run(TorchSession(model), inputs, tracker)
    write(model, folder, tracker, f"spmtrack-{name}")
    del model
    found = run(OnnxSession(folder, threads=1), inputs, tracker)
    check_close(expected, found)
    return {array: largest_difference(array, expected, found) for array in found}


def test_one_frame_of_b(tmp_path: Path) -> None:
    check_published("b", tmp_path / "b")


@pytest.mark.slow
def test_one_frame_of_l(tmp_path: Path) -> None:
    check_published("l", tmp_path / "l")


# What the files are


def test_weights_lie_beside_a_graph_that_is_too_large(tiny: Exported, small: Exported) -> None:
    assert sorted(path.name for path in small.folder.iterdir()) == ["encode.onnx", "track.onnx"]
    sizes = {path.name: path.stat().st_size for path in tiny.folder.iterdir()}
    assert sizes.keys() == {"encode.onnx", "track.onnx", "track.onnx.data"}
    num_bytes = 4 * sum(parameter.numel() for parameter in tiny.model.parameters())
    assert sizes["track.onnx.data"] == pytest.approx(num_bytes, rel=0.01) and sizes["track.onnx"] < 500_000
    assert len({path.stat().st_mode for path in tiny.folder.iterdir()}) == 1


def test_a_file_declares_its_shapes_and_no_path_of_this_machine(tiny: Exported) -> None:
    declared = {}
    for path in (tiny.folder / "encode.onnx", tiny.folder / "track.onnx"):
        onnx.checker.check_model(path, full_check=True)
        assert b".py" not in path.read_bytes() and b".part" not in path.read_bytes()
        graph = onnx.load(path, load_external_data=False).graph
        declared |= {
            value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }
    assert declared == {
        "template": ["targets", 3, 98, 98],
        "foreground": ["targets", 49],
        "search": ["targets", 3, 196, 196],
        "template_tokens": ["targets", "templates", 49, 192],
        "query": ["targets", 192],
        "score_map": ["targets", 1, 14, 14],
        "box_map": ["targets", 4, 14, 14],
        "next_query": ["targets", 192],
    }


def test_the_graph_has_few_large_products(tiny: Exported) -> None:
    graph = onnx.load(tiny.folder / "track.onnx", load_external_data=False).graph
    # In a block: q, k, v in one, the compress matrices and routers of all three in one, their experts in one each;
    # attention's two; and for each of the three other layers the frozen one, its compress matrix, its experts.
    per_block = 1 + 1 + 3 + 2 + 3 * 3
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["MatMul"] == per_block * 6 + 1 + 2 * 3  # the query's product, the head's two times three
    assert not kinds.keys() & {"Gemm", "Einsum"} and kinds["Conv"] == 1
    weights = {tensor.name for tensor in graph.initializer}
    assert not any(node.op_type == "Transpose" and weights & {*node.input} for node in graph.node)


# The proof


def test_one_router_changed_is_seen(small: Exported) -> None:
    report = verify(small.model, small.folder, repeats=1)
    assert report.differences.keys() == {"template_tokens", "score_map", "box_map", "query"}
    assert max(report.differences.values()) <= report.tolerance
    route = small.model.blocks[0].mlp.w3.tmoe.expert_route.weight.data
    before = route.clone()
    route[0] *= 1.5
    try:
        with pytest.raises(ExportMismatch, match=r"got (score_map|box_map|query) \d\.\de-0\d away from torch"):
            verify(small.model, small.folder, repeats=1)
    finally:
        route[:] = before


# What goes wrong


def test_arrays_that_do_not_belong_together_are_refused(small: Exported) -> None:
    _, runtime = small.sessions()
    arrays = {
        "search": np.zeros((2, 3, 56, 56), np.float32),
        "template_tokens": np.zeros((2, 3, 4, 24), np.float32),
        "query": np.zeros((2, 24), np.float32),
    }
    runtime.run("track", arrays)
    for name, shape in [("template_tokens", (2, 3, 5, 24)), ("template_tokens", (6, 4, 24)), ("query", (3, 24))]:
        with pytest.raises(ProtocolError, match=r"graph 'track': got .* expected"):
            runtime.run("track", arrays | {name: np.zeros(shape, np.float32)})
    with pytest.raises(ProtocolError, match="query"):
        runtime.run("track", {name: arrays[name] for name in ("search", "template_tokens")})


def test_weights_that_are_gone_or_cut_are_explained(tiny: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny.folder, folder)
    data = folder / "track.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"track.onnx: .*; expected an ONNX file. Export it again\."):
            OnnxSession(folder)
        data.unlink(missing_ok=True)


def test_an_export_over_an_earlier_one_leaves_nothing_of_it(
    small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = dict.fromkeys(("encode.onnx", "track.onnx", "track.onnx.data"), b"old")
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    whole = export_module.save_graph

    def save_graph(model: nn.Module, method: str, *rest: Any) -> None:
        if method == "track":
            raise KeyboardInterrupt
        whole(model, method, *rest)

    monkeypatch.setattr(export_module, "save_graph", save_graph)
    with pytest.raises(KeyboardInterrupt):
        write(small.model, tmp_path, SMALL_TRACKER)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    with export_module.output_folder(tmp_path) as part:
        for path in small.folder.iterdir():
            shutil.copy(path, part)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encode.onnx", "track.onnx"]
    OnnxSession(tmp_path)


def test_the_command_hands_on_the_backbone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    asked = []
    monkeypatch.setattr("sightline.cli.export.export_model", lambda *given: asked.append(given))
    files = ["--weights", "model.bin", "--backbone", "dinov2.pth"]
    assert main(["export", "spmtrack-b", *files, "-o", f"{tmp_path}", "--compression", "per_expert"]) == 0
    options = {"compression": "per_expert"}
    assert asked == [("spmtrack-b", Path("model.bin"), options, tmp_path, Path("dinov2.pth"))]


# The command


def giant() -> None:
    """G exported and compared on one frame, and what it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        differences = check_published("g", Path(folder) / "g")
        sizes = {path.name: path.stat().st_size for path in sorted((Path(folder) / "g").iterdir())}
    print(", ".join(f"{name} {size:,} bytes" for name, size in sizes.items()))
    print(", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.perf_counter() - start:.0f} s, at most {peak_gb:.1f} GB")
    assert sizes["track.onnx.data"] > 2**32


if __name__ == "__main__":
    if sys.argv[1:] != ["giant"]:
        sys.exit("usage: python -m tests.unit.test_export_spmtrack giant")
    giant()
