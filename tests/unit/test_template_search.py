"""The tracking loop over a session of plain NumPy, so that every number in these tests can be worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.errors import GeometryError, ProtocolError
from sightline.geometry.boxes import iou
from sightline.geometry.codecs import decode_centre
from sightline.geometry.crops import snapped_region
from sightline.geometry.windows import hann
from sightline.runtime.replay import RecordingSession, ReplaySession
from sightline.runtime.session import Arrays
from sightline.runtime.stages import StageClock
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from sightline.types import TargetState

GRID = 8
CONFIG = TemplateSearchConfig(
    template_px=64, search_px=128, mean=(0.0,) * 3, std=(1.0,) * 3, crop="exact", map_back="exact"
)
OFFICIAL = replace(CONFIG, crop="snapped", map_back="centre")
CHANNELS = {"score_map": 1, "size_map": 2, "offset_map": 2}
BRIGHT, DARK = (220, 30, 30), 20
DARK_TO_BRIGHT = sum(value - DARK for value in BRIGHT) / 255


class ColourSession:
    """Finds the middle of all that has the template's mean colour; says of the size only that it is a quarter."""

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template",) if graph == "encode" else ("search", "colour")

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if graph == "encode":
            assert arrays["template"].dtype == np.float32
            return {"colour": arrays["template"][:, :, 24:40, 24:40].mean(axis=(2, 3), keepdims=True)}
        search, targets = arrays["search"], len(arrays["search"])
        assert search.dtype == np.float32
        assert arrays["colour"].shape == (targets, 3, 1, 1)
        cells = search.reshape(targets, 3, GRID, 16, GRID, 16).mean(axis=(3, 5))
        far = np.abs(cells - arrays["colour"]).sum(axis=1)
        likeness = np.clip(1 - far / DARK_TO_BRIGHT, 1e-6, 1)  # the share of a cell that the target covers
        maps = {name: np.zeros((targets, rows, GRID, GRID), np.float32) for name, rows in CHANNELS.items()}
        maps["size_map"][:] = 0.25
        for k, weight in enumerate(likeness):
            along = np.arange(GRID) + 0.5
            middle = np.array([weight.sum(axis=0) @ along, weight.sum(axis=1) @ along]) / weight.sum()
            column, row = np.floor(middle).astype(int)
            maps["score_map"][k, 0, row, column] = weight.max()
            maps["offset_map"][k, :, row, column] = middle - (column, row)
        return maps


class PlacedSession:
    """Answers with the maps that the test holds, whatever it sees."""

    def __init__(self, column: int = 4, row: int = 4, offset: float = 0.25, width: float = 0.25, height: float = 0.5):
        score = np.full((1, 1, GRID, GRID), 0.01, np.float32)
        score[0, 0, row, column] = 0.75
        offset_map = np.full((1, 2, GRID, GRID), offset, np.float32)
        size_map = np.broadcast_to(np.float32([width, height])[None, :, None, None], offset_map.shape).copy()
        self.maps = {"score_map": score, "size_map": size_map, "offset_map": offset_map}

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template",)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if graph == "encode":
            return {"features": np.zeros((1, 3), np.float32)}
        return {name: np.repeat(value, len(arrays["search"]), axis=0) for name, value in self.maps.items()}


def scene(x: int, y: int, height: int = 240, width: int = 320) -> np.ndarray:
    """A square of 32 pixels on a dark frame that nobody may write to."""
    frame = np.full((height, width, 3), DARK, np.uint8)
    frame[y : y + 32, x : x + 32] = BRIGHT
    frame.flags.writeable = False
    return frame


def tracker(config: TemplateSearchConfig = CONFIG, session=None) -> TemplateSearchTracker:
    return TemplateSearchTracker(session or ColourSession(), config, "colour")


def run(follower: TemplateSearchTracker, frames: list[np.ndarray], xywh=(100, 90, 32, 32)) -> list[TargetState]:
    states = [follower.init(frames[0], xywh=xywh)]
    for frame in frames[1:]:
        states.append(follower.update(frame, states[-1]))
    return states


# The loop


@pytest.mark.parametrize("config", [CONFIG, OFFICIAL], ids=["exact", "official"])
def test_follows_a_square(config) -> None:
    path = [(100 + 6 * t, 90 + 4 * t) for t in range(12)]
    states = run(tracker(config), [scene(x, y) for x, y in path])
    for state, (x, y) in zip(states, path, strict=True):
        assert iou(state.xywh, (x, y, 32, 32)) > 0.9
        assert 0 <= state.score <= 1


def test_decodes_by_hand() -> None:
    start = (100.0, 90.0, 40.0, 90.0)
    state = tracker(session=PlacedSession()).init(scene(100, 90), xywh=start)
    after = tracker(session=PlacedSession()).update(scene(100, 90), state)
    side = 4 * 60.0  # sqrt(40 x 90) = 60
    centre = 4.25 / 8 * side  # cell 4, offset 0.25
    expected = (120 - side / 2 + centre - side / 8, 135 - side / 2 + centre - side / 4, side / 4, side / 2)
    assert after.xywh == pytest.approx(expected, abs=1e-9)
    assert after.score == 0.75  # the network's, not the windowed one


def test_the_template_is_cut_around_the_box() -> None:
    seen = {}

    class Watching(PlacedSession):
        def run(self, graph, arrays):
            seen[graph] = arrays
            return super().run(graph, arrays)

    follower = tracker(session=Watching())
    follower.update(scene(100, 90), follower.init(scene(100, 90), xywh=(100, 90, 32, 32)))
    template, search = seen["encode"]["template"][0], seen["track"]["search"][0]
    for crop, margin in ((template, 16), (search, 48)):  # half, and a quarter of the crop's side is target
        red = crop[0] > 0.5
        rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
        assert (rows[0], rows[-1], columns[0], columns[-1]) == (margin, len(red) - margin - 1) * 2
    assert list(seen["track"]) == ["search", "features"]


def test_the_mask_of_the_target_is_made_for_a_session_that_asks() -> None:
    asked = {}

    class Masked(PlacedSession):
        def inputs(self, graph):
            return ("template", "template_mask")

        def run(self, graph, arrays):
            asked.update(arrays)
            return super().run(graph, arrays)

    tracker(session=Masked()).init(scene(100, 90), xywh=(100, 90, 32, 32))
    middle = np.zeros((4, 4), np.float32)
    middle[1:3, 1:3] = 1
    assert np.array_equal(asked["template_mask"], middle.reshape(1, 16))


def test_the_weight_of_the_window_decides() -> None:
    """A cell in the corner with the higher score loses to the middle as soon as the weight says so."""
    session = PlacedSession(column=0, row=0)
    session.maps["score_map"][0, 0, 3, 3] = 0.3
    score, window = session.maps["score_map"][0, 0], hann(GRID)
    state = tracker(session=session).init(scene(100, 90), xywh=(100, 90, 32, 32))
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        after = tracker(replace(CONFIG, window=weight), session).update(scene(100, 90), state)
        corner = score[0, 0] * (weight * window[0, 0] + 1 - weight)
        middle = score[3, 3] * (weight * window[3, 3] + 1 - weight)
        assert after.score == pytest.approx(0.75 if corner > middle else 0.3)
    assert corner < middle  # with the whole window the middle wins
    assert tracker(replace(CONFIG, window=0.0), session).update(scene(100, 90), state).score == 0.75


@pytest.mark.parametrize("xywh", [(100.3, 90.6, 33.3, 47.1), (110.5, 81.5, 21.0, 20.0), (150.2, 100.9, 31.0, 37.7)])
def test_map_back_differs_by_the_rounding_of_the_crop_only(xywh) -> None:
    session = PlacedSession()
    state = tracker(OFFICIAL, session).init(scene(100, 90), xywh=xywh)
    centre, exact = (
        tracker(replace(OFFICIAL, map_back=rule), session).update(scene(100, 90), state).xywh
        for rule in ("centre", "exact")
    )
    region = snapped_region(xywh, 4.0, 128)
    x, y, w, h = xywh
    rounding = (region.x1 + region.side_px / 2 - x - w / 2, region.y1 + region.side_px / 2 - y - h / 2)
    assert max(map(abs, rounding)) <= 0.5
    assert np.subtract(exact, centre) == pytest.approx((*rounding, 0, 0), abs=1e-9)


@pytest.mark.parametrize("config", [CONFIG, OFFICIAL], ids=["exact", "official"])
def test_frames_may_change_size(config) -> None:
    follower = tracker(config)
    frames = [scene(100, 90), scene(104, 92), scene(100, 60, 120, 160), scene(400, 300, 480, 640)]
    for frame, state in zip(frames, run(follower, frames), strict=True):
        x1, y1, x2, y2 = state.xyxy
        height, width = frame.shape[:2]
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    far = follower.init(scene(600, 400, height=480, width=640), xywh=(600, 400, 32, 32))
    x1, y1, x2, y2 = follower.update(scene(10, 10, height=60, width=80), far).xyxy  # the crop holds nothing of it
    assert 0 <= x1 < x2 <= 80
    assert 0 <= y1 < y2 <= 60


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (240, 3)])
@pytest.mark.parametrize("config", [CONFIG, OFFICIAL], ids=["exact", "official"])
def test_the_smallest_frames(config, height, width) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    states = run(tracker(config), [frame] * 3, xywh=(0, 0, 1, 1))
    assert np.isfinite([state.xywh for state in states]).all()


# init


def test_three_formats_one_target() -> None:
    frame, follower = scene(100, 90), tracker()
    states = [
        follower.init(frame, xywh=(100, 90, 32, 48)),
        follower.init(frame, xyxy=[100, 90, 132, 138]),
        follower.init(frame, cxcywh=np.array([116, 114, 32, 48])),
    ]
    assert states[0] == states[1] == states[2]
    assert states[0].xywh == (100, 90, 32, 48)
    assert states[0].xyxy == (100, 90, 132, 138)
    assert states[0].cxcywh == (116, 114, 32, 48)
    assert states[0].score == 1


@pytest.mark.parametrize("given", [{}, {"xywh": (1, 2, 3, 4), "xyxy": (1, 2, 3, 4)}, {"xyxy": (1,), "cxcywh": (1,)}])
def test_exactly_one_box(given) -> None:
    with pytest.raises(GeometryError, match=r"expected one of xywh=, xyxy=, cxcywh=\. Pass one"):
        tracker().init(scene(100, 90), **given)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"xywh": (5, 5, 0, 4)},
            r"no area: got w=0, h=4 \(xywh=\(5, 5, 0, 4\), image pixels\); expected w > 0 and",
        ),
        ({"xywh": (5, 5, 4, -1)}, "no area: got w=4, h=-1"),
        ({"xyxy": (50, 5, 40, 20)}, "no area: got w=-10"),
        ({"xywh": (NAN, 5, 4, 4)}, r"not finite: got xywh=\(nan, 5, 4, 4\)"),
        ({"xyxy": (5, 5, INF, 9)}, r"not finite: got xyxy=\(5, 5, inf, 9\)"),
        ({"cxcywh": (-INF, 5, INF, 9)}, "not finite"),
        ({"xywh": (320, 5, 4, 4)}, "outside the frame: got .* in a frame of 320 x 240; expected an overlap"),
        ({"xywh": (5, 240, 4, 4)}, "outside the frame"),
        ({"xywh": (-4, 5, 4, 4)}, "outside the frame"),
        ({"xywh": (5, -9, 4, 9)}, "outside the frame"),
        ({"xyxy": (1, 2, 3)}, r"got xyxy of shape \(3,\); expected four numbers"),
        ({"xywh": [(1, 2, 3, 4)]}, r"got xywh of shape \(1, 4\)"),
        ({"xywh": 7}, r"got xywh of shape \(\)"),
        ({"xywh": "1,2,3,4"}, "got xywh='1,2,3,4'; expected four numbers"),
        ({"cxcywh": (1, 2, 3, None)}, "not finite"),
    ],
)
def test_boxes_that_are_no_target(given, sentence) -> None:
    with pytest.raises(GeometryError, match=sentence):
        tracker().init(scene(100, 90), **given)


@pytest.mark.parametrize("config", [CONFIG, OFFICIAL], ids=["exact", "official"])
@pytest.mark.parametrize(
    "xywh", [(-20, -10, 40, 40), (300, 220, 100, 100), (319.5, 0, 1, 1), (-3000, 100, 3010, 2), (310, 239, 4000, 3)]
)
def test_a_box_partly_outside_is_legal(config, xywh) -> None:
    """Even one so long that its template crop lies beside the frame."""
    follower = tracker(config)
    state = follower.init(scene(100, 90), xywh=xywh)
    assert state.xywh == xywh
    x1, y1, x2, y2 = follower.update(scene(100, 90), state).xyxy
    assert 0 <= x1 < x2 <= 320
    assert 0 <= y1 < y2 <= 240


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (np.zeros((240, 320), np.uint8), r"uint8 \(240, 320\)"),
        (np.zeros((240, 320, 1), np.uint8), r"uint8 \(240, 320, 1\)"),
        (np.zeros((240, 320, 4), np.uint8), r"uint8 \(240, 320, 4\)"),
        (np.zeros((240, 320, 3), np.float32), r"float32 \(240, 320, 3\)"),
        (np.zeros((240, 320, 3), np.uint16), r"uint16 \(240, 320, 3\)"),
        (np.zeros((0, 320, 3), np.uint8), r"uint8 \(0, 320, 3\)"),
        (None, "NoneType"),
        ("clip.mp4", "str"),
    ],
)
def test_frames_that_are_no_frame(frame, got) -> None:
    with pytest.raises(GeometryError, match=rf"frame: got {got}; expected \(H, W, 3\) uint8 RGB\. sightline.imaging"):
        tracker().init(frame, xywh=(100, 90, 32, 32))
    state = tracker().init(scene(100, 90), xywh=(100, 90, 32, 32))
    with pytest.raises(GeometryError, match=rf"frame: got {got}"):
        tracker().update(frame, state)


# State


def test_state_is_a_value() -> None:
    follower, frames = tracker(), [scene(100 + 5 * t, 90) for t in range(4)]
    first, *_ = states = run(follower, frames)
    with pytest.raises(FrozenInstanceError):
        first.score = 0.5
    with pytest.raises(ValueError, match="read-only"):
        first.features["colour"][:] = 0
    again = run(tracker(), frames)
    assert again == states
    assert [hash(state) for state in again] == [hash(state) for state in states]
    assert copy.deepcopy(first) == first
    assert states[1] != states[2]
    assert first != replace(first, score=0.5)
    assert first != replace(first, model="other")
    assert first != replace(first, features={"colour": first.features["colour"] + 1})
    assert first != replace(first, features={})
    assert first != "a state"


def test_rewinding_gives_the_same_again() -> None:
    follower, frames = tracker(), [scene(100 + 5 * t, 90 + 3 * t) for t in range(6)]
    states = run(follower, frames)
    assert follower.update(frames[3], states[2]) == states[3]
    assert follower.update(frames[1], states[0]) == states[1]


def test_an_update_leaves_the_old_state_alone() -> None:
    follower = tracker()
    state = follower.init(scene(100, 90), xywh=(100, 90, 32, 32))
    before = copy.deepcopy(state)
    follower.update(scene(110, 95), state)
    assert state == before


def test_state_survives_a_file(tmp_path) -> None:
    follower = tracker(OFFICIAL)
    state = run(follower, [scene(100, 90), scene(107, 94)], xywh=(100.1, 90.7, 100 / 3, 31.9))[1]
    np.savez(tmp_path / "state.npz", **state.to_arrays())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as arrays:
        loaded = TargetState.from_arrays(arrays)
    assert loaded == state == TargetState.from_arrays(state.to_arrays())
    assert follower.update(scene(112, 96), loaded) == follower.update(scene(112, 96), state)
    with pytest.raises(ValueError, match="read-only"):
        loaded.features["colour"][:] = 0


@pytest.mark.parametrize("head", [None, "{}", "no json", "3", '{"xywh": [1, 2]}', '{"xywh": [1, 2, 3, 4], "score": 1}'])
def test_arrays_that_are_no_state(head) -> None:
    arrays = {} if head is None else {"state": np.array(head)}
    with pytest.raises(ProtocolError, match=r"saved state: got arrays .*; expected those of to_arrays\(\)"):
        TargetState.from_arrays(arrays)


def test_a_state_of_another_model_is_refused() -> None:
    state = TemplateSearchTracker(ColourSession(), CONFIG, "other").init(scene(100, 90), xywh=(100, 90, 32, 32))
    with pytest.raises(ProtocolError, match="got one made by 'other'; expected one made by 'colour'"):
        tracker().update(scene(100, 90), state)
    own = tracker().init(scene(100, 90), xywh=(100, 90, 32, 32))
    with pytest.raises(ProtocolError, match="made by 'other'"):
        tracker().update_many(scene(100, 90), [own, state])


# Many targets


@pytest.mark.parametrize("config", [CONFIG, OFFICIAL], ids=["exact", "official"])
def test_many_updates_in_one_equal_single_ones(config) -> None:
    follower = tracker(config)
    frames = []
    for t in range(4):
        frame = scene(60 + 4 * t, 60).copy()
        frame[150 - 3 * t : 182 - 3 * t, 200:232] = (30, 220, 30)
        frame[20:52, 250 - 5 * t : 282 - 5 * t] = (30, 30, 220)
        frames.append(frame)
    boxes = [(60, 60, 32, 32), (200, 150, 32, 32), (250, 20, 30.5, 33.25)]
    singles = [run(follower, frames, xywh=box) for box in boxes]
    together = [follower.init(frames[0], xywh=box) for box in boxes]
    for t, frame in enumerate(frames[1:], start=1):
        together = follower.update_many(frame, together)
        assert together == [states[t] for states in singles]
    assert follower.update_many(frames[3], together[::-1]) == follower.update_many(frames[3], together)[::-1]


def test_many_targets_are_one_call_of_the_network() -> None:
    recording = RecordingSession(ColourSession())
    follower = tracker(session=recording)
    state = follower.init(scene(100, 90), xywh=(100, 90, 32, 32))
    follower.update_many(scene(100, 90), [state] * 5)
    assert [graph for graph, _ in recording.answers] == ["encode", "track"]
    assert len(recording.answers[1][1]["score_map"]) == 5


def test_no_target_is_no_work() -> None:
    assert tracker(session=ReplaySession([])).update_many(scene(100, 90), []) == []


# Sessions that misbehave


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_maps_that_are_not_finite_are_refused(name, value) -> None:
    session = PlacedSession()
    state = tracker(session=session).init(scene(100, 90), xywh=(100, 90, 32, 32))
    session.maps[name][:] = value
    with pytest.raises(ProtocolError, match=r"maps of target 0: got .* at the peak; expected finite numbers\. Check"):
        tracker(session=session).update_many(scene(100, 90), [state, state])


def test_one_cell_that_is_not_a_number_is_refused_in_the_scores_only() -> None:
    session = PlacedSession(column=4, row=4)
    state = tracker(session=session).init(scene(100, 90), xywh=(100, 90, 32, 32))
    expected = tracker(session=session).update(scene(100, 90), state)
    session.maps["size_map"][0, :, 0, 0] = NAN  # not the peak: no box is made of it
    assert tracker(session=session).update(scene(100, 90), state) == expected
    session.maps["score_map"][0, 0, 7, 7] = NAN  # whether it is the peak, nobody knows
    with pytest.raises(ProtocolError, match="got score nan"):
        tracker(session=session).update(scene(100, 90), state)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda maps: maps.pop("size_map"),
        lambda maps: maps.update(score_map=maps["score_map"][:, :, :4, :4]),
        lambda maps: maps.update(size_map=maps["score_map"]),
        lambda maps: maps.update(score_map=maps["score_map"][:, 0]),
        lambda maps: maps.update({name: value.repeat(2, axis=0) for name, value in maps.items()}),
    ],
    ids=["missing", "smaller grid", "one size", "no channel", "another count"],
)
def test_maps_of_another_shape_are_refused(spoil) -> None:
    session = PlacedSession()
    state = tracker(session=session).init(scene(100, 90), xywh=(100, 90, 32, 32))
    spoil(session.maps)
    with pytest.raises(ProtocolError, match=r"session: got \{.*\}; expected \{'score_map': \(1, 1, 8, 8\)"):
        tracker(session=session).update(scene(100, 90), state)


def test_a_size_of_nothing_or_too_much_stays_a_box() -> None:
    for size in (0.0, 1e-30, 1.0, 1e6):
        session = PlacedSession(width=size, height=size)
        state = run(tracker(session=session), [scene(100, 90)] * 4)[-1]
        x1, y1, x2, y2 = state.xyxy
        assert 0 <= x1 <= x2 - 10 <= 310 + 1e-9
        assert 0 <= y1 <= y2 - 10 <= 230 + 1e-9


# Recording and replay


def test_a_recording_tracks_without_the_network() -> None:
    frames = [scene(100 + 5 * t, 90 + 3 * t) for t in range(5)]
    recording = RecordingSession(ColourSession())
    assert recording.inputs("encode") == ("template",)
    states = run(tracker(session=recording), frames)
    assert run(tracker(session=ReplaySession(recording.answers)), frames) == states

    replay = tracker(session=ReplaySession(recording.answers))
    run(replay, frames)
    with pytest.raises(ProtocolError, match="replay: got call 5; expected at most 5"):
        replay.update(frames[0], states[0])
    with pytest.raises(ProtocolError, match="got graph 'track' at call 0; expected 'encode'"):
        tracker(session=ReplaySession(recording.answers)).update(frames[0], states[0])


def test_a_replay_may_loop() -> None:
    recording = RecordingSession(ColourSession())
    frames = [scene(100, 90)] * 3
    states = run(tracker(session=recording), frames)
    replay = tracker(session=ReplaySession(recording.answers, loop=True))
    assert run(replay, frames + frames[1:])[-1].score == states[-1].score
    with pytest.raises(ProtocolError, match="replay: got call 1"):
        run(tracker(session=ReplaySession(recording.answers[:1], loop=True)), frames)
    with pytest.raises(ProtocolError, match="replay: got call 0"):
        run(tracker(session=ReplaySession([], loop=True)), frames)


# Configuration


@pytest.mark.parametrize("name", ZOO)
def test_a_config_survives_a_file(name) -> None:
    config = ZOO[name].tracker
    assert type(config).from_json(config.to_json()) == config
    if not ZOO[name].is_multi_object:
        assert config.grid * config.stride == config.search_px
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in config.to_json().items()}
    assert type(config).from_json(listed) == config


def test_a_config_of_tomorrow_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"unknown fields \['memory'\]"):
        TemplateSearchConfig.from_json(CONFIG.to_json() | {"memory": 3})


@pytest.mark.parametrize(
    "change", [{"crop": "snaped"}, {"map_back": "center"}, {"window": -0.1}, {"window": 1.5}, {"window": NAN}], ids=str
)
def test_a_rule_that_does_not_exist_is_refused(change) -> None:
    with pytest.raises(ProtocolError, match="tracker config: got"):
        replace(CONFIG, **change)


# Time


def test_the_clock_knows_the_stages() -> None:
    clock, follower = StageClock(), tracker()
    state = follower.init(scene(100, 90), xywh=(100, 90, 32, 32))
    for _ in range(5):
        state = follower.update(scene(100, 90), state, clock)
    assert list(clock.summary()) == ["crop", "network", "decode"]
    assert all(len(samples) == 5 for samples in clock.samples_ms.values())
    for stage in clock.summary().values():
        assert 0 < stage["median_ms"] <= stage["p95_ms"] < 10_000
    assert follower.update(scene(100, 90), state) == follower.update(scene(100, 90), state, StageClock())


def test_the_clock_sums_up_and_forgets() -> None:
    clock = StageClock(limit=100)
    for milliseconds in range(1, 1001):
        clock.add("draw", float(milliseconds))
        assert len(clock.samples_ms["draw"]) <= 100
    assert clock.summary() == {"draw": {"median_ms": 950.5, "p95_ms": pytest.approx(995.05)}}
    assert StageClock().summary() == {}


# Decoding


def test_the_first_of_equal_peaks_wins() -> None:
    score = np.zeros((2, 1, 3, 3))
    score[:, 0, 1, 2] = score[:, 0, 2, 1] = 0.5
    box, peak = decode_centre(score, np.full((2, 2, 3, 3), 0.1), np.zeros((2, 2, 3, 3)))
    assert box == pytest.approx(np.array([[2 / 3, 1 / 3, 0.1, 0.1]] * 2))
    assert peak.tolist() == [0.5, 0.5]
