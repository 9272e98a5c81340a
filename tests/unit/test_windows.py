"""Training windows: boxes where the pixels are, identities along the frames, whatever the source."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.datasets.cutouts import drawn_gallery
from sightline.datasets.mot_text import FileRows, MotRows
from sightline.datasets.multi import MotSequence, read_mot_sequence
from sightline.datasets.stills import Still
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence, write_sequence
from sightline.errors import DatasetError, VideoError
from sightline.geometry.heatmaps import FrameTargets, HeatmapRules
from sightline.training.windows import (
    HeatmapExamples,
    SequenceWindows,
    StillWindows,
    SyntheticWindows,
    Window,
    WindowExamples,
    WindowsConfig,
    moved_unit,
    open_window_sources,
)
from tests.trees import write

PLAIN = WindowsConfig(3, 128, colour_share=0.0)
REGIME = SyntheticConfig(width=128, height=128, num_people=(3, 3), num_others=(1, 1), num_frames=12)
GREEN = (0, 255, 0)


def same(one: Window, other: Window) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def still(tmp_path: Path) -> Still:
    """A grey picture of 200 x 120 with a green board, a red one that is ignored, and a blue one of another class."""
    picture = np.full((120, 200, 3), 90, np.uint8)
    boxes = np.array([[80.0, 30, 24, 50], [20, 20, 20, 30], [140, 60, 20, 30]])
    for (x, y, w, h), colour in zip(boxes.astype(int).tolist(), (GREEN, (255, 0, 0), (0, 0, 255)), strict=True):
        picture[y : y + h, x : x + w] = colour
    path = write(tmp_path / "still.png", cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    return Still(path, boxes[[0, 2]], np.array([1, 2]), boxes[[1]])


def green_box(frame: np.ndarray) -> list[float]:
    """Where the green is, xyxy as fractions."""
    ys, xs = np.nonzero((frame[..., 1] > 172) & (frame[..., 0] < 60) & (frame[..., 2] < 60))
    return (np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / len(frame)).tolist() if len(xs) else []


def test_boxes_of_a_still_move_with_the_camera(still: Still) -> None:
    """And grow with it, are mirrored with it, and are told where it goes."""
    windows = WindowExamples([StillWindows([still], class_id=1)], replace(PLAIN, still_drift=0.08, still_zoom=0.05), 0)
    num_seen, moves, sides = 0, [], []
    for number in range(30):
        window = windows[number]
        assert window.frames.shape == (3, 128, 128, 3) and set(window.track_id.tolist()) <= {0, -1}
        assert (window.visibility[window.track_id < 0] == 0).all()
        for place in range(3):
            rows = (window.frame == place) & (window.track_id == 0)
            found = green_box(window.frames[place])
            assert bool(found) == rows.any() or window.visibility[rows] < 0.1
            if rows.any() and window.visibility[rows] > 0.999:
                x, y, w, h = window.xywh_unit[rows][0].tolist()
                np.testing.assert_allclose(found, [x, y, x + w, y + h], atol=1.6 / 128)
                num_seen += 1
                sides.append(h)
        moves += moved_unit(window)[window.frame > 0].tolist()
        assert np.isnan(moved_unit(window)[(window.frame == 0) | (window.track_id < 0)]).all()
    known = np.abs(np.array(moves))[np.isfinite(moves).all(axis=1)]
    assert num_seen > 40 and 0.005 < known.max() < 0.2 and max(sides) > 1.6 * min(sides)


def test_displacements_lead_to_the_box_before(still: Still) -> None:
    window = WindowExamples([StillWindows([still], class_id=1)], PLAIN, 0)[3]
    moved, centre = moved_unit(window), window.xywh_unit[:, :2] + window.xywh_unit[:, 2:] / 2
    (now,) = np.flatnonzero((window.frame == 2) & (window.track_id == 0))
    (before,) = np.flatnonzero((window.frame == 1) & (window.track_id == 0))
    np.testing.assert_allclose(centre[now] + moved[now], centre[before], atol=1e-12)


def test_a_still_without_a_class_gives_all_boxes(still: Still) -> None:
    windows = WindowExamples([StillWindows([still])], PLAIN, 0)
    assert set().union(*(set(windows[number].track_id.tolist()) for number in range(20))) == {0, 1, -1}
    empty = StillWindows([Still(still.path, np.empty((0, 4)))])
    assert len(WindowExamples([empty], PLAIN, 0)[0].frame) == 0


def test_windows_depend_on_seed_and_number_alone(still: Still) -> None:
    sources = [SyntheticWindows(REGIME), StillWindows([still], 0.5)]
    windows = WindowExamples(sources, WindowsConfig(3, 128), 5)
    first = [windows[number] for number in range(6)]
    again = [WindowExamples(sources, WindowsConfig(3, 128), 5)[number] for number in reversed(range(6))]
    assert all(same(one, other) for one, other in zip(first, again[::-1], strict=True))
    assert same(pickle.loads(pickle.dumps(windows))[2], first[2])
    assert not same(WindowExamples(sources, WindowsConfig(3, 128), 6)[2], first[2])


def test_synthetic_windows_are_as_their_sequences_are() -> None:
    plain = replace(PLAIN, flip_share=0.0)
    windows = WindowExamples([SyntheticWindows(REGIME)], plain, 0)
    first, second = windows[0], windows[1]
    assert not np.array_equal(first.frames, second.frames)
    mirrored = WindowExamples([SyntheticWindows(REGIME)], replace(PLAIN, flip_share=1.0), 0)[0]
    assert np.array_equal(mirrored.frames, first.frames[:, :, ::-1])
    np.testing.assert_allclose(mirrored.xywh_unit[:, 0], 1 - first.xywh_unit[:, 0] - first.xywh_unit[:, 2])
    coloured = WindowExamples([SyntheticWindows(REGIME)], replace(plain, colour_share=1.0), 0)[0]
    assert not np.array_equal(coloured.frames, first.frames)
    assert np.array_equal(coloured.xywh_unit, first.xywh_unit)


@pytest.fixture
def sequence(tmp_path: Path) -> MotSequence:
    return read_mot_sequence(write_sequence(SyntheticSequence(REGIME, 0, 0), tmp_path))


def test_windows_of_a_sequence_are_frames_in_order(sequence: MotSequence) -> None:
    """With a gap, and the same zoom and place for all of a window."""
    config = replace(PLAIN, scale=(1, 1), shift=0.0, flip_share=0.0)
    windows = WindowExamples([SequenceWindows([sequence])], config, 0)
    true = SyntheticSequence(REGIME, 0, 0)
    pictures = np.stack([true.image(index) for index in range(12)]).astype(int)
    gaps = set()
    for number in range(20):
        window = windows[number]
        frames = [int(np.abs(pictures - frame).mean(axis=(1, 2, 3)).argmin()) for frame in window.frames]
        gap = frames[1] - frames[0]
        assert gap in (1, 2, 3) and frames[2] - frames[1] == gap
        gaps.add(gap)
        for place, index in enumerate(frames):
            rows, kept = window.frame == place, true.truth.frame == index
            ours = dict(zip(window.track_id[rows].tolist(), window.xywh_unit[rows].tolist(), strict=True))
            truth = zip(*(part[kept].tolist() for part in true.truth[1:]), strict=True)
            for track, xywh, seen in truth:
                if seen > 0.1:
                    np.testing.assert_allclose(np.array(ours[track]) * 128, xywh, atol=0.01)
    assert gaps == {1, 2, 3}
    scaled = WindowExamples([SequenceWindows([sequence])], replace(config, scale=(0.5, 0.5)), 0)[0]
    assert scaled.xywh_unit[:, 2:].max() < 0.6 * windows[0].xywh_unit[:, 2:].max()


def test_only_pedestrians_are_targets_and_other_people_count_for_nothing(sequence: MotSequence) -> None:
    """MOT17's classes: 1 a pedestrian, 7 a static person, 3 a car; the mark 0 is not to be scored."""
    rows = [[0, 1, 1, 1], [0, 2, 0, 1], [0, 3, 1, 7], [0, 4, 1, 3], [1, 1, 1, 1]]  # frame, id, mark, class
    frame, ids, mark, kind = np.array(rows).T
    boxes = np.array([[10.0 + 20 * row, 20, 15, 40] for row in range(5)])
    made = MotRows(frame, ids, boxes, mark.astype(float), kind)
    truth = FileRows.of(made, Path("gt.txt"), np.arange(5), np.array([0.7, 1, 1, 1, 0.2]))
    config = replace(PLAIN, clip_length=2, scale=(1, 1), shift=0.0, flip_share=0.0)
    short = MotSequence("s", sequence.frames[:2], truth, (128, 128), 30.0, Path("gt.txt"))
    window = WindowExamples([SequenceWindows([short])], config, 0)[0]
    assert window.track_id.tolist() == [1, -1, 1] and window.visibility.tolist() == [0.7, 0.0, 0.2]
    with pytest.raises(DatasetError, match="got no MOTChallenge truth"):
        WindowExamples([SequenceWindows([replace(short, truth=None)])], config, 0)[0]


def test_unreadable_pictures_are_errors_or_passed_over(still: Still, tmp_path: Path) -> None:
    broken = Still(write(tmp_path / "b.png", "no picture"), still.xywh)
    sources = [StillWindows([still, broken])]
    careful, careless = (WindowExamples(sources, PLAIN, 0, skip_unreadable=skip) for skip in (False, True))
    skipped = [careless[number].num_skipped for number in range(12)]
    assert 0 < sum(map(bool, skipped)) < 12
    with pytest.raises(VideoError):
        careful[int(np.flatnonzero(skipped)[0])]
    assert same(careful[skipped.index(0)], careless[skipped.index(0)])
    with pytest.raises(VideoError):
        WindowExamples([StillWindows([broken])], PLAIN, 0, skip_unreadable=True)[0]
    with pytest.raises(DatasetError, match="got no source"):
        WindowExamples([], PLAIN)


def test_targets_are_those_of_each_frame(still: Still) -> None:
    rules = HeatmapRules(displacement_scale=(0.05, 0.05))
    windows = WindowExamples([StillWindows([still], class_id=1)], PLAIN, 0)
    examples = HeatmapExamples(windows, 32, rules, max_objects=4)
    num_objects = num_ignored = 0
    for number in range(10):
        window, example = windows[number], examples[number]
        assert {name: getattr(example, name).shape for name in FrameTargets._fields} == {
            "heat_map": (3, 1, 32, 32),
            "is_counted": (3, 1, 32, 32),
            "cells": (3, 4),
            "sizes": (3, 4, 2),
            "displacements": (3, 4, 2),
            "is_object": (3, 4),
            "has_displacement": (3, 4),
        }
        is_seen = window.visibility >= rules.min_visibility
        for place in range(3):
            rows = np.flatnonzero((window.frame == place) & is_seen)
            assert example.is_object[place].sum() == len(rows) == (example.heat_map[place] == 1).sum()
            num_objects += len(rows)
            if len(rows):
                x, y = ((window.xywh_unit[rows[0], :2] + window.xywh_unit[rows[0], 2:] / 2) * 32).astype(int)
                assert example.cells[place, 0] == min(y, 31) * 32 + min(x, 31)
                assert example.has_displacement[place, 0] == (place > 0)
        num_ignored += int((~example.is_counted).sum())
    assert num_objects > 15 and num_ignored > 0


def test_of_more_objects_than_there_is_room_for_the_largest_stay() -> None:
    crowd = replace(REGIME, num_people=(12, 12), still_share=1.0)
    windows = WindowExamples([SyntheticWindows(crowd)], PLAIN, 0)
    few, all_ = (HeatmapExamples(windows, 32, HeatmapRules(), max_objects=most)[0] for most in (3, 64))
    assert all_.is_object[0].sum() > 3 == few.is_object[0].sum()
    areas = sorted((all_.sizes[0].prod(axis=1)[all_.is_object[0]]).tolist())
    np.testing.assert_allclose(sorted(few.sizes[0].prod(axis=1).tolist()), areas[-3:])


def test_sources_are_opened_by_name(still: Still, tmp_path: Path, sequence: MotSequence) -> None:
    home = tmp_path / "pictures"
    write(home / "img" / "1.png", still.path.read_bytes())
    boxes = [
        {"id": k, "image_id": 1, "category_id": 2 + k % 2, "bbox": row} for k, row in enumerate(still.xywh.tolist())
    ]
    kinds = [{"id": 2, "name": "person"}, {"id": 3, "name": "dog"}]
    write(
        home / "annotations.json",
        {"images": [{"id": 1, "file_name": "1.png"}], "annotations": boxes, "categories": kinds},
    )
    texts = ("synthetic*3", "images=pictures*0.5", f"mot={sequence.name}", "synthetic:drawn*2")
    synthetic, pictures, clips, drawn = open_window_sources(texts, tmp_path, REGIME)
    assert isinstance(drawn, SyntheticWindows) and drawn.weight == 2 and drawn.gallery is drawn_gallery()
    assert isinstance(synthetic, SyntheticWindows) and isinstance(clips, SequenceWindows)
    assert isinstance(pictures, StillWindows) and pictures.class_id == 2
    assert [source.weight for source in (synthetic, pictures, clips)] == [3, 0.5, 1]
    assert len(WindowExamples([pictures], PLAIN, 0)[0].frames) == 3
    for wrong in ("got10k:val", "nothing", "folder=pictures"):
        with pytest.raises(DatasetError):
            open_window_sources((wrong,), tmp_path, REGIME)
