"""The proof of an export: the same images through torch and through ONNX Runtime, numbers and times side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from sightline.errors import ExportMismatch
from sightline.export.examples import example, track_inputs
from sightline.models.blocks import Maps
from sightline.models.session import TorchSession
from sightline.runtime.onnx import GRAPHS, OnnxSession
from sightline.runtime.session import Arrays, Session
from sightline.runtime.stages import StageClock
from sightline.trackers.spmtrack import SPMTrackConfig
from sightline.trackers.template_search import TemplateSearchConfig
from sightline.trackers.zoo import BoxTrackerConfig

WARM_UPS = 2  # passes before those that count
MAPS = (*Maps._fields, "box_map")  # numbers of one size in every model; a feature's or a query's are its own


@dataclass(frozen=True)
class Report:
    """How far an export is from its model, and what its two graphs cost.

    differences: of each map the largest absolute difference; of each feature and query the same in units of its largest
    value, where that exceeds 1. torch_ms, runtime_ms: median milliseconds of each graph for one target.
    """

    model: str
    tolerance: float
    differences: Mapping[str, float]
    torch_ms: Mapping[str, float]
    runtime_ms: Mapping[str, float]

    def table(self) -> str:
        """The report as plain text."""
        rows = [f"{self.model}: ONNX Runtime against torch, tolerance {self.tolerance:.0e}", ""]
        rows += [f"{'array':<16}{'largest difference':>20}"]
        rows += [f"{name:<16}{value:>20.1e}" for name, value in self.differences.items()]
        rows += ["", f"{'one target':<16}{'torch ms':>10}{'runtime ms':>12}"]
        rows += [f"{graph:<16}{self.torch_ms[graph]:>10.1f}{self.runtime_ms[graph]:>12.1f}" for graph in GRAPHS]
        return "\n".join(rows)


def verify(model: nn.Module, folder: Path, *, tolerance: float = 1e-4, repeats: int = 10) -> Report:
    """Compare `model` with its export in `folder` on seeded images, for three targets and for one, and time both.

    Each side goes from images to maps on its own features, as in tracking. `model` must have the weights and the
    options of the export; it is left in eval mode. Costs `repeats` timed passes of each graph on each side.

    Raises `ExportMismatch` when an array differs by more than `tolerance`, and `CheckpointError` when the folder
    cannot be read. Candidate elimination is a choice: where two tokens at the edge of the kept set agree to float32's
    last digits, torch and the runtime may choose differently and be both right, which is reported as a mismatch.
    """
    reference, runtime = TorchSession(model), OnnxSession(folder)
    kind = SPMTrackConfig if "foreground" in runtime.inputs("encode") else TemplateSearchConfig
    tracker: BoxTrackerConfig = kind.from_json(runtime.metadata["tracker"])
    rng = np.random.default_rng(0)
    differences: dict[str, float] = {}
    for num_targets in (3, 1):
        inputs = example(rng, num_targets, tracker, masked="template_mask" in reference.inputs("encode"))
        expected, found = run(reference, inputs, tracker), run(runtime, inputs, tracker)
        for name in expected | found:
            difference = largest_difference(name, expected, found)
            if not difference <= tolerance:  # NaN is a mismatch too
                raise ExportMismatch(
                    f"exported model {folder}: got {name} {difference:.1e} away from torch for {num_targets} targets; "
                    f"expected at most {tolerance:.0e}. Export it again with the same weights and options."
                )
            differences[name] = max(difference, differences.get(name, 0.0))
    torch_clock, runtime_clock = StageClock(limit=repeats), StageClock(limit=repeats)
    for _ in range(WARM_UPS + repeats):
        run(reference, inputs, tracker, torch_clock)
        run(runtime, inputs, tracker, runtime_clock)
    return Report(runtime.metadata["model"], tolerance, differences, median_ms(torch_clock), median_ms(runtime_clock))


def run(session: Session, inputs: Arrays, tracker: BoxTrackerConfig, clock: StageClock | None = None) -> Arrays:
    """Both graphs, one after the other: features and maps by name."""
    clock = clock or StageClock()
    template = {name: array for name, array in inputs.items() if name != "search"}
    with clock.stage("encode"):
        features = session.run("encode", template)
    with clock.stage("track"):
        maps = session.run("track", track_inputs(inputs["search"], features, tracker))
    return features | maps


def largest_difference(name: str, expected: Arrays, found: Arrays) -> float:
    """Largest absolute difference of one array, infinite where a side lacks it or has another shape.

    The values of a feature are of the model's own making, so its difference is in units of the largest of them.
    """
    if name not in expected or name not in found or expected[name].shape != found[name].shape:
        return float("inf")
    unit = 1.0 if name in MAPS else max(1.0, float(np.abs(expected[name]).max()))
    return float(np.abs(found[name] - expected[name]).max()) / unit


def median_ms(clock: StageClock) -> dict[str, float]:
    return {stage: row["median_ms"] for stage, row in clock.summary().items()}
