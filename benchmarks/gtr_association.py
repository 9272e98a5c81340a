"""GTR's association of one frame with a full window: streaming in NumPy beside the plain path in torch, by objects.

Plain is the network's own `associate`: features of the window are kept, q, k and v are one product, attention is
torch's fused one, and every frame of the window is encoded anew. Streaming is `trackers.association` in its steady
state, one frame in and one out. Both run interleaved on the same features, with random weights, and are compared. Part
of the ratio is the machine's: NumPy and torch bring their own matrix products, whose rates are printed too.

The official code took 137 ms for 20 objects x 32 frames and 1613 ms for 100 x 32 on two threads of a machine whose
torch.mm does 233 GFLOP/s; here these bars are scaled by torch.mm's rate in the same rounds. Multiply-adds are counted
by formula: see `plain_mac` and `streaming_mac`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import tyro
from measure import SUMMARY, bar, interleave, machine, summary, table
from numpy.typing import NDArray

from sightline.models.gtr import GTR_MOT, GTR_TAO, GTRConfig, Heads
from sightline.trackers.association import StreamingAssociation, StreamState

SIDE = 4096  # of the matrices of torch.mm
OFFICIAL_MS, OFFICIAL_GFLOPS = {20: 137.0, 100: 1613.0}, 233.0
AT_LEAST = {20: 4.0, 100: 3.0}
LENGTH = 2.3  # of a feature vector
PRESETS = {"mot": GTR_MOT, "tao": GTR_TAO}


def plain_mac(n: int, num: int, config: GTRConfig) -> float:
    """Multiply-adds of the plain path: n queries, `num` objects in the window, hidden layers as wide as features."""
    d = config.width
    encoder = 6 * num * d**2 + 2 * num**2 * d  # q, k, v, output, feed forward; scores and values
    decoder = 2 * num * d**2 + 4 * n * d**2 + 2 * n * num * d
    projections = config.projection_layers * (num + n) * d**2
    return encoder + decoder + projections + n * num * d


def streaming_mac(n: int, num: int, config: GTRConfig) -> float:
    """The same of streaming in its steady state."""
    d, tao = config.width, config.projection_layers > 0
    arriving = (8 if tao else 7) * n * d**2
    sums = 4 * n * num * d + 2 * n * num * d  # columns in and out of the old rows; the new rows
    hidden = num * d**2
    few = config.heads * n <= d
    decoder = 4 * config.heads * n * num * d + 4 * n * d**2 if few else 4 * num * d**2
    decoder += 2 * n * num * d + 3 * n * d**2  # what comes from x; output and feed forward
    scores = 2 * num * d**2 + n * num * d + 2 * n * d**2 if tao else 3 * n * num * d + 2 * n * d**2
    return arriving + sums + hidden + decoder + scores


class Case:
    """One number of objects per frame: both ways to associate the next frame."""

    def __init__(self, config: GTRConfig, num_objects: int, num_frames: int) -> None:
        torch.manual_seed(0)
        self.heads = Heads(replace(config, channels=32, num_classes=0)).eval()  # the association needs no more
        prefixes = ("asso_predictor.", "transformer.")
        weights = {k: v.numpy() for k, v in self.heads.state_dict().items() if k.startswith(prefixes)}
        self.streaming = StreamingAssociation(weights, config.heads)
        self.rng = np.random.default_rng(0)
        self.looks = self.rng.standard_normal((num_objects, config.width))
        self.frames = [self.new_frame() for _ in range(2 * num_frames)]
        self.frame = self.frames[0]
        self.state = self.streaming.window(np.concatenate(self.frames[:num_frames]), (num_objects,) * num_frames)
        self.after: StreamState = self.state

    def new_frame(self) -> NDArray[np.float32]:
        features = self.looks + 0.5 * self.rng.standard_normal(self.looks.shape)
        return np.float32(features * LENGTH / np.sqrt(1.25 * self.looks.shape[1]))

    def stream(self) -> NDArray[np.float32]:
        self.after, logits = self.streaming.step(self.state, self.frame, 1)
        return logits

    @torch.inference_mode()
    def plain(self) -> NDArray[np.float32]:
        window = np.concatenate([self.state.features[self.state.counts[0] :], self.frame])
        return self.heads.relate(torch.from_numpy(window), torch.from_numpy(self.frame)).numpy()

    def go_on(self) -> None:
        self.state, self.frame = self.after, self.frames[0]
        self.frames.append(self.frames.pop(0))

    def state_mb(self) -> float:
        return (self.state.rows.array.nbytes + sum(part.nbytes for part in self.state.sums)) / 1e6


def main(
    network: Literal["mot", "tao"] = "mot",
    objects: tuple[int, ...] = (20, 100),
    frames: int = 32,
    rounds: int = 40,
    threads: int = 2,
) -> None:
    """Milliseconds of both paths, their ratio, multiply-adds, and torch.mm's rate beside them.

    Args:
        network: GTR-MOT, or GTR-TAO with its two projections.
        objects: Numbers of objects per frame.
        frames: Frames in the window, the current one included.
        rounds: Timed rounds of each number, interleaved; a stream goes on by one frame in each.
        threads: Threads of torch; NumPy's are set by OMP_NUM_THREADS, by default as many as cores.
    """
    torch.set_num_threads(threads)
    config = PRESETS[network]
    print(machine("torch", "numpy"))
    print(f"gtr-{network}, {frames} frames, {threads} threads of torch, {rounds} rounds after 3 to warm up")
    print(f"OMP_NUM_THREADS: {os.environ.get('OMP_NUM_THREADS', 'not set, as many as cores')}\n")
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    for num_objects in objects:
        case = Case(config, num_objects, frames)
        np.testing.assert_allclose(case.stream(), case.plain(), rtol=0, atol=1e-4)

        def step(case: Case = case) -> object:
            case.go_on()
            return case.stream()

        ways: dict[str, Callable[[], object]] = {"plain, torch": case.plain, "streaming, NumPy": step}
        ways[f"torch.mm, {SIDE}^3"] = lambda: torch.mm(left, right)
        ways[f"NumPy's @, {SIDE}^3"] = lambda: left.numpy() @ right.numpy()
        samples = interleave(ways, rounds, warm_up=3)
        np.testing.assert_allclose(case.stream(), case.plain(), rtol=0, atol=1e-4)

        total = num_objects * frames
        gmac = [mac(num_objects, total, config) / 1e9 for mac in (plain_mac, streaming_mac)] + [SIDE**3 / 1e9] * 2
        medians = [float(np.median(ms)) for ms in samples.values()]
        rows = [
            [way, f"{work:.2f}", *summary(ms), f"{2e3 * work / median:.0f}"]
            for (way, ms), work, median in zip(samples.items(), gmac, medians, strict=True)
        ]
        print(table([f"{num_objects} x {frames} = {total} objects", "GMAC", *SUMMARY, "GFLOP/s"], rows))
        rate = 2e3 * gmac[2] / medians[2]
        print(f"state {case.state_mb():.0f} MB; plain holds {4 * total * config.width / 1e6:.0f} MB of features")
        print(f"multiply-adds: {gmac[0] / gmac[1]:.2f} times fewer")
        if num_objects in AT_LEAST and network == "mot" and frames == 32:
            allowed = OFFICIAL_MS[num_objects] * OFFICIAL_GFLOPS / rate
            print(bar("plain / the official time scaled by torch.mm's rate", medians[0] / allowed, at_most=1.0))
            print(bar("plain / streaming (goal)", medians[0] / medians[1], at_least=AT_LEAST[num_objects]))
        else:
            print(f"plain / streaming: {medians[0] / medians[1]:.2f}")
        print()


if __name__ == "__main__":
    tyro.cli(main)
