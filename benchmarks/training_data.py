"""How fast training pairs are made of packed pictures, and how long a training waits for them.

Part one makes pairs from shards, of whole frames and of crops, in both ways of drawing, and says what a pair's time
goes to. It counts the processor's time, of which other processes take none. Part two trains, with one process that
makes pairs beside the loop, and counts how long the loop waits.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from measure import SHARED, SUMMARY, bar, interleave, machine, summary, table

from sightline.datasets.footage import Source
from sightline.datasets.mixture import open_sources
from sightline.datasets.shards import Shards, open_shards, pack
from sightline.training import pairs
from sightline.training.pairs import NanoPairs, OfficialPairs, OfficialPairsConfig

CROP = 8.0
OFFICIAL = OfficialPairsConfig(template_px=96, search_px=192)
STAGES = {  # names that the pair makers know their pieces by
    "cut": ("crop_exact", "crop_snapped"),
    "pixels": ("vary_pixels", "brighten", "to_grey", "paste_backdrop", "paste_occluder", "mean_colour"),
}
WARM_UP = 3  # rounds
SKIP_STEPS = 5  # of part two, which end when the process beside has filled its queue


@contextmanager
def packed(texts: Sequence[str], side_px: int) -> Iterator[dict[str, list[Source]]]:
    """The sources as whole frames and as crops, in a temporary folder."""
    with tempfile.TemporaryDirectory() as home:
        found = {}
        for name, crop in (("whole frames", None), (f"crop {CROP:g}", CROP)):
            folder = Path(home) / name
            start = time.perf_counter()
            written = pack(open_sources(texts), folder, side_px=side_px, crop=crop)
            spent_ms = (time.perf_counter() - start) * 1e3 / written.num_pictures
            size_kb = written.num_bytes / 1e3 / written.num_pictures
            print(f"{name}: {written.num_pictures:,} pictures of {size_kb:.1f} kB, packed at {spent_ms:.2f} ms each")
            found[name] = open_shards(folder)
        print()
        yield found


# Part one


def pairs_per_second(sources: Mapping[str, list[Source]], rounds: int, pairs_per_round: int) -> None:
    """Both ways of drawing from both ways of packing, in turns; each round makes the same numbers in all of them."""
    makers = {
        f"{style}, {how}": make(of)
        for how, of in sources.items()
        for style, make in (("official", partial(OfficialPairs, config=OFFICIAL)), ("nano", NanoPairs))
    }

    def run(maker: Any) -> Callable[[], None]:
        numbers = count()

        def make() -> None:
            for number in islice(numbers, pairs_per_round):
                maker[number]

        return make

    samples = interleave({name: run(maker) for name, maker in makers.items()}, rounds, WARM_UP, time.process_time)
    rows, slowest = [], np.inf
    for name, ms in samples.items():
        rate = pairs_per_round * 1e3 / float(np.median(ms))
        slowest = min(slowest, rate)
        rows.append([name, *summary(ms / pairs_per_round), f"{rate:.0f}", *stages(makers[name], pairs_per_round * 10)])
    print(table(["ms of a core, a pair", *SUMMARY, "pairs/s", "decode", *STAGES, "rest"], rows))
    print("the last four: means of another run, with a clock around each piece")
    print(bar("pairs per second of one core, the slowest of these", slowest, at_least=300), end="\n\n")


def stages(maker: Any, num_pairs: int) -> list[str]:
    """Mean ms a pair in `Shards.read`, in each of `STAGES`, and in all else: drawing numbers and choosing pictures."""
    spent_s: dict[str, float] = defaultdict(float)

    def clocked(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*given: Any, **more: Any) -> Any:
            start = time.process_time()
            try:
                return function(*given, **more)
            finally:
                spent_s[stage] += time.process_time() - start

        return run

    places = [(pairs, name, stage) for stage, names in STAGES.items() for name in names]
    places.append((Shards, "read", "decode"))
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for (owner, name, stage), (_, _, function) in zip(places, kept, strict=True):
            setattr(owner, name, clocked(stage, function))
        start = time.process_time()
        for number in range(num_pairs):
            maker[number]
        total_s = time.process_time() - start
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)
    shown = [spent_s[stage] for stage in ("decode", *STAGES)]
    return [f"{seconds * 1e3 / num_pairs:.3f}" for seconds in (*shown, total_s - sum(shown))]


def decoding(sources: Mapping[str, list[Source]], rounds: int) -> None:
    """What JPEG decoding costs by itself, and what decoding at half the size would save."""
    jpegs = {how: some_jpegs(of) for how, of in sources.items()}
    flags = {"decode": cv2.IMREAD_COLOR, "at half the size": cv2.IMREAD_REDUCED_COLOR_2}

    def run(encoded: list[np.ndarray], flag: int) -> Callable[[], None]:
        def decode() -> None:
            for data in encoded:
                cv2.imdecode(data, flag)

        return decode

    variants = {f"{name}, {how}": run(data, flag) for how, data in jpegs.items() for name, flag in flags.items()}
    samples = interleave(variants, rounds, WARM_UP, time.process_time)
    each = len(next(iter(jpegs.values())))
    print(table(["ms of a core, a JPEG", *SUMMARY], [[name, *summary(ms / each)] for name, ms in samples.items()]))
    print()


def some_jpegs(sources: list[Source], num: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shards = sources[0].footage.shards  # type: ignore[attr-defined]
    rows = shards.index[rng.integers(len(shards.index), size=num)]
    return [shards.shard(row["shard"])[int(row["offset"]) :][: row["length"]] for row in rows]


# Part two


def data_wait(stream: Iterator[Any], step: Callable[[Any], object], num_steps: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each step, and what of them was spent waiting for its batch.

    `stream` gives batches, `step` trains with one. The first `SKIP_STEPS`, for which no batch is ready, do not count.
    """
    step_ms, wait_ms = [], []
    for number in range(SKIP_STEPS + num_steps):
        start = time.perf_counter()
        batch = next(stream)
        got = time.perf_counter()
        step(batch)
        if number >= SKIP_STEPS:
            step_ms.append((time.perf_counter() - start) * 1e3)
            wait_ms.append((got - start) * 1e3)
    return step_ms, wait_ms


def trainings(sources: list[Source], num_steps: int) -> None:
    """Two small models on the sources, one after the other, much as their recipes train them."""
    import torch

    from sightline.checkpoints.starts import start_model
    from sightline.recipes import train_nano, train_ostrack
    from sightline.trackers.zoo import ZOO
    from sightline.training.feed import batches

    tiny = train_ostrack.PRESETS["ostrack-tiny:full"]
    ostrack_loss = partial(train_ostrack.loss_of, tracker=ZOO["ostrack-tiny"].tracker, keep_ratio=1.0)
    rows, shares = [], []
    for name, maker, batch, loss_of in (
        ("sightline-nano", NanoPairs(sources), train_nano.FULL.batch, train_nano.loss_of),
        ("ostrack-tiny", OfficialPairs(sources, tiny.pairs), tiny.batch, ostrack_loss),
    ):
        model = start_model(name, "none", seed=0).model.train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

        def step(made: Any, model: Any = model, optimizer: Any = optimizer, loss_of: Any = loss_of) -> None:
            with torch.autocast("cpu", torch.bfloat16):
                losses, _ = loss_of(model, made.tensors)
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        stream = batches(maker, batch=batch, workers=1)
        step_ms, wait_ms = data_wait(stream, step, num_steps)
        stream.close()
        shares.append(100 * sum(wait_ms) / sum(step_ms))
        rows.append([f"{name}, batch {batch}", *summary(step_ms), *summary(wait_ms), f"{shares[-1]:.2f}"])
    print(table(["ms a step", *SUMMARY, "of it waiting", *SUMMARY[1:], "% of all"], rows))
    print(f"torch with {torch.get_num_threads()} threads and bfloat16, one process that makes pairs")
    print(bar("share of the time of a step that the loop waits for data, %, the larger", max(shares), at_most=5))


def main(
    source: tuple[str, ...] = (f"folder:all={SHARED / 'data' / 'sot'}",),
    side: int = 400,
    rounds: int = 20,
    pairs: int = 50,
    steps: int = 40,
) -> None:
    """Pairs per second of one core, and the share of a training step that is spent waiting for data.

    Args:
        source: What is packed: NAME[:SPLIT][=FOLDER] each.
        side: Longer side of the packed pictures.
        rounds: Timed rounds of part one.
        pairs: Pairs that each way makes in a round.
        steps: Timed steps of part two; 0 leaves it out.
    """
    print(machine("numpy", "opencv-python-headless", "torch"))
    print(f"part one: one thread, {rounds} interleaved rounds of {pairs} pairs after {WARM_UP} to warm up\n")
    cv2.setNumThreads(1)
    with packed(source, side) as sources:
        pairs_per_second(sources, rounds, pairs)
        decoding(sources, rounds)
        if steps:
            trainings(sources["whole frames"], steps)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
