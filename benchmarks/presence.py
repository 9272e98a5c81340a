"""Where to put a model's `tracked_from`: how well the score tells a target that is followed from one that is not.

Every validation clip is tracked and then cut to another clip's frames, where the target cannot be. Right is "tracked"
on frames with an IoU of at least .5 and "uncertain" on frames after the cut and on frames with an IoU below .1; frames
between (a box that is half right) do not count. For each threshold: the share of right answers on followed frames and
on frames without the target, each a mean over clips. The best threshold has the highest mean of the two; chosen again
without each clip in turn, it says what to expect of a clip that had no part in the choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from measure import SHARED, machine, table
from numpy.typing import NDArray

import sightline
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.geometry.boxes import iou
from sightline.imaging.frames import read_image
from sightline.trackers.protocol import Tracker

Scores = NDArray[np.float64]
THRESHOLDS = np.arange(0.02, 0.99, 0.01).round(2)


class Answers(NamedTuple):
    """Scores of one clip: where the target was followed, where it was lost, and after the cut."""

    followed: Scores
    lost: Scores
    gone: Scores


def answers(tracker: Tracker, clip: Clip, other: Clip, num_gone: int) -> Answers:
    state = tracker.init(read_image(clip.frames[0]), xywh=clip.xywh[0])
    boxes, scores = [state.xywh], [state.score]
    for path in (*clip.frames[1:], *other.frames[:num_gone]):
        state = tracker.update(read_image(path), state)
        boxes.append(state.xywh)
        scores.append(state.score)
    known, gone = np.array(scores[1 : len(clip)]), np.array(scores[len(clip) :])
    overlap = iou(np.array(boxes[1 : len(clip)]), clip.xywh[1:])
    present = clip.is_present[1:]
    return Answers(known[present & (overlap >= 0.5)], known[present & (overlap < 0.1)], gone)


def rates(clips: list[Answers]) -> tuple[Scores, Scores]:
    """Share of right answers at each threshold, mean over clips: on followed frames, and where the target is not."""
    followed = [(one.followed[:, None] >= THRESHOLDS).mean(axis=0) for one in clips if one.followed.size]
    absent = [(np.concatenate([one.lost, one.gone])[:, None] < THRESHOLDS).mean(axis=0) for one in clips]
    return np.mean(followed, axis=0), np.mean(absent, axis=0)


def best(clips: list[Answers]) -> int:
    """Position of the threshold with the highest mean of both rates; the middle one of equals."""
    mean = np.mean(rates(clips), axis=0)
    return int(np.median(np.flatnonzero(mean >= mean.max() - 1e-9)))


def main(
    model: str = "sightline-nano",
    weights: Path | None = None,
    data: Path = SHARED / "data" / "sot",
    threads: int = 2,
    num_gone: int = 40,
) -> None:
    """Rates over thresholds, the best one, and what it gives on clips left out.

    Args:
        model: A name from `sightline models`.
        weights: A weights file or an exported folder; by default the bundled one.
        data: The folder of clips with a split.json.
        threads: Threads of the network.
        num_gone: So many frames of another clip after each.
    """
    print(machine("numpy", "onnxruntime"))
    clips = read_clips(data, read_split(data, "val"))
    tracker = sightline.load(model, weights=weights, threads=threads)
    found = [answers(tracker, clip, clips[k - 1], num_gone) for k, clip in enumerate(clips)]
    counts = [sum(one[k].size for one in found) for k in range(3)]
    print(f"\n{model}: {counts[0]} frames followed, {counts[1]} lost, {counts[2]} after a cut")
    on, off = rates(found)
    chosen = best(found)
    shown = sorted({*range(3, len(THRESHOLDS), 5), chosen})
    rows = [
        [f"{THRESHOLDS[k]:.2f}", f"{on[k]:.3f}", f"{off[k]:.3f}", f"{(on[k] + off[k]) / 2:.3f}"]
        + (["<- best"] if k == chosen else [""])
        for k in shown
    ]
    print("\n" + table(["tracked_from", "followed", "not there", "mean", ""], rows))
    held = []
    for k, one in enumerate(found):
        at = best(found[:k] + found[k + 1 :])
        absent = np.concatenate([one.lost, one.gone])
        held.append([np.mean(one.followed >= THRESHOLDS[at]), np.mean(absent < THRESHOLDS[at])])
    left_out = np.nanmean(np.array(held), axis=0)
    print(
        f"\nchosen {THRESHOLDS[chosen]:.2f}: right on {on[chosen]:.3f} of followed frames, {off[chosen]:.3f} of those "
        f"without the target; on clips left out of the choice {left_out[0]:.3f} and {left_out[1]:.3f}"
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
