"""SPMTrack's step beside the matrix product of its machine, what the templates' part of it costs, and all its sizes.

A step is what the tracker asks of the network on every frame for one target: `encode` of the templates, which are
three, and `track` of one search region, in float32. The weights are random: no time depends on a value. The official
figure for B, 149.7 GMAC, leaves out the two products inside attention; with them it is 181.7. The share of `torch.mm`
is counted with the first, so it understates what the machine does, and is comparable with the official one.

What templates contribute before the first attention depends on them alone and could be kept from frame to frame: their
patch embedding, and the norm, queries, keys and values of the first block, which are rows of their own of the same
products, so exact but for rounding. The second table measures both. Neither is kept: embedding three templates is 0.27
of the step's 181.7 GMAC, their queries, keys and values 1.48, and what a memory holds for every frame would grow from
0.46 MB, a crop, to 0.60, its tokens, or 2.41 with those (B). Holding them for the three templates of the present frame
alone, of which the default rule exchanges 0.75 a frame, would save three quarters of it, for a state that carries
7.2 MB more and a first block apart from the others in the model and in both graphs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from measure import SUMMARY, bar, interleave, machine, summary, table
from torch import Tensor

from sightline.export.examples import example, track_inputs
from sightline.export.onnx import export_onnx
from sightline.loading import empty_model
from sightline.models.counting import count_gmac
from sightline.models.spmtrack import fused
from sightline.runtime.onnx import OnnxSession
from sightline.trackers.zoo import ZOO, TrackerConfig

Step = Callable[[], object]
Size = Literal["tiny", "b", "l", "g"]

SIDE = 4096  # of the matrices of torch.mm
WARM_UP = 1  # rounds


def tracker_of(name: str, num_templates: int) -> TrackerConfig:
    tracker: Any = ZOO[name].tracker
    return replace(tracker, num_templates=num_templates)


def network_of(name: str) -> Any:
    torch.manual_seed(0)
    return empty_model(name).eval()


def gmac_of(name: str, num_templates: int, *, attention: bool) -> float:
    """Of one step, on the meta device: nothing is computed."""
    with torch.device("meta"):
        step = step_in_torch(empty_model(name).eval(), tracker_of(name, num_templates), torch.device("meta"))
        return count_gmac(step, attention=attention)


def step_in_torch(model: Any, tracker: TrackerConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> Step:
    """One step of a network that lies on `device` in `dtype`."""
    arrays = example(np.random.default_rng(0), 1, tracker, masked=False)
    inputs = {name: torch.from_numpy(array).to(device, dtype) for name, array in arrays.items()}
    search = inputs.pop("search")

    @torch.inference_mode()
    def step() -> object:
        maps = model.track(**track_inputs(search, model.encode(**inputs), tracker))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return maps

    return step


def step_in_onnx(name: str, model: Any, folder: Path, threads: int) -> Step:
    """The same step through ONNX Runtime, of the graphs as `sightline export` writes them; exports the model first."""
    tracker = ZOO[name].tracker
    export_onnx(model, folder, name=name, tracker=tracker, options={}, weights_sha256="")
    session = OnnxSession(folder, threads)
    inputs = example(np.random.default_rng(0), 1, tracker, masked=False)
    search = inputs.pop("search")
    return lambda: session.run("track", track_inputs(search, session.run("encode", inputs), tracker))


def without_denormals(step: Step) -> Step:
    """A step with the processor told to take numbers near zero for zero, where it can."""

    def flushed() -> object:
        torch.set_flush_denormal(True)
        try:
            return step()
        finally:
            torch.set_flush_denormal(False)

    return flushed


def against_the_matrix_product(name: str, threads: int, rounds: int, onnx: bool) -> None:
    """Part one: the rate of a step in torch and in ONNX Runtime as a share of `torch.mm`'s."""
    tracker, cpu = ZOO[name].tracker, torch.device("cpu")
    plain = network_of(name)
    fast = fused(plain)
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    steps: dict[str, Step] = {
        f"torch.mm, {SIDE}^3": lambda: torch.mm(left, right),
        "torch, as trained": step_in_torch(plain, tracker, cpu),
        "torch, fused": step_in_torch(fast, tracker, cpu),
        "torch, fused, denormals flushed": without_denormals(step_in_torch(fast, tracker, cpu)),
    }
    with tempfile.TemporaryDirectory() as folder:
        if onnx:
            steps["ONNX Runtime, fused"] = step_in_onnx(name, fast, Path(folder) / name, threads)
        with torch.inference_mode():
            samples = interleave(steps, rounds, WARM_UP)
    gmac = gmac_of(name, 3, attention=False)
    work = [SIDE**3 / 1e9, *[gmac] * (len(samples) - 1)]
    rates = [done / ms.min() for done, ms in zip(work, samples.values(), strict=True)]
    shares = [rate / rates[0] for rate in rates]
    rows = [
        [way, f"{done:.1f}", *summary(ms), f"{share:.0%}"]
        for (way, ms), done, share in zip(samples.items(), work, shares, strict=True)
    ]
    every = gmac_of(name, 3, attention=True)
    print(table([f"{name}, ms of a step", "GMAC", *SUMMARY, "GMAC / min, of torch.mm's"], rows))
    print(f"With the products inside attention a step of three templates is {every:.1f} GMAC, not {gmac:.1f}.")
    print(bar("share of torch.mm's rate, the best of these", max(shares[1:]), at_least=0.7))
    print(bar("the same (goal)", max(shares[1:]), at_least=0.85), end="\n\n")


def what_templates_cost(name: str, rounds: int) -> None:
    """Part two: the share of a step that would be saved by keeping what depends on the templates alone."""
    tracker: Any = ZOO[name].tracker
    model = fused(network_of(name))
    block, width = model.blocks[0], model.config.backbone.width
    num_search, num_template = tracker.grid**2 + 1, 3 * model.config.template_grid**2  # the query is one of the first
    tokens = torch.randn(1, num_search + num_template, width)
    arrays = example(np.random.default_rng(0), 1, tracker, masked=False)
    templates = {key: torch.from_numpy(arrays[key]) for key in ("template", "foreground")}

    def first_products(of: Tensor) -> list[Tensor]:
        return block.attn.qkv(block.norm1(of))

    with torch.inference_mode():
        every, alone = first_products(tokens), first_products(tokens[:, :num_template])
        samples = interleave(
            {
                "a step": step_in_torch(model, tracker, torch.device("cpu")),
                "encode of three templates": lambda: model.encode(**templates),
                f"first q, k, v of all {tokens.shape[1]:,} tokens": lambda: first_products(tokens),
                f"first q, k, v without the {num_template} of templates": lambda: first_products(
                    tokens[:, num_template:]
                ),
            },
            rounds,
            WARM_UP,
        )
    differ = max(float((a[:, :num_template] - b).abs().max()) for a, b in zip(every, alone, strict=True))
    step, encode, whole, rest = (ms.min() for ms in samples.values())
    print(table([f"{name}, torch, fused", *SUMMARY], [[what, *summary(ms)] for what, ms in samples.items()]))
    print(f"kept patch embeddings would save {encode / step:.1%} of a step,")
    print(f"kept first queries, keys and values another {(whole - rest) / step:.1%}, {differ:.0e} apart at most\n")


def peak_mb(step: Step) -> float:
    """The most that a step holds of the GPU, weights included."""
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 1e6


def sizes_by_templates(sizes: tuple[Size, ...], templates: tuple[int, ...], rounds: int) -> None:
    """Part three: the table of sizes and numbers of templates, on the CPU and where there is one on the GPU."""
    kinds: list[tuple[str, torch.device, torch.dtype]] = [("CPU, float32", torch.device("cpu"), torch.float32)]
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        kinds += [("GPU, float32", gpu, torch.float32), ("GPU, bfloat16", gpu, torch.bfloat16)]
    rows = []
    for size in sizes:
        name = f"spmtrack-{size}"
        model = network_of(name)
        count = sum(parameter.numel() for parameter in model.parameters())
        model = fused(model)
        for kind, device, dtype in kinds:
            model = model.to(device, dtype)
            steps = {number: step_in_torch(model, tracker_of(name, number), device, dtype) for number in templates}
            samples = interleave(steps, rounds, WARM_UP)
            for number, ms in samples.items():
                gmac = [f"{gmac_of(name, number, attention=attention):.1f}" for attention in (False, True)]
                peak = f"{peak_mb(steps[number]):,.0f}" if device.type == "cuda" else "-"
                rows.append([name, f"{count / 1e6:.1f} M", number, *gmac, kind, *summary(ms), peak])
    headings = ["torch, fused", "parameters", "templates", "GMAC", "with attention", "on", *SUMMARY, "peak MB"]
    print(table(headings, rows))


def main(
    threads: int = 2,
    rounds: int = 10,
    sizes: tuple[Size, ...] = ("b",),
    templates: tuple[int, ...] = (1, 2, 3, 5),
    onnx: bool = True,
) -> None:
    """The share of `torch.mm`'s rate, what the templates cost, and milliseconds by size and number of templates.

    Args:
        threads: Threads of torch and of ONNX Runtime.
        rounds: Timed rounds, interleaved; each part has so many after one to warm up.
        sizes: The first is that of the first two parts; "l" takes 8 GB of memory; "g" 12, and no ONNX Runtime.
        templates: Numbers of templates in the last table.
        onnx: Also through ONNX Runtime; exports the first size to a temporary folder, 460 MB for B.
    """
    torch.set_num_threads(threads)
    print(machine("torch", "onnxruntime", "numpy"))
    print(f"{threads} threads, one target, {rounds} interleaved rounds after {WARM_UP} to warm up\n")
    name = f"spmtrack-{sizes[0]}"
    against_the_matrix_product(name, threads, rounds, onnx and sizes[0] != "g")
    what_templates_cost(name, rounds)
    sizes_by_templates(sizes, templates, rounds)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
