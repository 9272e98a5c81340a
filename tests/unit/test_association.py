"""GTR's streaming association against the plain one, which relates every window from the start.

Tolerances: logits 1e-4 and probabilities 1e-5, on features as long as the fixtures'. Where longer ones let single
objects rule a softmax, both are held against double precision, in parts of the largest logit.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from sightline.errors import ProtocolError
from sightline.trackers import association
from sightline.trackers.association import StreamingAssociation, StreamState, Sums, frame_softmax
from tests.gtr_networks import NumPyAssociation, association_shapes

LOGITS, PROBABILITIES = 1e-4, 1e-5
LENGTH = 2.3  # of the fixtures' features of people
ENCODER, DECODER = "transformer.encoder.layers.0", "transformer.decoder.layers.0"


def network(width: int, *, has_predictor: bool = False) -> dict[str, np.ndarray]:
    """Weights as by the fixtures' rule: rows of length 1, biases of deviation 0.1."""
    rng = np.random.default_rng(0)
    return {
        name: np.float32(rng.standard_normal(shape) / (np.sqrt(shape[1]) if len(shape) > 1 else 10))
        for name, shape in association_shapes(width, has_predictor).items()
    }


def clip(num_frames: int, num_objects: int, width: int, length: float = LENGTH) -> Iterator[np.ndarray]:
    """Objects that stay, each like itself from frame to frame; every 37th frame is empty, the next misses a few."""
    rng = np.random.default_rng(1)
    looks = rng.standard_normal((num_objects, width))
    for number in range(num_frames):
        seen = rng.random(num_objects) > {36: 1.0, 0: 0.3}.get(number % 37, 0.0)
        features = looks[seen] + 0.5 * rng.standard_normal((seen.sum(), width))
        yield np.float32(features * length / np.sqrt(1.25 * width))


def plain(weights: Mapping[str, np.ndarray], features: np.ndarray, count: int) -> np.ndarray:
    """Logits of the last `count` objects of a window, in the precision of `features`."""
    parts = NumPyAssociation({name: value.astype(features.dtype) for name, value in weights.items()})
    queries = features[len(features) - count :]
    memory = features + parts.attend(f"{ENCODER}.self_attn", features, features)
    memory = memory + parts.mlp(f"{ENCODER}.linear1", f"{ENCODER}.linear2", memory)
    h = queries + parts.attend(f"{DECODER}.multihead_attn", queries, memory)
    h = h + parts.mlp(f"{DECODER}.linear1", f"{DECODER}.linear2", h)
    if "asso_predictor.q_proj.layers.0.weight" in weights:
        h = parts.mlp("asso_predictor.q_proj.layers.0", "asso_predictor.q_proj.layers.1", h)
        memory = parts.mlp("asso_predictor.k_proj.layers.0", "asso_predictor.k_proj.layers.1", memory)
    return h @ memory.T


def check(weights: Mapping[str, np.ndarray], state: StreamState, logits: np.ndarray) -> None:
    assert logits.dtype == np.float32
    assert logits.shape == (state.counts[-1], sum(state.counts))
    if state.counts[-1]:
        official = plain(weights, state.features, state.counts[-1])
        np.testing.assert_allclose(logits, official, rtol=0, atol=LOGITS)
        ours, theirs = (frame_softmax(values, state.counts) for values in (logits, official))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=PROBABILITIES)


def run(streaming: StreamingAssociation, frames: Iterator[np.ndarray], window: int) -> Iterator[tuple]:
    state = streaming.empty()
    for features in frames:
        state, logits = streaming.step(state, features, int(len(state.counts) == window))
        yield state, logits


# Equal to the plain path


@pytest.mark.parametrize(
    ("num_frames", "num_objects", "every"),
    [
        (200, 20, 20),
        (30, 100, 15),
        pytest.param(2000, 20, 1, marks=pytest.mark.slow),
        pytest.param(300, 100, 1, marks=pytest.mark.slow),
    ],
)
def test_long_clips_of_the_released_size(num_frames: int, num_objects: int, every: int) -> None:
    weights = network(1024)
    for number, (state, logits) in enumerate(
        run(StreamingAssociation(weights), clip(num_frames, num_objects, 1024), 32)
    ):
        assert len(state.counts) == min(number + 1, 32)
        if number % every == every - 1:
            check(weights, state, logits)


@pytest.mark.parametrize("has_predictor", [False, True])
@pytest.mark.parametrize("num_objects", [1, 3, 8, 9, 30])  # up to 8 memory stays unformed, from 9 on it does not
@pytest.mark.parametrize("window", [1, 2, 7, 40])
def test_every_window_and_number_of_objects(has_predictor: bool, num_objects: int, window: int) -> None:
    weights = network(64, has_predictor=has_predictor)
    for state, logits in run(StreamingAssociation(weights), clip(45, num_objects, 64), window):
        check(weights, state, logits)


def test_frames_may_be_empty_and_several_may_leave_at_once() -> None:
    weights = network(64)
    streaming, rng = StreamingAssociation(weights), np.random.default_rng(2)
    state = streaming.empty()
    for number in range(60):
        count = 0 if number < 2 or 20 <= number < 30 else int(rng.integers(0, 6))
        leaving = int(rng.integers(0, len(state.counts) + 1)) if number % 4 == 3 else 0
        features = np.float32(rng.standard_normal((count, 64)) * LENGTH / 8)
        before = state.features.copy()
        gone = sum(state.counts[:leaving])
        state, logits = streaming.step(state, features, leaving)
        np.testing.assert_array_equal(state.features, np.concatenate([before[gone:], features]))
        check(weights, state, logits)


def test_five_hundred_objects_and_then_none() -> None:
    weights = network(64)
    streaming = StreamingAssociation(weights)
    features = np.float32(np.random.default_rng(3).standard_normal((500, 64)) * LENGTH / 8)
    state = streaming.empty()
    for count in (500, 500, 0, 1):
        state, logits = streaming.step(state, features[:count])
        check(weights, state, logits)


def test_objects_that_are_all_alike() -> None:
    weights = network(64)
    for state, logits in run(StreamingAssociation(weights), iter([np.full((4, 64), 0.3, np.float32)] * 12), 5):
        check(weights, state, logits)
        np.testing.assert_allclose(logits, logits[0, 0], atol=LOGITS)


def test_a_wrong_weight_is_seen() -> None:
    weights = network(64)
    for name in weights:
        if name == f"{DECODER}.multihead_attn.in_proj_bias":  # a third of it, that of the keys, changes nothing
            continue
        changed = StreamingAssociation(weights | {name: weights[name] + np.float32(0.02)})
        *_, (state, logits) = run(changed, clip(6, 5, 64), 4)
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check(weights, state, logits)


# A row that lost most of its sum, and one that grew old


def ruled(length: float) -> dict[str, np.ndarray]:
    """A network whose encoder looks at what is long: keys and queries are the features themselves."""
    weights = network(64)
    weights[f"{ENCODER}.self_attn.in_proj_weight"][:128] = np.tile(np.eye(64, dtype=np.float32), (2, 1)) * length
    return weights


def largest_error(streaming: StreamingAssociation, weights: Mapping[str, np.ndarray], frames: list) -> float:
    """Of logits against double precision, in parts of the largest, over a window of three frames."""
    errors = [0.0]
    for state, logits in run(streaming, iter(frames), 3):
        exact = plain(weights, state.features.astype(np.float64), state.counts[-1])
        errors.append(float(abs(logits - exact).max() / abs(exact).max()))
    return max(errors)


@pytest.mark.parametrize("gain", [1.0, 3.0, 10.0, 30.0])
def test_what_rules_a_softmax_may_come_and_leave(gain: float) -> None:
    """Every other frame is `gain` times as long as the rest, so that attention is nearly all on it."""
    weights, rng = ruled(2.0), np.random.default_rng(4)
    looks = np.abs(rng.standard_normal((4, 64))) / 4
    frames = [np.float32((looks + 0.02 * rng.standard_normal((4, 64))) * (gain if i % 2 else 1)) for i in range(24)]
    assert largest_error(StreamingAssociation(weights), weights, frames) < 2e-5
    if gain == 30:
        with mock.patch.object(association, "CANCELLED", 1e30), mock.patch.object(association, "UNBOUNDED", np.inf):
            assert not largest_error(StreamingAssociation(weights), weights, frames) < 1e-3  # perhaps nan


def spoilt(state: StreamState) -> StreamState:
    """As if rounding had moved every sum."""
    return replace(state, sums=Sums(state.sums.num * np.float32(1.001), *state.sums[1:]))


@pytest.mark.parametrize("every", [4, 1000])
def test_rows_are_built_anew_every_k_frames(every: int) -> None:
    weights = network(64)
    streaming = StreamingAssociation(weights, rebuild_every=every)
    state = streaming.empty()
    for number, features in enumerate(clip(20, 3, 64)):
        if number == 12:
            state = spoilt(state)
        state, logits = streaming.step(state, features)  # nothing leaves
        exact = plain(weights, state.features, len(features))
        if number in (12, 19):
            wrong = abs(logits - exact).max() > LOGITS
            assert wrong == (number == 12 or every == 1000)
    assert every == 4 or wrong


@pytest.mark.parametrize("rebuild_every", [32, 10_000])
def test_drift_is_small(rebuild_every: int) -> None:
    """Of rows that lived for 300 frames: 1e-6 of the largest number with K = 32, 3e-6 without."""
    streaming = StreamingAssociation(network(64), rebuild_every=rebuild_every)
    *_, (state, _) = run(streaming, clip(500, 3, 64), 300)
    anew = streaming.window(state.features, state.counts).sums
    ours, exact = (sums.num / sums.den.T.repeat(8, axis=1) for sums in (state.sums, anew))
    assert 0 < abs(ours - exact).max() < 1e-5 * abs(exact).max()


# States are values


def test_an_old_state_is_as_good_as_new() -> None:
    weights = network(64)
    streaming, frames = StreamingAssociation(weights), list(clip(30, 6, 64))
    states = [state for state, _ in run(streaming, iter(frames), 8)]
    answers = [logits for _, logits in run(streaming, iter(frames), 8)]
    for number in (29, 3, 17, 17, 4, 28):
        again, logits = streaming.step(states[number - 1], frames[number], int(number >= 8))
        np.testing.assert_array_equal(logits, answers[number])
        np.testing.assert_array_equal(again.features, states[number].features)
        other, elsewhere = streaming.step(states[number - 1], frames[number] + np.float32(0.1), int(number >= 8))
        check(weights, other, elsewhere)
        check(weights, states[number], answers[number])
    for part in (*states[-1].sums, states[-1].features):
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 0


def test_two_threads_may_go_on_from_one_state() -> None:
    weights = network(64)
    streaming = StreamingAssociation(weights)
    *_, (state, _) = run(streaming, clip(10, 6, 64), 8)
    ways = [np.float32(np.random.default_rng(seed).standard_normal((6, 64)) * LENGTH / 8) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for after, logits in pool.map(lambda features: streaming.step(state, features, 1), ways, timeout=60):
            check(weights, after, logits)


def test_a_state_may_be_copied_saved_and_made_of_its_features() -> None:
    weights = network(64)
    streaming, features = StreamingAssociation(weights), np.full((2, 64), 0.2, np.float32)
    *_, (state, _) = run(streaming, clip(20, 6, 64), 8)
    _, logits = streaming.step(state, features, 1)
    for same in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        np.testing.assert_array_equal(streaming.step(same, features, 1)[1], logits)
    restored = streaming.window(state.features, state.counts)
    assert restored.counts == state.counts
    np.testing.assert_allclose(streaming.step(restored, features, 1)[1], logits, atol=LOGITS)


def test_memory_is_bounded() -> None:
    streaming = StreamingAssociation(network(64))
    for state, _ in run(streaming, clip(300, 6, 64), 8):
        assert len(state.rows.array) <= 2 * 9 * 6
        assert state.sums.num.shape == (sum(state.counts), 64)


# Sentences


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_told_of(value: float) -> None:
    streaming = StreamingAssociation(network(64))
    *_, (state, _) = run(streaming, clip(4, 3, 64), 8)
    features = np.zeros((3, 64), np.float32)
    features[1, 5] = value
    with pytest.raises(ProtocolError, match="got nan or inf for object 1 of 3; expected finite numbers"):
        streaming.step(state, features)
    check(network(64), *streaming.step(state, np.full((3, 64), 0.1, np.float32)))  # it goes on from where it was


def test_features_too_large_to_compute_with_are_told_of() -> None:
    streaming = StreamingAssociation(network(64))
    with pytest.raises(ProtocolError, match=r"got logits that are not finite from features up to 1e\+30"):
        streaming.step(streaming.empty(), np.full((2, 64), 1e30, np.float32))


def test_features_of_another_width_are_told_of() -> None:
    streaming = StreamingAssociation(network(64))
    with pytest.raises(ProtocolError, match=r"got shape \(2, 65\); expected \(objects, 64\)"):
        streaming.step(streaming.empty(), np.zeros((2, 65), np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"transformer.encoder.layers.0.norm1.weight": (64,)},
        {"transformer.encoder.layers.1.linear1.weight": (64, 64)},
        {"transformer.decoder.layers.0.self_attn.in_proj_weight": (192, 64)},
        {"pos_emb.weight": (64, 16)},
        {"temp_emb.weight": (16, 64)},
        {"asso_predictor.q_proj.layers.0.weight": (64, 64)},
    ],
)
def test_networks_of_an_ablation_are_refused(change: dict[str, tuple[int, ...]]) -> None:
    weights = network(64) | {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    named = next(iter(change)) if "asso_predictor" not in next(iter(change)) else "asso_predictor"
    with pytest.raises(ProtocolError, match=rf"differ from the released ones in {named}; .* Use the plain association"):
        StreamingAssociation(weights)
    with pytest.raises(ProtocolError, match=r"released ones in transformer\.decoder"):
        StreamingAssociation({})


# Probabilities


def test_probabilities_of_each_frame_leave_room_for_none() -> None:
    logits = np.float32([[1, 2, -1, 500], [-800, -800, 0, -200]])
    probabilities = frame_softmax(logits, [2, 0, 1, 1])
    e = np.e
    expected = [[e / (1 + e + e**2), e**2 / (1 + e + e**2), 1 / (1 + e), 1], [0, 0, 0.5, 0]]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert frame_softmax(np.zeros((0, 4), np.float32), [2, 0, 1, 1]).shape == (0, 4)
    assert frame_softmax(np.zeros((2, 0), np.float32), [0, 0]).shape == (2, 0)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(frame_softmax(logits, [4]), expected, atol=1e-6)
