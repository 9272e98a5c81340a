"""HOTA, CLEAR and Identity of one MOT17 sequence beside TrackEval, from plain text on disk, in one interleaved run.

MOT17-04 (1,050 frames, 108,005 rows of ground truth, 50,412 of a tracker) is read, preprocessed and scored by either in
one process; imports are not counted. Both give the same digits, which is asserted. Needs `trackeval`.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measure import SHARED, bar, interleave, machine, table

from sightline.datasets.mot_text import read_mot_result, read_mot_truth
from sightline.evaluation.mot import MotScores, clear, count, hota, identity
from sightline.evaluation.mot_overlap import overlaps
from sightline.evaluation.mot_preprocess import MOT_RULES, mot_boxes, preprocess

with redirect_stdout(StringIO()):  # it tells of what it cannot import
    import trackeval

NAME, NUM_FRAMES = "MOT17-04-FRCNN", 1050
STAGES = ("parsing", "IoU", "preprocessing", "HOTA", "CLEAR", "Identity")

Fields = Mapping[str, Any]


class Stages:
    """The least milliseconds of each stage."""

    def __init__(self) -> None:
        self.ms = dict.fromkeys(STAGES, np.inf)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ms[stage] = min(self.ms[stage], (time.perf_counter() - start) * 1e3)


def by_sightline(folder: Path, stage: Stages) -> Fields:
    with stage("parsing"):
        truth = read_mot_truth(folder / "gt" / NAME / "gt" / "gt.txt", NUM_FRAMES)
        result = read_mot_result(folder / "trackers" / "mixed" / f"{NAME}.txt", NUM_FRAMES)
    with stage("IoU"):
        sequence = overlaps(mot_boxes(truth), mot_boxes(result), NUM_FRAMES)
    with stage("preprocessing"):
        sequence = preprocess(sequence, truth, MOT_RULES["MOT17"])
    with stage("HOTA"):
        of_hota = hota(sequence)
    with stage("CLEAR"):
        of_clear = clear(sequence)
    with stage("Identity"):
        of_identity = identity(sequence)
    return MotScores(count(sequence), of_hota, of_clear, of_identity).fields()


def by_trackeval(folder: Path, stage: Stages) -> Fields:
    settings = {
        "GT_FOLDER": str(folder / "gt"),
        "TRACKERS_FOLDER": str(folder / "trackers"),
        "TRACKERS_TO_EVAL": ["mixed"],
        "TRACKER_SUB_FOLDER": "",
        "SKIP_SPLIT_FOL": True,
        "SEQ_INFO": {NAME: NUM_FRAMES},
        "PRINT_CONFIG": False,
    }
    data_set = trackeval.datasets.MotChallenge2DBox(settings)
    overlap = data_set._calculate_similarities
    iou_ms = 0.0

    def timed(*boxes: object) -> object:
        nonlocal iou_ms
        start = time.perf_counter()
        value = overlap(*boxes)
        iou_ms += (time.perf_counter() - start) * 1e3
        return value

    data_set._calculate_similarities = timed
    start = time.perf_counter()
    raw = data_set.get_raw_seq_data("mixed", NAME)
    stage.ms["parsing"] = min(stage.ms["parsing"], (time.perf_counter() - start) * 1e3 - iou_ms)
    stage.ms["IoU"] = min(stage.ms["IoU"], iou_ms)
    with stage("preprocessing"):
        data = data_set.get_preprocessed_seq_data(raw, "pedestrian")
    fields: dict[str, Any] = {}
    for name in ("HOTA", "CLEAR", "Identity"):
        with stage(name):
            fields |= getattr(trackeval.metrics, name)({"PRINT_CONFIG": False}).eval_sequence(data)
    return fields


def main(data: Path = SHARED / "golden" / "mot" / "mot17_large", repeats: int = 5) -> None:
    """The rate of TrackEval's least time over ours.

    Args:
        data: The folder of the sequence, gzip-ed text.
        repeats: Runs of each.
    """
    print(machine("numpy", "scipy", "trackeval"))
    ours, theirs = Stages(), Stages()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        for source in data.rglob("*.gz"):
            text = Path(folder) / source.relative_to(data).with_suffix("")
            text.parent.mkdir(parents=True)
            with gzip.open(source) as packed, text.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        runs = {
            "sightline": lambda: by_sightline(Path(folder), ours),
            "trackeval": lambda: by_trackeval(Path(folder), theirs),
        }
        fields = {name: run() for name, run in runs.items()}  # to warm up
        samples = interleave(runs, repeats, warm_up=0)
    for name, value in fields["trackeval"].items():
        np.testing.assert_allclose(fields["sightline"][name], value, rtol=0, atol=1e-9, err_msg=name)
    rows = [[stage, *(f"{one.ms[stage]:.1f}" for one in (ours, theirs))] for stage in STAGES]
    least = {name: float(ms.min()) for name, ms in samples.items()}
    rows.append(["all", *(f"{value:.1f}" for value in least.values())])
    print(
        table(
            [f"ms, least of {repeats}", *least, "times"],
            [[*row, f"{float(row[2]) / float(row[1]):.1f}"] for row in rows],
        )
    )
    print(f"{len(fields['trackeval'])} fields agree to 1e-9")
    print(bar("times faster than trackeval", least["trackeval"] / least["sightline"], at_least=6))


if __name__ == "__main__":
    tyro.cli(main)
