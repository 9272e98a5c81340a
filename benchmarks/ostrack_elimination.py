"""OSTrack's Table 3: what candidate elimination saves, in multiply-accumulates and in milliseconds, at 256 and 384 px.

The speed protocol is the paper's, the network alone on random input in batches of one, but on the CPU, with fewer
passes, and with the template's tokens kept from frame to frame as our tracker keeps them (0.04 of 22.64 GMAC). The
weights are random too: how many tokens are eliminated depends on no value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from measure import SUMMARY, bar, interleave, machine, summary, table
from numpy.typing import NDArray

from sightline.export.onnx import export_onnx
from sightline.loading import empty_model
from sightline.models.counting import count_gmac
from sightline.runtime.onnx import OnnxSession
from sightline.trackers.zoo import ZOO

SIDES_PX = (256, 384)
# By every product and by thop's rule, which is the paper's column, without and with elimination.
EXPECTED_GMAC = {
    "ostrack-256": (30.91, 29.02),
    "ostrack-256-ce": (22.64, 21.50),
    "ostrack-384": (74.86, 65.30),
    "ostrack-384-ce": (54.09, 48.31),
}


def count() -> str:
    """The table of GMAC, on the meta device: nothing is computed."""
    rows = []
    for name, expected in EXPECTED_GMAC.items():
        tracker = ZOO[name].tracker
        with torch.device("meta"):
            model = empty_model(name).eval()
            images = [torch.zeros(1, 3, side_px, side_px) for side_px in (tracker.template_px, tracker.search_px)]
        found = [count_gmac(model, *images, attention=attention) for attention in (True, False)]
        rows.append([name, *(f"{gmac:.2f}" for pair in zip(found, expected, strict=True) for gmac in pair)])
    return table(["GMAC of a forward pass", "every product", "expected", "thop's rule", "expected"], rows)


def forward_in_torch(name: str) -> Callable[[], object]:
    """One `track` pass: the search region through the network beside a template that was encoded before."""
    tracker = ZOO[name].tracker
    torch.manual_seed(0)
    model: Any = empty_model(name).eval()
    search = torch.randn(1, 3, tracker.search_px, tracker.search_px)
    with torch.inference_mode():
        features = model.encode(torch.randn(1, 3, tracker.template_px, tracker.template_px))

    @torch.inference_mode()
    def forward() -> object:
        return model.track(search, **features)

    return forward


def forward_in_onnx(name: str, folder: Path, threads: int) -> Callable[[], object]:
    """The same pass through ONNX Runtime; exports the model first."""
    tracker = ZOO[name].tracker
    export_onnx(empty_model(name), folder / name, name=name, tracker=tracker, options={}, weights_sha256="")
    session = OnnxSession(folder / name, threads)
    rng = np.random.default_rng(0)

    def image(side_px: int) -> NDArray[np.float32]:
        return rng.standard_normal((1, 3, side_px, side_px), dtype=np.float32)

    inputs = {"search": image(tracker.search_px), **session.run("encode", {"template": image(tracker.template_px)})}
    return lambda: session.run("track", inputs)


def main(threads: int = 2, repeats: int = 20, warm_up: int = 3, onnx: bool = True) -> None:
    """GMAC by both rules, then milliseconds of a forward pass with and without elimination.

    Args:
        threads: Threads of torch and of ONNX Runtime.
        repeats: Timed rounds; each runs the pass with and without elimination.
        warm_up: Rounds before them.
        onnx: Also through ONNX Runtime; exports four models of 370 MB to a temporary folder, two at a time.
    """
    torch.set_num_threads(threads)
    print(machine("torch", "onnxruntime", "numpy"))
    print(f"{threads} threads, batch 1, {repeats} interleaved rounds after {warm_up} to warm up\n\n{count()}\n")
    rows, bars = [], []
    for backend in ("torch", "onnx") if onnx else ("torch",):
        for side_px in SIDES_PX:
            names = f"ostrack-{side_px}", f"ostrack-{side_px}-ce"
            with tempfile.TemporaryDirectory() as folder:
                if backend == "torch":
                    variants = {name: forward_in_torch(name) for name in names}
                else:
                    variants = {name: forward_in_onnx(name, Path(folder), threads) for name in names}
            samples = interleave(variants, repeats, warm_up)
            rows += [[f"{name}, {backend}", *summary(ms)] for name, ms in samples.items()]
            plain, eliminating = samples.values()
            ratio = float(np.median(plain) / np.median(eliminating))
            bars.append(bar(f"without / with elimination, {side_px} px, {backend}, of medians", ratio, at_least=1.2))
    print(table(["ms of a forward pass", *SUMMARY], rows), *bars, sep="\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
