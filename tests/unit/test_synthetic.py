"""Synthetic sequences: their truth against their own pixels, their regimes, and that they depend on their numbers
alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.datasets.cutouts import PERSON_ASPECT, Gallery, cut_out, drawn_gallery, open_gallery
from sightline.datasets.mot_text import FileRows
from sightline.datasets.multi import read_mot_sequence
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence, Truth, write_sequence
from sightline.errors import DatasetError
from sightline.imaging.frames import read_image
from tests.trees import write

WIDTH, HEIGHT = 128, 96
PLAIN = SyntheticConfig(
    width=WIDTH,
    height=HEIGHT,
    num_frames=40,
    num_people=(5, 5),
    num_others=(2, 2),
    shake_px=(0, 0),
    gain=(1, 1),
    flicker=(0, 0),
    blur_px=(0, 0),
    noise=(0, 0),
)
STILL_CAMERA = replace(PLAIN, pan=(0, 0), zoom=(0, 0))
GREEN, RED, GREY = (0, 255, 0), (255, 0, 0), (90, 90, 90)


def flat(colour: tuple[int, int, int], width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def block(colour: tuple[int, int, int]) -> np.ndarray:
    """A cut-out that is one colour from border to border."""
    return np.dstack([flat(colour, 20, 50), np.full((50, 20), 255, np.uint8)])


BLOCKS = Gallery([block(GREEN)], [block(RED)], [flat(GREY, 64, 64)])


def rows_of(truth: Truth, frame: int) -> list[tuple[int, list[float], float]]:
    kept = truth.frame == frame
    return list(zip(*(part[kept].tolist() for part in truth[1:]), strict=True))


def test_frames_depend_on_seed_number_and_frame_alone() -> None:
    config = replace(PLAIN, noise=(4, 4), blur_px=(0.5, 0.5), shake_px=(1, 1), flicker=(0.1, 0.1))
    one, other = SyntheticSequence(config, 3, 7), SyntheticSequence(replace(config, num_frames=90), 3, 7)
    backwards = {index: other.image(index) for index in (80, 39, 12, 0)}
    for index in (0, 12, 39):
        assert np.array_equal(one.image(index), backwards[index])
    long, short = other.truth, one.truth
    for ours, theirs in zip(short, long, strict=True):
        assert np.array_equal(ours, theirs[long.frame < 40])
    assert not np.array_equal(SyntheticSequence(config, 3, 8).image(0), backwards[0])
    assert not np.array_equal(SyntheticSequence(config, 4, 7).image(0), backwards[0])
    assert len(one) == 40 and one.image(39).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(IndexError):
        one.image(40)


def test_boxes_and_visibility_are_those_of_the_pixels() -> None:
    """Everybody is one green block: what is green in a box is what can be seen of it."""
    num_checked = num_hidden = 0
    for number in range(12):
        sequence = SyntheticSequence(
            replace(PLAIN, num_people=(1, 1), num_others=(4, 4), object_height=(0.5, 0.6), still_share=1.0),
            0,
            number,
            BLOCKS,
        )
        for frame in range(0, 40, 8):
            image = sequence.image(frame).astype(int)
            is_green = (image[..., 1] > 170) & (image[..., 0] < 90)
            found = rows_of(sequence.truth, frame)
            assert is_green.any() == any(visibility > 0.02 for _, _, visibility in found)
            for _, (x, y, w, h), visibility in found:
                ys, xs = np.nonzero(is_green)
                share = is_green.sum() / (w * h)
                assert share == pytest.approx(visibility, abs=0.12)
                num_hidden += visibility < 0.9
                if visibility > 0.99:
                    edges = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                    np.testing.assert_allclose(edges, [x, y, x + w, y + h], atol=1.01)
                    num_checked += 1
    assert num_checked >= 3 and num_hidden >= 3


def test_nearer_ones_cover_those_behind() -> None:
    """By the order of rows: the last of two that overlap is seen whole, the first is not."""
    num_pairs = 0
    for number in range(6):
        sequence = SyntheticSequence(replace(STILL_CAMERA, num_people=(2, 2), num_others=(0, 0)), 1, number, BLOCKS)
        for frame in range(40):
            if len(found := rows_of(sequence.truth, frame)) == 2:
                (_, far, seen_far), (_, near, seen_near) = found
                assert far[1] + far[3] <= near[1] + near[3]
                low = [max(a, b) for a, b in zip(far[:2], near[:2], strict=True)]
                high = [min(far[side] + far[side + 2], near[side] + near[side + 2]) for side in (0, 1)]
                shared = max(0, min(high[0], WIDTH) - max(low[0], 0)) * max(0, min(high[1], HEIGHT) - max(low[1], 0))
                inside = [
                    max(0, min(x + w, WIDTH) - max(x, 0)) * max(0, min(y + h, HEIGHT) - max(y, 0)) / (w * h)
                    for x, y, w, h in (far, near)
                ]
                assert seen_near == pytest.approx(inside[1], abs=0.12)
                assert seen_far == pytest.approx(inside[0] - shared / (far[2] * far[3]), abs=0.12)
                num_pairs += shared > 0.1 * far[2] * far[3]
    assert num_pairs >= 5


def test_objects_come_and_go_and_keep_their_identity() -> None:
    config = replace(PLAIN, num_frames=400, speed=(0.2, 0.3), num_others=(0, 0), still_share=0.0)
    truth = SyntheticSequence(config, 0, 0).truth
    assert len(set(truth.track_id.tolist())) > 10 and truth.track_id.min() >= 1
    assert max(Counter(zip(truth.frame.tolist(), truth.track_id.tolist(), strict=True)).values()) == 1
    for track in set(truth.track_id.tolist()):
        rows = truth.track_id == track
        frames, boxes = truth.frame[rows], truth.xywh[rows]
        steps = np.abs(np.diff(boxes[:, :2] + boxes[:, 2:] / 2, axis=0))[np.diff(frames) == 1]
        assert (steps < 0.75 * boxes[1:, 3].max()).all()
        whole = truth.visibility[rows] > 0
        if frames[0] > 0 and frames[-1] < 399:  # it comes in and leaves through the border
            for x, y, w, h in (boxes[0], boxes[-1]):
                assert x < 3 or y < 3 or x + w > WIDTH - 3 or y + h > HEIGHT - 3
        assert whole.any() or len(frames) < 10


def test_the_regime_is_what_is_seen() -> None:
    def moved(config: SyntheticConfig) -> tuple[float, float]:
        """Median way of a frame and median height, of some sequences with a camera at rest."""
        ways, heights = [], []
        for number in range(6):
            truth = SyntheticSequence(config, 5, number).truth
            order = np.lexsort((truth.frame, truth.track_id))
            same = (np.diff(truth.track_id[order]) == 0) & (np.diff(truth.frame[order]) == 1)
            foot = truth.xywh[order, :2] + truth.xywh[order, 2:] * (0.5, 1)
            ways += np.linalg.norm(np.diff(foot, axis=0)[same], axis=1).tolist()
            heights += truth.xywh[:, 3].tolist()
        return float(np.median(ways)), float(np.median(heights))

    steady = replace(
        STILL_CAMERA, acceleration=(0, 0), weave=(0, 0), still_share=0.0, depth=(0, 0), object_height=(0.3, 0.3)
    )
    for speed in (0.02, 0.1):
        way, height = moved(replace(steady, speed=(speed, speed)))
        assert 0.8 * 0.3 * HEIGHT <= height <= 1.25 * 0.3 * HEIGHT
        assert way == pytest.approx(speed * height, rel=0.2)
    assert moved(replace(steady, still_share=1.0))[0] == pytest.approx(0, abs=1e-9)
    assert moved(replace(steady, still_share=1.0, pan=(0.3, 0.3)))[0] > 0.1
    assert moved(replace(steady, object_height=(0.6, 0.6)))[1] > 1.7 * moved(steady)[1]


def test_crossings_are_more_where_they_are_asked_for() -> None:
    def num_meetings(share: float) -> int:
        """Pairs whose feet are side by side in some frame, in view."""
        config = replace(
            STILL_CAMERA,
            num_people=(6, 6),
            num_others=(0, 0),
            object_height=(0.2, 0.2),
            speed=(0.05, 0.2),
            crossing_share=share,
            num_frames=100,
        )
        num = 0
        for number in range(8):
            truth = SyntheticSequence(config, 2, number, BLOCKS).truth
            met = set()
            for frame in range(100):
                rows = rows_of(truth, frame)
                for (one, (x, y, w, h), _), (other, (x2, y2, w2, h2), _) in combinations(rows, 2):
                    is_near = abs(x + w / 2 - x2 - w2 / 2) < 0.25 * h and abs(y + h - y2 - h2) < 0.3 * h
                    if is_near and 0 < x + w / 2 < WIDTH and 0 < y + h < HEIGHT:
                        met.add((one, other))
            num += len(met)
        return num

    assert num_meetings(0.5) > 1.4 * num_meetings(0.0)


def test_others_are_targets_where_everything_is() -> None:
    config = replace(PLAIN, num_people=(2, 2), num_others=(5, 5), num_frames=20)
    people, every = (SyntheticSequence(replace(config, targets=which), 0, 0) for which in ("people", "all"))
    some, more = set(people.truth.track_id.tolist()), set(every.truth.track_id.tolist())
    assert some < more and np.array_equal(people.image(3), every.image(3))


def test_a_window_is_frames_of_the_sequence() -> None:
    sequence = SyntheticSequence(PLAIN, 0, 1)
    window = sequence.window(5, 3, gap=2)
    assert window.images.shape == (3, HEIGHT, WIDTH, 3) and window.images.dtype == np.uint8
    for place, frame in enumerate((5, 7, 9)):
        assert np.array_equal(window.images[place], sequence.image(frame))
        assert rows_of(window.truth, place) == rows_of(sequence.truth, frame)
    assert sequence.window(39, 1).images.shape[0] == 1
    with pytest.raises(IndexError):
        sequence.window(36, 3, gap=2)


def test_a_sequence_is_written_in_the_layout_of_mot_challenge(tmp_path: Path) -> None:
    sequence = SyntheticSequence(replace(PLAIN, num_frames=6), 0, 2)
    home = write_sequence(sequence, tmp_path, fps=10)
    read = read_mot_sequence(home)
    assert home.name == read.name == sequence.name and len(read) == 6 and read.fps == 10
    assert read.image_size == (WIDTH, HEIGHT) and isinstance(read.truth, FileRows)
    truth = sequence.truth
    assert np.array_equal(read.truth.frame, truth.frame) and np.array_equal(read.truth.track_id, truth.track_id)
    np.testing.assert_allclose(read.truth.xywh, truth.xywh, atol=0.0051)
    assert read.truth.visibility is not None
    np.testing.assert_allclose(read.truth.visibility, truth.visibility, atol=0.00051)
    assert (read.truth.mark == 1).all() and (read.truth.class_id == 1).all()
    stored = read_image(read.frames[3]).astype(int)
    away = [np.abs(stored - image).mean() for image in sequence.images()]
    assert np.argmin(away) == 3 and away[3] < 8  # a JPEG
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="expected a place for a sequence"):
        write_sequence(sequence, tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"object_height": (0.0, 0.5)},
        {"speed": (0.3, 0.1)},
        {"noise": (-1.0, 2.0)},
        {"pan": (0.0, float("nan"))},
        {"acceleration": (0.0, 1.5)},
    ],
)
def test_regimes_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match=f"synthetic: {next(iter(change))}: got"):
        replace(PLAIN, **change)  # type: ignore[arg-type]
    assert replace(PLAIN, object_height=(0.2, 0.2)).width == WIDTH


# Cut-outs


def standing(number: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A picture in which a drawn figure stands on a background of another colour, and its box."""
    figure = drawn_gallery().people[number]
    height, width = figure.shape[:2]
    picture = flat((60, 110, 200), 160, 140)
    opacity = figure[..., 3:] / 255
    part = picture[20 : 20 + height, 50 : 50 + width]
    part[:] = part * (1 - opacity) + figure[..., :3] * opacity
    return picture, (50.0, 20.0, float(width), float(height))


def test_a_cut_out_has_the_shape_of_what_stands_in_the_box() -> None:
    overlaps = []
    for number in range(12):
        picture, box = standing(number)
        cut, true = cut_out(picture, box), drawn_gallery().people[number][..., 3] >= 128
        if cut is not None:
            ours = cv2.resize(cut[..., 3], true.shape[::-1]) >= 128
            overlaps.append((ours & true).sum() / (ours | true).sum())
    assert len(overlaps) >= 6 and np.median(overlaps) > 0.75
    plain = true.size / np.count_nonzero(true)
    assert plain > 1.3  # a box alone would not do
    assert cut_out(picture, (0.0, 20.0, 60.0, 90.0)) is None  # cut by the border
    again = [cut_out(*standing(3)) for _ in range(2)]
    assert again[0] is not None and again[1] is not None and np.array_equal(*again)


def folder_of(root: Path, numbers: range, category: str) -> Path:
    rows = []
    for number in numbers:
        picture, box = standing(number)
        write(root / "img" / f"{number}.png", cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        rows.append({"id": number, "image_id": number, "category_id": 1 + (number % 4 == 3), "bbox": list(box)})
    write(
        root / "annotations.json",
        {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in numbers],
            "annotations": rows,
            "categories": [{"id": 1, "name": category}, {"id": 2, "name": "post"}],
        },
    )
    return root


def test_a_gallery_is_cut_out_of_folders_of_images(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "people", range(12), "person")
    gallery = open_gallery([home], num_people=5, num_others=4)
    assert 3 <= len(gallery.people) <= 5 and len(gallery.grounds) == 3
    assert all(PERSON_ASPECT[0] < cut.shape[1] / cut.shape[0] < PERSON_ASPECT[1] + 0.1 for cut in gallery.people)
    shapes = {cut[..., 3].tobytes() for cut in gallery.people}
    assert sum(cut[..., 3].tobytes() in shapes for cut in gallery.others) == 1  # a third wears a person's shape
    same = open_gallery([home], num_people=5, num_others=4)
    assert all(np.array_equal(one, other) for one, other in zip(gallery.people, same.people, strict=True))
    frame = SyntheticSequence(PLAIN, 0, 0, gallery).image(0)
    assert not np.array_equal(frame, SyntheticSequence(PLAIN, 0, 0).image(0))
    with pytest.raises(DatasetError, match="no person that can be cut out"):
        open_gallery([folder_of(tmp_path / "dogs", range(4), "dog")])
