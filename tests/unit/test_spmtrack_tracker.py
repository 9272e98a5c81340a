"""SPMTrack's loop over sessions of plain NumPy, its crops, and its memory over ten thousand frames."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import zlib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sightline.errors import GeometryError, ProtocolError, SightlineError
from sightline.geometry.aligned_crops import aligned_crop, foreground_tokens, siamfc_map
from sightline.geometry.boxes import iou
from sightline.imaging.sample import crop_aligned, normalise, normalise_float, whole_mean_colour
from sightline.runtime.session import Arrays
from sightline.runtime.stages import StageClock
from sightline.trackers.spmtrack import BOUNDED, SPMTrackConfig, SPMTrackState, SPMTrackTracker, asked, oldest
from sightline.trackers.template_memory import CHUNK, Kept, TemplateStore, memory_of
from sightline.types import TargetState

GRID, WIDTH = 9, 4
CONFIG = SPMTrackConfig(template_px=28, search_px=126, mean=(0.0,) * 3, std=(1.0,) * 3)
BRIGHT, DARK = (220, 30, 30), 20
DARK_TO_BRIGHT = sum(value - DARK for value in BRIGHT) / 255
MAPS = {"score_map": 1, "box_map": 4}  # channels
RULES = ("default", "lasot")


class ColourSession:
    """Finds the middle of all that has the templates' mean colour, and says that it is a fifth of the region."""

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template", "foreground") if graph == "encode" else ("search", "template_tokens", "query")

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        assert sorted(arrays) == sorted(self.inputs(graph))
        assert {value.dtype for value in arrays.values()} == {np.dtype(np.float32)}
        if graph == "encode":
            colour = arrays["template"][:, None, :, 7:21, 7:21].mean(axis=(3, 4)).repeat(4, axis=1)
            return {"template_tokens": np.concatenate([colour, arrays["foreground"][..., None]], axis=2)}
        tokens, targets = arrays["template_tokens"], len(arrays["search"])
        assert tokens.shape[0] == targets and tokens.shape[2:] == (4, WIDTH)
        colour = tokens[..., :3].mean(axis=(1, 2))
        cells = arrays["search"].reshape(targets, 3, GRID, 14, GRID, 14).mean(axis=(3, 5))
        far = np.abs(cells - colour[:, :, None, None]).sum(axis=1)
        likeness = np.clip(1 - far / DARK_TO_BRIGHT, 1e-6, 1) ** 3  # blind to the dark that templates show of it
        maps = {name: np.zeros((targets, rows, GRID, GRID), np.float32) for name, rows in MAPS.items()}
        for k, weight in enumerate(likeness):
            along = (np.arange(GRID) + 0.5) / GRID
            middle = np.array([weight.sum(axis=0) @ along, weight.sum(axis=1) @ along]) / weight.sum()
            column, row = np.floor(middle * GRID).astype(int)
            maps["score_map"][k, 0, row, column] = weight.max()
            maps["box_map"][k, :, row, column] = *(middle - 0.1), *(middle + 0.1)
        return {**maps, "query": arrays["query"] + 1}


class PlacedSession:
    """Answers with the maps that the test holds, whatever it sees, and keeps what it was given."""

    def __init__(self, xyxy: tuple[float, ...] = (0.4, 0.3, 0.7, 0.6), column: int = 4, row: int = 4) -> None:
        self.score = np.full((GRID, GRID), 0.01, np.float32)
        self.score[row, column] = 0.75
        self.boxes = np.broadcast_to(np.float32(xyxy)[:, None, None], (4, GRID, GRID)).copy()
        self.seen: list[tuple[str, dict[str, np.ndarray]]] = []

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ()

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        self.seen.append((graph, dict(arrays)))
        if graph == "encode":
            return {"template_tokens": np.zeros((*arrays["foreground"].shape, WIDTH), np.float32)}
        score_map, box_map = (
            np.repeat(value[None], len(arrays["search"]), axis=0) for value in (self.score, self.boxes)
        )
        return {"score_map": score_map[:, None], "box_map": box_map, "query": arrays["query"] + 1}

    def given(self, graph: str, name: str) -> list[np.ndarray]:
        return [arrays[name] for called, arrays in self.seen if called == graph]


def scene(x: int, y: int, height: int = 240, width: int = 320, dark: int = DARK) -> np.ndarray:
    """A square of 32 pixels on a dark frame that nobody may write to."""
    frame = np.full((height, width, 3), dark, np.uint8)
    frame[y : y + 32, x : x + 32] = BRIGHT
    frame.flags.writeable = False
    return frame


def tracker(config: SPMTrackConfig = CONFIG, session=None) -> SPMTrackTracker:
    return SPMTrackTracker(session or ColourSession(), config, "colour")


def run(follower: SPMTrackTracker, frames: list[np.ndarray], xywh=(100, 90, 32, 32)) -> list[SPMTrackState]:
    states = [follower.init(frames[0], xywh=xywh)]
    for frame in frames[1:]:
        states.append(follower.update(frame, states[-1]))
    return states


# Crops


def test_the_context_of_siamfc() -> None:
    """The glossary's example: 40 x 90 and a factor of 4 give 258.8 px, where OSTrack's rule gives 240."""
    scale, shift = siamfc_map((100, 50, 40, 90), 4, 378)
    assert 378 / scale == pytest.approx(258.8, abs=0.05)
    assert (120 * scale + shift[0], 95 * scale + shift[1]) == pytest.approx((189, 189))
    with pytest.raises(GeometryError, match=r"crop of area 0.* expected more than 0\. Pass a larger box"):
        siamfc_map((5, 5, 1e-200, 1e-200), 2, 196)


boxes = st.tuples(
    st.floats(-400, 700), st.floats(-400, 700), *(st.floats(-3, 3).map(lambda power: 10**power) for _ in range(2))
)


@settings(deadline=None)
@given(boxes, st.integers(1, 400), st.integers(1, 400), st.sampled_from([(2.0, 28, 0.0), (5.0, 126, 10.0)]))
def test_any_box_has_a_crop_that_shows_what_it_says(xywh, height, width, rule) -> None:
    factor, out_px, min_px = rule
    crop = aligned_crop(xywh, factor, out_px, height, width, min_px)
    ramp = np.stack(np.broadcast_arrays(np.arange(width) % 256, np.arange(height)[:, None] % 256, 7), axis=-1)
    pixels = crop_aligned(ramp.astype(np.uint8), crop, (300.0, 300.0, 300.0))
    is_fill = (pixels == 300).all(axis=-1)
    shown = np.zeros_like(is_fill)
    shown[slice(*crop.crop_y), slice(*crop.crop_x)] = True
    assert np.array_equal(is_fill, ~shown)
    corners = np.array([xywh[0], xywh[1], xywh[0] + xywh[2], xywh[1] + xywh[3]])
    assert crop.to_frame(crop.to_crop(corners)) == pytest.approx(corners, abs=1e-6)
    for seen, size, place in ((crop.frame_x, width, crop.crop_x), (crop.frame_y, height, crop.crop_y)):
        assert 0 <= seen[0] <= seen[1] <= size and 0 <= place[0] <= place[1] <= out_px
        assert (seen[0] < seen[1]) == (place[0] < place[1]) == shown.any()
    if shown.any():  # the rectangles are each other's images
        rectangle = (crop.frame_x[0], crop.frame_y[0], crop.frame_x[1], crop.frame_y[1])
        expected = (crop.crop_x[0], crop.crop_y[0], crop.crop_x[1], crop.crop_y[1])
        assert crop.to_crop(rectangle) == pytest.approx(np.array(expected), abs=1e-3)


def test_a_crop_is_a_copy_where_nothing_is_resampled() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    crop = aligned_crop((20, 10, 14, 14), 2.0, 28, 60, 80)
    pixels = crop_aligned(frame, crop, (0, 0, 0))
    assert np.array_equal(pixels, frame[3:31, 13:41])
    assert normalise_float(pixels, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)) == pytest.approx(
        normalise(frame[3:31, 13:41], (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), abs=1e-6
    )
    assert whole_mean_colour(frame) == pytest.approx(frame.mean(axis=(0, 1)))


def test_foreground_is_what_the_box_touches() -> None:
    mask = foreground_tokens((10.0, 14.0, 28.001, 28.01), 3, 14).reshape(3, 3)  # 1e-4 of a token does not count
    assert mask.tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert foreground_tokens((-5, -5, 99, 99), 3, 14).tolist() == [1] * 9


@pytest.mark.parametrize(
    ("xyxy", "cell"), [((14, 14, 14, 14), 4), ((-9, 20, -8, 22), 3), ((60, 60, 61, 61), 8), ((41.999, 0, 42, 1e-7), 2)]
)
def test_there_is_always_some_foreground(xyxy, cell) -> None:
    assert np.flatnonzero(foreground_tokens(xyxy, 3, 14)).tolist() == [cell]


# The loop


@pytest.mark.parametrize("memory", ["exact", "bounded:4"])
@pytest.mark.parametrize("rule", RULES)
def test_follows_a_square(rule, memory) -> None:
    path = [(100 + 6 * t, 90 + 4 * t) for t in range(20)]
    states = run(tracker(replace(CONFIG, rule=rule, memory=memory)), [scene(x, y) for x, y in path])
    for t, (state, (x, y)) in enumerate(zip(states, path, strict=True)):
        assert iou(state.xywh, (x, y, 32, 32)) > 0.7
        assert 0 <= state.score <= 1
        assert state.frame_index == t


def test_decodes_by_hand() -> None:
    start = (100.0, 90.0, 25.2, 25.2)  # five times 25.2 are 126 px from (49.6, 39.6), so whole pixels are 127
    follower = tracker(session=PlacedSession((0.4, 0.3, 0.7, 0.6)))
    state = follower.init(scene(100, 90), xywh=start)
    after = follower.update(scene(100, 90), state)
    assert after.xyxy == pytest.approx((49 + 127 * 0.4, 39 + 127 * 0.3, 49 + 127 * 0.7, 39 + 127 * 0.6), abs=1e-4)
    assert after.score == 0.75 and after.presence == "tracked"
    outside = tracker(session=PlacedSession((-0.9, -0.1, 2.9, 1.4))).update(scene(100, 90), state)
    assert outside.xyxy == pytest.approx((0, 39 - 12.7, 320, 39 + 127 * 1.4), abs=1e-4)


def test_the_weight_of_the_window_decides() -> None:
    """It is added: a corner of the map, where it is zero, loses to the middle as soon as the weight says so."""
    session = PlacedSession(column=0, row=0)
    session.score[4, 4] = 0.3
    for weight in (0.0, 0.25, 0.45, 1.0):
        follower = tracker(replace(CONFIG, window=weight), session)
        after = follower.update(scene(100, 90), follower.init(scene(100, 90), xywh=(100, 90, 32, 32)))
        corner_wins = 0.75 * (1 - weight) > 0.3 * (1 - weight) + weight
        assert after.score == pytest.approx(0.75 if corner_wins else 0.3)
        assert after.presence == ("tracked" if corner_wins else "uncertain")


def test_queries_go_from_frame_to_frame() -> None:
    session = PlacedSession()
    states = run(tracker(session=session), [scene(100, 90)] * 4)
    assert [query.tolist() for query in session.given("track", "query")] == [[[t] * WIDTH] for t in range(3)]
    assert [state.features["query"].tolist() for state in states[1:]] == [[[t] * WIDTH] for t in range(1, 4)]
    assert "query" not in states[0].features


@pytest.mark.parametrize("rule", RULES)
def test_every_frame_is_compared_with_the_templates_of_its_rule(rule) -> None:
    """Template k is cut out of frame k at the box found there, filled with that frame's own mean colour."""
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(14)]
    session = PlacedSession((0.3, 0.35, 0.55, 0.6))
    config = replace(CONFIG, rule=rule)
    states = run(tracker(config, session), frames, xywh=(60, 3, 15, 12))
    expected = []
    for frame, state in zip(frames, states, strict=True):
        crop = aligned_crop(state.xywh, 2.0, 28, 60, 80)
        pixels = crop_aligned(frame, crop, tuple(frame.mean(axis=(0, 1)))) / 255
        expected.append((pixels.transpose(2, 0, 1), foreground_tokens(crop.to_crop(state.xyxy), 2, 14)))
    given = zip(session.given("encode", "template"), session.given("encode", "foreground"), strict=True)
    for t, (templates, foregrounds) in enumerate(given, start=1):
        d = t // 2
        past = {1: (0, 0, 0), 2: (0, 1, 1), 3: (0, 1, 2)}.get(t)
        past = past or ((0, d // 2, d + d // 2) if rule == "default" else (0, t // 3, 2 * t // 3))
        for template, foreground, k in zip(templates, foregrounds, past, strict=True):
            assert template == pytest.approx(expected[k][0], abs=1e-6)
            assert foreground.tolist() == expected[k][1].tolist()
            assert not np.allclose(template, expected[(k + 1) % 14][0], atol=1e-3)


def test_search_regions_are_filled_with_the_first_frames_colour() -> None:
    session = PlacedSession((0.4, 0.4, 0.6, 0.6))
    frames = [scene(2, 2, dark=dark) for dark in (20, 120, 220)]
    run(tracker(session=session), frames, xywh=(2, 2, 32, 32))
    first = frames[0].mean(axis=(0, 1)) / 255
    for search in session.given("track", "search"):
        assert search[0, :, 0, 0] == pytest.approx(first, abs=1e-6)


def test_a_small_target_has_a_region_of_ten_pixels() -> None:
    session = PlacedSession((0.5, 0.5, 0.55, 0.55))
    run(tracker(session=session), [scene(100, 90)] * 2, xywh=(110, 100, 3, 20))
    crop = aligned_crop((106.5, 100, 10, 20), 5.0, 126, 240, 320)
    pixels = crop_aligned(scene(100, 90), crop, (0, 0, 0)).transpose(2, 0, 1) / 255
    assert session.given("track", "search")[0][0] == pytest.approx(pixels, abs=1e-6)


@pytest.mark.parametrize("memory", ["exact", "bounded:4"])
@pytest.mark.parametrize("xyxy", [(-0.4, -0.4, -0.3, -0.3), (0.5, 0.5, 0.5, 0.9), (0.6, 0.2, 0.4, 0.4)])
def test_a_box_without_area_holds_the_target(xyxy, memory) -> None:
    """The official program ends there. Here the last box and template stay, and the next frame may find it again."""
    session = PlacedSession()
    follower = tracker(replace(CONFIG, memory=memory), session)
    frame = scene(10, 10)
    found = follower.update(frame, follower.init(frame, xywh=(10, 10, 32, 32)))
    session.boxes[:] = np.float32(xyxy)[:, None, None]
    held = follower.update(frame, found)
    assert (held.xywh, held.score, held.presence) == (found.xywh, 0.0, "uncertain")
    assert held.frame_index == 2
    assert held.memory.at(2) is found.memory.at(1)
    assert held.features["query"].tolist() == [[2] * WIDTH]
    session.boxes[:] = np.float32((0.4, 0.4, 0.6, 0.6))[:, None, None]
    again = follower.update(frame, held)
    assert again.presence == "tracked" and again.xywh != held.xywh


def test_frames_may_change_size() -> None:
    follower = tracker()
    frames = [scene(100, 90), scene(104, 92), scene(100, 60, 120, 160), scene(400, 300, 480, 640)]
    for frame, state in zip(frames, run(follower, frames), strict=True):
        x1, y1, x2, y2 = state.xyxy
        assert 0 <= x1 < x2 <= frame.shape[1]
        assert 0 <= y1 < y2 <= frame.shape[0]
    far = follower.init(scene(600, 400, height=480, width=640), xywh=(600, 400, 32, 32))
    assert follower.update(scene(10, 10, height=60, width=80), far).xywh == far.xywh  # the region holds nothing of it


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (240, 3)])
def test_the_smallest_frames(height, width) -> None:
    states = run(tracker(), [np.zeros((height, width, 3), np.uint8)] * 3, xywh=(0, 0, 1, 1))
    assert np.isfinite([state.xywh for state in states]).all()


@pytest.mark.parametrize(
    "xywh", [(-20, -10, 40, 40), (300, 220, 100, 100), (319.5, 0, 1, 1), (-3000, 100, 3010, 2), (310, 239, 4000, 3)]
)
def test_a_box_partly_outside_is_legal(xywh) -> None:
    states = run(tracker(), [scene(100, 90)] * 3, xywh=xywh)
    assert states[0].xywh == xywh
    assert np.isfinite([state.xywh for state in states]).all()


def test_three_formats_one_target() -> None:
    frame, follower = scene(100, 90), tracker()
    one, *others = (
        follower.init(frame, xywh=(100, 90, 32, 48)),
        follower.init(frame, xyxy=[100, 90, 132, 138]),
        follower.init(frame, cxcywh=np.array([116, 114, 32, 48])),
    )
    assert all(other == one for other in others)
    with pytest.raises(GeometryError, match=r"expected one of xywh=, xyxy=, cxcywh="):
        follower.init(frame)
    with pytest.raises(GeometryError, match="no area"):
        follower.init(frame, xywh=(5, 5, 0, 4))
    with pytest.raises(GeometryError, match="frame: got float64"):
        follower.init(np.zeros((4, 4, 3)), xywh=(1, 1, 2, 2))
    with pytest.raises(GeometryError, match="frame: got NoneType"):
        follower.update(None, one)


@pytest.mark.parametrize("memory", ["exact", "bounded:4"])
def test_targets_of_all_ages_in_one_batch_are_as_alone(memory) -> None:
    follower, frames = tracker(replace(CONFIG, memory=memory)), [scene(100 + 5 * t, 90) for t in range(9)]
    old = run(follower, frames[:8])[-1]
    young = follower.update(frames[7], follower.init(frames[6], xywh=(131, 91, 31, 30)))
    new = follower.init(frames[7], xywh=(135, 90, 32, 32))
    together = follower.update_many(frames[8], [old, young, new])
    assert together == [follower.update(frames[8], state) for state in (old, young, new)]
    assert [state.frame_index for state in together] == [8, 2, 1]
    assert together[0] != together[1] != together[2]
    assert follower.update_many(frames[8], []) == []


def test_a_clock_collects_the_stages() -> None:
    follower, clock = tracker(), StageClock()
    state = follower.init(scene(100, 90), xywh=(100, 90, 32, 32))
    assert follower.update(scene(100, 90), state, clock) == follower.update(scene(100, 90), state)
    assert list(clock.summary()) == ["crop", "network", "decode", "remember"]


# What does not fit


def test_a_state_of_another_tracker_is_refused() -> None:
    follower = tracker()
    state = follower.init(scene(100, 90), xywh=(100, 90, 32, 32))
    plain = TargetState(state.xywh, 1.0, "tracked", "colour", {})
    for other in (replace(state, model="other"), plain):
        with pytest.raises(ProtocolError, match=r"state: got one made by '\w+'; expected one made by 'colour'\. Call"):
            follower.update(scene(100, 90), other)


@pytest.mark.parametrize(
    ("graph", "change"),
    [
        ("encode", {"template_tokens": np.zeros((3, 5, WIDTH), np.float32)}),
        ("encode", {"template_tokens": np.zeros((2, 4, WIDTH), np.float32)}),
        ("encode", {}),
        ("track", {"score_map": np.zeros((1, 1, 8, 8), np.float32)}),
        ("track", {"box_map": np.zeros((1, 2, GRID, GRID), np.float32)}),
        ("track", {"query": np.zeros((1, 7), np.float32)}),
        ("track", {}),
        ("track", {"score_map": np.full((1, 1, GRID, GRID), np.nan, np.float32)}),
        ("track", {"box_map": np.full((1, 4, GRID, GRID), np.inf, np.float32)}),
        ("track", {"query": np.full((1, WIDTH), np.nan, np.float32)}),
    ],
)
def test_answers_that_do_not_fit_are_refused(graph, change) -> None:
    class Wrong(PlacedSession):
        def run(self, called, arrays):
            answer = super().run(called, arrays)
            return ({**answer, **change} if change else {}) if called == graph else answer

    follower = tracker(session=Wrong())
    state = follower.init(scene(100, 90), xywh=(100, 90, 32, 32))
    with pytest.raises(ProtocolError, match=r"session: .*got .*; expected"):
        follower.update(scene(100, 90), state)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rule": "otb"}, "got rule='otb'; expected 'default' or 'lasot'"),
        ({"window": 1.5}, "got window=1.5; expected 0 to 1"),
        ({"tracked_from": -1}, "got tracked_from=-1"),
        ({"template_px": 0}, "got template_px=0; expected a positive"),
        ({"search_factor": math.inf}, "got search_factor=inf"),
        ({"num_templates": 0}, "got num_templates=0"),
        ({"memory_budget_mb": -1}, "memory_budget_mb=-1; expected 0 or more"),
        ({"memory": "all"}, "memory: got 'all'; expected 'exact' or 'bounded:N'"),
        ({"memory": "bounded"}, "memory: got 'bounded'"),
        ({"memory": "bounded:-4"}, "memory: got 'bounded:-4'"),
        ({"memory": "bounded:²"}, "memory: got 'bounded:²'"),
        ({"memory": "bounded:2"}, "expected at least the 3 templates of a frame"),
        ({"mean": (0.5,)}, "expected three numbers each"),
        ({"std": (0.5, 0.0, 1.0)}, "expected three numbers each"),
    ],
)
def test_configs_that_make_no_sense(change, sentence) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        replace(CONFIG, **change)


def test_config_survives_json() -> None:
    config = replace(CONFIG, rule="lasot", memory=BOUNDED)
    assert SPMTrackConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert SPMTrackConfig.from_json({}) == SPMTrackConfig()
    for values in ({"stride_px": 14}, {"template_px": "wide"}, {"window": None}, {"memory": 4}):
        with pytest.raises(ProtocolError, match="tracker config: got"):
            SPMTrackConfig.from_json(values)


# State


def through_a_file(state: SPMTrackState, path: Path) -> SPMTrackState:
    np.savez(path, **state.to_arrays())
    with np.load(path, allow_pickle=False) as arrays:
        return SPMTrackState.from_arrays(arrays)


def test_state_is_a_value() -> None:
    follower, frames = tracker(), [scene(100 + 5 * t, 90) for t in range(6)]
    first, *_, last = states = run(follower, frames)
    with pytest.raises(FrozenInstanceError):
        first.score = 0.5
    for array in (last.features["query"], last.memory.at(3).read()):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    again = run(tracker(), frames)
    assert again == states
    assert [hash(state) for state in again] == [hash(state) for state in states]
    assert copy.deepcopy(last) == last == pickle.loads(pickle.dumps(last)) == copy.copy(last)
    assert states[1] != states[2]
    assert last != replace(last, score=0.5)
    assert last != replace(last, fill_rgb=(1.0, 2.0, 3.0))
    assert last != replace(last, features={"query": last.features["query"] + 1})
    assert last != replace(last, memory=states[-2].memory)
    assert last != TargetState(last.xywh, last.score, last.presence, last.model, last.features)
    other = Kept(last.memory.at(0).read() + 1)
    assert last != replace(last, memory=replace(last.memory, first=other))


@pytest.mark.parametrize("memory", ["exact", "bounded:8"])
@pytest.mark.parametrize("num_frames", [1, 2, 40, 3 * CHUNK])
def test_state_survives_a_file_and_goes_on_to_the_bit(num_frames, memory, tmp_path) -> None:
    config = replace(CONFIG, memory=memory, memory_budget_mb=0.05)  # five templates, the others lie in the file
    frames = [scene(100 + 2 * (t % 7), 90 + t % 5) for t in range(num_frames + 30)]
    follower = tracker(config)
    state = run(follower, frames[:num_frames])[-1]
    restored = through_a_file(state, tmp_path / "state.npz")
    assert restored == state
    assert restored.memory.items() == state.memory.items()
    for frame in frames[num_frames:]:
        state, restored = follower.update(frame, state), tracker(config).update(frame, restored)
    assert restored == state


def test_what_is_no_saved_state_is_refused(tmp_path) -> None:
    arrays = run(tracker(), [scene(100, 90)] * 2)[-1].to_arrays()
    for name in arrays:
        if not name.startswith("features"):
            with pytest.raises(ProtocolError, match=r"saved state: got arrays .*; expected those of .*to_arrays\(\)"):
                SPMTrackState.from_arrays({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ProtocolError, match="saved state"):
        SPMTrackState.from_arrays(arrays | {"memory.indices": np.arange(7)})


def test_rewinding_gives_the_same_again() -> None:
    follower, frames = tracker(), [scene(100 + 5 * t, 90 + 3 * t) for t in range(8)]
    states = run(follower, frames)
    before = copy.deepcopy(states[3].memory.items())
    assert follower.update(frames[4], states[3]) == states[4]
    assert follower.update(frames[1], states[0]) == states[1]
    branch = follower.update(frames[7], states[3])
    assert branch != states[4] and branch.memory.at(2) is states[4].memory.at(2)
    assert states[3].memory.items() == before


def test_a_state_of_other_sides_is_told() -> None:
    state = tracker().init(scene(100, 90), xywh=(100, 90, 32, 32))
    with pytest.raises(ProtocolError, match=r"got templates of 2356 numbers; expected 5301, of 42 px\. Use the sides"):
        tracker(replace(CONFIG, template_px=42)).update(scene(100, 90), state)


def test_a_state_of_another_rule_is_told() -> None:
    frames = [scene(100, 90)] * 3 * CHUNK * 4
    lasot = run(tracker(replace(CONFIG, num_templates=2, rule="lasot")), frames)[-1]
    with pytest.raises(ProtocolError, match=r"got asked for frame 96; expected 0 or 192 to 383, which it holds\. Use"):
        tracker(replace(CONFIG, num_templates=3)).update(frames[0], lasot)


# Which frames are asked for


@given(st.integers(1, 100_000), st.integers(1, 8), st.sampled_from(RULES))
def test_frames_that_are_asked_for_lie_in_the_past_in_order(t, num, rule) -> None:
    frames = asked(t, num, rule)
    assert len(frames) == num and frames[0] == 0
    assert list(frames) == sorted(frames) and frames[-1] < t
    if t >= num:
        assert len(set(frames)) == num
    if num == 3 and t >= 4:
        d = t // 2
        assert frames == ((0, d // 2, d + d // 2) if rule == "default" else (0, t // 3, 2 * t // 3))
    assert asked(1, 3, rule) == (0, 0, 0) and asked(2, 3, rule) == (0, 1, 1) and asked(3, 3, rule) == (0, 1, 2)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.sampled_from(RULES))
def test_from_the_oldest_on_all_are_asked_for_again_and_none_below(t, num, rule) -> None:
    later = {k for after in range(t, 2 * num * t + 2 * num) for k in asked(after, num, rule)}
    first = oldest(t, num, rule)
    assert all(k == 0 or k >= first for k in later)
    assert set(range(max(first, 1), t)) <= later  # k < t are those that exist; none of them is kept in vain


# The memory


class KeepAll:
    """What the official code does. One list that grows, so only the newest state is good."""

    kind = "all"

    def __init__(self, held: list[Kept]) -> None:
        self.held = held

    @property
    def count(self) -> int:
        return len(self.held)

    def at(self, index: int) -> Kept:
        return self.held[index]

    def appended(self, kept: Kept, oldest: int) -> KeepAll:
        self.held.append(kept)
        return self


def tiny(k: int) -> np.ndarray:
    return np.full(8, k, np.float32)


@pytest.mark.parametrize("num", [1, 3, 5])
@pytest.mark.parametrize("rule", RULES)
def test_exact_memory_gives_what_keeping_all_gives_for_10_000_frames(rule, num) -> None:
    store = TemplateStore(budget_mb=32 * 1000 / 1e6)
    memory = memory_of("exact", [(0, store.keep(tiny(0)))])
    for t in range(1, 10_001):
        assert memory.count == t
        wanted = asked(t, num, rule)
        assert [int(memory.at(k).read()[0]) for k in wanted] == list(wanted)
        memory = memory.appended(store.keep(tiny(t)), oldest(t + 1, num, rule))
        if t % 100 == 0:
            needed = t + 1 - oldest(t + 1, num, rule)
            assert needed <= len(memory.items()) - 1 < needed + CHUNK or num == 1
            assert store.ram_bytes == 32 * min(1000, store.ram_bytes // 32)
    held = len(memory.items())
    assert store.ram_bytes + store.file_bytes <= 32 * (held + 2 * CHUNK)  # slots are used again
    assert (store.file_bytes > 0) == (num > 1)


def test_limits_of_the_memory_in_megabytes() -> None:
    """What the page and the docstrings say of the official sizes."""
    template_mb = 4 * (3 * 196**2 + 14**2) / 1e6
    assert template_mb == pytest.approx(0.462, abs=5e-4)
    assert 1000 * 0.75 * template_mb == pytest.approx(346, abs=0.5)
    assert 1000 * 2 / 3 * template_mb == pytest.approx(308, abs=0.5)
    assert 64 * template_mb == pytest.approx(30, abs=0.5)
    for rule, mb in (("default", 346), ("lasot", 308)):
        kept = 100_000 - oldest(100_000, 3, rule)
        assert kept * template_mb / 100 == pytest.approx(mb, abs=0.5)
    assert [4 * 196 * width / 1e6 for width in (768, 1024, 1536)] == pytest.approx([0.60, 0.80, 1.20], abs=0.005)


@pytest.mark.parametrize("limit", [16, 32, 64])
@pytest.mark.parametrize("rule", RULES)
def test_bounded_memory_stays_near_what_is_asked(rule, limit) -> None:
    store = TemplateStore(budget_mb=1000)
    memory = memory_of(f"bounded:{limit}", [(0, store.keep(tiny(0)))])
    worst, first_miss = 0.0, 0
    for t in range(1, 10_001):
        used = [int(memory.at(k).read()[0]) for k in asked(t, 3, rule)]
        far = np.abs(np.subtract(used, asked(t, 3, rule)))
        assert far[0] == 0
        worst = max(worst, far.max() / t)
        first_miss = first_miss or (t if far.any() else 0)
        memory = memory.appended(store.keep(tiny(t)), oldest(t + 1, 3, rule))
        assert memory.count == t + 1 and len(memory.items()) == min(t + 1, limit)
        assert store.ram_bytes == 32 * len(memory.items())
        assert memory.at(t).read()[0] == t
    assert 0 < worst <= 0.75 / limit
    assert first_miss >= limit


def test_bounded_memory_lets_go_as_it_says() -> None:
    memory = memory_of("bounded:4", [(k, Kept(tiny(k))) for k in (0, 4, 6, 9)])
    assert [k for k, _ in memory.appended(Kept(tiny(10)), oldest=3).items()] == [0, 4, 6, 10]  # 6 and 10 are closest
    assert [k for k, _ in memory.appended(Kept(tiny(10)), oldest=6).items()] == [0, 6, 9, 10]  # 6 does for all
    assert [int(memory.at(k).read()[0]) for k in (0, 2, 3, 5, 7, 8, 99)] == [0, 0, 4, 4, 6, 9, 9]


def test_old_states_cost_what_they_alone_hold() -> None:
    store = TemplateStore(budget_mb=1000)
    memories = [memory_of("exact", [(0, store.keep(tiny(0)))])]
    for t in range(1, 2000):
        memories.append(memories[-1].appended(store.keep(tiny(t)), oldest(t + 1, 3, "default")))
    assert store.ram_bytes == 32 * 2000  # every template once, though 2,000 memories hold it
    chunks = {id(memory.full): len(memory.full) for memory in memories}
    references = sum(len(memory.tail) for memory in memories) + sum(chunks.values())
    assert references <= CHUNK * 2000  # and not a million and a half
    del memories[:-1]
    assert store.ram_bytes == 32 * len({id(kept) for _, kept in memories[0].items()}) < 32 * (1500 + CHUNK + 2)
    memories.clear()
    assert store.ram_bytes == 0


def test_room_is_given_back_and_the_file_goes_with_the_last_state(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = TemplateStore(budget_mb=64 / 1e6)
    kept = [store.keep(tiny(k)) for k in range(10)]
    assert (store.ram_bytes, store.file_bytes) == (64, 8 * 32)
    assert [int(each.read()[0]) for each in kept] == list(range(10))
    same = copy.deepcopy(kept[7])
    del kept[5:8]  # 7 lives on in the copy
    more = [store.keep(tiny(k)) for k in (20, 21, 22)]
    assert store.file_bytes == 9 * 32
    assert [int(each.read()[0]) for each in (*more, same)] == [20, 21, 22, 7]
    del kept[0]
    assert store.ram_bytes == 32
    handle = store._file
    assert handle is not None and list(tmp_path.iterdir()) in ([], [Path(str(handle.name))])
    del store
    assert int(more[0].read()[0]) == 20  # the states keep it open
    assert pickle.loads(pickle.dumps(more[1])) == more[1]
    del kept, more, same
    gc.collect()
    assert handle.closed


def test_a_full_disk_is_told_and_leaves_the_memory_as_it_was(monkeypatch) -> None:
    import errno
    import tempfile

    real = tempfile.TemporaryFile

    class Full:
        def __init__(self) -> None:
            self.file, self.room = real(buffering=0), 40

        def write(self, data) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    disk = Full()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: disk)
    store = TemplateStore(budget_mb=0)
    first = store.keep(tiny(1))
    with pytest.raises(
        SightlineError, match=r"got 'No space left on device' on writing 32 bytes to the .*memory='bounded:"
    ):
        store.keep(tiny(2))
    disk.room = 1000
    second = store.keep(tiny(3))
    assert [each.read().tolist() for each in (first, second)] == [[1] * 8, [3] * 8]
    assert store.file_bytes == 64


# Ten thousand frames


class Chaos:
    """Recorded answers; the templates' bytes choose which, so another template at any frame changes the rest."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.scores = rng.random((16, 1, 1, 5, 5), dtype=np.float32)
        corner = rng.uniform(0.3, 0.5, (16, 1, 2, 5, 5))
        self.boxes = np.concatenate([corner, corner + rng.uniform(0.15, 0.25, corner.shape)], axis=2).astype(np.float32)

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ()

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if graph == "encode":
            return {"template_tokens": np.repeat(arrays["template"][:, :, 14:15, 14].swapaxes(1, 2), 4, axis=1)}
        chosen = zlib.crc32(np.ascontiguousarray(arrays["template_tokens"]).tobytes()) % 16
        return {"score_map": self.scores[chosen], "box_map": self.boxes[chosen], "query": arrays["query"]}


def resident_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def in_a_process_of_its_own(config: SPMTrackConfig, keep_all: bool = False) -> tuple[np.ndarray, float]:
    """`follow_10_000` where no test before has left memory that can be used again instead of growing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(follow_10_000, config, keep_all).result(timeout=300)


def follow_10_000(config: SPMTrackConfig, keep_all: bool = False) -> tuple[np.ndarray, float]:
    """Boxes and scores, and by how many MB the process grew after the first 2,000 frames."""
    rng = np.random.default_rng(5)
    frames = [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(7)]
    follower = SPMTrackTracker(Chaos(), replace(config, search_px=70))
    state = follower.init(frames[0], xywh=(50, 35, 20, 22))
    if keep_all:
        state = replace(state, memory=KeepAll([state.memory.at(0)]))
    found, before = [], 0.0
    for t in range(1, 10_001):
        state = follower.update(frames[t % 7], state)
        found.append((*state.xywh, state.score))
        if t == 2000:
            before = resident_mb()
    return np.array(found), resident_mb() - before


def test_10_000_frames_are_followed_as_by_keeping_all_in_flat_memory() -> None:
    """A template is 9.4 KB here: 60 MB in the frames that are measured, of which the file takes all but 2 MB."""
    everything, grown_mb = in_a_process_of_its_own(replace(CONFIG, memory_budget_mb=1e6), keep_all=True)
    assert grown_mb > 40  # the control
    exact, exact_mb = in_a_process_of_its_own(replace(CONFIG, memory_budget_mb=2))
    bounded, bounded_mb = in_a_process_of_its_own(replace(CONFIG, memory="bounded:64"))
    assert np.array_equal(exact, everything)
    assert len(np.unique(exact, axis=0)) > 8000  # it does not run in a circle
    assert max(exact_mb, bounded_mb) < 10
    parted = np.flatnonzero((bounded != everything).any(axis=1))[0]
    assert 64 <= parted < 200  # the same up to there, and then another template, so all else too
