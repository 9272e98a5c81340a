"""Exported graphs against torch, choice by choice, and what happens when an export goes wrong.

Tolerances: maps 1e-4 and boxes 0.02 px, as promised to users; kept tokens are the same ones. The full networks of every
row of the zoo are compared in tests/contracts/test_zoo.py.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sightline.cli import main
from sightline.errors import CheckpointError, ExportMismatch, MissingExtra
from sightline.export import onnx as export_module
from sightline.export.examples import example
from sightline.export.onnx import export_onnx
from sightline.export.verify import Report, largest_difference, run, verify
from sightline.models.blocks import Maps
from sightline.models.mvt import MVT, MVT_256
from sightline.models.nano import Nano
from sightline.models.ostrack import OSTRACK_256_CE, OSTrack, OSTrackConfig
from sightline.models.session import TorchSession
from sightline.runtime.onnx import OnnxSession
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from tests.parity.fill import fill, synthetic_video

pytestmark = pytest.mark.torch

MAPS_ATOL = 1e-4
BOXES = {"atol": 0.02, "rtol": 0.0}  # pixels
START_XYWH = (100.0, 90.0, 64.0, 48.0)

SMALL = OSTrackConfig(template_px=64, search_px=128, width=24, depth=3, heads=3)
SMALL_TRACKER = TemplateSearchConfig(template_px=64, search_px=128)
CHOICES = {
    "off": {},
    "centre": {"ce_layers": (0, 1)},
    "2x2": {"ce_layers": (0, 1), "ce_template_tokens": "2x2", "ce_keep_ratios": (1.0, 0.4)},
    "box": {"ce_layers": (1, 2), "ce_template_tokens": "box", "ce_keep_ratios": (0.9,)},
    "all": {"ce_layers": (0, 1, 2), "ce_template_tokens": "all", "ce_keep_ratios": (0.9, 0.8, 0.5)},
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], TemplateSearchConfig]] = {
    **{
        name: (lambda choice=choice: fill(OSTrack(replace(SMALL, **choice))), SMALL_TRACKER)
        for name, choice in CHOICES.items()
    },
    "nano": (lambda: fill(Nano()), ZOO["sightline-nano"].tracker),
    "mvt": (lambda: fill(MVT()), ZOO["mvt"].tracker),
    "mvt without fusion": (lambda: fill(MVT(replace(MVT_256, fusion=False))), ZOO["mvt"].tracker),
    "ostrack-256-ce": (lambda: fill(OSTrack(OSTRACK_256_CE)), ZOO["ostrack-256-ce"].tracker),
}
EVERY = [pytest.param(name, marks=pytest.mark.slow) if "without" in name else name for name in NETWORKS]


@dataclass(frozen=True)
class Exported:
    model: nn.Module
    folder: Path
    tracker: TemplateSearchConfig

    def sessions(self) -> tuple[TorchSession, OnnxSession]:
        return TorchSession(self.model), OnnxSession(self.folder, threads=1)


def write(model: nn.Module, folder: Path, tracker: TemplateSearchConfig = SMALL_TRACKER, **changes: Any) -> Exported:
    described = {"name": "a-name", "options": {}, "weights_sha256": "0" * 64} | changes
    export_onnx(model, folder, tracker=tracker, **described)
    return Exported(model, folder, tracker)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A network of the table, exported when it is first asked for."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            build, tracker = NETWORKS[name]
            made[name] = write(build(), tmp_path_factory.mktemp("export") / "model", tracker)
        return made[name]

    return get


class Tiny(nn.Module):
    """The least that `export_onnx` takes, for what does not depend on the network."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 2, 16, 16)

    def encode(self, template: Tensor) -> dict[str, Tensor]:
        return {"mean": self.patches(template).mean(dim=(2, 3), keepdim=True)}

    def track(self, search: Tensor, *, mean: Tensor) -> Maps:
        likeness = self.patches(search) * mean
        return Maps(torch.sigmoid(likeness[:, :1]), torch.sigmoid(likeness), likeness)


@pytest.fixture
def tiny() -> nn.Module:
    return fill(Tiny())


# ------------------------------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("name", EVERY)
def test_maps_are_those_of_torch_for_any_number_of_targets(name: str, exported: Callable[[str], Exported]) -> None:
    case = exported(name)
    reference, runtime = case.sessions()
    assert runtime.inputs("encode") == reference.inputs("encode")
    rng = np.random.default_rng(1)
    for num_targets in (1,) if name == "ostrack-256-ce" else (1, 3, 8):  # seconds of torch for each of its targets
        inputs = example(rng, num_targets, case.tracker, masked=name == "box")
        expected, found = run(reference, inputs, case.tracker), run(runtime, inputs, case.tracker)
        assert found.keys() == expected.keys()
        for array in found:
            assert found[array].dtype == np.float32
            assert largest_difference(array, expected, found) <= MAPS_ATOL, (array, num_targets)
        assert np.ptp(expected["score_map"]) > 100 * MAPS_ATOL  # else agreement would say little


@pytest.mark.parametrize("name", ["off", "centre", "box", "nano", "mvt"])
def test_tracked_boxes_are_those_of_torch(name: str, exported: Callable[[str], Exported]) -> None:
    case = exported(name)
    frames = synthetic_video()
    trackers = [TemplateSearchTracker(session, case.tracker) for session in case.sessions()]
    states = [tracker.init(frames[0], xywh=START_XYWH) for tracker in trackers]
    for frame in frames[1:]:
        states = [tracker.update(frame, state) for tracker, state in zip(trackers, states, strict=True)]
        np.testing.assert_allclose(states[1].xywh, states[0].xywh, **BOXES)
        if case.tracker.crop == "exact":  # OpenCV cuts at 1/32 px, so float32's last digits can make another crop
            states[1] = replace(states[1], xywh=states[0].xywh)
    assert np.abs(np.subtract(states[0].xywh, START_XYWH)).max() > 1  # it moved


class Living(nn.Module):
    """In the head's place: which tokens reach it. Eliminated ones are zeros."""

    def forward(self, features: Tensor) -> Maps:  # (B, C, G, G)
        return Maps((features.abs().sum(dim=1, keepdim=True) > 0).float(), features[:, :2], features[:, 2:4])


def test_the_same_tokens_are_eliminated(tmp_path: Path) -> None:
    model = fill(OSTrack(replace(SMALL, **CHOICES["all"])))
    model.box_head = Living()
    case = write(model, tmp_path / "model")
    inputs = example(np.random.default_rng(2), 8, SMALL_TRACKER, masked=False)
    expected, found = (run(session, inputs, SMALL_TRACKER)["score_map"] for session in case.sessions())
    np.testing.assert_array_equal(found, expected)
    assert found.sum(axis=(1, 2, 3)).tolist() == [24] * 8  # of 64: ceil(.9) 58, ceil(.8) 47, ceil(.5) 24
    assert len(np.unique(found, axis=0)) == 8  # each target has its own


# ------------------------------------------------------------------------------------------ what a file says


def test_metadata_makes_the_tracker_again(tiny: nn.Module, tmp_path: Path) -> None:
    tracker = TemplateSearchConfig(
        64, 128, search_factor=5.0, mean=(0.1, 0.2, 0.3), crop="exact", map_back="exact", window=0.4
    )
    options = {"ce_layers": (0, 1), "ce_keep_ratios": 0.9}
    write(tiny, tmp_path, tracker, name="tiny", options=options, weights_sha256="ab" * 32, notice="Ours, π.")
    metadata = OnnxSession(tmp_path).metadata
    assert TemplateSearchConfig.from_json(metadata.pop("tracker")) == tracker
    assert metadata == {
        "format": 1,
        "model": "tiny",
        "options": {"ce_layers": [0, 1], "ce_keep_ratios": 0.9},
        "weights_sha256": "ab" * 32,
        "notice": "Ours, π.",
    }


@pytest.mark.parametrize("name", ["box", "nano"])
def test_a_file_declares_its_shapes_and_no_path_of_this_machine(name: str, exported: Callable[[str], Exported]) -> None:
    for path in sorted(exported(name).folder.iterdir()):
        content = onnx.load(path)
        onnx.checker.check_model(content, full_check=True)
        for value in (*content.graph.input, *content.graph.output):
            batch, *sides = value.type.tensor_type.shape.dim
            assert batch.dim_param == "targets" and all(side.dim_value > 0 for side in sides), value.name
        assert b".py" not in path.read_bytes()


def test_export_is_silent(tiny: nn.Module, tmp_path: Path, capfd: Any, recwarn: Any) -> None:
    write(tiny, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


# ------------------------------------------------------------------------------------------ the proof


def test_a_report_has_numbers_and_times(tiny: nn.Module, tmp_path: Path) -> None:
    write(tiny, tmp_path)
    report = verify(tiny, tmp_path, repeats=2)
    assert report.differences.keys() == {"mean", *Maps._fields}
    assert max(report.differences.values()) <= report.tolerance == 1e-4
    assert report.torch_ms.keys() == report.runtime_ms.keys() == {"encode", "track"}
    assert min(*report.torch_ms.values(), *report.runtime_ms.values()) > 0


def test_a_report_reads_as_a_table() -> None:
    report = Report("m", 1e-4, {"score_map": 2.5e-6}, {"encode": 1, "track": 20.04}, {"encode": 0.5, "track": 9})
    assert report.table().splitlines() == [
        "m: ONNX Runtime against torch, tolerance 1e-04",
        "",
        "array             largest difference",
        "score_map                    2.5e-06",
        "",
        "one target        torch ms  runtime ms",
        "encode                 1.0         0.5",
        "track                 20.0         9.0",
    ]


@pytest.mark.parametrize(
    ("name", "weight"), [("centre", "box_head.conv5_offset.bias"), ("nano", "score_head.6.weight")]
)
def test_one_number_changed_by_a_hundredth_is_seen(name: str, weight: str, exported: Callable[[str], Exported]) -> None:
    case = exported(name)
    parameter = case.model.get_parameter(weight).data.view(-1)
    largest = parameter.abs().argmax()
    before = parameter[largest].clone()
    parameter[largest] *= 1.01
    try:
        with pytest.raises(ExportMismatch, match=r"_map \d\.\de-0\d away from torch for 3 targets"):
            verify(case.model, case.folder, repeats=1)
    finally:
        parameter[largest] = before
    verify(case.model, case.folder, repeats=1)


def test_what_is_absent_misshapen_or_not_a_number_is_no_match(tiny: nn.Module, tmp_path: Path) -> None:
    one = {"score_map": np.ones((1, 1, 2, 2), np.float32)}
    assert largest_difference("score_map", one, one) == 0
    for other in ({}, {"score_map": np.ones((3, 1, 2, 2), np.float32)}):
        assert largest_difference("score_map", one, other) == largest_difference("score_map", other, one) == np.inf
    write(tiny, tmp_path)
    tiny.patches.bias.data.fill_(np.nan)
    with pytest.raises(ExportMismatch, match="got mean nan away"):
        verify(tiny, tmp_path)


# ------------------------------------------------------------------------------------------ what goes wrong


def test_missing_damaged_and_mixed_files_are_explained(tiny: nn.Module, tmp_path: Path) -> None:
    first, second = write(tiny, tmp_path / "one"), write(tiny, tmp_path / "two", weights_sha256="f" * 64)
    whole = (first.folder / "track.onnx").read_bytes()
    for path, content, sentence in [
        ("track.onnx", whole[: len(whole) // 2], "track.onnx: .*expected an ONNX file. Export it again."),
        ("track.onnx", b"", "track.onnx: .*expected an ONNX file"),
        ("track.onnx", (second.folder / "track.onnx").read_bytes(), "its files differ in metadata"),
    ]:
        (first.folder / path).write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            OnnxSession(first.folder)
    write(tiny, first.folder)  # "Export it again."
    OnnxSession(first.folder)
    (first.folder / "encode.onnx").unlink()
    with pytest.raises(CheckpointError, match="got no encode.onnx"):
        verify(tiny, first.folder)


def fail_at_track(error: BaseException) -> Callable[..., None]:
    whole = export_module.save_graph

    def save_graph(model: nn.Module, method: str, *rest: Any) -> None:
        if method == "track":
            raise error
        whole(model, method, *rest)

    return save_graph


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), CheckpointError)],
)
def test_nothing_is_half_written(
    error: BaseException,
    raised: type[BaseException],
    tiny: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = write(tiny, tmp_path / "old").folder
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    monkeypatch.setattr(export_module, "save_graph", fail_at_track(error))
    for folder in (old, tmp_path / "new"):
        with pytest.raises(raised):
            write(tiny, folder, weights_sha256="f" * 64)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_with_other_things_is_left_alone(tiny: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(CheckpointError, match=r"got a folder with 'thesis.tex' in it; expected a new or empty one"):
        write(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    for place in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "model"):
        with pytest.raises(CheckpointError, match="expected a folder that can be made"):
            write(tiny, place)


def test_a_missing_package_is_named(tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = export_module.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(MissingExtra, match=r"needs onnxscript, .* Run: pip install 'sightline\[export\]'"):
        write(tiny, tmp_path / "model")
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def built(tiny: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """`sightline export` on the tiny model; what the command asked to be built."""
    asked: list[tuple[Any, ...]] = []

    def model_for_inference(name: str, weights: Path | None, options: Any, backbone: Any) -> tuple[nn.Module, str]:
        asked.append((name, weights, options))
        assert backbone is None
        return tiny, "c" * 64

    monkeypatch.setattr("sightline.loading.model_for_inference", model_for_inference)
    monkeypatch.setattr("sightline.loading.tracker_of", lambda name, weights: ZOO[name].tracker)
    return asked


def test_the_command_exports_and_checks(built: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--ce-layers", "3", "6", "--ce-keep-ratios", "0.7", "--ce-template-tokens", "all"]
    assert main(["export", "ostrack-256-ce", "--weights", "w.pth", "-o", f"{tmp_path}/x", "--check", *chosen]) == 0
    options = {"ce_layers": (3, 6), "ce_keep_ratios": (0.7,), "ce_template_tokens": "all"}
    assert built == [("ostrack-256-ce", Path("w.pth"), options)]
    printed = capsys.readouterr().out
    assert "score_map" in printed and "runtime ms" in printed
    metadata = OnnxSession(tmp_path / "x").metadata
    assert metadata["model"] == "ostrack-256-ce" and metadata["weights_sha256"] == "c" * 64
    assert metadata["options"] == {"ce_layers": [3, 6], "ce_keep_ratios": [0.7], "ce_template_tokens": "all"}
    assert "MIT" in metadata["notice"] and "LaSOT" in metadata["notice"]


def test_the_command_switches_off(built: list[Any], tmp_path: Path) -> None:
    assert main(["export", "ostrack-256-ce", "-o", f"{tmp_path}/x", "--ce-layers"]) == 0
    assert main(["export", "mvt", "-o", f"{tmp_path}/y", "--no-fusion"]) == 0
    assert built == [("ostrack-256-ce", None, {"ce_layers": ()}), ("mvt", None, {"fusion": False})]


def test_the_command_refuses_in_one_sentence(
    built: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", "ostrack-265", "-o", f"{tmp_path}/x"]) == 2
    assert main(["export", "mvt", "-o", f"{tmp_path}/x", "--ce-layers", "3"]) == 2
    assert not built and not list(tmp_path.iterdir())

    def mismatch(*_: Any) -> Report:
        raise ExportMismatch("exported model x: got score_map 3.0e-01 away.")

    monkeypatch.setattr("sightline.export.verify.verify", mismatch)
    assert main(["export", "mvt", "-o", f"{tmp_path}/x", "--check"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["error"] * 3
    assert "Did you mean 'ostrack-256'?" in said[0] and "'ce_layers'" in said[1] and "3.0e-01" in said[2]
