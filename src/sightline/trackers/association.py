"""GTR's association over a sliding window, one frame at a time (arXiv 2203.13250, Sec. 4.2), in NumPy.

The plain path relates all objects of the window anew with every frame. Here the same numbers come from less work; all
of it is regrouping, so only rounding differs. An object's features are x, what the encoder's attention gives it before
the output projection is a, and the hidden layer of the encoder's feed forward is r = relu(c + W_1 W_o a):

- q, k, v of the encoder, c = W_1 (x + b_o) + b_1, and the decoder's keys and values as far as they come from x depend
  on nothing else. They are computed once, when the object arrives.
- a is a quotient of sums over the window. With an arriving frame, its columns are added to the sums of every older
  object, and those of the leaving frame are subtracted; only the arriving objects attend to everything.
- The encoder's memory x + W_o a + W_2 r + const stays unformed, as x and z = [a, r]. What the few queries of the
  decoder need of it is linear in it: its matrices go to their side. For n queries and h heads that takes h n rows where
  it would take D columns, so with h n > D keys and values are formed after all.

What is subtracted must not be most of a sum, and a sum must not drift: a row of sums is built anew when it falls to an
eighth of the largest value it had, when it grows beyond all bounds, and when its frame is K frames old. With K = 32 the
attention of rows that live for 1,000 frames stays within 2e-6 of its largest number, and without it within 4e-6.

Legend: n objects of the arriving frame  N objects of the window  D width  F hidden width  h heads  d = D / h
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ProtocolError

Matrix = NDArray[np.float32]

ENCODER, DECODER = "transformer.encoder.layers.0.", "transformer.decoder.layers.0."
ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
FEED_FORWARD = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")
LAYERS = ("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias")
TRANSFORMER = {
    *(f"{ENCODER}self_attn.{name}" for name in ATTENTION),
    *(f"{DECODER}multihead_attn.{name}" for name in ATTENTION),
    *(layer + name for layer in (ENCODER, DECODER) for name in FEED_FORWARD),
}
PREDICTOR = {f"asso_predictor.{side}.{name}" for side in ("q_proj", "k_proj") for name in LAYERS}

CANCELLED = 8.0  # a sum that falls below this part of its peak has lost three of its 24 bits
UNBOUNDED = 1e12  # and one beyond this is about to overflow; a fresh one is at most N
BLOCK = 640  # rows, few enough to stay in a cache from one pass over them to the next


def frame_softmax(logits: Matrix, n_t: Sequence[int]) -> Matrix:
    """P_A of every query and object (Eq. 1): frame by frame a softmax over its objects and the empty class, of logit 0.

    logits (n, N): a row is a query, the columns are the objects of len(n_t) frames in order. Returns (n, N) in [0, 1];
    what a row lacks to 1 within a frame is the probability that the query is not on it.
    """
    probabilities = np.empty_like(logits)
    start = 0
    for count in n_t:
        scores = logits[:, start : start + count]
        top = scores.max(axis=1, initial=0.0, keepdims=True)
        raised = np.exp(scores - top)
        probabilities[:, start : start + count] = raised / (raised.sum(axis=1, keepdims=True) + np.exp(-top))
        start += count
    return probabilities


class Sums(NamedTuple):
    """The encoder's attention of every object of the window, as sums of exp(s - base) over the window's objects.

    num (N, D): of the values; den (h, N): of ones. base (h, N): the largest s when the row was built. peak (h, N): the
    largest den since then.
    """

    num: Matrix
    den: Matrix
    base: Matrix
    peak: Matrix


class Rows:
    """Rows that are only ever appended to, so that the states of one stream share them: a state reads its own range,
    and nothing in it is written again."""

    def __init__(self, capacity: int, width: int) -> None:
        self.array = np.empty((capacity, width), np.float32)
        self._ends = {0}  # where nothing was appended yet, one place

    def claim(self, place: int, count: int) -> bool:
        """Whether `count` rows may be written from `place` on; of all who ask for a place, the first alone may."""
        if place + count > len(self.array) or place not in self._ends:
            return False
        try:
            self._ends.remove(place)
        except KeyError:  # another thread was faster
            return False
        self._ends.add(place + count)
        return True


@dataclass(frozen=True, eq=False)
class StreamState:
    """The window as the association remembers it: a value, which stays as it is whatever is done with later ones.

    counts: objects of each frame, oldest first; 0 is legal. All else follows from them and `features`
    (`StreamingAssociation.window`), so these two are what to save.
    """

    counts: tuple[int, ...]
    width: int
    rows: Rows = field(repr=False)
    span: slice = field(repr=False)
    sums: Sums = field(repr=False)

    def __post_init__(self) -> None:
        for part in self.sums:
            part.flags.writeable = False

    @property
    def features(self) -> Matrix:
        """(N, D) float32, read-only: of all objects, oldest frame first."""
        features = self.rows.array[self.span, : self.width]
        features.flags.writeable = False
        return features


class StreamingAssociation:
    """The association of one network; keeps nothing between calls.

    weights: the association head's tensors by their official names without `roi_heads.`, as a session's `association`
    gives them. num_heads: of both attentions, 8 in every released file. rebuild_every: K, frames. A row leaves with its
    frame, so in a window of at most K frames none comes to it.

    An object takes 28 D bytes (TAO: 32 D), held up to twice, and 4 D of sums. Raises `ProtocolError` for weights of an
    ablation: with embeddings of place or time, norms, several layers or self-attention of the queries, what is kept
    here would depend on the window. The plain graph `associate` serves them.
    """

    def __init__(self, weights: Mapping[str, Matrix], num_heads: int = 8, rebuild_every: int = 32) -> None:
        if weights.keys() not in (TRANSFORMER, TRANSFORMER | PREDICTOR):
            differ = sorted((weights.keys() ^ TRANSFORMER) - PREDICTOR) or ["asso_predictor"]
            raise ProtocolError(
                f"streaming association: got weights that differ from the released ones in {', '.join(differ[:3])}; "
                "expected one layer each of encoder and decoder, without norms, embeddings or self-attention of the "
                "queries. Use the plain association."
            )
        self.num_heads = num_heads
        self.rebuild_every = rebuild_every

        def double(prefix: str, names: Sequence[str]) -> list[NDArray[np.float64]]:
            return [np.asarray(weights[prefix + name], np.float64) for name in names]

        def single(matrix: NDArray[np.float64]) -> Matrix:
            return np.ascontiguousarray(matrix, np.float32)

        e_in, e_in_bias, e_out, e_out_bias = double(ENCODER + "self_attn.", ATTENTION)
        e_1, e_1_bias, e_2, e_2_bias = double(ENCODER, FEED_FORWARD)
        d_in, d_in_bias, d_out, d_out_bias = double(DECODER + "multihead_attn.", ATTENTION)
        self.width, self.hidden = len(e_out), len(e_1)
        root = (num_heads / self.width) ** 0.5  # 1 / sqrt(d), multiplied into the queries
        (e_q, e_k, e_v), (e_q_bias, e_k_bias, e_v_bias) = np.split(e_in, 3), np.split(e_in_bias, 3)
        (d_q, d_k, d_v), (d_q_bias, _, d_v_bias) = np.split(d_in, 3), np.split(d_in_bias, 3)
        to_memory, memory_bias = np.hstack([e_out, e_2]), e_out_bias + e_2_bias  # memory = x + to_memory z + bias

        # What follows from an object's features alone. No bias of memory or keys changes a softmax over the keys, and
        # that of the values reaches the decoder's output whole.
        brings = {
            "q": (e_q * root, e_q_bias * root),
            "k": (e_k, e_k_bias),
            "v": (e_v, e_v_bias),
            "c": (e_1, e_1_bias + e_1 @ e_out_bias),
            "keys": (d_k, np.zeros(self.width)),
            "values": (d_v, np.zeros(self.width)),
        }
        self._has_predictor = weights.keys() != TRANSFORMER
        if self._has_predictor:  # (Q_2 u + b)^T (K_2 w + b') = w^T (K_2^T Q_2 u + K_2^T b) + b'^T Q_2 u + b'^T b
            q_1, q_1_bias, q_2, q_2_bias = double("asso_predictor.q_proj.", LAYERS)
            k_1, k_1_bias, k_2, k_2_bias = double("asso_predictor.k_proj.", LAYERS)
            brings["l"] = (k_1, k_1_bias + k_1 @ memory_bias)
            self._predict = single(to_memory.T @ k_1.T)
            self._ask, self._ask_bias = single(q_1.T), single(q_1_bias)
            self._match, self._match_bias = single(q_2.T @ k_2), single(k_2.T @ q_2_bias)
            self._shift, self._shift_bias = single(q_2.T @ k_2_bias), np.float32(k_2_bias @ q_2_bias)
        brings["query"] = (d_q * root, d_q_bias * root)
        self._brings = single(np.vstack([matrix for matrix, _ in brings.values()]).T)
        self._brings_bias = single(np.concatenate([bias for _, bias in brings.values()]))
        self._columns, end = dict[str, slice](), self.width
        for name, (matrix, _) in brings.items():
            self._columns[name] = slice(end, end := end + len(matrix))

        by_head = (num_heads, self.width // num_heads, self.width + self.hidden)
        self._hide = single((e_1 @ e_out).T)
        self._to_keys = single(d_k @ to_memory).reshape(by_head)
        self._to_values = single(d_v @ to_memory).reshape(by_head)
        self._out, self._out_bias = single(d_out.T), single(d_out @ (d_v @ memory_bias + d_v_bias) + d_out_bias)
        self._1, self._1_bias, self._2, self._2_bias = (single(each.T) for each in double(DECODER, FEED_FORWARD))
        self._to_memory, self._memory_bias = single(to_memory), single(memory_bias)

    def empty(self) -> StreamState:
        """The state before the first frame."""
        return self.window(np.zeros((0, self.width), np.float32), ())

    def window(self, features: Matrix, counts: Sequence[int]) -> StreamState:
        """The state after frames of `counts` objects whose features (N, D) are known; costs the full attention."""
        assert sum(counts) == len(features)
        brought, _ = self._brought(features)
        rows, span = appended(Rows(0, brought.shape[1]), slice(0, 0), brought)
        sums = self._attend(rows.array[span], np.arange(len(features)))
        return StreamState(tuple(counts), self.width, rows, span, sums)

    def step(self, state: StreamState, features: Matrix, leaving: int = 0) -> tuple[StreamState, Matrix]:
        """The arriving frame's objects against all of the window, and the window with them.

        features (n, D) float32; n may be 0. leaving: how many of the oldest frames go first. Returns the new state and
        logits (n, N) over all objects in it, oldest frame first, the arriving frame's own last. Raises `ProtocolError`
        for features of another width or that are not finite, and where the logits are not.
        """
        assert 0 <= leaving <= len(state.counts)
        brought, queries = self._brought(features)
        gone = sum(state.counts[:leaving])
        counts = (*state.counts[leaving:], len(brought))
        left = state.rows.array[state.span][:gone]
        rows, span = appended(state.rows, slice(state.span.start + gone, state.span.stop), brought)
        window = rows.array[span]
        with np.errstate(over="ignore", invalid="ignore"):  # of sums, which are then built anew, or told of below
            sums = self._moved(state.sums, left, window, len(brought))
            if len(stale := self._stale(sums, counts)):
                fresh = self._attend(window, stale)
                sums.num[stale] = fresh.num
                for part, anew in zip(sums[1:], fresh[1:], strict=True):
                    part[:, stale] = anew
            logits = self._logits(window, sums, features, queries)
        if not np.isfinite(logits).all():
            raise ProtocolError(
                f"association: got logits that are not finite from features up to {np.abs(features).max():.3g}; "
                "expected features as in training. Check the network's weights."
            )
        return StreamState(counts, self.width, rows, span, sums), logits

    def _brought(self, features: Matrix) -> tuple[Matrix, Matrix]:
        """The rows (n, 7 D) of arriving objects, x first, and what they ask the decoder (n, D)."""
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ProtocolError(
                f"association features: got shape {features.shape}; expected (objects, {self.width}). "
                "Pass what the graph `embed` gives."
            )
        if not np.isfinite(features).all():
            row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            raise ProtocolError(
                f"association features: got nan or inf for object {row} of {len(features)}; expected finite numbers. "
                "Check the frame and the network's weights."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            brought = features @ self._brings + self._brings_bias
        return np.hstack([features, brought[:, : -self.width]]), brought[:, -self.width :]

    def _part(self, rows: Matrix, name: str) -> Matrix:
        """(N, D) or (N, F) of what rows hold."""
        return rows[:, self._columns[name]]

    def _heads(self, rows: Matrix) -> Matrix:
        """(N, D) as (h, N, d), a view."""
        return rows.reshape(len(rows), self.num_heads, rows.shape[1] // self.num_heads).transpose(1, 0, 2)

    def _attend(self, window: Matrix, which: NDArray[np.intp]) -> Sums:
        """The sums of some rows from nothing, over all of the window."""
        num = np.empty((len(which), self.width), np.float32)
        den, base = np.empty((2, self.num_heads, len(which)), np.float32)
        q, k, v = (self._heads(self._part(window, name)) for name in "qkv")
        for head, sums in enumerate(self._heads(num)):
            scores = q[head][which] @ k[head].T  # (n, N)
            scores.max(axis=1, out=base[head], initial=-np.inf)
            scores -= base[head][:, None]
            np.exp(scores, out=scores)
            scores.sum(axis=1, out=den[head])
            np.matmul(scores, v[head], out=sums)
        return Sums(num, den, base, den.copy())

    def _moved(self, sums: Sums, left: Matrix, window: Matrix, arriving: int) -> Sums:
        """The sums of the rows that stay, with the arriving columns in and those that left out; of the arriving rows
        there is only the room, as they are new."""
        gone, stay = len(left), len(window) - arriving
        room = np.full((self.num_heads, arriving), np.nan, np.float32)
        num = np.empty((len(window), self.width), np.float32)
        den, base, peak = (np.hstack([part[:, gone:], room]) for part in (sums.den, sums.base, sums.peak))
        new = window[stay:]
        q = self._heads(self._part(window[:stay], "q"))
        k = self._heads(np.concatenate([self._part(new, "k"), self._part(left, "k")]))
        v = self._heads(np.concatenate([self._part(new, "v"), -self._part(left, "v")]))
        before, after = self._heads(sums.num[gone:]), self._heads(num[:stay])
        for some in blocks(stay):
            for head in range(self.num_heads):
                scores = q[head, some] @ k[head].T  # (rows, arriving + gone)
                scores -= base[head, some, None]
                np.exp(scores, out=scores)
                np.matmul(scores, v[head], out=after[head, some])
                after[head, some] += before[head, some]
                den[head, some] += scores[:, :arriving].sum(axis=1)
                peak[head, some] = np.maximum(peak[head, some], den[head, some])
                den[head, some] -= scores[:, arriving:].sum(axis=1)
        return Sums(num, den, base, peak)

    def _stale(self, sums: Sums, counts: Sequence[int]) -> NDArray[np.intp]:
        """The rows to build anew: the arriving, those whose sums lost too much, and those whose time has come."""
        fresh = (sums.den * CANCELLED >= sums.peak) & (sums.den < UNBOUNDED)  # False for nan, as of the arriving
        due = np.arange(len(counts), 0, -1) - 1  # ages, in frames
        due = (due > 0) & (due % self.rebuild_every == 0)
        return np.flatnonzero(~fresh.all(axis=0) | due.repeat(counts))

    def _logits(self, window: Matrix, sums: Sums, x: Matrix, queries: Matrix) -> Matrix:
        """What follows the encoder's attention: its feed forward, the decoder, and G (n, N)."""
        if not len(x):
            return np.zeros((0, len(window)), np.float32)
        z = np.empty((len(window), self.width + self.hidden), np.float32)
        for some in blocks(len(window)):
            a, r = z[some, : self.width], z[some, self.width :]
            np.divide(self._heads(sums.num[some]), sums.den[:, some, None], out=self._heads(a))
            np.matmul(a, self._hide, out=r)
            r += self._part(window[some], "c")
            np.maximum(r, 0, out=r)
        h = x + self._decoded(window, z, queries) @ self._out + self._out_bias
        h = h + np.maximum(h @ self._1 + self._1_bias, 0) @ self._2 + self._2_bias
        if not self._has_predictor:
            logits: Matrix = h @ window[:, : self.width].T + (h @ self._to_memory) @ z.T
            logits += (h @ self._memory_bias)[:, None]
            return logits
        keys = z @ self._predict
        keys += self._part(window, "l")
        np.maximum(keys, 0, out=keys)
        asked = np.maximum(h @ self._ask + self._ask_bias, 0)
        logits = (asked @ self._match + self._match_bias) @ keys.T
        logits += (asked @ self._shift + self._shift_bias)[:, None]
        return logits

    def _decoded(self, window: Matrix, z: Matrix, queries: Matrix) -> Matrix:
        """The decoder's attention (n, D) before its output projection, without the bias of the values."""
        heads, count, size = self.num_heads, len(queries), z.shape[1]
        q, keys, values = map(self._heads, (queries, self._part(window, "keys"), self._part(window, "values")))
        scores: Matrix
        mixed: Matrix
        if few := heads * count <= self.width:  # (h n, D + F) (D + F, N)
            scores = np.matmul((q @ self._to_keys).reshape(-1, size), z.T).reshape(heads, count, -1)
            scores += q @ keys.transpose(0, 2, 1)
        else:
            scores = np.matmul(q, (keys + self._heads(z @ self._to_keys.reshape(-1, size).T)).transpose(0, 2, 1))
        scores -= scores.max(axis=2, keepdims=True)
        np.exp(scores, out=scores)
        if few:
            read = np.matmul(scores.reshape(-1, len(z)), z).reshape(heads, count, size)
            mixed = np.matmul(scores, values) + read @ self._to_values.transpose(0, 2, 1)
        else:
            mixed = np.matmul(scores, values + self._heads(z @ self._to_values.reshape(-1, size).T))
        mixed /= scores.sum(axis=2, keepdims=True)
        return mixed.transpose(1, 0, 2).reshape(count, self.width)


def blocks(count: int) -> Iterator[slice]:
    """All of `count` rows, some at a time."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def appended(rows: Rows, span: slice, new: Matrix) -> tuple[Rows, slice]:
    """`new` (n, R) after what `span` holds of `rows`: in place where that is free, else after a copy of it."""
    if not rows.claim(span.stop, len(new)):
        live = rows.array[span]
        rows, span = Rows(2 * (len(live) + len(new)), new.shape[1]), slice(0, len(live))
        rows.array[span] = live
        rows.claim(0, len(live) + len(new))
    end = span.stop + len(new)
    rows.array[span.stop : end] = new
    return rows, slice(span.start, end)
