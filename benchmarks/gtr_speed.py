"""GTR's detector and association, milliseconds apart, at their test sizes for a frame of 1920 x 1080.

    python benchmarks/gtr_speed.py [--models gtr-mot gtr-tao] [--objects 20 100]

The paper's frames a second are 1000 over the sum of both, without reading and resizing; so are these. Weights are
random, so the boxes are placed: what a graph costs depends on how many there are, not on where. Detector: `detect`,
decoding and suppression, `embed`, and on TAO `classify`, for all objects. Association: `associate` anew for a full
window, and streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import tyro
from measure import interleave, machine, table

from sightline.geometry.detections import proposals
from sightline.loading import empty_model
from sightline.models.session import TorchSession
from sightline.trackers.association import StreamingAssociation
from sightline.trackers.gtr import GTRConfig, size_in_network
from sightline.trackers.zoo import ZOO


def main(
    models: tuple[str, ...] = ("gtr-mot", "gtr-tao"),
    objects: tuple[int, ...] = (20, 100),
    rounds: int = 3,
    threads: int = 2,
) -> None:
    """Print the table.

    Args:
        models: Rows of the zoo.
        objects: Numbers of objects on every frame.
        rounds: Of which the median is told; one more comes first.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    print(machine("torch", "numpy"))
    rows: list[Sequence[object]] = []
    for name in models:
        config = ZOO[name].tracker
        assert isinstance(config, GTRConfig)
        rows += [measured(name, config, count, rounds) for count in objects]
    print(table(["", "objects", "window", "detector ms", "plain ms", "streamed ms", "frames/s"], rows))


def measured(name: str, config: GTRConfig, count: int, rounds: int) -> list[object]:
    network: Any = empty_model(name)
    session = TorchSession(network)
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
            session.run("classify", {"p3": maps["p3"], "boxes": boxes, "size": np.float32([height, width])})

    streaming = StreamingAssociation(session.run("association", {}))
    state = streaming.window(features, [count] * config.window)
    parts = {
        "detector": detector,
        "plain": lambda: session.run("associate", {"features": features, "queries": features[-count:]}),
        "streamed": lambda: streaming.step(state, features[-count:], leaving=1),
    }
    took = {part: float(np.median(values)) for part, values in interleave(parts, rounds, warm_up=1).items()}
    rate = 1000 / (took["detector"] + took["streamed"])
    return [name, count, config.window, *(f"{took[part]:.0f}" for part in parts), f"{rate:.2f}"]


if __name__ == "__main__":
    tyro.cli(main)
