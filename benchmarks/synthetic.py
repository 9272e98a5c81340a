"""How many synthetic frames a second one core makes, and windows for training; and the truth alone.

It counts the processor's time, of which other processes take none, with one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import tyro
from measure import SHARED, bar, machine, table

from sightline.datasets.cutouts import Gallery, drawn_gallery, open_gallery
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence

FOLDERS = ("coco_person", "mot17_person", "coco80", "animals", "fod_objects")
REGIMES = {
    "default, 256 x 256": SyntheticConfig(),
    "crowd of 40, 256 x 256": SyntheticConfig(num_people=(40, 40)),
    "default, 640 x 480": SyntheticConfig(width=640, height=480),
}
FRAMES_PER_SEQUENCE = 50
MIN_FRAMES_PER_S = 100


def milliseconds(job: Callable[[int], object], repeats: int) -> list[float]:
    """Of each call with its number; the first three are dropped."""
    spent = []
    for number in range(repeats + 3):
        start = time.process_time()
        job(number)
        spent.append((time.process_time() - start) * 1e3)
    return spent[3:]


def row(name: str, config: SyntheticConfig, gallery: Gallery, sequences: int) -> tuple[list[str], float]:
    """Frames a second over whole sequences, their making included; slowest frame; truth and window."""
    config, numbers = replace(config, num_frames=FRAMES_PER_SEQUENCE), count()

    def whole(_: int) -> None:
        for _image in SyntheticSequence(config, 0, next(numbers), gallery).images():
            pass

    def window(number: int) -> None:
        SyntheticSequence(replace(config, num_frames=5), 1, number, gallery).window(0, 5)

    frames = np.array(milliseconds(whole, sequences)) / FRAMES_PER_SEQUENCE
    truth = np.array(milliseconds(lambda k: SyntheticSequence(config, 0, k, gallery).truth, sequences))
    windows = milliseconds(window, 4 * sequences)
    speed = 1e3 / float(frames.mean())
    slowest = 1e3 / float(frames.max())
    cells = (f"{speed:.0f}", f"{slowest:.0f}", f"{truth.mean() / FRAMES_PER_SEQUENCE:.2f}", f"{np.median(windows):.1f}")
    return [name, *cells], speed


def main(data: Path = SHARED / "data" / "images", sequences: int = 20, folders: Sequence[str] = FOLDERS) -> None:
    """data: where folders of annotated images are; without it only what is drawn is measured."""
    cv2.setNumThreads(1)
    print(machine("numpy", "opencv-python-headless"))
    galleries = {"drawn": drawn_gallery()}
    if data.is_dir():
        start = time.process_time()
        galleries["cut out"] = cut = open_gallery([data / folder for folder in folders])
        spent = time.process_time() - start
        print(
            f"cut out in {spent:.1f} s: {len(cut.people)} people, {len(cut.others)} others, {len(cut.grounds)} grounds"
        )
    rows, speeds = [], []
    for kind, gallery in galleries.items():
        for name, config in REGIMES.items():
            cells, speed = row(f"{kind}, {name}", config, gallery, sequences)
            rows.append(cells)
            if config == SyntheticConfig():
                speeds.append(speed)
    print()
    print(table(("of one core", "frames/s", "slowest sequence", "truth ms/frame", "window of 5 ms"), rows))
    print()
    print(bar("frames a second at 256 x 256", min(speeds), at_least=MIN_FRAMES_PER_S))


if __name__ == "__main__":
    tyro.cli(main)
