"""The library from Python: load, init, update, update_many, track; states that are values; streams that end."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sightline
from sightline.errors import GeometryError, ProtocolError, VideoError
from sightline.geometry.boxes import iou
from sightline.runtime.stages import StageClock
from tests.e2e.scene import NUM_FRAMES, Picture, environment, pictures, truth, write_clip

LOOK_AHEAD = 8 + 2  # frames that are decoded before they are asked for, and those on their way
BATCH = {"atol": 1e-3, "rtol": 0.0}  # pixels, of one target in a batch and alone


@pytest.fixture(scope="module")
def tracker() -> sightline.TemplateSearchTracker:
    return sightline.load("sightline-nano", threads=1)


@pytest.fixture(scope="module")
def frames() -> list[Picture]:
    return pictures()


def decoding_threads() -> int:
    return sum(thread.name == "sightline-decode" for thread in threading.enumerate())


def test_update_follows_the_target_in_every_format(tracker: sightline.TemplateSearchTracker, frames: list[Picture]):
    boxes = truth()
    x, y, w, h = boxes[0]
    state = tracker.init(frames[0], xywh=boxes[0])
    assert state == tracker.init(frames[0], xyxy=(x, y, x + w, y + h))
    assert state == tracker.init(frames[0], cxcywh=np.array([x + w / 2, y + h / 2, w, h]))
    assert (state.xywh, state.score, state.model) == ((x, y, w, h), 1.0, "sightline-nano")
    for frame, box in zip(frames[1:], boxes[1:], strict=True):
        state = tracker.update(frame, state)
        assert iou(state.xywh, box) > 0.5
        assert 0 < state.score <= 1
    x, y, w, h = state.xywh
    assert state.xyxy == (x, y, x + w, y + h)
    assert state.cxcywh == (x + w / 2, y + h / 2, w, h)


def test_several_targets_are_as_each_alone(tracker: sightline.TemplateSearchTracker, frames: list[Picture]):
    start = [truth(1, target)[0] for target in (0, 1, 0)]
    together = [result.xywh for result in sightline.track(frames, start, model=tracker)]
    for target, box in enumerate(start):
        alone = [result.xywh for result in sightline.track(frames, [box], model=tracker)]
        np.testing.assert_allclose(together[target :: len(start)], alone, **BATCH)
    assert not np.allclose(together[0 :: len(start)], together[1 :: len(start)], **BATCH)
    assert tracker.update_many(frames[1], []) == []


def test_a_state_is_a_value(tracker: sightline.TemplateSearchTracker, frames: list[Picture]):
    first = tracker.init(frames[0], xywh=truth()[0])
    kept = first.xywh
    second = tracker.update(frames[1], first)
    third = tracker.update(frames[2], second)
    assert first.xywh == kept
    assert tracker.update(frames[2], tracker.update(frames[1], first)) == third  # rewound: the same bits
    assert second != third
    with pytest.raises(ValueError, match="read-only"):
        next(iter(first.features.values()))[...] = 0
    with pytest.raises(AttributeError):
        first.score = 0.5  # type: ignore[misc]


CONTINUE = """
import sys
import numpy as np
import sightline
with np.load(sys.argv[1], allow_pickle=False) as arrays:
    frames = arrays["frames"]
    state = sightline.TargetState.from_arrays({name: arrays[name] for name in arrays if name != "frames"})
tracker = sightline.load("sightline-nano", threads=1)
for frame in frames:
    state = tracker.update(frame, state)
np.savez(sys.argv[2], **state.to_arrays())
"""


def test_a_saved_state_goes_on_in_another_process(
    tracker: sightline.TemplateSearchTracker, frames: list[Picture], tmp_path: Path
):
    middle = NUM_FRAMES // 2
    state = tracker.init(frames[0], xywh=truth()[0])
    for frame in frames[1:middle]:
        state = tracker.update(frame, state)
    np.savez(tmp_path / "middle.npz", frames=frames[middle:], **state.to_arrays())
    for frame in frames[middle:]:
        state = tracker.update(frame, state)

    line = [sys.executable, "-c", CONTINUE, tmp_path / "middle.npz", tmp_path / "end.npz"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "end.npz", allow_pickle=False) as arrays:
        assert sightline.TargetState.from_arrays(arrays) == state  # the same bits
    assert iou(state.xywh, truth()[-1]) > 0.5


def test_a_stream_of_results_from_a_file(frames: list[Picture], tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", frames)
    clock = StageClock()
    boxes = [truth(5, target)[4] for target in (0, 1)]
    results = list(sightline.track(clip, boxes, start=4, clock=clock, threads=1))
    assert [result.frame_index for result in results] == np.repeat(np.arange(4, NUM_FRAMES), 2).tolist()
    assert [result.target_id for result in results] == [1, 2] * (NUM_FRAMES - 4)
    np.testing.assert_allclose([result.time_s for result in results[::2]], np.arange(4, NUM_FRAMES) / 25, atol=1e-6)
    for target in (0, 1):
        found = [result.xywh for result in results[target::2]]
        assert found[0] == tuple(boxes[target])
        assert (iou(found, truth(NUM_FRAMES, target)[4:]) > 0.5).all()
    assert {"crop", "network", "decode"} < clock.summary().keys()


def test_any_iterable_of_arrays_is_a_source(tracker: sightline.TemplateSearchTracker, frames: list[Picture]):
    """A list, a generator, an array; grey and 16-bit frames as well; indices and boxes are the same."""
    start = [truth()[0]]
    expected = [result.xywh for result in sightline.track(frames, start, model=tracker)]
    for source in ((frame for frame in frames), np.stack(frames), [frame.astype(np.uint16) * 257 for frame in frames]):
        results = list(sightline.track(source, start, model=tracker))
        assert [result.xywh for result in results] == expected
        assert [result.frame_index for result in results] == list(range(NUM_FRAMES))
        assert {result.time_s for result in results} == {None}
    grey = [frame[..., 1] for frame in frames]
    assert (iou([result.xywh for result in sightline.track(grey, start, model=tracker)], truth()) > 0.5).all()


def test_an_endless_source_is_read_only_a_little_ahead(tracker: sightline.TemplateSearchTracker, frames: list[Picture]):
    made = 0

    def endless() -> Iterator[Picture]:
        nonlocal made
        for frame in itertools.cycle(frames[:1]):
            made += 1
            yield frame

    for result in sightline.track(endless(), [truth()[0]], model=tracker):
        assert made <= result.frame_index + 1 + LOOK_AHEAD
        if result.frame_index == 40:
            assert decoding_threads() == 1
            break
    assert decoding_threads() == 0
    assert made <= 41 + LOOK_AHEAD


def test_no_thread_outlives_its_stream(tracker: sightline.TemplateSearchTracker, frames: list[Picture], tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4", frames)
    results = sightline.track(clip, [truth()[0]], model=tracker)
    assert decoding_threads() == 0  # nothing has begun
    next(results)
    assert decoding_threads() == 1
    results.close()
    assert decoding_threads() == 0

    with pytest.raises(VideoError, match="float64"):
        list(sightline.track([*frames[:3], frames[3] / 255], [truth()[0]], model=tracker))
    with pytest.raises(GeometryError, match="no area"):
        list(sightline.track(clip, [(1, 2, 0, 4)], model=tracker))
    assert decoding_threads() == 0


def test_what_cannot_be_is_said(tracker: sightline.TemplateSearchTracker, frames: list[Picture]):
    box = truth()[0]
    with pytest.raises(GeometryError, match="got 0 boxes"):
        tracker.init(frames[0])
    with pytest.raises(GeometryError, match="got 2 boxes"):
        tracker.init(frames[0], xywh=box, xyxy=box)
    for frame in (frames[0] / 255, frames[0][..., 0], frames[0].tolist(), frames[0][:0]):
        with pytest.raises(GeometryError, match=r"expected \(H, W, 3\) uint8 RGB"):
            tracker.init(frame, xywh=box)
    state = tracker.init(frames[0], xywh=box)
    with pytest.raises(ProtocolError, match="made by 'sightline-nano'; expected one made by 'another'"):
        sightline.TemplateSearchTracker(tracker.session, tracker.config, "another").update(frames[1], state)
    with pytest.raises(ProtocolError, match="Save it again"):
        sightline.TargetState.from_arrays({"features.template": np.zeros(3)})
    with pytest.raises(VideoError, match="zero frames"):
        list(sightline.track([], [box], model=tracker))
    with pytest.raises(VideoError, match="zero frames"):
        list(sightline.track(iter(()), [box], model=tracker))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "sightline-nanu"}, "Did you mean 'sightline-nano'?"),
        ({"windw": 0.3}, "Did you mean 'window'?"),
        ({"window": 2}, "expected 0 to 1"),
        ({"backend": "tensorrt"}, "expected 'auto', 'onnx' or 'torch'"),
        ({"threads": -2}, "threads: got -2"),
        ({"device": "cuda", "backend": "onnx"}, "device: got 'cuda' for ONNX Runtime"),
        ({"name": "mvt"}, "got no weights"),
        ({"weights": "missing.pth"}, "no such file"),
    ],
)
def test_load_refuses_in_one_sentence(options: dict[str, object], sentence: str):
    with pytest.raises(sightline.SightlineError) as refused:
        sightline.load(**options)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_trackers_own_options_are_taken(frames: list[Picture]):
    tracker = sightline.load(window=0.25, search_factor=3.5, threads=1)
    assert (tracker.config.window, tracker.config.search_factor) == (0.25, 3.5)
    assert [result.frame_index for result in sightline.track(frames[:2], [truth()[0]], model=tracker)] == [0, 1]
