"""The bundled tracker on real pictures: demo videos without truth are held to sanity, two sequences to their truth."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import sightline
from sightline.cli import main
from sightline.datasets.clips import read_clip
from sightline.evaluation.sot import success_auc
from tests.e2e.scene import read_rows

pytestmark = pytest.mark.shared

NUM_FRAMES = 60
VIDEOS = {  # name -> first frame, boxes on it
    "apple": (0, [(157, 64, 161, 160)]),
    "cars_from_above": (192, [(116, 0, 96, 114), (276, 284, 136, 76)]),  # both leave the picture
    "dog_and_person": (0, [(226, 188, 126, 86), (113, 108, 112, 170)]),
    "juggling_ball": (0, [(306, 141, 41, 40), (300, 24, 117, 310)]),
    "two_children": (0, [(206, 0, 138, 264), (96, 90, 100, 182)]),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_results_are_sane_on_demo_videos(name: str, shared: Path):
    """Boxes in the picture and of sensible size, scores in [0, 1], indices and times that rise."""
    start, boxes = VIDEOS[name]
    stream = sightline.track(shared / "data" / "videos" / f"{name}.mp4", boxes, start=start, threads=1)
    results = list(itertools.islice(stream, (NUM_FRAMES if name != "apple" else 50) * len(boxes)))
    stream.close()
    indices = [result.frame_index for result in results[:: len(boxes)]]
    assert indices == list(range(start, start + len(indices)))
    assert (np.diff([result.time_s for result in results[:: len(boxes)]]) > 0).all()
    for target, box in enumerate(boxes):
        found = results[target :: len(boxes)]
        xyxy, score = np.array([result.xyxy for result in found]), np.array([result.score for result in found])
        assert found[0].xywh == box
        assert np.isfinite(xyxy).all()
        assert (xyxy[:, :2] >= 0).all()
        assert (xyxy[:, 2:] <= (640, 360)).all()
        assert (xyxy[:, 2:] - xyxy[:, :2] >= 5).all()
        assert ((score > 0) & (score <= 1)).all()
        assert len({result.xywh for result in found}) > len(found) // 2  # something moves


@pytest.mark.parametrize("name", ["otb_Man", "otb_Couple"])
def test_the_command_follows_the_truth_of_a_sequence(name: str, shared: Path, tmp_path: Path):
    clip = read_clip(shared / "data" / "sot" / name)
    box = ",".join(f"{value:g}" for value in clip.xywh[0])
    source, out = clip.frames[0].parent, tmp_path / "boxes.txt"
    assert main(["track", str(source), "--box", box, "--threads", "1", "--results", str(out)]) == 0
    assert success_auc(read_rows(out.read_text()), clip.xywh, clip.is_present) > 0.5
    still = np.tile(clip.xywh[0], (len(clip), 1))
    assert success_auc(still, clip.xywh, clip.is_present) < 0.5  # a box that stays where it was would not do
