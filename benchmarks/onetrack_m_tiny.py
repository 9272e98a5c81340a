"""onetrack-m-tiny on generator seeds that it never trained on, and on PETS, beside SORT on the same detections.

    python benchmarks/onetrack_m_tiny.py [--weights RUN/last.safetensors]

The seeds are new; the cut-outs are those of the training, since there are no others: what is new are the sequences, not
the people. The second half of the seeds has drawn figures instead, none of which the training saw. PETS is a real
video, and no frame of it was trained on. SORT (Bewley et al. 2016) gets all detections above the tracker's threshold,
without embeddings or displacements: a Kalman filter of constant velocity, IoU 0.3, three hits, one frame of patience.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measure import SHARED, machine, table
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sightline.datasets.cutouts import drawn_gallery, open_gallery
from sightline.datasets.mot_text import MotRows
from sightline.datasets.multi import read_mot_sequence
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence
from sightline.evaluation.mot import MotScores, combine, mot_scores
from sightline.evaluation.mot_preprocess import MOT_RULES, motchallenge
from sightline.geometry.boxes import iou
from sightline.imaging.frames import read_image
from sightline.loading import load
from sightline.types import Track

NAME = "onetrack-m-tiny"
FIGURES = 1  # seed of the drawn ones; the training has those of seed 0
FOLDERS = ("coco_person", "mot17_person", "coco80", "animals", "fod_objects")
Floats = NDArray[np.float64]


class Kalman:
    """SORT's state of one box: centre, area, aspect, and the velocities of the first three."""

    def __init__(self, xywh: Floats, track_id: int) -> None:
        self.mean = np.concatenate([measured(xywh), np.zeros(3)])
        self.cov = np.diag([10.0, 10, 10, 10, 1e4, 1e4, 1e4])
        self.step = np.eye(7) + np.diag([1.0, 1, 1], k=4)
        self.noise = np.diag([1, 1, 1, 1, 0.01, 0.01, 1e-4])
        self.track_id, self.hits, self.missed = track_id, 1, 0

    def predict(self) -> Floats:
        if self.mean[2] + self.mean[6] <= 0:
            self.mean[6] = 0
        self.mean, self.cov = self.step @ self.mean, self.step @ self.cov @ self.step.T + self.noise
        self.missed += 1
        return self.xywh

    def correct(self, xywh: Floats) -> None:
        gain = self.cov[:, :4] @ np.linalg.inv(self.cov[:4, :4] + np.diag([1.0, 1, 10, 10]))
        self.mean = self.mean + gain @ (measured(xywh) - self.mean[:4])
        self.cov = self.cov - gain @ self.cov[:4]
        self.hits, self.missed = self.hits + 1, 0

    @property
    def xywh(self) -> Floats:
        width = float(np.sqrt(max(self.mean[2] * self.mean[3], 1e-9)))
        height = self.mean[2] / width
        return np.array([self.mean[0] - width / 2, self.mean[1] - height / 2, width, height])


def measured(xywh: Floats) -> Floats:
    x, y, w, h = xywh
    return np.array([x + w / 2, y + h / 2, w * h, w / max(h, 1e-9)])


def sort(detections: Sequence[Floats]) -> Iterator[Track]:
    """SORT over the (n, 4) boxes of every frame."""
    filters: list[Kalman] = []
    count = 0
    for frame, boxes in enumerate(detections):
        predicted = np.array([one.predict() for one in filters]).reshape(-1, 4)
        overlap = iou(boxes[:, None], predicted[None]) if len(boxes) and len(predicted) else np.zeros((len(boxes), 0))
        pairs = [(d, k) for d, k in zip(*linear_sum_assignment(-overlap), strict=True) if overlap[d, k] >= 0.3]
        for d, k in pairs:
            filters[k].correct(boxes[d])
        taken = {d for d, _ in pairs}
        for d in range(len(boxes)):
            if d not in taken:
                count += 1
                filters.append(Kalman(boxes[d], count))
        filters = [one for one in filters if one.missed <= 1]
        for one in filters:
            if one.missed == 0 and (one.hits >= 3 or frame < 3):
                yield Track(frame, one.track_id, tuple(one.xywh.tolist()), 1.0)


def run(tracker: Any, frames: Iterable[NDArray[np.uint8]]) -> list[Track]:
    state, history = tracker.init(), []
    for frame in frames:
        state = tracker.update(frame, state)
        history += state.tracks
    return list(tracker.finish(state, history))


def by_frame(tracks: Iterable[Track], num_frames: int) -> list[Floats]:
    rows: list[list[tuple[float, ...]]] = [[] for _ in range(num_frames)]
    for track in tracks:
        rows[track.frame_index].append(track.xywh)
    return [np.array(row, np.float64).reshape(-1, 4) for row in rows]


def score(tracks: Sequence[Track], truth: MotRows, num_frames: int) -> MotScores:
    """Plain scores: every row of the truth counts."""
    columns = [np.array([getattr(one, name) for one in tracks], np.int64) for name in ("frame_index", "track_id")]
    boxes = np.array([one.xywh for one in tracks], np.float64).reshape(-1, 4)
    result = MotRows(*columns, boxes, np.ones(len(tracks)), np.ones(len(tracks), np.int64))
    return mot_scores(motchallenge(truth, result, num_frames, MOT_RULES["MOT15"]))


def truth_of(sequence: SyntheticSequence) -> MotRows:
    """People of whom something is seen."""
    rows = sequence.truth
    seen = rows.visibility > 0.1
    ones = np.ones(int(seen.sum()), np.int64)
    return MotRows(rows.frame[seen], rows.track_id[seen], rows.xywh[seen], ones.astype(np.float64), ones)


def numbers(scores: MotScores) -> list[object]:
    shown = scores.summary()
    return [f"{shown[name]:.3f}" for name in ("HOTA", "DetA", "AssA", "IDF1", "MOTA")] + [scores.clear.idsw]


def main(weights: Path | None = None, sequences: int = 8, frames: int = 200, threads: int = 1) -> None:
    """Print the table.

    Args:
        weights: A run's weights, or a folder of graphs; by default those of the package.
        sequences: Of the generator, half of them with drawn figures.
        frames: Of each.
        threads: Of the network.
    """
    print(machine("numpy", "onnxruntime"))
    tracker = load(NAME, weights=weights, threads=threads)
    loose = load(NAME, weights=weights, threads=threads, started_from=tracker.config.detected_from)
    galleries = {
        "cut-outs": open_gallery([SHARED / "data" / "images" / name for name in FOLDERS]),
        "drawn": drawn_gallery(seed=FIGURES),
    }
    config = SyntheticConfig(num_frames=frames)
    rows: list[list[object]] = []
    everything: dict[str, list[MotScores]] = {}
    for kind, gallery in galleries.items():
        scores: dict[str, list[MotScores]] = {"onetrack-m-tiny": [], "SORT": []}
        for number in range(sequences // 2):
            sequence = SyntheticSequence(config, seed=1, number=number, gallery=gallery)
            truth = truth_of(sequence)
            scores[NAME].append(score(run(tracker, sequence.images()), truth, frames))
            found = by_frame(run(loose, sequence.images()), frames)
            scores["SORT"].append(score(list(sort(found)), truth, frames))
        for name, parts in scores.items():
            rows.append([f"generator, {kind}", name, *numbers(combine(parts))])
            everything.setdefault(name, []).extend(parts)
    rows += [["generator, all", name, *numbers(combine(parts))] for name, parts in everything.items()]
    pets = read_mot_sequence(SHARED / "data" / "mot" / "PETS09-S2L1-a", has_class=True)
    assert isinstance(pets.truth, MotRows)
    shown = [read_image(path) for path in pets.frames]
    rows.append(["PETS09-S2L1", NAME, *numbers(score(run(tracker, shown), pets.truth, len(pets)))])
    found = by_frame(run(loose, shown), len(pets))
    rows.append(["PETS09-S2L1", "SORT", *numbers(score(list(sort(found)), pets.truth, len(pets)))])
    print(table(["", "", "HOTA", "DetA", "AssA", "IDF1", "MOTA", "IDS"], rows))


if __name__ == "__main__":
    tyro.cli(main)
