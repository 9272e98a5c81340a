"""OneTrack-M's loop on scripted maps: the window and its cache, detections, identities, clips, and saved states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.errors import GeometryError, ProtocolError
from sightline.geometry.heatmaps import as_maps, frame_targets
from sightline.runtime.session import Arrays
from sightline.runtime.stages import StageClock
from sightline.trackers.onetrack_m import (
    Found,
    Motion,
    OneTrackMConfig,
    OneTrackMState,
    OneTrackMTracker,
    continued,
    fit_frame,
    fit_of,
    learnt,
    moved_on,
)
from sightline.types import Track

HEIGHT, WIDTH, GRID = 90, 160, 64
CONFIG = OneTrackMConfig(
    image_px=32, grid=GRID, clip_length=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), displacement_scale=(0.1, 0.1)
)


class Thing(NamedTuple):
    """One object on one frame, in pixels; `moved` is the way from its centre to the one before."""

    xywh: tuple[float, float, float, float]
    moved: tuple[float, float] = (0.0, 0.0)
    score: float = 0.9
    class_id: int = 0


class Scripted:
    """A session that knows what is on each frame: frame k is of the grey k, and so are its tokens."""

    def __init__(
        self,
        script: Sequence[Sequence[Thing]],
        config: OneTrackMConfig = CONFIG,
        every_frame: bool = True,
        classes: int = 1,
    ) -> None:
        self.script, self.config, self.every_frame, self.classes = script, config, every_frame, classes
        self.encoded: list[int] = []
        self.windows: list[list[int]] = []

    def inputs(self, graph: str) -> tuple[str, ...]:
        return {"tokens": ("frame",), "track": ("tokens",)}[graph]

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        (given,) = arrays.values()
        if graph == "tokens":
            assert given.shape == (1, 3, self.config.image_px, self.config.image_px)
            grey = round(float(given[0, 0, 16, 16]) * 255)
            self.encoded.append(grey)
            return {"tokens": np.full((1, 2, 4), grey, np.float32)}
        assert given.shape == (1, self.config.clip_length, 2, 4)
        window = given[0, :, 0, 0].astype(int).tolist()
        self.windows.append(window)
        maps = [self._maps(frame) for frame in (window if self.every_frame else window[-1:])]
        names = ("heat_map", "size_map", "displacement_map")
        return {name: np.stack([each[k] for each in maps])[None] for k, name in enumerate(names)}

    def _maps(self, frame: int) -> tuple[NDArray[np.float32], ...]:
        things = self.script[frame] if frame < len(self.script) else []
        fit = fit_of((HEIGHT, WIDTH), self.config)
        targets = frame_targets(
            fit.to_unit([thing.xywh for thing in things] or np.zeros((0, 4))),
            GRID,
            self.config.rules,
            class_ids=[thing.class_id for thing in things],
            num_classes=self.classes,
            displacements=np.array([thing.moved for thing in things]).reshape(-1, 2) * fit.scale / fit.image_px,
        )
        heat, size, displacement = as_maps(targets)
        heat = np.where(heat == 1, 1, 0).astype(np.float32)
        for thing, cell in zip(things, targets.cells, strict=True):
            heat[thing.class_id].reshape(-1)[cell] = thing.score
        return heat, size, displacement


def frame_of(number: int) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), number, np.uint8)


def tracker_of(
    script: Sequence[Sequence[Thing]], config: OneTrackMConfig = CONFIG, **session: object
) -> OneTrackMTracker:
    names = [f"class {k}" for k in range(int(str(session.get("classes", 1))))]
    return OneTrackMTracker(Scripted(script, config, **session), config, class_names=names)  # type: ignore[arg-type]


def run(tracker: OneTrackMTracker, frames: Iterable[int | None]) -> list[list[Track]]:
    """The tracks of every frame, all told at the end; None is a frame that cannot be read."""
    state, history, count = tracker.init(), [], 0
    for number in frames:
        state = tracker.update(None if number is None else frame_of(number), state)
        history += state.tracks
        count += 1
    told: list[list[Track]] = [[] for _ in range(count)]
    for track in tracker.finish(state, history):
        told[track.frame_index].append(track)
    return told


def ids(told: list[list[Track]]) -> list[list[int]]:
    return [[track.track_id for track in frame] for frame in told]


def walker(x: float, step: float, frames: int, **more: float) -> list[Thing]:
    return [Thing((x + step * k, 30, 20, 40), (-step if k else 0, 0), **more) for k in range(frames)]


# The window


def test_onetrack_each_frame_is_encoded_once_and_the_first_fills_the_window() -> None:
    tracker = tracker_of([[] for _ in range(6)])
    run(tracker, range(5))
    assert tracker.session.encoded == [0, 1, 2, 3, 4]
    assert tracker.session.windows == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_onetrack_black_frames_may_fill_the_first_window() -> None:
    tracker = tracker_of([[] for _ in range(9)], replace(CONFIG, first_window="black"))
    run(tracker, [5, 6, 7])
    assert tracker.session.windows == [[0, 0, 5], [0, 5, 6], [5, 6, 7]]
    assert sorted(tracker.session.encoded) == [0, 5, 6, 7]


@pytest.mark.parametrize("every_frame", [True, False])
def test_onetrack_sliding_tells_of_the_newest_frame(every_frame: bool) -> None:
    script = [list(things) for things in zip(walker(10, 4, 5), strict=True)]
    told = run(tracker_of(script, every_frame=every_frame), range(5))
    assert ids(told) == [[1]] * 5
    for frame, (track,) in enumerate(told):
        cell = np.array([WIDTH, HEIGHT]) / GRID
        assert np.abs(np.array(track.cxcywh[:2]) - [20 + 4 * frame, 50]).max() <= cell.max() / 2
        np.testing.assert_allclose(track.xywh[2:], [20, 40], rtol=1e-5)
        assert track.score == pytest.approx(0.9) and track.confirmed and track.frame_index == frame


def test_onetrack_one_frame_windows_have_no_past() -> None:
    config = replace(CONFIG, clip_length=1)
    for mode in ("sliding", "clip"):
        tracker = tracker_of([list(walker(10, 1, 1))] * 3, replace(config, mode=mode))
        assert ids(run(tracker, range(3))) == [[1]] * 3
        assert tracker.session.windows == [[0], [1], [2]]


# Detections


@pytest.mark.parametrize(("config", "expected"), [({}, [[1]]), ({"detected_from": 0.95}, [[]]), ({"top_k": 1}, [[1]])])
def test_onetrack_detection_thresholds(config: dict[str, float], expected: list[list[int]]) -> None:
    assert ids(run(tracker_of([[Thing((20, 20, 30, 30))]], replace(CONFIG, **config)), [0])) == expected


def test_onetrack_boxes_of_a_class_that_overlap_are_one_unless_told_otherwise() -> None:
    pair = [Thing((20, 20, 40, 40), score=0.7), Thing((26, 20, 40, 40), score=0.8)]
    (told,) = run(tracker_of([pair]), [0])
    assert [round(track.score, 3) for track in told] == [0.8]
    (told,) = run(tracker_of([pair], replace(CONFIG, nms_iou=1.0)), [0])
    assert [round(track.score, 3) for track in told] == [0.8, 0.7]
    kinds = [pair[0]._replace(class_id=1), pair[1]]
    (told,) = run(tracker_of([kinds], classes=2), [0])
    assert [track.class_id for track in told] == [0, 1]


@pytest.mark.parametrize("resize", ["direct", "letterbox"])
def test_onetrack_boxes_are_in_pixels_of_the_frame_and_may_leave_it(resize: str) -> None:
    box = (-30.0, 20.0, 80.0, 60.0)
    ((track,),) = run(tracker_of([[Thing(box)]], replace(CONFIG, resize=resize)), [0])
    assert np.abs(np.array(track.xywh) - box).max() <= WIDTH / GRID / 2 + 1e-4
    assert track.xywh[0] < -20


def test_onetrack_input_is_the_frame_stretched_or_whole() -> None:
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[:, 80:] = 200
    stretched = fit_frame(frame, fit_of((HEIGHT, WIDTH), CONFIG))
    assert stretched.shape == (32, 32, 3) and (stretched[:, 16:] == 200).all() and not stretched[:, :16].any()
    whole = fit_frame(frame, fit_of((HEIGHT, WIDTH), replace(CONFIG, resize="letterbox")))
    assert (whole[[0, 31]] == 114).all() and (whole[7:25, 16:] == 200).all() and not whole[7:25, :16].any()


def test_onetrack_small_things_do_not_fall_between_the_pixels() -> None:
    frame = np.zeros((320, 320, 3), np.uint8)
    frame[100, 100] = 255
    assert fit_frame(frame, fit_of((320, 320), CONFIG)).any()


# Identities


def test_onetrack_people_who_cross_keep_their_identities_by_displacement() -> None:
    left = walker(30, 24, 4)
    right = [thing._replace(xywh=(thing.xywh[0], 32, 20, 40)) for thing in walker(118, -24, 4)]
    script = [list(both) for both in zip(left, right, strict=True)]

    def paths(config: OneTrackMConfig) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for frame in run(tracker_of(script, replace(config, match_iou=0.1)), range(4)):
            for track in frame:
                found.setdefault(track.track_id, []).append(round(track.xywh[0]))
        return found

    straight = paths(CONFIG)
    assert len(straight) == 2
    for path in straight.values():
        steps = np.diff(path)
        assert len(path) == 4 and (np.abs(np.abs(steps) - 24) <= 3).all() and len(set(np.sign(steps))) == 1
    assert paths(replace(CONFIG, motion="none")) != straight


def test_onetrack_velocity_finds_those_again_who_were_hidden() -> None:
    """Eight steps of 8 px are seen, five are not: a box width and more further on it is still the same person."""
    walk = walker(10, 8, 14)
    script = [[] if 8 <= number < 13 else [thing] for number, thing in enumerate(walk)]

    def ids(config: OneTrackMConfig) -> list[list[int]]:
        return [[track.track_id for track in frame] for frame in run(tracker_of(script, config), range(14))]

    assert ids(replace(CONFIG, motion="velocity"))[-1] == [1]
    assert ids(replace(CONFIG, motion="velocity", keep_frames=5))[-1] == [2]
    assert ids(CONFIG)[-1] == ids(replace(CONFIG, motion="none"))[-1] == [2]


def test_onetrack_velocity_is_a_mean_that_goes_on_learning() -> None:
    motion, before = Motion(), Track(0, 1, (0.0, 0.0, 10.0, 20.0), 1.0)
    seen = []
    for number, x in ((1, 4.0), (2, 6.0), (5, 21.0)):
        after = Track(number, 1, (x, -x, 10.0, 20.0), 1.0)
        motion, before = learnt(motion, before, after, gain=0.4), after
        seen.append((motion.x, motion.y))
    # (0 + 4) / 2; then the share 0.4 of 2 in place of a third; then of 15 px in three frames
    np.testing.assert_allclose(seen, [(2, -2), (2, -2), (3.2, -3.2)])
    assert moved_on(before, motion, 7).xywh == pytest.approx((27.4, -27.4, 10, 20))
    assert learnt(motion, before, before, 0.4) == motion


@pytest.mark.parametrize(("match_iou", "expected"), [(0.3, [[1], [1]]), (0.4, [[1], [2]])])
def test_onetrack_gate_is_the_overlap_with_the_last_box(match_iou: float, expected: list[list[int]]) -> None:
    script = [[Thing((40, 20, 40, 40))], [Thing((60, 20, 40, 40))]]  # IoU 1 / 3
    assert ids(run(tracker_of(script, replace(CONFIG, match_iou=match_iou)), [0, 1])) == expected


def test_onetrack_a_weak_detection_goes_on_with_a_track_and_starts_none() -> None:
    sure, weak = Thing((40, 20, 40, 40)), Thing((40, 20, 40, 40), score=0.45)
    assert ids(run(tracker_of([[sure], [weak], [sure]]), range(3))) == [[1], [1], [1]]
    assert ids(run(tracker_of([[weak], [weak], [sure]]), range(3))) == [[], [], [1]]
    assert ids(run(tracker_of([[weak]], replace(CONFIG, started_from=0.45 - 1e-6)), [0])) == [[1]]


@pytest.mark.parametrize(("absent", "expected"), [(1, 1), (2, 2)])
def test_onetrack_a_track_is_found_again_within_its_time(absent: int, expected: int) -> None:
    here = Thing((40, 20, 40, 40))
    script = [[here], *[[] for _ in range(absent)], [here]]
    told = ids(run(tracker_of(script, replace(CONFIG, keep_frames=2)), range(len(script))))
    assert told == [[1], *[[]] * absent, [expected]]


def test_onetrack_classes_do_not_take_over_from_each_other() -> None:
    script = [[Thing((40, 20, 40, 40), class_id=0)], [Thing((40, 20, 40, 40), class_id=1)]]
    assert ids(run(tracker_of(script, replace(CONFIG, match_iou=0.0), classes=2), [0, 1])) == [[1], [2]]


def found_of(boxes: list[tuple[float, float, float, float]]) -> Found:
    count = len(boxes)
    return Found(np.array(boxes), np.ones(count), np.zeros(count, np.int64), np.zeros((count, 2)))


def test_onetrack_ties_go_to_the_lower_place() -> None:
    box = (40.0, 20.0, 40.0, 40.0)
    assert continued(found_of([box] * 3), [Track(0, 7, box, 1.0)], 0.3) == [0, -1, -1]
    assert continued(found_of([box]), [Track(0, k, box, 1.0) for k in (7, 8, 9)], 0.3) == [0]
    assert continued(found_of([box] * 2), [Track(0, k, box, 1.0) for k in (7, 8)], 0.3) == [0, 1]


def test_onetrack_the_best_total_decides_not_the_best_pair() -> None:
    tracks = [Track(0, 1, (0, 0, 40, 40), 1.0), Track(0, 2, (20, 0, 40, 40), 1.0)]
    # The first box overlaps both tracks, the second only the second; the greedy pair (first, second) would lose one.
    assert continued(found_of([(12, 0, 40, 40), (34, 0, 40, 40)]), tracks, 0.3) == [0, 1]


# Frames that cannot be read


def test_onetrack_unreadable_frames_are_passed_over() -> None:
    script = [list(things) for things in zip(walker(20, 3, 5), strict=True)]
    tracker = tracker_of(script)
    told = run(tracker, [0, None, 1, 2])
    assert ids(told) == [[1], [], [1], [1]]
    assert tracker.session.windows == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    assert ids(run(tracker_of(script), [None, None])) == [[], []]


# Clips


def clip_script() -> list[list[Thing]]:
    things = [list(pair) for pair in zip(walker(10, 4, 8), walker(120, -4, 8), strict=True)]
    things[4] = things[4][:1]
    return things


def test_onetrack_clips_are_told_when_full_and_the_last_at_the_end() -> None:
    tracker = tracker_of(clip_script(), replace(CONFIG, mode="clip"))
    state, spoken, history = tracker.init(), [], []
    for number in range(8):
        state = tracker.update(frame_of(number), state)
        spoken.append(sorted({track.frame_index for track in state.tracks}))
        history += state.tracks
    assert spoken == [[], [], [0, 1, 2], [], [], [3, 4, 5], [], []]
    final = tracker.finish(state, history)
    assert final[: len(history)] == history
    assert sorted({track.frame_index for track in final[len(history) :]}) == [6, 7]
    assert tracker.session.windows == [[0, 1, 2], [3, 4, 5], [6, 7, 7]]
    assert tracker.session.encoded == list(range(8))


def test_onetrack_clips_give_what_sliding_gives() -> None:
    sliding, clips = (
        run(tracker_of(clip_script(), replace(CONFIG, mode=mode)), range(8)) for mode in ("sliding", "clip")
    )
    assert sliding == clips and ids(sliding)[-1] == [1, 2] and len(sliding[4]) == 1


def test_onetrack_a_clips_first_frame_is_compared_where_it_is() -> None:
    """Its predecessor was in another window, so what its map says is not believed."""
    wrong = [[Thing((40, 20, 40, 40), (60.0, 0.0) if frame else (0, 0))] for frame in range(4)]
    told = run(tracker_of(wrong, replace(CONFIG, mode="clip")), range(4))
    assert ids(told) == [[1], [2], [3], [1]]  # frame 3 opens a clip; of three tracks at one place the first goes on
    assert ids(run(tracker_of(wrong), range(4))) == [[1], [2], [3], [4]]


def test_onetrack_clips_pass_over_unreadable_frames() -> None:
    script = [list(things) for things in zip(walker(20, 3, 5), strict=True)]
    told = run(tracker_of(script, replace(CONFIG, mode="clip")), [0, None, 1, 2, None])
    assert ids(told) == [[1], [], [1], [1], []]


# State


@pytest.mark.parametrize("mode", ["sliding", "clip"])
def test_onetrack_state_is_a_value_that_can_be_saved(mode: str, tmp_path) -> None:
    tracker = tracker_of(clip_script(), replace(CONFIG, mode=mode))
    state = tracker.init()
    for number in range(4):
        state = tracker.update(frame_of(number), state)
    np.savez(tmp_path / "state.npz", **state.to_arrays())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as arrays:
        again = OneTrackMState.from_arrays(arrays)
    assert again == state and hash(again) == hash(state) and state != tracker.init()
    one, other = (tracker.update(frame_of(4), each) for each in (state, again))
    assert one == other and one != state and state.num_frames == 4
    assert tracker.finish(one, []) == tracker.finish(other, [])
    with pytest.raises(ValueError, match="read-only"):
        state.tokens[0] = 0
    with pytest.raises(ProtocolError, match="Save it again"):
        OneTrackMState.from_arrays({"state": np.array("{}")})


def test_onetrack_stages_are_timed() -> None:
    tracker, clock = tracker_of(clip_script()), StageClock()
    tracker.update(frame_of(0), tracker.init(), clock)
    assert list(clock.samples_ms) == ["resize", "tokens", "track", "decode", "associate"]


def test_onetrack_config_survives_json() -> None:
    values = {**CONFIG.to_json(), "mean": list(CONFIG.mean), "displacement_scale": [0.1, 0.1]}
    assert OneTrackMConfig.from_json(values) == CONFIG
    with pytest.raises(ProtocolError, match="unknown fields"):
        OneTrackMConfig.from_json({**values, "reid": 1})
    with pytest.raises(ProtocolError, match="numbers where numbers go"):
        OneTrackMConfig.from_json({**values, "nms_iou": "much"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "batch"},
        {"resize": "crop"},
        {"first_window": "wait"},
        {"motion": "random"},
        {"clip_length": 0},
        {"top_k": 1.5},
        {"nms_iou": 1.1},
        {"detected_from": -0.1},
        {"displacement_scale": (0.0, 1.0)},
        {"displacement_scale": (0.1,)},
        {"std": (1.0, 0.0, 1.0)},
    ],
)
def test_onetrack_config_refuses_what_makes_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="tracker config: got"):
        replace(CONFIG, **wrong)


def test_onetrack_refuses_maps_that_are_not_its_own() -> None:
    newest_alone = tracker_of(clip_script(), replace(CONFIG, mode="clip"), every_frame=False)
    with pytest.raises(ProtocolError, match="every_frame=true"):
        run(newest_alone, range(3))
    with pytest.raises(ProtocolError, match="Give a tracker the session of its own model"):
        run(OneTrackMTracker(Scripted(clip_script()), CONFIG, class_names=("a", "b")), [0])
    broken = tracker_of([[]])
    broken.session._maps = lambda frame: tuple(np.full((c, GRID, GRID), np.nan, np.float32) for c in (1, 2, 2))
    with pytest.raises(ProtocolError, match="heat_map holds nan"):
        run(broken, [0])


def test_onetrack_refuses_states_and_frames_of_others() -> None:
    tracker = tracker_of(clip_script())
    with pytest.raises(ProtocolError, match="made by 'gtr'"):
        tracker.update(frame_of(0), OneTrackMState("gtr"))
    with pytest.raises(GeometryError, match="uint8 RGB"):
        tracker.update(frame_of(0).astype(np.float32), tracker.init())
