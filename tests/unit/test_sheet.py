"""Pages of pictures: what is on them, where it is, and that a box read from the rulers is right."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.errors import VideoError
from sightline.imaging import sheet
from sightline.imaging.draw import COLOURS, colour_of
from sightline.imaging.frames import read_image
from sightline.imaging.sheet import ContactSheet, first_frame_sheet, write_image
from sightline.types import TrackResult

Text = tuple[str, int, int, int]  # what, left, baseline, right


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Every text that is written, with its place in the picture that it is written on; one that is cut off fails."""
    written: list[Text] = []
    put_text = cv2.putText

    def spy(picture, text, at, font, scale, colour, weight, kind):
        w = cv2.getTextSize(text, font, scale, weight)[0][0]
        if picture.shape[0] > 30 and picture.shape[1] > 200:
            assert at[0] >= 0 and at[0] + w <= picture.shape[1] + 1, text
            assert at[1] <= picture.shape[0], text
        written.append((text, at[0], at[1], at[0] + w))
        return put_text(picture, text, at, font, scale, colour, weight, kind)

    monkeypatch.setattr(cv2, "putText", spy)
    return written


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def result(
    index: int, target_id: int = 1, score: float = 0.75, presence="tracked", xywh=(40, 30, 60, 20)
) -> TrackResult:
    return TrackResult(index, index / 25, target_id, xywh, score, presence)


# Pictures as files


def test_pictures_are_written_by_suffix(tmp_path: Path):
    rgb = cv2.GaussianBlur(noise(60, 80), (0, 0), 5)
    for name, tolerance in (("a.png", 0), ("a.PNG", 0), ("b.jpg", 8), ("b.jpeg", 8), ("c.webp", 8)):
        write_image(tmp_path / name, rgb)
        assert np.abs(read_image(tmp_path / name).astype(int) - rgb).mean() <= tolerance, name
    red = np.zeros((4, 4, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    write_image(tmp_path / "red.png", red)
    assert (read_image(tmp_path / "red.png") == red).all()


def test_pictures_that_cannot_be_written_are_refused(tmp_path: Path):
    small, wide = noise(4, 4), np.zeros((4, 70_000, 3), np.uint8)
    for name, rgb, sentence in (
        ("a.gif", small, "got suffix '.gif'; expected .jpeg, .jpg, .png, .webp"),
        ("a", small, "got suffix ''"),
        ("a.jpg", wide, "got a picture of 70000 x 4 pixels; expected a size that .jpg allows"),
        ("a.webp", wide, "expected a size that .webp allows"),
        ("missing/a.png", small, "No such file or directory"),
    ):
        with pytest.raises(VideoError, match=sentence):
            write_image(tmp_path / name, rgb)
    assert list(tmp_path.iterdir()) == []


# A run on one page


def sheet_of(num_frames: int, num_pictures: int = 12, height: int = 18, width: int = 32) -> ContactSheet:
    page = ContactSheet(num_pictures)
    rgb = noise(height, width)
    for index in range(num_frames):
        page.add(rgb, [result(index, xywh=(4, 3, 10, 6))])
    return page


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 11, 12, 13, 14, 48, 49, 50, 97, 500, 3000])
@pytest.mark.parametrize("num_pictures", [1, 2, 7, 12])
def test_pictures_are_spread_evenly_from_the_first_frame_to_the_last(
    num_frames: int, num_pictures: int, texts: list[Text]
):
    sheet_of(num_frames, num_pictures).draw()
    shown = [int(text.split()[1]) for text, *_ in texts if text.startswith("frame ")]
    assert len(shown) == min(num_frames, num_pictures)
    assert shown == sorted(set(shown))
    if num_pictures > 1:
        assert (shown[0], shown[-1]) == (0, num_frames - 1)
        gaps = [after - before for before, after in itertools.pairwise(shown)]
        even = (num_frames - 1) / max(1, len(shown) - 1)
        assert all(0.4 * even <= gap <= 1.7 * even for gap in gaps) or even < 2


def test_what_is_held_is_bounded():
    page = ContactSheet(3)
    for index in range(200):
        page.add(noise(300, 2000) if index == 0 else np.full((300, 2000, 3), index, np.uint8), [])
        held = [shot.rgb for shot in page._held]
        assert len(held) <= 12
        assert all(rgb.shape[1] <= sheet.PAGE_PX for rgb in held)
    assert 6 <= len(held) <= 12
    assert sum(rgb.nbytes for rgb in held) < 12 * 1600 * 240 * 3


def test_a_frame_that_is_changed_afterwards_is_shown_as_it_was():
    page = ContactSheet(2)
    rgb = np.full((90, 160, 3), 200, np.uint8)
    page.add(rgb, [])
    rgb[:] = 0
    page.add(np.full((90, 160, 3), 100, np.uint8), [])
    drawn = page.draw()
    assert (drawn == 200).all(axis=2).sum() > 10_000
    assert (drawn == 0).all(axis=2).sum() == 0


@pytest.mark.parametrize(
    ("height", "width"), [(90, 160), (160, 90), (480, 640), (1, 1), (9, 2000), (2000, 9), (1080, 1920)]
)
@pytest.mark.parametrize("num_pictures", [1, 2, 5, 12])
def test_a_page_is_1600_wide_and_no_tower(height: int, width: int, num_pictures: int, texts: list[Text]):
    drawn = sheet_of(num_pictures, num_pictures, height, width).draw()
    assert drawn.dtype == np.uint8
    assert drawn.shape[1:] == (1600, 3)
    assert drawn.shape[0] <= 2200
    assert len([text for text, *_ in texts if text.startswith("frame ")]) == num_pictures


def test_captions_say_when_and_of_one_target_how_sure(texts: list[Text]):
    for results, caption in (
        ([result(50)], "frame 50   2.00 s   score 0.75"),
        ([result(50, score=0.25, presence="uncertain")], "frame 50   2.00 s   score 0.25   uncertain"),
        ([result(50, score=math.nan)], "frame 50   2.00 s"),
        ([result(50), result(50, 2)], "frame 50   2.00 s"),
        ([TrackResult(7, None, 1, (1, 2, 3, 4), 0.5, "tracked")], "frame 7   score 0.50"),
    ):
        page = ContactSheet()
        page.add(noise(90, 160), results)
        page.draw()
        assert texts[-1][0] == caption


def test_boxes_are_drawn_where_they_are_in_the_frame():
    """Of one frame, 10 pixels of the page to one of the frame, up to the margin; small and large frames alike."""
    for by in (1, 10, 20):
        page = ContactSheet()
        box = (40.0 * by, 30.0 * by, 60.0 * by, 20.0 * by)
        page.add(np.zeros((90 * by, 160 * by, 3), np.uint8), [result(0, 3, math.nan, xywh=box)])
        drawn = page.draw()
        scale = (1600 - 2 * sheet.GAP_PX) / 160
        rows, columns = np.nonzero((drawn == colour_of(3)).all(axis=2)[sheet.GAP_PX :, sheet.GAP_PX :])
        assert columns.max() == pytest.approx(100 * scale, abs=6)
        assert columns.min() == pytest.approx(40 * scale, abs=6)
        assert rows.max() == pytest.approx(50 * scale, abs=6)


def test_frames_of_different_sizes_share_a_page():
    page = ContactSheet(3)
    for index, (height, width) in enumerate([(90, 160), (160, 90), (500, 900)]):
        page.add(noise(height, width), [result(index)])
    assert page.draw().shape[1] == 1600


def test_a_page_of_nothing_is_refused():
    with pytest.raises(VideoError, match="contact sheet: got no frame"):
        ContactSheet().draw()


# A first frame to read a box from

SIZES = [(90, 160), (360, 640), (1080, 1920), (2160, 3840), (1920, 1080), (100, 100), (9, 2000), (700, 11), (1, 1)]


def test_lines_are_eight_to_sixteen_columns_apart():
    for side_px in [*range(40, 4000), 7680]:
        columns = side_px / sheet._step(side_px, 16)
        assert 8 <= columns <= 16 or (side_px < 50 and columns >= 5), side_px
    assert [sheet._step(side_px, 16) for side_px in (160, 640, 1280, 1920, 3840)] == [10, 50, 100, 200, 250]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_first_frame_is_a_page_with_its_numbers_in_it(height: int, width: int, texts: list[Text]):
    drawn = first_frame_sheet(noise(height, width), "clip.mp4, frame 0")
    assert drawn.dtype == np.uint8
    assert 1600 <= drawn.shape[1] <= 1800
    assert drawn.shape[0] < 6000
    said = [text for text, *_ in texts]
    assert "clip.mp4, frame 0" in said
    (example,) = [text for text in said if text.startswith("example ")]
    (how,) = [text for text in said if "X,Y,W,H = left, top, width, height" in text]
    assert how.endswith(example.removeprefix("example "))
    x, y, w, h = map(int, example.removeprefix("example ").split(","))
    assert 0 <= x < x + w <= width and 0 <= y < y + h <= height


def test_a_title_in_any_script_is_no_error(texts: list[Text]):
    first_frame_sheet(noise(90, 160), "キツネ.mp4")
    assert "???.mp4" in [text for text, *_ in texts]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_tiles_are_the_whole_frame(height: int, width: int, texts: list[Text]):
    first_frame_sheet(noise(height, width), "clip.mp4")
    tiles = [text for text, *_ in texts if text.startswith("x ") and " to " in text]
    is_seen = np.zeros((height, width), bool)
    for text in tiles:
        left, right, top, bottom = (int(word.rstrip(",")) for word in text.split() if word[0].isdigit())
        is_seen[top:bottom, left:right] = True
    assert is_seen.all()
    numbers = [text for text, *_ in texts[: len(texts)] if text.isdigit()]
    assert {str(number) for number in range(1, len(tiles) + 1)} <= set(numbers)


@pytest.mark.parametrize(
    ("height", "width", "number", "is_row"),
    [
        (90, 160, 80, False),
        (90, 160, 40, True),
        (360, 640, 300, False),
        (360, 640, 100, True),
        (2160, 3840, 2000, False),
        (2160, 3840, 1000, True),
    ],
)
def test_the_rulers_count_the_pixels_of_the_frame(
    height: int, width: int, number: int, is_row: bool, monkeypatch: pytest.MonkeyPatch
):
    """A frame dark before a pixel and light from it on turns where the rulers have its number; moved, it does not."""
    ruled, write = sheet._ruled, sheet._write
    pages: list[tuple[np.ndarray, list[Text]]] = []
    written: list[Text] = []

    def ruled_and_noted(*arguments):
        written.clear()
        pages.append((ruled(*arguments), [*written]))
        return pages[-1][0]

    def write_and_note(page, text, at, capital_px, **rest):
        written.append((text, *at, at[0] + sheet._width_px(text, capital_px)))
        write(page, text, at, capital_px, **rest)

    monkeypatch.setattr(sheet, "_ruled", ruled_and_noted)
    monkeypatch.setattr(sheet, "_write", write_and_note)

    def off_px(first_light: int) -> list[int]:
        """How far the turn is from the number, in pixels of the page, for each picture that shows both."""
        pages.clear()
        frame = np.zeros((height, width, 3), np.uint8)
        frame[(slice(first_light, None), slice(None)) if is_row else (slice(None), slice(first_light, None))] = 255
        first_frame_sheet(frame, "clip.mp4")
        margins = sheet.RULER_PX if is_row else sheet.RULER_PX[::-1]
        distances = []
        for page, labels in pages:
            profile = np.median(page.mean(axis=2), axis=1 if is_row else 0)[margins[0] + 1 : -margins[0] - 1]
            turns = margins[0] + 1 + np.nonzero((profile[1:] > 128) > (profile[:-1] > 128))[0] + 1
            for text, left, baseline, right in labels:
                is_above = baseline < sheet.RULER_PX[0]
                is_left = right < sheet.RULER_PX[1]
                if text == str(number) and len(turns) and (is_left if is_row else is_above):
                    place = baseline - sheet.NUMBER_PX // 2 if is_row else (left + right) // 2
                    distances.append(min(abs(int(turn) - place) for turn in turns))
        return distances

    here = off_px(number)
    assert len(here) >= 2  # the whole frame, and the tiles that show it
    assert max(here) <= 2
    away = max(2, width // 200)
    for moved in (off_px(number - away), off_px(number + away)):
        assert len(moved) >= 2 and min(moved) > 2


def test_the_example_is_drawn_where_its_numbers_say(texts: list[Text]):
    page = first_frame_sheet(np.zeros((360, 640, 3), np.uint8), "clip.mp4")
    (example,) = [text for text, *_ in texts if text.startswith("example ")]
    x, y, w, _ = map(int, example.removeprefix("example ").split(","))
    scale = sheet.PAGE_PX / 640
    is_orange = (page == COLOURS[0]).all(axis=2)
    columns = np.nonzero(is_orange.sum(axis=0) > 50)[0] - sheet.GAP_PX - sheet.RULER_PX[1]
    assert columns.min() == pytest.approx(x * scale, abs=2)
    assert columns.max() == pytest.approx((x + w) * scale, abs=2)
    top_of_frame = 2 * sheet.GAP_PX + 36 + sheet.RULER_PX[0]  # margin, title, margin, ruler
    rows = np.nonzero(is_orange.sum(axis=1) > 100)[0] - top_of_frame
    assert rows.min() == pytest.approx(y * scale, abs=2)


@pytest.mark.parametrize("grey", [0, 100, 128, 156, 255])
def test_lines_are_seen_on_any_ground(grey: int):
    rgb = np.full((360, 640, 3), grey, np.uint8)
    picture = sheet._gridded(rgb, sheet._Part(0, 0, 640, 360), 2.5, 50).astype(int)
    assert np.abs(picture[7, 248:253] - grey).max() >= 50  # the line at x = 100
    assert np.abs(picture[248:253, 7] - grey).max() >= 50
    assert (picture[7, 130:240] == grey).all()
