"""From the maps of a CenterNet head to boxes: decode, keep the likely ones, drop what overlaps a better box.

CenterNet2, arXiv 2103.07461, as GTR runs it (xingyizhou/CenterNet2 at commit 8745e01). A cell of level l lies in the
middle of stride x stride pixels, stride = 8, 16, 32, 64, 128, and says how far the box's four sides are from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.geometry.boxes import Array

Indices = NDArray[np.int64]

STRIDES = (8, 16, 32, 64, 128)
LEAST_SIDE_PX = 0.01


def decode_level(
    distances: NDArray[Any], logits: NDArray[Any], stride: int, *, score_from: float = 1e-4, most: int = 1000
) -> tuple[Array, Array]:
    """The likely boxes of one level: (n, 4) `xyxy` in pixels of the padded image, not clipped, and (n,) scores.

    distances (1, 4, h, w): left, top, right and bottom in strides; logits (1, 1, h, w) of an object's centre. Kept are
    cells whose probability exceeds `score_from`, the `most` likely of them, best first. The score is the probability's
    root. A box has sides of 0.01 px at least.
    """
    height, width = logits.shape[-2:]
    probability = (np.tanh(logits.astype(np.float64).ravel() / 2) + 1) / 2  # the sigmoid, which cannot overflow
    cells = np.flatnonzero(probability > score_from)
    cells = cells[np.argsort(-probability[cells], kind="stable")[:most]]
    centres = np.stack([cells % width, cells // width], axis=1) * stride + stride // 2
    sides = distances.reshape(4, height * width)[:, cells].T.astype(np.float64) * stride
    top_left = centres - sides[:, :2]
    bottom_right = np.maximum(centres + sides[:, 2:], top_left + LEAST_SIDE_PX)
    return np.concatenate([top_left, bottom_right], axis=1), np.sqrt(probability[cells])


def decode_levels(
    maps: Mapping[str, NDArray[Any]], *, score_from: float = 1e-4, most: int = 1000
) -> tuple[Array, Array]:
    """`decode_level` for `reg_0` and `agn_0` to `reg_4` and `agn_4`, one level after the other."""
    levels = [
        decode_level(maps[f"reg_{level}"], maps[f"agn_{level}"], stride, score_from=score_from, most=most)
        for level, stride in enumerate(STRIDES)
    ]
    boxes, scores = zip(*levels, strict=True)
    return np.concatenate(boxes), np.concatenate(scores)


def proposals(
    maps: Mapping[str, NDArray[Any]], *, score_from: float = 1e-4, most: int = 1000, iou: float, keep: int
) -> tuple[Array, Array]:
    """What a one-stage CenterNet finds in an image: (n, 4) `xyxy` and (n,) scores, best first.

    `score_from` and `most` as in `decode_level`, `iou` and `keep` as in `nms`: n is at most `keep`, but for ties.
    """
    boxes, scores = decode_levels(maps, score_from=score_from, most=most)
    kept = nms(boxes, scores, iou, keep=keep)
    return boxes[kept], scores[kept]


def nms(
    xyxy: ArrayLike, scores: ArrayLike, iou: float, *, classes: ArrayLike | None = None, keep: int | None = None
) -> Indices:
    """Non-maximum suppression: the boxes that no better, kept one overlaps by more than `iou`, best first.

    xyxy (N, 4), scores (N,); of equal scores the first counts as the better. classes (N,): boxes of different classes
    leave each other alone. keep: stop at so many, and those that are as good as the last of them. Returns indices.
    """
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)[order].T
    areas = (x2 - x1) * (y2 - y1)
    names = np.zeros(len(order)) if classes is None else np.asarray(classes)[order]
    kept = list[int]()
    left = np.arange(len(order))
    while len(left):
        best, left = left[0], left[1:]
        if keep is not None and len(kept) >= keep and scores[order[best]] < scores[order[kept[keep - 1]]]:
            break
        kept.append(int(best))
        across = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        down = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        shared = np.clip(across, 0, None) * np.clip(down, 0, None)
        overlaps = shared > iou * (areas[best] + areas[left] - shared)
        left = left[~(overlaps & (names[best] == names[left]))]
    return order[kept]
