"""What OneTrack-M could reach on MOT17 if its maps were perfect: the ground truth through targets, decoder and tracker.

    python benchmarks/onetrack_m_round_trip.py

MOT17-02, -04, -09 and -13 together, which MOT17's rules score. No network and no image takes part. The first row is
what grids of 196 x 196 cells without offsets cost, every other row says what is lost besides: to non-maximum
suppression, to comparing boxes instead of knowing who is who, to people who are no targets because little of them is
seen, and to coarser grids.

The maps are not drawn: a perfect heat map has its peaks where the objects are, so these are decoded alone, with the
same numbers (tests/unit/test_onetrack_round_trip.py draws some). All scores are 1, so of two boxes the suppression
keeps the upper left one, not the likelier one.
"""

from __future__ import annotations

import configparser
import gzip
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from measure import SHARED, table
from numpy.typing import NDArray

from sightline.datasets.mot_text import FileRows, MotRows, read_mot_truth
from sightline.evaluation.mot import MotScores, combine, mot_scores
from sightline.evaluation.mot_preprocess import MOT_RULES, motchallenge
from sightline.geometry.boxes import xywh_to_xyxy
from sightline.geometry.detections import nms
from sightline.geometry.heatmaps import HeatmapRules, Peaks, cells_of, displacements, input_fit, peaks_at
from sightline.trackers.onetrack_m import OneTrackMConfig, OneTrackMState, associated, in_pixels
from sightline.types import Track

SEQUENCES = ("MOT17-02", "MOT17-04", "MOT17-09", "MOT17-13")
PEDESTRIAN = 1
CONFIG = OneTrackMConfig()


class Video(NamedTuple):
    """The ground truth of one sequence: all its rows, and of the pedestrians what targets are made of."""

    name: str
    size: tuple[int, int]
    num_frames: int
    truth: MotRows
    frame: NDArray[np.int64]
    track_id: NDArray[np.int64]
    xywh_unit: NDArray[np.float64]
    visibility: NDArray[np.float64]
    displacements: NDArray[np.float64]


class Variant(NamedTuple):
    """One row of the table: from which visibility on people are targets, the suppression (1 is none), who tells them
    apart, whether the tracker moves boxes by the true displacement, and cells per side of the maps."""

    min_visibility: float
    nms_iou: float
    identities: Literal["truth", "tracker"]
    use_displacement: bool = True
    grid: int = CONFIG.grid

    @property
    def title(self) -> str:
        parts = [
            "all" if not self.min_visibility else f"visible >= {self.min_visibility:g}",
            "no NMS" if self.nms_iou == 1 else f"NMS {self.nms_iou:g}",
            "true ids" if self.identities == "truth" else "tracker",
        ]
        if not self.use_displacement:
            parts.append("no displacement")
        if self.grid != CONFIG.grid:
            parts.append(f"{self.grid} x {self.grid} cells")
        return ", ".join(parts)


VARIANTS = (
    Variant(0, 1, "truth"),
    Variant(0, 0.5, "truth"),
    Variant(0, 1, "tracker"),
    Variant(0, 1, "tracker", use_displacement=False),
    Variant(0, 0.5, "tracker"),
    Variant(0.25, 1, "truth"),
    Variant(0.25, 0.5, "truth"),
    Variant(0.25, 1, "tracker"),
    Variant(0.25, 0.5, "tracker"),
    Variant(0, 1, "truth", grid=56),
    Variant(0, 1, "truth", grid=14),
)


def read_video(folder: Path, name: str) -> Video:
    """`NAME-FRCNN.txt.gz` and its `seqinfo.ini`."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "gt.txt")
        path.write_bytes(gzip.decompress((folder / f"{name}-FRCNN.txt.gz").read_bytes()))
        truth = read_mot_truth(path)
    assert isinstance(truth, FileRows) and truth.visibility is not None
    info = configparser.ConfigParser()
    info.read(folder / f"{name}-FRCNN.seqinfo.ini")
    height, width, num_frames = (int(info["Sequence"][key]) for key in ("imHeight", "imWidth", "seqLength"))
    rows = truth.class_id == PEDESTRIAN
    xywh_unit = input_fit(height, width, CONFIG.image_px).to_unit(truth.xywh[rows])
    frame, track_id = truth.frame[rows], truth.track_id[rows]
    moved = displacements(frame, track_id, xywh_unit[:, :2] + xywh_unit[:, 2:] / 2)
    return Video(name, (height, width), num_frames, truth, frame, track_id, xywh_unit, truth.visibility[rows], moved)


def perfect_peaks(
    video: Video, rows: NDArray[np.int64], rules: HeatmapRules, grid: int = CONFIG.grid
) -> tuple[Peaks, NDArray[np.int64]]:
    """What the maps of a network that knows the targets `rows` of one frame hold, and the row of each peak: of several
    in one cell the first."""
    cells, first = np.unique(cells_of(video.xywh_unit[rows], grid), return_index=True)
    rows = rows[first]
    moved = np.nan_to_num(video.displacements[rows])
    peaks = peaks_at(
        cells,
        (video.xywh_unit[rows, 2:] * grid).astype(np.float32),
        np.tanh(moved / rules.displacement_scale).astype(np.float32),
        grid,
        rules,
        np.ones(len(rows)),
        np.zeros(len(rows), np.int64),
    )
    return peaks, rows


def tracks_of(video: Video, variant: Variant) -> Iterator[Track]:
    """The video as the tracker would have it."""
    config = CONFIG
    fit = input_fit(*video.size, config.image_px)
    shown = np.flatnonzero(video.visibility >= variant.min_visibility)
    shown = shown[np.argsort(video.frame[shown], kind="stable")]
    ends = np.searchsorted(video.frame[shown], np.arange(1, video.num_frames))
    state = OneTrackMState("perfect")
    for number, rows in enumerate(np.split(shown, ends)):
        peaks, rows = perfect_peaks(video, rows, config.rules, variant.grid)
        kept = nms(xywh_to_xyxy(peaks.xywh_unit), peaks.scores, variant.nms_iou)
        found = in_pixels(peaks.take(kept), fit)
        if variant.identities == "truth":
            for row, (x, y, w, h) in zip(rows[kept].tolist(), found.xywh.tolist(), strict=True):
                yield Track(number, int(video.track_id[row]), (x, y, w, h), 1.0)
            continue
        if not variant.use_displacement:
            found = found._replace(displacements=np.zeros_like(found.displacements))
        state = associated(found, number, replace(state, tracks=()), config)
        yield from state.tracks


def score(video: Video, tracks: Sequence[Track]) -> MotScores:
    """The tracks under MOT17's rules."""
    result = MotRows(
        np.array([track.frame_index for track in tracks], np.int64),
        np.array([track.track_id for track in tracks], np.int64),
        np.array([track.xywh for track in tracks], np.float64).reshape(-1, 4),
        np.ones(len(tracks)),
        np.ones(len(tracks), np.int64),
    )
    return mot_scores(motchallenge(video.truth, result, video.num_frames, MOT_RULES["MOT17"]))


def main(data: Path = SHARED / "data" / "eval" / "mot17_trackeval" / "gt") -> None:
    """Print the table.

    Args:
        data: The folder of MOT17's ground truth, gzip-ed text, and of the sequences' `seqinfo.ini`.
    """
    start = time.perf_counter()
    videos = [read_video(data, name) for name in SEQUENCES]
    rows = []
    for variant in VARIANTS:
        scores = combine([score(video, list(tracks_of(video, variant))) for video in videos])
        shown = scores.summary()
        numbers = [f"{shown[name]:.3f}" for name in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1", "CLR_Re")]
        rows.append([variant.title, *numbers, scores.clear.idsw, scores.clear.fp, scores.counts.dets])
    headings = ["", "HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1", "recall", "IDS", "FP", "boxes"]
    print(table(headings, rows))
    print(
        f"{', '.join(SEQUENCES)}: {sum(len(video.frame) for video in videos):,} boxes of pedestrians, "
        f"{time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    tyro.cli(main)
