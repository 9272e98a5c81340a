"""The graphs of models that find their targets: one pass through all of them, to trace them on and to compare them by.

GTR has maps of an image, reads embeddings from under boxes of it, and relates these; OneTrack-M makes tokens of each
frame of a window and maps of them all. Boxes here are drawn by lot, since an untrained network would find none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from torch.export import Dim

from sightline.export.examples import picture
from sightline.imaging.resize import prepared
from sightline.imaging.sample import normalise
from sightline.runtime.session import Arrays
from sightline.trackers.gtr import GTRConfig, size_in_network
from sightline.trackers.onetrack_m import OneTrackMConfig
from sightline.trackers.zoo import MultiObjectConfig

Call = Callable[[str, Mapping[str, NDArray[np.float32]]], Arrays]  # runs a graph, by its name
SMALL, FULL_HD = (300, 200), (1080, 1920)  # height, width
PATCH_PX = 16
# The longest feature that is related to others. Logits grow with the square of the length, and so does what float32
# rounds off: 1e-5 here, and 6e-4 at 11, as long as embeddings are in a gtr-mot with weights drawn by lot.
LONGEST = 3.0
# What is free in GTR's graphs, by input and axis; sides of an image are multiples of what it is padded to.
FREE = {
    "image": {2: "height", 3: "width"},
    "p3": {2: "rows", 3: "columns"},
    "boxes": {0: "objects"},
    "features": {0: "objects"},
    "queries": {0: "queries"},
}


def one_pass(call: Call, inputs: Arrays, tracker: MultiObjectConfig) -> Arrays:
    """Every graph of a model on what those before it gave, as in tracking; all arrays by name.

    inputs: what `example` gives. GTR's association is asked about every other object, with features that are
    shortened to LONGEST; its weights are one array.
    """
    if isinstance(tracker, OneTrackMConfig):
        tokens = [call("tokens", {"frame": frame[None]})["tokens"] for frame in inputs["frames"]]
        window = np.stack(tokens, axis=1)  # (1, W, L, D)
        return {"tokens": window, **call("track", {"tokens": window})}
    found = call("detect", {"image": inputs["image"]})
    regions = {"p3": found["p3"], "boxes": inputs["boxes"]}
    found |= call("embed", regions)
    if tracker.classify:
        found |= call("classify", {**regions, "size": inputs["size"]})
    longest = np.linalg.norm(found["embeddings"], axis=1).max(initial=LONGEST)
    features = found["embeddings"] * np.float32(LONGEST / longest)
    found |= call("associate", {"features": features, "queries": features[::2]})
    weights = call("association", {})
    return found | {"association": np.concatenate([weights[name].ravel() for name in sorted(weights)])}


def example(
    rng: np.random.Generator, tracker: MultiObjectConfig, size: tuple[int, int] = SMALL, num_objects: int = 5
) -> Arrays:
    """What a pass begins with.

    GTR: `image` of `size`, height and width, then padded, that `size`, and `boxes` (num_objects, 4), which may reach
    beyond the image. OneTrack-M: `frames` (W, 3, S, S).
    """
    if isinstance(tracker, OneTrackMConfig):
        shape = (tracker.image_px, tracker.image_px)
        frames = [normalise(patches(rng, shape), tracker.mean, tracker.std) for _ in range(tracker.clip_length)]
        return {"frames": np.stack(frames)}
    image, _ = prepared(patches(rng, size), size, tracker.mean, tracker.std, tracker.pad_to)
    centres = rng.uniform(0, size[::-1], (num_objects, 2))
    halves = rng.uniform(4, max(size) / 3, (num_objects, 2))
    boxes = np.hstack([centres - halves, centres + halves]).astype(np.float32)
    return {"image": image, "boxes": boxes, "size": np.array(size, np.float32)}


def patches(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame (H, W, 3) uint8 of coloured patches."""
    side_px = -(-max(size) // PATCH_PX) * PATCH_PX
    return picture(rng, side_px, PATCH_PX)[: size[0], : size[1]]


def cases(rng: np.random.Generator, tracker: MultiObjectConfig) -> Iterator[tuple[str, Arrays]]:
    """What to compare, each with its name; the last is what tracking is about, and worth timing."""
    if isinstance(tracker, OneTrackMConfig):
        yield f"a window of {tracker.clip_length} frames", example(rng, tracker)
        return
    yield "1 object on a small image", example(rng, tracker, num_objects=1)
    size = size_in_network(*FULL_HD, tracker)
    yield f"20 objects on {size[0]} x {size[1]}", example(rng, tracker, size, 20)


def free_axes(names: Mapping[str, object], tracker: MultiObjectConfig) -> dict[str, dict[int, Dim]]:
    """The axes of a graph's inputs that may differ from one call to the next, in torch's words."""
    if not isinstance(tracker, GTRConfig):
        return {}
    factor = {"height": tracker.pad_to, "width": tracker.pad_to}
    return {
        name: {axis: factor[free] * Dim(free) if free in factor else Dim(free) for axis, free in FREE[name].items()}
        for name in names
        if name in FREE
    }
