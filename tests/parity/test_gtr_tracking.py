"""GTR's online tracking against the official loop's stored identities, boxes, scores and classes.

The detector is replaced by stored instances; the association network has weights filled by its rule. Tolerances:
identities and classes exact, trajectory scores 1e-5 and 1e-5 of themselves (the official sums of up to 31 probabilities
are float32), final boxes 1e-3 px and scores 1e-6 (stored with three and six decimals).
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from sightline.runtime.replay import RecordingSession, ReplaySession
from sightline.runtime.session import Arrays, Session
from sightline.trackers import gtr
from sightline.trackers.gtr import GTR_MOT, GTR_TAO, GTRConfig, GTRState, GTRTracker, matched
from sightline.types import Detections, Track
from tests.gtr_networks import NumPyAssociation, association_shapes

DATA = Path(__file__).parent / "data" / "gtr"
MODES = {
    "track_long": ("released_mot", "no_iou", "plain", "plain_mult", "released_mot_window8"),
    "track_short": ("released_mot", "plain"),
    "track_tao": ("released_tao", "with_iou"),
}
CASES = [(video, mode) for video, modes in MODES.items() for mode in modes]
SCORED = [case for case in CASES if (DATA / "{}_scores_{}.npz".format(*case)).exists()]
CLASS, VIDEO = 10_000, 700_000_000  # the official identities of TAO count them in; the stored video is the seventh

TRAJECTORY_SCORES = {"atol": 1e-5, "rtol": 1e-5}
BOXES = {"atol": 1e-3}  # pixels
SCORES = {"atol": 1e-6}


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


@functools.cache
def official(video: str, mode: str) -> dict:
    return json.loads((DATA / f"{video}.json").read_text())[mode]


@functools.cache
def weights(video: str) -> dict[str, np.ndarray]:
    """The association's, by the rule that filled the official network."""
    arrays = {}
    for name, shape in association_shapes(1024, has_predictor=video == "track_tao").items():
        noise = np.random.Generator(np.random.PCG64(zlib.crc32(f"roi_heads.{name}".encode()))).standard_normal(shape)
        arrays[name] = np.float32(noise / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1 * noise)
    if video == "track_tao":
        arrays |= {name.replace("q_proj", "k_proj"): arrays[name] for name in arrays if "q_proj" in name}
        arrays["asso_predictor.k_proj.layers.1.bias"] = stored(video)["override_k_proj_layers_1_bias"]
    return arrays


# The loop over the stored instances


def config_of(video: str, mode: str, **changes) -> GTRConfig:
    """The settings as they are stored, -1 for a rule that is off."""
    given = official(video, mode)["settings"]
    config = replace(
        GTR_TAO if video == "track_tao" else GTR_MOT,
        window=given["test_len"],
        match_from=given["overlap_thresh"],
        match_times_boxes=not given["not_mult_thresh"],
        min_boxes=given["min_track_len"],
        centre_gate=max(given["max_center_dist"], 0),
        decay=given["decay_time"] if given["decay_time"] > 0 else 1.0,
        with_iou=given["with_iou"],
    )
    if video == "track_tao":
        config = replace(
            config, class_from=given["score_thresh"], class_nms_iou=given["nms_thresh"], max_boxes=given["topk"]
        )
    return replace(config, **changes)


def frames_of(video: str) -> Iterator[Detections]:
    """The stored instances, in pixels of the original frames."""
    arrays = stored(video)
    ends = np.cumsum(arrays["n_t"])[:-1]
    scale = np.tile((arrays["original_hw"] / arrays["resized_hw"])[::-1], 2)
    scores = arrays["objectness" if video == "track_tao" else "scores"].astype(np.float64)
    classes = arrays["cls_scores"][:, :-1] if video == "track_tao" else np.empty((len(scores), 0))
    columns = arrays["boxes"] * scale, scores, arrays["features"], classes.astype(np.float64)
    for parts in zip(*(np.split(column, ends) for column in columns), strict=True):
        yield Detections(*parts)


def size_of(video: str) -> tuple[int, int]:
    height, width = stored(video)["original_hw"].tolist()
    return height, width


@functools.cache
def answers(video: str, window: int) -> list[tuple[str, Arrays]]:
    """What the network says of every frame: it depends on the window, but on no rule of the tracker."""
    session = RecordingSession(NumPyAssociation(weights(video)))
    follow(video, replace(config_of(video, MODES[video][0]), window=window), session)
    return session.answers


def follow(video: str, config: GTRConfig, session: Session) -> list[GTRState]:
    """The states after each of the frames."""
    names = [f"class {i}" for i in range(5)] if video == "track_tao" else ["person"]
    tracker = GTRTracker(session, config, "gtr", names)
    states = [tracker.init()]
    for detections in frames_of(video):
        states.append(tracker.associate(detections, size_of(video), states[-1]))
    return states[1:]


@dataclass
class Run:
    """The states after each frame, the scores before each assignment, and all tracks once the video is over."""

    states: list[GTRState]
    scores: list[np.ndarray]
    finished: list[list[Track]]

    def has_ids(self, stored_ids: list[list[int]]) -> bool:
        return [[track.track_id for track in state.tracks] for state in self.states] == stored_ids

    def has_scores(self, stored_scores: list[np.ndarray]) -> bool:
        return len(self.scores) == len(stored_scores) and all(
            ours.shape == theirs.shape and np.allclose(ours, theirs, **TRAJECTORY_SCORES)
            for ours, theirs in zip(self.scores, stored_scores, strict=True)
        )

    def has_finished(self, stored_frames: list[dict], is_tao: bool) -> bool:
        for tracks, frame in zip(self.finished, stored_frames, strict=True):
            ids = [one.track_id + (CLASS * one.class_id + VIDEO if is_tao else 0) for one in tracks]
            if ids != frame["ids"] or [one.class_id for one in tracks] != frame["classes"]:
                return False
            if ids and not np.allclose([one.xyxy for one in tracks], frame["boxes"], rtol=0, **BOXES):
                return False
            if not np.allclose([one.score for one in tracks], frame["scores"], rtol=0, **SCORES):
                return False
        return True


@functools.cache
def run(video: str, config: GTRConfig) -> Run:
    recorded = [] if config.streaming else answers(video, config.window)
    session = NumPyAssociation(weights(video)) if config.streaming else ReplaySession(recorded)
    with pytest.MonkeyPatch.context() as patch:
        scores = list[np.ndarray]()
        patch.setattr(gtr, "matched", lambda known, config: (scores.append(known.scores), matched(known, config))[1])
        states = follow(video, config, session)
    found = GTRTracker(session, config, "gtr").finish(states[-1], [one for state in states for one in state.tracks])
    finished = [[one for one in found if one.frame_index == index] for index in range(len(states))]
    return Run(states, [matrix for matrix in scores if matrix.size], finished)


def official_scores(video: str, mode: str) -> list[np.ndarray]:
    """Of every frame with objects that had any before it."""
    arrays = stored(f"{video}_scores_{mode}")
    return [arrays[name] for name in sorted(arrays) if arrays[name].size]


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for cached in (stored, official, weights, answers, run):
        cached.cache_clear()


def test_nothing_stored_is_left_out() -> None:
    for video, modes in MODES.items():
        assert tuple(json.loads((DATA / f"{video}.json").read_text())) == modes
    assert len(SCORED) == len(list(DATA.glob("track_*_scores_*.npz"))) == 4


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize(("video", "mode"), CASES)
def test_tracking(video: str, mode: str, streaming: bool) -> None:
    """Streamed and then finished, or each window from the start: as the official code, which is given all frames."""
    ours, theirs = run(video, config_of(video, mode, streaming=streaming)), official(video, mode)
    assert ours.has_ids(theirs["raw_ids"])
    assert ours.has_finished(theirs["final"], video == "track_tao")


@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "streaming"])
@pytest.mark.parametrize(("video", "mode"), SCORED)
def test_scores_of_trajectories(video: str, mode: str, streaming: bool, compare) -> None:
    scores = run(video, config_of(video, mode, streaming=streaming)).scores
    theirs = official_scores(video, mode)
    assert len(scores) == len(theirs)
    for i, (matrix, stored_matrix) in enumerate(zip(scores, theirs, strict=True)):
        compare(matrix, stored_matrix, **TRAJECTORY_SCORES, what=f"{video} {mode}: frame with objects {i}")


@pytest.mark.parametrize(
    "change",
    [
        {"window": 30},
        {"match_from": 0.5},
        {"match_times_boxes": True},
        {"score": "average"},
        {"with_iou": False},
        {"decay": 0.8},
        {"decay": 1.0},
        {"centre_gate": 0.0},
        {"centre_gate": 2.0},
    ],
    ids=str,
)
def test_identities_fail_by_other_rules(change: dict) -> None:
    video, mode = "track_long", "released_mot"
    assert run(video, config_of(video, mode)).has_ids(official(video, mode)["raw_ids"])
    assert not run(video, config_of(video, mode, **change)).has_ids(official(video, mode)["raw_ids"])


@pytest.mark.parametrize(
    "change",
    [
        {"window": 15},
        {"score": "average"},
        {"with_iou": True},
        {"decay": 0.9},
        {"centre_gate": 1.0},
        {"class_gate": 0.0},
        {"class_gate": 0.02},
    ],
    ids=str,
)
def test_scores_of_trajectories_fail_by_other_rules(change: dict) -> None:
    video, mode = "track_tao", "released_tao"
    assert run(video, config_of(video, mode)).has_scores(official_scores(video, mode))
    assert not run(video, config_of(video, mode, **change)).has_scores(official_scores(video, mode))


@pytest.mark.parametrize(
    ("video", "mode", "change"),
    [
        ("track_long", "released_mot", {"min_boxes": 2}),
        ("track_short", "released_mot", {"min_boxes": 1}),
        ("track_tao", "released_tao", {"min_boxes": 3}),
        ("track_tao", "released_tao", {"class_from": 0.15}),
        ("track_tao", "released_tao", {"max_boxes": 5}),
    ],
    ids=str,
)
def test_the_end_fails_by_other_rules(video: str, mode: str, change: dict) -> None:
    ours, theirs = run(video, config_of(video, mode, **change)), official(video, mode)
    assert ours.has_ids(theirs["raw_ids"])
    assert not ours.has_finished(theirs["final"], video == "track_tao")
