"""The proof of an export: the same images through torch and through ONNX Runtime, numbers and times side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sightline.errors import ExportMismatch
from sightline.export import detection_graphs
from sightline.export.examples import example, track_inputs
from sightline.models.session import TorchSession
from sightline.runtime.onnx import OnnxSession
from sightline.runtime.session import Arrays, Session
from sightline.runtime.stages import StageClock
from sightline.trackers.gtr import GTRConfig
from sightline.trackers.onetrack_m import OneTrackMConfig
from sightline.trackers.spmtrack import SPMTrackConfig
from sightline.trackers.template_search import TemplateSearchConfig
from sightline.trackers.zoo import MultiObjectConfig, TrackerConfig

WARM_UPS = 2  # passes before those that count
# Numbers of one size in every model, whose differences are told as they are. GTR's logits are such because
# `detection_graphs` relates no longer features.
ABSOLUTE = ("score_map", "offset_map", "box_map", "heat_map", "displacement_map", "class_scores", "logits")
LEVELS = ("reg_", "agn_")  # how the maps of GTR's detector begin
# Boxes too, up to here; beyond, the unit grows with the largest coordinate, for float32's own steps are 1.2e-4 px from
# 1024 px on.
EXACT_PX = 100.0


@dataclass(frozen=True)
class Report:
    """How far an export is from its model, and what its graphs cost.

    differences: of each map, score and logit the largest absolute difference; of boxes the same in units of their
    largest coordinate / 100, where that exceeds 100 px; of all else in units of the largest value, where that exceeds
    1, since sizes may be in cells, and what a feature or a query is, is of the model's own making. torch_ms,
    runtime_ms: median milliseconds of each graph for what `timed` says.
    """

    model: str
    tolerance: float
    differences: Mapping[str, float]
    torch_ms: Mapping[str, float]
    runtime_ms: Mapping[str, float]
    timed: str = "one target"

    def table(self) -> str:
        """The report as plain text."""
        rows = [f"{self.model}: ONNX Runtime against torch, tolerance {self.tolerance:.0e}", ""]
        rows += [f"{'array':<16}{'largest difference':>20}"]
        rows += [f"{name:<16}{value:>20.1e}" for name, value in self.differences.items()]
        width = max(16, len(self.timed) + 1)
        rows += ["", f"{self.timed:<{width}}{'torch ms':>10}{'runtime ms':>12}"]
        rows += [f"{graph:<{width}}{self.torch_ms[graph]:>10.1f}{ms:>12.1f}" for graph, ms in self.runtime_ms.items()]
        return "\n".join(rows)


def verify(model: nn.Module, folder: Path, *, tolerance: float = 1e-4, repeats: int = 10) -> Report:
    """Compare `model` with its export in `folder` on seeded images, and time both.

    Each side goes from images to maps, and to whatever else a model has, on its own features, as in tracking. `model`
    must have the weights and the options of the export; it is left in eval mode. Costs `repeats` timed passes of each
    graph on each side.

    Raises `ExportMismatch` when an array differs by more than `tolerance`, and `CheckpointError` when the folder
    cannot be read. Candidate elimination is a choice: where two tokens at the edge of the kept set agree to float32's
    last digits, torch and the runtime may choose differently and be both right, which is reported as a mismatch.
    """
    reference, runtime = TorchSession(model), OnnxSession(folder)
    tracker = tracker_of(runtime)
    differences: dict[str, float] = {}
    for case, inputs in cases(
        tracker, masked="encode" in runtime.graphs and "template_mask" in reference.inputs("encode")
    ):
        expected, found = run(reference, inputs, tracker), run(runtime, inputs, tracker)
        for name in expected | found:
            difference = largest_difference(name, expected, found)
            if not difference <= tolerance:  # NaN is a mismatch too
                raise ExportMismatch(
                    f"exported model {folder}: got {name} {difference:.1e} away from torch for {case}; "
                    f"expected at most {tolerance:.0e}. Export it again with the same weights and options."
                )
            differences[name] = max(difference, differences.get(name, 0.0))
    torch_clock, runtime_clock = StageClock(limit=repeats), StageClock(limit=repeats)
    for _ in range(WARM_UPS + repeats):
        run(reference, inputs, tracker, torch_clock)
        run(runtime, inputs, tracker, runtime_clock)
    name, times = runtime.metadata["model"], (median_ms(torch_clock), median_ms(runtime_clock))
    return Report(name, tolerance, differences, *times, case)


def tracker_of(exported: OnnxSession) -> TrackerConfig:
    """The loop's constants that came with the graphs, which show what loop it is."""
    kind: type[TrackerConfig]
    if "detect" in exported.graphs:
        kind = GTRConfig
    elif "tokens" in exported.graphs:
        kind = OneTrackMConfig
    else:
        kind = SPMTrackConfig if "foreground" in exported.inputs("encode") else TemplateSearchConfig
    return kind.from_json(exported.metadata["tracker"])


def cases(tracker: TrackerConfig, *, masked: bool) -> Iterator[tuple[str, Arrays]]:
    """What is compared, and what that is in words; the last one is timed."""
    rng = np.random.default_rng(0)
    if isinstance(tracker, MultiObjectConfig):
        yield from detection_graphs.cases(rng, tracker)
        return
    for number, words in ((3, "3 targets"), (1, "one target")):
        yield words, example(rng, number, tracker, masked=masked)


def run(session: Session, inputs: Arrays, tracker: TrackerConfig, clock: StageClock | None = None) -> Arrays:
    """All graphs, one after the other: what they give by name."""
    clock = clock or StageClock()

    def call(graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        with clock.stage(graph):
            return session.run(graph, arrays)

    if isinstance(tracker, MultiObjectConfig):
        return detection_graphs.one_pass(call, inputs, tracker)
    features = call("encode", {name: array for name, array in inputs.items() if name != "search"})
    return features | call("track", track_inputs(inputs["search"], features, tracker))


def largest_difference(name: str, expected: Arrays, found: Arrays) -> float:
    """Largest absolute difference of one array, infinite where a side lacks it or has another shape."""
    if name not in expected or name not in found or expected[name].shape != found[name].shape:
        return float("inf")
    unit = 1.0
    if name not in ABSOLUTE and not name.startswith(LEVELS):
        unit = max(unit, float(np.abs(expected[name]).max()) / (EXACT_PX if name == "boxes" else 1))
    return float(np.abs(found[name] - expected[name]).max()) / unit


def median_ms(clock: StageClock) -> dict[str, float]:
    return {stage: row["median_ms"] for stage, row in clock.summary().items()}
