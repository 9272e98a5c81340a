"""The whole loop on the synthetic clip: official networks with filled weights, our tracker, the stored boxes.

Tolerance 0.02 px; two runs of the official code with one and two threads differ by 2.3e-5 px.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.geometry.crops import snapped_region
from sightline.geometry.windows import hann
from sightline.imaging.sample import crop_snapped
from sightline.models import ostrack
from sightline.models.mvt import MVT
from sightline.models.ostrack import OSTrack
from sightline.models.session import TorchSession
from sightline.runtime.replay import RecordingSession, ReplaySession
from sightline.runtime.session import Session
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from tests.parity.fill import parameter, synthetic_video

pytestmark = pytest.mark.torch

DATA = Path(__file__).parent / "data"
STORED = {  # name in the zoo -> stored file
    "ostrack-256": "ostrack/ostrack_256",
    "ostrack-256-ce": "ostrack/ostrack_256_ce",
    "ostrack-384": "ostrack/ostrack_384",
    "ostrack-384-ce": "ostrack/ostrack_384_ce",
    "mvt": "mvt/mvt",
}
START_XYWH = (100.0, 90.0, 64.0, 48.0)
BOXES = {"atol": 0.02, "rtol": 0.0}  # pixels
MARGINS = {"atol": 1e-3, "rtol": 0.0}  # pixels: where rounding would tip over, four times as sensitive as a box
RESPONSES = {"atol": 1e-5, "rtol": 0.0}


@functools.cache
def weights(key: str, shape: tuple[int, ...]) -> Tensor:
    """One filled tensor; the cache lets the variants of OSTrack share theirs."""
    return torch.from_numpy(np.asarray(parameter(key, shape), np.int64 if key.endswith("tracked") else np.float32))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    weights.cache_clear()
    track.cache_clear()


def network(name: str) -> nn.Module:
    with torch.device("meta"):
        preset = ZOO[name].preset.partition(":")[2]
        model = MVT() if name == "mvt" else OSTrack(getattr(ostrack, preset))
    state = {key: weights(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{STORED[name]}.npz") as arrays:
        return {key.removeprefix("track_"): value for key, value in arrays.items() if key.startswith("track_")}


@dataclass
class Track:
    """The boxes of a clip, frame by frame, and what the network answered."""

    xywh: np.ndarray
    session: RecordingSession


def follow(session: Session, config: TemplateSearchConfig, num_frames: int = 8) -> Track:
    recording = RecordingSession(session)
    tracker = TemplateSearchTracker(recording, config)
    first, *others = synthetic_video()[:num_frames]
    states = [tracker.init(first, xywh=START_XYWH)]
    for frame in others:
        states.append(tracker.update(frame, states[-1]))
    return Track(np.array([state.xywh for state in states]), recording)


@functools.cache
def track(name: str) -> Track:
    return follow(TorchSession(network(name)), ZOO[name].tracker)


def agrees(boxes: np.ndarray, name: str) -> bool:
    return np.allclose(boxes, stored(name)["boxes_xywh"][: len(boxes)], **BOXES)


def test_synthetic_video_is_the_stored_one(compare) -> None:
    official = np.load(DATA / "ostrack" / "common_ops.npz")["video_frame_crc32"]
    compare([zlib.crc32(frame.tobytes()) for frame in synthetic_video()], official, atol=0, what="video_frame_crc32")
    swapped = [zlib.crc32(frame[..., ::-1].tobytes()) for frame in synthetic_video()]
    assert not np.equal(swapped, official).any()


@pytest.mark.parametrize("name", STORED)
def test_boxes(name: str, compare) -> None:
    compare(track(name).xywh, stored(name)["boxes_xywh"], **BOXES, what=f"{name}: boxes")
    assert stored(name).keys() - {"boxes_xywh", "meta", "template_crop_sub4"} == set()  # and the rest is compared below


@pytest.mark.parametrize("name", STORED)
def test_what_lies_between_the_boxes(name: str, compare) -> None:
    """Crop side, scale, peak and second best of the windowed response, and how far each rounding is from a tie."""
    config, run = ZOO[name].tracker, track(name)
    answers = [answer for graph, answer in run.session.answers if graph == "track"]
    rows = []
    for (x, y, w, h), answer in zip(run.xywh, answers, strict=False):
        region = snapped_region((x, y, w, h), config.search_factor, config.search_px)
        response = (answer["score_map"][0, 0] * hann(config.grid)).ravel()
        second, best = np.sort(response)[-2:]
        slack = region.side_px - config.search_factor * np.sqrt(w * h)
        starts = [x + w / 2 - region.side_px / 2, y + h / 2 - region.side_px / 2]
        ties = [abs(start - np.floor(start) - 0.5) for start in starts]
        rows.append([region.side_px, region.scale, response.argmax(), best, second, slack, *ties])
    meta, official = np.array(rows), stored(name)["meta"]
    compare(meta[:, [0, 2]], official[:, [0, 2]], atol=0, what=f"{name}: crop side and peak cell")
    compare(meta[:, 1], official[:, 1], atol=1e-12, what=f"{name}: resize factor")
    compare(meta[:, 3:5], official[:, 3:5], **RESPONSES, what=f"{name}: best and second best response")
    compare(meta[:, 5:], official[:, 5:], **MARGINS, what=f"{name}: distance from a tie")
    assert not np.allclose(meta[:, 3], official[:, 4], **RESPONSES)


@pytest.mark.parametrize("name", [name for name in STORED if name != "mvt"])
def test_template_crop(name: str, compare) -> None:
    config, frame = ZOO[name].tracker, synthetic_video()[0]
    region = snapped_region(START_XYWH, config.template_factor, config.template_px)
    official = stored(name)["template_crop_sub4"]
    compare(crop_snapped(frame, region)[::4, ::4], official, atol=0, what=f"{name}: template crop")
    shifted = replace(region, x1=region.x1 + 1)
    assert not np.array_equal(crop_snapped(frame, shifted)[::4, ::4], official)


@pytest.mark.parametrize("name", ["ostrack-256-ce", "ostrack-384-ce", "mvt"])
def test_boxes_fail_with_the_exact_crop(name: str) -> None:
    assert not agrees(follow(TorchSession(network(name)), replace(ZOO[name].tracker, crop="exact"), 2).xywh, name)


@pytest.mark.parametrize(
    "change", [{"map_back": "exact"}, {"window": 0.0}, {"search_factor": 4.5}, {"clip_margin_px": 99.0}], ids=str
)
@pytest.mark.parametrize("name", STORED)
def test_boxes_fail_with_another_decoding(name: str, change: dict) -> None:
    """The recorded answers of the network, read by other rules."""
    answers = track(name).session.answers
    assert agrees(follow(ReplaySession(answers), ZOO[name].tracker).xywh, name)
    assert not agrees(follow(ReplaySession(answers), replace(ZOO[name].tracker, **change)).xywh, name)


def test_three_targets_in_one_batch_have_the_boxes_of_one(compare) -> None:
    tracker = TemplateSearchTracker(TorchSession(network("mvt")), ZOO["mvt"].tracker)
    first, *others = synthetic_video()
    states = [tracker.init(first, xywh=START_XYWH)] * 3
    for frame, official in zip(others, stored("mvt")["boxes_xywh"][1:], strict=True):
        states = tracker.update_many(frame, states)
        compare([state.xywh for state in states], np.tile(official, (3, 1)), **BOXES, what="three of mvt")
