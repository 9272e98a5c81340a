"""GTR's detector and association, milliseconds apart, at their test sizes for a frame of 1920 x 1080.

    OMP_NUM_THREADS=2 python benchmarks/gtr_speed.py [--models gtr-mot gtr-tao] [--objects 20 100] [--rounds 5]

The paper's frames a second are 1000 over the sum of both, without reading and resizing; so are these. Weights are
random, so the boxes are placed: what a graph costs depends on how many there are, not on where. Detector: `detect`,
decoding and suppression, `embed`, and on TAO `classify`, for all objects. Association: `associate` anew for a full
window, and streamed. The three take turns; a row is printed when its rounds are done.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import tyro
from measure import interleave, machine

from sightline.geometry.detections import proposals
from sightline.loading import empty_model
from sightline.models.session import TorchSession
from sightline.trackers.association import StreamingAssociation
from sightline.trackers.gtr import GTRConfig, size_in_network
from sightline.trackers.zoo import ZOO

ROW = "{:10} {:>8} {:>7} {:>16} {:>14} {:>14} {:>9}"


def main(
    models: tuple[str, ...] = ("gtr-mot", "gtr-tao"),
    objects: tuple[int, ...] = (20, 100),
    rounds: int = 5,
    threads: int = 2,
) -> None:
    """Print the table, row by row.

    Args:
        models: Rows of the zoo.
        objects: Numbers of objects on every frame.
        rounds: Of which the median is told, and the least in brackets; one more comes first.
        threads: Of torch; NumPy's, which streams, are set by OMP_NUM_THREADS.
    """
    torch.set_num_threads(threads)
    print(machine("torch", "numpy"))
    numpy_threads = os.environ.get("OMP_NUM_THREADS", "not set, as many as cores")
    print(f"{threads} threads of torch, OMP_NUM_THREADS {numpy_threads}; median (least) of {rounds} rounds")
    print(ROW.format("", "objects", "window", "detector ms", "plain ms", "streamed ms", "frames/s"), flush=True)
    for name in models:
        network = empty_model(name)
        for count in objects:
            print(ROW.format(*measured(name, network, count, rounds)), flush=True)


def measured(name: str, network: Any, count: int, rounds: int) -> list[object]:
    config, session = ZOO[name].tracker, TorchSession(network)
    assert isinstance(config, GTRConfig)
    height, width = size_in_network(1080, 1920, config)
    padded = [-(-side // config.pad_to) * config.pad_to for side in (height, width)]
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, *padded), dtype=np.float32)
    corner = rng.uniform(0, (width - 100, height - 200), (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 100, (count, 2))]).astype(np.float32)
    features = rng.standard_normal((count * config.window, network.config.width), dtype=np.float32) * 0.1

    def detector() -> None:
        maps = session.run("detect", {"image": image})
        proposals(
            maps,
            score_from=config.candidate_from,
            most=config.candidates,
            iou=config.nms_iou,
            keep=config.max_objects,
        )
        session.run("embed", {"p3": maps["p3"], "boxes": boxes})
        if config.classify:
            session.run("classify", {"p3": maps["p3"], "boxes": boxes, "size": np.array([height, width], np.float32)})

    streaming = StreamingAssociation(session.run("association", {}))
    state = streaming.window(features, [count] * config.window)
    parts = {
        "detector": detector,
        "plain": lambda: session.run("associate", {"features": features, "queries": features[-count:]}),
        "streamed": lambda: streaming.step(state, features[-count:], leaving=1),
    }
    took = interleave(parts, rounds, warm_up=1)
    middle = {part: float(np.median(ms)) for part, ms in took.items()}
    told = [f"{middle[part]:.0f} ({ms.min():.0f})" for part, ms in took.items()]
    return [name, count, config.window, *told, f"{1000 / (middle['detector'] + middle['streamed']):.2f}"]


if __name__ == "__main__":
    tyro.cli(main)
