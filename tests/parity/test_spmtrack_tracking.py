"""SPMTrack's crops, memory rules, decoding and whole loop against the official pipeline's stored numbers.

Tolerances: crops 1e-2 of 255 levels (OpenCV's bilinear weights against torch's: 0.004), what is float32 1e-6 of itself,
boxes 0.02 px, scores 1e-5, indices exact. The network in the loop is B with filled weights.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from sightline.geometry import aligned_crops
from sightline.geometry.aligned_crops import AlignedCrop, aligned_crop, foreground_tokens, siamfc_map
from sightline.geometry.boxes import Box, xyxy_to_xywh
from sightline.imaging.sample import crop_aligned, whole_mean_colour
from sightline.models.session import TorchSession
from sightline.models.spmtrack import SPMTRACK_B, SPMTrack
from sightline.runtime.replay import RecordingSession, ReplaySession
from sightline.runtime.session import Arrays, Session
from sightline.trackers.spmtrack import SPMTrackConfig, SPMTrackState, SPMTrackTracker, asked, decode_corners
from tests.parity.fill import parameter, synthetic_video

pytestmark = pytest.mark.torch

Rule = Literal["default", "lasot"]

DATA = Path(__file__).parent / "data" / "spmtrack"
STORED = dict(np.load(DATA / "common_ops.npz"))
TRACKS = dict(np.load(DATA / "spmtrack_b_tracking.npz"))
ELSEWHERE = ("pos_embed_37_to_27", "ref_points_27", "label", "loss_")  # the network's test
RULES: dict[Rule, str] = {"default": "default_rule", "lasot": "lasot_rule_b378"}

CONFIG = SPMTrackConfig()
FACTORS = {196: CONFIG.template_factor, 378: CONFIG.search_factor}
CROPS = [(box, side) for box in range(len(STORED["crop_boxes_xyxy"])) for side in FACTORS]
OTHER_XYXY = (110.0, 95.0, 160.0, 135.0)

LEVELS = {"atol": 1e-2}
FLOAT32 = {"atol": 1e-6, "rtol": 1e-6}
BOXES = {"atol": 0.02}  # pixels
SCORES = {"atol": 1e-5}


def same(ours, stored, *, atol: float, rtol: float = 0.0) -> bool:
    return np.allclose(ours, stored, atol=atol, rtol=rtol)


def test_nothing_stored_is_left_out() -> None:
    crop = r"crop\d_(196|378)_(params|adjusted_params|image_stride[48]|channel_mean|image_mean|box_110_95_160_135)"
    here = rf"{crop}|crop\d_fg_box_14x14|crop_boxes_xyxy|video_frame_crc32"
    assert [name for name in STORED if not (re.fullmatch(here, name) or name.startswith(ELSEWHERE))] == []
    tracks = r"(default|lasot)_rule_(boxes_xyxy|confidence|argmax_top1_top2)|memory_index_\w+"
    assert [name for name in TRACKS if not re.fullmatch(tracks, name)] == []


# Crops


@functools.cache
def frame() -> np.ndarray:
    return synthetic_video()[0]


def crop_box(index: int) -> Box:
    x, y, w, h = xyxy_to_xywh(STORED["crop_boxes_xyxy"][index]).tolist()
    return x, y, w, h


def place(index: int, side: int) -> AlignedCrop:
    return aligned_crop(crop_box(index), FACTORS[side], side, *frame().shape[:2])


def pixels(index: int, side: int) -> np.ndarray:
    return crop_aligned(frame(), place(index, side), whole_mean_colour(frame()))


def in_rows(scale: tuple[float, float], shift: tuple[float, float]) -> np.ndarray:
    return np.array([scale, shift])


def agrees(index: int, side: int) -> bool:
    """Whether parameters, pixels and foreground of one crop are the stored ones."""
    name, stride = f"crop{index}_{side}", 4 if side == 196 else 8
    crop, image = place(index, side), pixels(index, side)[::stride, ::stride].transpose(2, 0, 1)
    return (
        same(in_rows(crop.scale, crop.shift), STORED[f"{name}_adjusted_params"], **FLOAT32)
        and same(image, STORED[f"{name}_image_stride{stride}"], **LEVELS)
        and np.array_equal(cells(index), STORED[f"crop{index}_fg_box_14x14"])
    )


def cells(index: int) -> np.ndarray:
    """x1, y1, x2, y2 of the foreground's rectangle of tokens."""
    x, y, w, h = crop_box(index)
    mask = foreground_tokens(place(index, 196).to_crop((x, y, x + w, y + h)), 14, 14).reshape(14, 14)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert mask.sum() == len(rows) * len(columns)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_the_synthetic_video_is_the_stored_one(compare) -> None:
    ours = [zlib.crc32(picture.tobytes()) for picture in synthetic_video()]
    compare(ours, STORED["video_frame_crc32"], atol=0, what="video_frame_crc32")


@pytest.mark.parametrize(("index", "side"), CROPS)
def test_crop(index: int, side: int, compare) -> None:
    name, stride = f"crop{index}_{side}", 4 if side == 196 else 8
    scale, shift = siamfc_map(crop_box(index), FACTORS[side], side)
    compare(in_rows((scale, scale), shift), STORED[f"{name}_params"], atol=0, rtol=1e-12, what=f"{name}_params")
    crop, ours = place(index, side), pixels(index, side)
    adjusted = STORED[f"{name}_adjusted_params"]
    compare(np.float32(in_rows(crop.scale, crop.shift)), adjusted, atol=0, what=f"{name}_adjusted_params")  # the bits
    assert not same(in_rows((scale, scale), shift), adjusted, **FLOAT32)
    image = STORED[f"{name}_image_stride{stride}"]
    compare(ours[::stride, ::stride].transpose(2, 0, 1), image, **LEVELS, what=f"{name}_image")
    assert not same(np.rint(ours[::stride, ::stride]).transpose(2, 0, 1), image, **LEVELS)  # as bytes
    mean = ours.mean(axis=(0, 1), dtype=np.float64)
    compare(mean, STORED[f"{name}_channel_mean"], **LEVELS, what=f"{name}_channel_mean")
    compare(whole_mean_colour(frame()), STORED[f"{name}_image_mean"], **FLOAT32, what=f"{name}_image_mean")
    other = STORED[f"{name}_box_110_95_160_135"]
    compare(crop.to_crop(OTHER_XYXY), other, atol=1e-9, what=f"{name}: another box")
    compare(crop.to_frame(other), OTHER_XYXY, atol=1e-9, what=f"{name}: and back")


@pytest.mark.parametrize("index", range(7))
def test_foreground(index: int, compare) -> None:
    compare(cells(index), STORED[f"crop{index}_fg_box_14x14"], atol=0, what=f"crop{index}_fg_box_14x14")


def test_crops_fail_without_their_rules(monkeypatch) -> None:
    assert all(agrees(index, side) for index, side in CROPS)
    with monkeypatch.context() as patch:
        patch.setattr(aligned_crops, "ALMOST_ONE", 0.0)  # ends are cut off
        assert not any(agrees(index, side) for index, side in CROPS)
    with monkeypatch.context() as patch:
        patch.setitem(FACTORS, 196, 2.5)
        patch.setitem(FACTORS, 378, 4.0)
        assert not any(agrees(index, side) for index, side in CROPS)


# Memory rules and decoding


@pytest.mark.parametrize("rule", RULES)
def test_memory_indices(rule: Rule, compare) -> None:
    frames = TRACKS["memory_index_frame"].tolist()
    official = TRACKS[f"memory_index_{RULES[rule]}"]
    compare([asked(t, 3, rule) for t in frames], official, atol=0, what=f"memory indices: {rule}")
    compare(frames, np.arange(4, 400), atol=0, what="memory_index_frame")
    other: Rule = "lasot" if rule == "default" else "default"
    assert not np.array_equal([asked(t, 3, other) for t in frames], official)


def window() -> np.ndarray:
    return SPMTrackTracker(ReplaySession([]), CONFIG)._window


def test_window(compare) -> None:
    with np.load(DATA / "spmtrack_b.npz") as arrays:
        compare(window(), arrays["hann_window_27"], **FLOAT32, what="hann_window_27")
    k = np.arange(27)
    periodic = 0.5 * (1 - np.cos(2 * np.pi * k / 27))
    assert not same(window(), np.outer(periodic, periodic), **FLOAT32)


@pytest.mark.parametrize("variant", "blg")
def test_decoding_of_the_stored_maps(variant: str, compare) -> None:
    for name in ("frame0", "frame1"):
        with np.load(DATA / f"spmtrack_{variant}.npz") as arrays:
            kept = {key.removeprefix(f"{name}_"): value for key, value in arrays.items() if key.startswith(name)}
        score_map = 1 / (1 + np.exp(-kept["score_map_logits"].reshape(1, 1, 27, 27).astype(np.float64)))
        box_map = kept["boxes_xyxy_norm"].reshape(1, 27, 27, 4).transpose(0, 3, 1, 2)
        xyxy_unit, scores = decode_corners(score_map, box_map, window(), CONFIG.window)
        compare(xyxy_unit * 378, kept["post_box_pixels_xyxy"], atol=1e-4, what=f"{variant} {name}: box in the region")
        compare(scores, kept["post_confidence"], **SCORES, what=f"{variant} {name}: confidence")
        unweighted, _ = decode_corners(score_map, box_map, window(), 1.0)
        assert not same(unweighted * 378, kept["post_box_pixels_xyxy"], atol=1e-4)


# The whole loop


@dataclass
class Track:
    """The states of a clip, and what the network answered on the way."""

    states: list[SPMTrackState]
    answers: list[tuple[str, Arrays]]

    def agrees(self, rule: Rule) -> bool:
        """Whether the boxes, as far as they go, are the stored ones."""
        return same([state.xyxy for state in self.states], stored(rule, "boxes_xyxy")[: len(self.states)], **BOXES)


def stored(rule: Rule, what: str) -> np.ndarray:
    return TRACKS[f"{rule}_rule_{what}"]


def follow(session: Session, config: SPMTrackConfig, begun: Track | None = None, num_frames: int = 8) -> Track:
    """Through the synthetic video from its first frame, or on from where another tracker came to."""
    recording = RecordingSession(session)
    tracker = SPMTrackTracker(recording, config)
    first, *others = synthetic_video()[:num_frames]
    states = list(begun.states) if begun else [tracker.init(first, xyxy=TRACKS["default_rule_boxes_xyxy"][0])]
    for picture in others[len(states) - 1 :]:
        states.append(tracker.update(picture, states[-1]))
    return Track(states, [*(begun.answers if begun else []), *recording.answers])


@functools.cache
def network() -> TorchSession:
    with torch.device("meta"):
        model = SPMTrack(SPMTRACK_B)
    state = {
        key: torch.from_numpy(parameter(key, tuple(tensor.shape)).astype(np.float32))
        for key, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    return TorchSession(model)


@functools.cache
def track(rule: Rule) -> Track:
    """Both rules ask for the same templates up to frame 3, so the second goes on from there."""
    return follow(network(), replace(CONFIG, rule=rule), first_frames())


@functools.cache
def first_frames() -> Track:
    return follow(network(), CONFIG, num_frames=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for cached in (network, track, first_frames):
        cached.cache_clear()


@pytest.mark.parametrize("rule", RULES)
def test_tracking(rule: Rule, compare) -> None:
    run = track(rule)
    compare([state.xyxy for state in run.states], stored(rule, "boxes_xyxy"), **BOXES, what=f"{rule}: boxes")
    compare([state.score for state in run.states], stored(rule, "confidence"), **SCORES, what=f"{rule}: confidence")
    scores = np.concatenate([answer["score_map"][:, 0] for graph, answer in run.answers if graph == "track"])
    penalised = (0.55 * scores + 0.45 * window()).reshape(7, -1)
    official = stored(rule, "argmax_top1_top2")
    compare(penalised.argmax(axis=1), official[:, 0], atol=0, what=f"{rule}: peak cell")
    compare(np.sort(penalised)[:, :-3:-1], official[:, 1:], **SCORES, what=f"{rule}: best and second best")
    assert not run.agrees("lasot" if rule == "default" else "default")


@pytest.mark.parametrize(
    "change", [{"window": 0.0}, {"window": 0.49}, {"search_factor": 4.9}, {"search_min_px": 99.0}], ids=str
)
@pytest.mark.parametrize("rule", RULES)
def test_tracking_fails_with_another_decoding(rule: Rule, change: dict) -> None:
    """The recorded answers of the network, read by other rules."""
    answers = track(rule).answers
    assert follow(ReplaySession(answers), replace(CONFIG, rule=rule)).agrees(rule)
    assert not follow(ReplaySession(answers), replace(CONFIG, rule=rule, **change)).agrees(rule)


def test_tracking_fails_with_another_template() -> None:
    wider = follow(network(), replace(CONFIG, template_factor=2.1), num_frames=2)
    assert not wider.agrees("default")
