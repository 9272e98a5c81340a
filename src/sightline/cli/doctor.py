"""`sightline doctor`: is this installation whole?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sightline import __version__
from sightline.runtime.stages import StageClock

PACKAGES = ("numpy", "scipy", "opencv-python-headless", "av", "onnxruntime", "torch", "safetensors", "onnx")
SIZE, SIDE = (320, 240), 48  # of the self-test's frames and of its target, pixels
NUM_FRAMES = 20


def doctor() -> int:
    """Print versions and back ends, then write, read and track a clip of 20 frames; exit status 1 if that fails."""
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("sightline", __version__)
    table.add_row("python", f"{sys.version.split()[0]}, {platform.platform()}")
    for name in PACKAGES:
        table.add_row(name, version(name))
    table.add_row("back ends", ", ".join(backends()))
    console.print(table)
    try:
        overlap, clock = self_test()
    except Exception as error:  # whatever it is that is broken here, it is what was asked for
        console.print(f"self-test FAILED: {type(error).__name__}: {error}", highlight=False, markup=False)
        return 1
    stages = ", ".join(f"{name} {row['median_ms']:.1f}" for name, row in clock.summary().items())
    verdict = "passed" if overlap.min() > 0.5 else "FAILED"
    console.print(
        f"self-test {verdict}: {NUM_FRAMES} frames written as H.264, read and tracked, "
        f"lowest IoU {overlap.min():.2f}; median ms per frame: {stages}",
        highlight=False,
    )
    return 0 if verdict == "passed" else 1


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def backends() -> list[str]:
    """Back ends that can run a model here."""
    return ["onnx"] + (["torch"] if importlib.util.find_spec("torch") else [])


def self_test() -> tuple[NDArray[np.float64], StageClock]:
    """IoU with the truth on each frame of a made clip, through the encoder, the decoder and the bundled model."""
    from sightline.geometry.boxes import iou  # here, so that a package that cannot be loaded is a finding
    from sightline.loading import load
    from sightline.tracking import follow
    from sightline.video.sink import VideoSink
    from sightline.video.source import open_source

    truth = np.array([(40 + 7.0 * t, 60 + 3.0 * t, SIDE, SIDE) for t in range(NUM_FRAMES)])
    clock = StageClock()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "self-test.mp4"
        with VideoSink(path, 25) as video:
            for x, y, _, _ in truth:
                video.write(picture(int(x), int(y)))
        with open_source(path) as source:
            found = [results[0].xywh for _, results in follow(load(), source, [truth[0]], clock)]
    return iou(found, truth), clock


def picture(x: int, y: int) -> NDArray[np.uint8]:
    """A checkered square of two colours at (x, y) on a smooth background."""
    width, height = SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    frame = np.stack([90 + rows * 60 // height, 110 + columns * 60 // width, 130 - rows * 40 // height], axis=-1)
    cells = (np.mgrid[0:SIDE, 0:SIDE] // 12).sum(axis=0) % 2 == 0
    frame[y : y + SIDE, x : x + SIDE] = np.where(cells[..., None], (225, 60, 40), (250, 215, 70))
    return frame.astype(np.uint8)
