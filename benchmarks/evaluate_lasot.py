"""What LaSOT's scores cost: every number of a protocol beside loading the boxes and computing each IoU once.

The boxes of one tracker on the 280 test sequences (685,360 frames) come from two archives, one array per sequence.
`load and IoU` reads both and computes the overlaps; the other variants start from arrays in memory and end with the
means over sequences: three curves, AUC, P, Pn, AO, SR.5, SR.75 and fr0. All run interleaved, and minima are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from measure import SHARED, SUMMARY, bar, interleave, machine, summary, table
from numpy.typing import NDArray

from sightline.evaluation.protocols import PROTOCOLS
from sightline.evaluation.sot import Scores, measure, overlap, summarise

Boxes = dict[str, NDArray[np.generic]]
AT_MOST = 3.0


def load(path: Path) -> Boxes:
    with np.load(path) as archive:
        return dict(archive)


def main(data: Path = SHARED / "data" / "eval" / "lasot", tracker: str = "SiamRPN++", repeats: int = 5) -> None:
    """Milliseconds of each protocol, and their ratios to loading and IoU.

    Args:
        data: The folder of groundtruth.npz, absent.npz and one archive per tracker.
        tracker: Which of the archives.
        repeats: Rounds, after one that is dropped.
    """
    print(machine("numpy"))
    true, absent, predicted = (load(data / f"{name}.npz") for name in ("groundtruth", "absent", tracker))
    print(
        f"{len(true)} sequences, {sum(map(len, true.values()))} frames, {tracker}; 1 round of warm-up, {repeats} timed"
    )

    def load_and_overlap() -> list[NDArray[np.float64]]:
        true, predicted = load(data / "groundtruth.npz"), load(data / f"{tracker}.npz")
        return [overlap(predicted[name], true[name]) for name in true]

    def score(protocol: str) -> Callable[[], Scores]:
        return lambda: summarise(
            [
                measure(predicted[name], true[name], protocol=protocol, dataset="lasot", absent=absent[name])
                for name in true
            ]
        )

    base = "load and IoU"
    samples = interleave({base: load_and_overlap} | {name: score(name) for name in PROTOCOLS}, repeats, warm_up=1)
    ratios = {name: samples[name].min() / samples[base].min() for name in PROTOCOLS}
    rows = [[name, *summary(values), f"{ratios.get(name, 1):.2f}"] for name, values in samples.items()]
    print(table(["", *(f"{heading} ms" for heading in SUMMARY), "ratio of minima"], rows))
    worst = max(ratios, key=lambda name: ratios[name])
    print(bar(f"all scores ({worst}, the dearest) / load and IoU", ratios[worst], at_most=AT_MOST))


if __name__ == "__main__":
    tyro.cli(main)
