"""GTR's online tracking by hand, over a detector that sees what is placed; its states, errors and ends."""

from __future__ import annotations

import io
import json
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import GeometryError, ProtocolError
from sightline.geometry.boxes import iou
from sightline.options import meanings
from sightline.runtime.stages import StageClock
from sightline.trackers.gtr import (
    GTR_MOT,
    GTR_MOT_FULL,
    GTR_TAO,
    GTRConfig,
    GTRState,
    GTRTracker,
    SeenFrame,
    Trajectories,
    as_in_paper,
    matched,
    size_in_network,
    trajectory_scores,
)
from sightline.types import Detections, Track
from tests.gtr_networks import Placed, PlacedSession, picture

SIZE = (90, 160)
MOT = replace(GTR_MOT, side_px=240)  # one and a half times the pictures' size
TAO = replace(GTR_TAO, side_px=135, longest_px=240)
CLASSES = ("cat", "dog", "kite")
STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])


def walk(frame: int, who: int, **about) -> Placed:
    """Three objects that walk to the right, at heights of their own."""
    x, y = 10 + 3 * frame + 20 * who, 10 + 25 * (who % 3)
    return Placed(who, (x, y, x + 12, y + 20), **about)


def street(num_frames: int = 12, num_objects: int = 3, **about) -> list[list[Placed]]:
    return [[walk(frame, who, **about) for who in range(num_objects)] for frame in range(num_frames)]


def tracker(clip, config: GTRConfig = MOT, **session) -> GTRTracker:
    names = CLASSES if config.classify else ("person",)
    return GTRTracker(PlacedSession(clip, config, **session), config, "placed", names)


def follow(follower: GTRTracker, indices, state: GTRState | None = None) -> list[GTRState]:
    """The states after each of the frames; None for one that cannot be read."""
    states = [state or follower.init()]
    for index in indices:
        states.append(follower.update(None if index is None else picture(index), states[-1]))
    return states[1:]


def ids(state: GTRState) -> list[int]:
    return [track.track_id for track in state.tracks]


def found(n: int = 1, *, xyxy=None, who=None, classes=0) -> Detections:
    """n objects as any detector may find them, told apart by one of 64 numbers."""
    xyxy = np.tile([10.0, 10, 20, 30], (n, 1)) if xyxy is None else np.array(xyxy, float)
    embeddings = np.zeros((len(xyxy), 64), np.float32)
    embeddings[np.arange(len(xyxy)), range(len(xyxy)) if who is None else who] = 4
    return Detections(xyxy, np.full(len(xyxy), 0.9), embeddings, np.ones((len(xyxy), classes)))


# Settings


def test_settings_survive_json() -> None:
    for config in (GTR_MOT, GTR_MOT_FULL, GTR_TAO, as_in_paper(GTR_TAO), replace(GTR_MOT, mean=(0.1, 0.2, 0.3))):
        assert GTRConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ProtocolError, match=r"got unknown fields \['speed'\]; expected .* Update"):
        GTRConfig.from_json({"speed": 3})
    with pytest.raises(ProtocolError, match="expected numbers where numbers go"):
        GTRConfig.from_json({"nms_iou": "much"})
    with pytest.raises(FrozenInstanceError):
        GTR_MOT.decay = 1.0


def test_every_setting_has_a_meaning() -> None:
    assert list(meanings(GTRConfig)) == [field.name for field in fields(GTRConfig)]
    assert all(len(meaning) > 10 for meaning in meanings(GTRConfig).values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resize", "round"),
        ("score", "max"),
        ("side_px", 0),
        ("side_px", 99.5),
        ("pad_to", True),
        ("window", 1),
        ("min_boxes", 0),
        ("max_objects", -1),
        ("nms_iou", 1.1),
        ("object_from", -0.1),
        ("match_from", float("nan")),
        ("decay", 2),
        ("centre_gate", float("inf")),
        ("class_gate", -1),
        ("with_iou", 1),
        ("streaming", "yes"),
        ("mean", (0.5, 0.5)),
        ("std", (0.5, 0.5, 0)),
    ],
)
def test_settings_that_make_no_sense(name, value) -> None:
    with pytest.raises(ProtocolError, match=rf"tracker config: got .*{name}=.*; expected .*\."):
        replace(GTR_MOT, **{name: value})


def test_the_paper_by_name() -> None:
    for config in (GTR_MOT, GTR_TAO):
        paper = as_in_paper(config)
        assert (paper.score, paper.match_from, paper.match_times_boxes, paper.decay) == ("average", 0.2, False, 1.0)
        assert (paper.centre_gate, paper.class_gate, paper.window, paper.class_from) == (0, 0, 32, 0)
        changed = {name for name, value in asdict(paper).items() if value != getattr(config, name)}
        assert changed <= {"score", "match_from", "match_times_boxes", "decay", "window", "class_from"} | {
            "centre_gate",
            "class_gate",
        }


def test_sizes_in_the_network() -> None:
    assert size_in_network(1080, 1920, GTR_MOT) == (877, 1560)
    assert size_in_network(1920, 1080, GTR_MOT) == (1560, 877)
    assert size_in_network(1080, 1920, GTR_TAO) == (750, 1333)
    assert size_in_network(600, 800, GTR_TAO) == (800, 1067)
    demo = replace(GTR_MOT, resize="edge", side_px=800)
    assert size_in_network(1080, 1920, demo) == (750, 1333)
    assert size_in_network(1, 5000, GTR_MOT) == (1, 1560)


# Scores, by hand


def seen(xyxy_unit, *, ids, classes=None) -> SeenFrame:
    xyxy_unit = np.array(xyxy_unit, float).reshape(-1, 4)
    classes = np.ones((len(xyxy_unit), 0)) if classes is None else np.array(classes, float)
    return SeenFrame(xyxy_unit, np.zeros((len(xyxy_unit), 2), np.float32), classes, np.array(ids, np.int64))


NONE = seen([], ids=[])
HERE, THERE, FAR = [0.1, 0.1, 0.2, 0.3], [0.12, 0.1, 0.22, 0.3], [0.7, 0.7, 0.8, 0.9]
BARE = replace(GTR_MOT, with_iou=False, decay=1.0, centre_gate=0.0)


def scores_of(window, logits, config=BARE, at=HERE, classes=None) -> Trajectories:
    """Of one object, with logits for the past alone; what it says of itself does not matter."""
    classes = np.ones((1, 0)) if classes is None else np.array([classes], float)
    return trajectory_scores(np.float32([[*logits, 5.0]]), np.array([at]), classes, window, config)


def part(logit: float, *others: float) -> float:
    """Its share of a frame in which nobody has the logit 0."""
    return float(np.exp(logit) / (1 + np.exp([logit, *others]).sum()))


WINDOW = (seen([HERE, FAR], ids=[3, 7]), NONE, seen([FAR], ids=[7]), seen([THERE, FAR], ids=[7, 3]))
LOGITS = (1.0, -1.0, 0.5, 2.0, 0.0)
AGES = {3: [(4, part(1, -1)), (1, part(0, 2))], 7: [(4, part(-1, 1)), (2, part(0.5)), (1, part(2, 0))]}


def test_the_sum_over_a_trajectory() -> None:
    trajectories = scores_of(WINDOW, LOGITS)
    assert trajectories.ids.tolist() == [3, 7] and trajectories.num_boxes.tolist() == [2, 3]
    assert trajectories.scores == pytest.approx(np.array([[sum(p for _, p in AGES[one]) for one in (3, 7)]]))


def test_the_average_is_the_papers() -> None:
    ours = scores_of(WINDOW, LOGITS, replace(BARE, score="average")).scores
    assert ours == pytest.approx(np.array([[np.mean([p for _, p in AGES[one]]) for one in (3, 7)]]))


def test_decay_counts_frames_from_the_last_on() -> None:
    ours = scores_of(WINDOW, LOGITS, replace(BARE, decay=0.9)).scores
    assert ours == pytest.approx(np.array([[sum(p * 0.9 ** (age - 1) for age, p in AGES[one]) for one in (3, 7)]]))


def test_the_overlap_is_with_the_last_box() -> None:
    ours = scores_of(WINDOW, (-9.0,) * 5, replace(BARE, with_iou=True)).scores
    assert ours[0, 1] == pytest.approx(0.08 / 0.12)  # with THERE
    assert ours[0, 0] < 0.01  # the first box lay here, the last is far


def test_the_centre_gate_asks_for_one_box_that_is_near() -> None:
    gated = replace(BARE, centre_gate=1.0)
    assert (scores_of(WINDOW, LOGITS, gated).scores > 0).all()
    there_alone = (seen([FAR], ids=[3]), seen([THERE, FAR], ids=[7, 3]))
    assert (scores_of(there_alone, LOGITS[:3], gated).scores > 0).tolist() == [[False, True]]
    apart = 0.02**2 / (0.1**2 + 0.2**2)  # of HERE and THERE
    assert (scores_of(there_alone, LOGITS[:3], replace(BARE, centre_gate=apart * 0.99)).scores == 0).all()
    assert scores_of(there_alone, LOGITS[:3], replace(BARE, centre_gate=apart * 1.01)).scores[0, 1] > 0


def test_the_class_gate_takes_boxes_of_other_classes_out() -> None:
    window = (seen([HERE, HERE], ids=[1, 2], classes=[[0.5, 0.01], [0.01, 0.5]]),)
    gated = replace(BARE, class_gate=0.01)
    ours = scores_of(window, (1.0, 1.0), gated, classes=[0.9, 0.0]).scores
    assert ours == pytest.approx(np.array([[part(1, 1), 0]]))  # 0.9 * 0.01 is less
    assert (scores_of(window, (1.0, 1.0), gated, classes=[1.0, 0.01]).scores > 0).all()


def test_matching() -> None:
    trajectories = Trajectories(np.array([4, 6, 9]), np.array([1, 3, 2]), np.array([[0.9, 0.8, 0], [0.7, 0, 0.2]]))
    assert matched(trajectories, BARE).tolist() == [6, 4]  # together 1.5; the first alone would take 4
    assert matched(trajectories, replace(BARE, match_from=0.75)).tolist() == [6, 0]
    assert matched(trajectories, replace(BARE, match_from=0.8)).tolist() == [0, 0]  # it must be more
    times = replace(BARE, match_from=0.3, match_times_boxes=True)
    assert matched(trajectories, times).tolist() == [0, 4]  # 6 has three boxes


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5), st.integers(0, 5), st.randoms(use_true_random=False), st.booleans())
def test_nobody_is_matched_twice(n, m, random, times) -> None:
    scores = np.array([[random.choice([0, 0.1, 0.5, 2]) for _ in range(m)] for _ in range(n)]).reshape(n, m)
    trajectories = Trajectories(np.arange(1, m + 1), np.full(m, 2.0), scores)
    config = replace(BARE, match_times_boxes=times)
    ours = matched(trajectories, config)
    taken = ours[ours > 0]
    assert len(set(taken.tolist())) == len(taken)
    assert all(scores[row, one - 1] > (0.4 if times else 0.2) for row, one in enumerate(ours) if one)


# The loop


@STREAMING
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_everyone_keeps_an_identity(streaming, noise) -> None:
    clip = street(34)
    clip = [frame[i % 3 :] + frame[: i % 3] for i, frame in enumerate(clip)]  # found in another order each time
    follower = tracker(clip, replace(MOT, streaming=streaming), noise=noise)
    for i, state in enumerate(follow(follower, range(34))):
        who = {track.track_id: track for track in state.tracks}
        assert sorted(who) == [1, 2, 3]
        for placed in clip[i]:
            assert who[placed.who + 1].xyxy == pytest.approx(placed.xyxy, abs=1e-3)
            assert who[placed.who + 1].score == pytest.approx(placed.score)
            assert who[placed.who + 1].frame_index == i
        assert all(track.confirmed == (i >= 4) for track in state.tracks)
        assert all(track.class_id == 0 for track in state.tracks)


def test_the_first_identities_skip_one() -> None:
    clip = [[], *street(4, 2), *street(4, 3)]
    assert [ids(state) for state in follow(tracker(clip), [1, 2, 5])] == [[1, 2], [1, 2], [1, 2, 4]]
    assert [ids(state) for state in follow(tracker(clip), [0, 1, 0, 2])] == [[], [2, 3], [], [2, 3]]
    assert ids(follow(tracker(clip), [None, None, 1])[-1]) == [2, 3]


@STREAMING
def test_identities_end_with_the_window(streaming) -> None:
    """Nobody is seen for as many frames as there are in a window, or one fewer; unreadable frames count."""
    config = replace(MOT, window=6, streaming=streaming)
    for gap in range(8):
        for empty in (None, 12):
            follower = tracker([*street(12), []], config)
            states = follow(follower, [0, 1, *[empty] * gap, 2])
            assert states[-1].num_frames == 3 + gap and len(states[-1].window) == min(5, 3 + gap)
            assert ids(states[-1]) == ([1, 2, 3] if gap < 5 else [5, 6, 7])


def test_what_is_found_depends_on_the_thresholds() -> None:
    clip = [[walk(0, 0, score=0.54), walk(0, 1, score=0.56), walk(0, 2, score=0.9)]]
    assert [track.score for track in follow(tracker(clip), [0])[0].tracks] == pytest.approx([0.9, 0.56])
    lower = replace(MOT, object_from=0.5)
    assert len(follow(tracker(clip, lower), [0])[0].tracks) == 3
    assert len(follow(tracker(clip, replace(lower, max_objects=1)), [0])[0].tracks) == 1
    twice = [[walk(0, 0, score=0.8), replace(walk(0, 0, score=0.7), xyxy=(12, 10, 24, 30))]]  # they share 10 / 14
    assert len(follow(tracker(twice), [0])[0].tracks) == 1
    assert len(follow(tracker(twice, replace(MOT, nms_iou=0.75)), [0])[0].tracks) == 2


def test_boxes_may_leave_the_frame() -> None:
    clip = [[Placed(0, (-8, 20, 12, 50), classes=(0.9, 0.1, 0.1))]]
    assert follow(tracker(clip), [0])[0].tracks[0].xyxy == pytest.approx((-8, 20, 12, 50), abs=1e-3)
    clipped = follow(tracker(clip, TAO), [0])[0].tracks[0].xyxy
    assert clipped == pytest.approx((0, 20 + 1 / 1.5, 12, 50 + 1 / 1.5), abs=1e-3)  # refined a pixel lower


def test_a_box_outside_is_not_told_but_counts() -> None:
    outside = found(2, xyxy=[[-30, 10, -5, 40], [10, 10, 30, 40]], classes=3)
    follower = tracker([], TAO)
    state = follower.init()
    for _ in range(5):
        state = follower.associate(outside, SIZE, state)
        assert ids(state) == [2]
    assert state.num_boxes == {1: 5, 2: 5}
    assert ids(tracker([]).associate(found(2, xyxy=[[5, 5, 5, 9], [5, 5, 9, 9]]), SIZE, tracker([]).init())) == [2]


def test_frames_may_change_size() -> None:
    """The same part of the frame is the same place."""
    follower = tracker([])
    state = follower.associate(found(xyxy=[[60, 30, 66, 40]]), (90, 160), follower.init())
    state = follower.associate(found(xyxy=[[120, 60, 132, 80]]), (180, 320), state)
    assert ids(state) == [1] and state.tracks[0].xywh == (120, 60, 12, 20)
    state = follower.associate(found(xyxy=[[120, 60, 132, 80]]), (90, 160), state)
    assert ids(state) == [3]  # far from where it was


def test_stages_are_timed() -> None:
    clock = StageClock()
    follower = tracker(street(2, classes=(0.9, 0.1, 0.1)), TAO)
    state = follower.update(picture(0), follower.init(), clock)
    stages = ["prepare", "detect", "decode", "embed", "classify", "associate", "assign"]
    assert list(clock.samples_ms) == stages
    follower.update(None, state, clock)
    assert [len(clock.samples_ms[stage]) for stage in stages] == [1, 1, 1, 1, 1, 2, 2]


@STREAMING
@pytest.mark.parametrize("n", [0, 1, 500])
def test_any_number_of_objects(n, streaming) -> None:
    places = [(2 + 6 * (i % 25), 2 + 4 * (i // 25)) for i in range(n)]
    clip = [[Placed(i, (x, y, x + 3, y + 3)) for i, (x, y) in enumerate(places)]] * 3
    config = replace(MOT, side_px=640, max_objects=600, streaming=streaming)
    states = follow(tracker(clip, config, likeness=25.0), [0, 1, None, 2])
    assert [len(state.tracks) for state in states] == [n, n, 0, n]
    for state in (states[0], states[1], states[3]):
        order = [round(track.xywh[0] - 2) // 6 + 25 * (round(track.xywh[1] - 2) // 4) for track in state.tracks]
        assert sorted(order) == list(range(n))
        if state is states[0]:
            named = dict(zip(order, ids(state), strict=True))
        assert dict(zip(order, ids(state), strict=True)) == named


@STREAMING
def test_duplicates_are_different_trajectories(streaming) -> None:
    """Three objects that nothing tells apart: three identities, the same three on every frame."""
    follower = tracker([], replace(MOT, streaming=streaming))
    state = follower.init()
    for _ in range(4):
        state = follower.associate(found(3, who=[1, 1, 1]), SIZE, state)
        assert sorted(ids(state)) == [1, 2, 3]


# States


@STREAMING
def test_states_are_values(streaming) -> None:
    follower = tracker(street(8), replace(MOT, streaming=streaming), noise=0.02)
    states = follow(follower, range(4))
    before = states[-1].to_arrays()
    once = follow(follower, [4, 5], states[-1])
    follow(follower, [0, None, 7], states[-1])
    again = follow(follower, [4, 5], states[-1])
    assert once == again and once[0] != once[1]
    assert hash(once[1]) == hash(again[1])
    assert all(np.array_equal(before[name], value) for name, value in states[-1].to_arrays().items())
    assert states[-1] != replace(states[-1], last_id=99) and states[-1] != "a state"
    with pytest.raises(FrozenInstanceError):
        states[-1].last_id = 3


@STREAMING
@pytest.mark.parametrize("config", [MOT, TAO], ids=["mot", "tao"])
@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_saved_states_go_on(config, stop, streaming) -> None:
    config = replace(config, window=5, streaming=streaming)
    clip = street(12, classes=(0.9, 0.2, 0.1))
    clip[2] = []
    follower = tracker(clip, config, noise=0.02)
    states = follow(follower, range(12))
    saved = follow(follower, range(stop))[-1] if stop else follower.init()
    file = io.BytesIO()
    np.savez(file, **saved.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        loaded = GTRState.from_arrays(arrays)
    assert loaded == saved and loaded.tracks == saved.tracks
    assert follow(follower, range(stop, 12), loaded) == states[stop:]


def test_damaged_states_get_a_sentence() -> None:
    arrays = follow(tracker(street(3)), range(3))[-1].to_arrays()
    for name in ("state", "window.ids", "trajectories.num_boxes"):
        with pytest.raises(ProtocolError, match="saved state: got arrays .* expected those of GTR's"):
            GTRState.from_arrays({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ProtocolError, match="saved state"):
        GTRState.from_arrays({**arrays, "state": np.array("not json")})
    with pytest.raises(ProtocolError, match="state: got one made by 'other'; expected one made by 'placed'"):
        tracker([]).update(None, GTRState("other"))
    with pytest.raises(ProtocolError, match="state: got one made by 'str'"):
        tracker([]).update(None, "state")


def test_memory_is_that_of_the_window_and_of_what_was_followed() -> None:
    """One object stays; another is new on every frame, and is soon forgotten."""
    places = [(10, 60), (50, 60), (90, 60), (130, 60)]  # too far apart for one trajectory
    clip = [[walk(0, 0), Placed(1, (x, y, x + 12, y + 20))] for x, y in places * 50]
    follower = tracker(clip, replace(MOT, window=4))
    states = follow(follower, range(200))
    for i, state in enumerate(states):
        assert len(state.window) == min(i + 1, 3)
        assert len(state.num_boxes) == len(state.class_sums) == min(i + 2, 4)
    assert states[-1].num_boxes[1] == 200 and states[-1].last_id == 202
    assert max(value.nbytes for value in states[-1].to_arrays().values()) < 20_000


# The end


@STREAMING
def test_the_end_drops_what_was_too_short(streaming) -> None:
    clip = street(12)
    for frame in clip[4:]:
        frame.pop()  # the third has four boxes
    follower = tracker(clip, replace(MOT, streaming=streaming))
    states = follow(follower, range(12))
    history = [track for state in states for track in state.tracks]
    final = follower.finish(states[-1], history)
    assert {track.track_id for track in history} == {1, 2, 3}
    assert final == [replace(track, confirmed=True) for track in history if track.track_id != 3]
    assert follower.finish(states[-1], history) == final
    assert follower.finish(states[-1], []) == [] == follower.finish(follower.init(), [])
    early = follower.finish(states[2], history[:9])
    assert early == []
    shorter = GTRTracker(follower.session, replace(MOT, min_boxes=4), "placed").finish(states[-1], history)
    assert {track.track_id for track in shorter} == {1, 2, 3}


def test_classes_so_far_and_in_the_end() -> None:
    """The class of a trajectory is the one that is likeliest on average, whatever a frame says."""
    first = [(0.9, 0.1, 0.1)] * 2 + [(0.1, 0.8, 0.1)] * 5
    clip = [[walk(i, 0, classes=classes)] for i, classes in enumerate(first)]
    follower = tracker(clip, TAO)
    states = follow(follower, range(7))
    rows = np.sqrt(0.9 * np.array(first))  # with the proposal's score
    for i, state in enumerate(states):
        mean = rows[: i + 1].mean(axis=0)
        assert state.tracks[0].class_id == mean.argmax()
        assert state.tracks[0].score == pytest.approx(mean.max())
    assert [state.tracks[0].class_id for state in states] == [0, 0, 0, 0, 1, 1, 1]
    final = follower.finish(states[-1], [track for state in states for track in state.tracks])
    mean = rows.mean(axis=0)
    order = np.argsort(-mean)
    assert [track.class_id for track in final] == order.tolist() * 7
    assert [track.score for track in final] == pytest.approx(mean[order].tolist() * 7)
    two = GTRTracker(follower.session, replace(TAO, class_from=0.4), "placed", CLASSES)
    assert [track.class_id for track in two.finish(states[-1], [states[3].tracks[0]])] == [1, 0]


def test_suppression_within_classes_in_the_end() -> None:
    """Against the definition, over random boxes and classes."""
    rng = np.random.default_rng(5)
    xy = rng.uniform(0, 60, (40, 2))
    xywh = np.concatenate([xy, rng.uniform(20, 40, (40, 2))], axis=1)
    means = rng.uniform(0, 1, (40, 3)) ** 3
    history = [Track(f, i + 1, tuple(xywh[i].tolist()), 0.5) for f in (0, 1) for i in range(40) if (i + f) % 3]
    state = GTRState(
        "placed", 2, 41, (), {i + 1: 5 for i in range(40)}, {i + 1: 5 * row for i, row in enumerate(means)}
    )
    overlaps = iou(xywh[:, None], xywh)
    for most, overlap in ((300, 0.7), (300, 0.3), (25, 0.3)):
        config = replace(TAO, class_nms_iou=overlap, max_boxes=most)
        final = GTRTracker(PlacedSession([], config), config, "placed", CLASSES).finish(state, history[::-1])
        for f in (0, 1):
            kept = list[tuple[int, int]]()
            here = [i for i in range(40) if (i + f) % 3]
            for i, c in sorted(((i, c) for i in here for c in range(3)), key=lambda pair: -means[pair]):
                better = [j for j, other in kept if other == c]
                if means[i, c] > 0.05 and not (overlaps[i, better] > overlap).any() and len(kept) < most:
                    kept.append((i, c))
            ours = [track for track in final if track.frame_index == f]
            assert [(track.track_id - 1, track.class_id) for track in ours] == kept
            assert [track.score for track in ours] == pytest.approx([means[pair] for pair in kept])
            assert [track.xywh for track in ours] == [tuple(xywh[i].tolist()) for i, _ in kept]
        assert [track.frame_index for track in final] == sorted(track.frame_index for track in final)


# What goes wrong

GRAPHS = [
    ("detect", False),
    ("embed", False),
    ("classify", False),
    ("associate", False),
    ("detect", True),
    ("embed", True),
]


@pytest.mark.parametrize("error", [RuntimeError("out of memory."), ProtocolError("no such graph"), KeyError()])
@pytest.mark.parametrize(("graph", "streaming"), GRAPHS)
def test_a_network_that_fails_leaves_the_state_as_it_was(graph, streaming, error) -> None:
    config = replace(TAO, streaming=streaming)
    follower = tracker(street(8, classes=(0.9, 0.1, 0.1)), config, noise=0.02)
    expected = follow(follower, range(8))
    states = follow(follower, range(5))

    def fail(name, answer):
        if name == graph:
            raise error
        return answer

    follower.session.spoil = fail
    with pytest.raises(ProtocolError, match=rf"^frame 5: graph '{graph}': got .*; expected .*\. Go on from") as caught:
        follower.update(picture(5), states[-1])
    assert caught.value.__cause__ is error and ".;" not in str(caught.value)
    follower.session.spoil = lambda name, answer: answer
    assert follow(follower, [5, 6, 7], states[-1]) == expected[5:]


@pytest.mark.parametrize(
    ("graph", "name"),
    [
        ("detect", "agn_2"),
        ("detect", "reg_0"),
        ("detect", "p3"),
        ("embed", "embeddings"),
        ("classify", "class_scores"),
        ("classify", "boxes"),
        ("associate", "logits"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(graph, name, value) -> None:
    follower = tracker(street(4, classes=(0.9, 0.1, 0.1)), TAO)
    state = follow(follower, [0, 1])[-1]

    def damage(called, answer):
        answer = dict(answer)
        if called == graph:
            answer[name] = answer[name].copy()
            answer[name].flat[-1] = value
        return answer

    follower.session.spoil = damage
    with pytest.raises(ProtocolError, match=rf"^frame 2: got {name} that are nan or infinite; expected finite numbers"):
        follower.update(picture(2), state)


def test_answers_that_are_missing_or_misshapen() -> None:
    follower = tracker(street(4, classes=(0.9, 0.1, 0.1)), TAO)
    state = follow(follower, [0, 1])[-1]
    for graph, name in (("detect", "reg_4"), ("embed", "embeddings"), ("classify", "boxes"), ("associate", "logits")):
        follower.session.spoil = lambda called, answer, graph=graph, name=name: (
            {key: value for key, value in answer.items() if key != name} if called == graph else answer
        )
        with pytest.raises(ProtocolError, match=rf"frame 2: got .* from '{graph}'; expected '{name}' too"):
            follower.update(picture(2), state)
        if graph == "detect":
            continue
        follower.session.spoil = lambda called, answer, graph=graph, name=name: (
            {**answer, name: answer[name][:-1]} if called == graph else answer
        )
        with pytest.raises(ProtocolError, match=r"frame 2: got \w+ of shape \(2, .*; expected \(3, "):
            follower.update(picture(2), state)
    follower.class_names = ("cat",)
    follower.session.spoil = lambda called, answer: answer
    with pytest.raises(ProtocolError, match=r"got class_scores of shape \(3, 4\); expected \(3, 2\)"):
        follower.update(picture(2), state)


@STREAMING
def test_detections_of_another_detector_are_checked(streaming) -> None:
    follower = tracker([], replace(MOT, streaming=streaming))
    state = follower.associate(found(2), SIZE, follower.init())
    good = found(2)
    for name in ("xyxy", "scores", "embeddings"):
        values = getattr(good, name).copy()
        values.flat[0] = np.nan
        with pytest.raises(ProtocolError, match=f"frame 1: got {name} that are nan"):
            follower.associate(replace(good, **{name: values}), SIZE, state)
    with pytest.raises(ProtocolError, match=r"frame 1: got embeddings of shape \(2, 63\); expected \(2, 64\)"):
        follower.associate(replace(good, embeddings=good.embeddings[:, 1:]), SIZE, state)
    with pytest.raises(ProtocolError, match=r"frame 1: got class_scores of shape \(2, 4\); expected \(2, 0\)"):
        follower.associate(found(2, classes=4), SIZE, state)
    assert ids(follower.associate(good, SIZE, state)) == [1, 2]


def test_frames_are_checked() -> None:
    with pytest.raises(GeometryError, match=r"frame: got float64 \(4, 4, 3\)"):
        tracker([]).update(np.zeros((4, 4, 3)), tracker([]).init())
