"""OpenCV's trackers behind a pipe, for an environment of their own: its wheel with the trackers and the one that
Sightline stands on overwrite each other's files. Needs only NumPy and opencv-contrib-python-headless.

`OpenCV` starts this file under that environment's Python. The first line out is {"version"}. After that one JSON object
a line goes in, {"tracker", "frames" (paths), "xywh", "threads"}, and one comes back, {"boxes" of every frame, "found"
and "ms" of every frame after the first}. Frames are decoded before the clock starts; it runs over `update` alone.
Trackers have their default parameters and take the first box rounded to whole pixels. After a loss they are asked again
on the next frame, and the last box stands in for the missing one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2

TRACKERS = {"kcf": "TrackerKCF", "csrt": "TrackerCSRT", "mil": "TrackerMIL"}
NETWORKS = {"vit": ("TrackerVit", ["net"]), "nano": ("TrackerNano", ["backbone", "neckhead"])}


class OpenCV:
    """A long-lived process of this file under another Python; use it in a `with` block."""

    def __init__(self, python: Path) -> None:
        self.process = subprocess.Popen([python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.read()["version"]

    def __enter__(self) -> OpenCV:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(self, tracker: str, frames: list[str], xywh: list[float], threads: int) -> dict[str, Any]:
        """One clip. tracker: kcf, csrt, mil, or with its files vit:NET.onnx or nano:BACKBONE.onnx:NECKHEAD.onnx."""
        assert self.process.stdin
        request = {"tracker": tracker, "frames": frames, "xywh": xywh, "threads": threads}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"OpenCV's process ended with status {self.process.wait()}")
        return dict(json.loads(line))


def create(tracker: str) -> Any:
    """A new tracker, from wherever this OpenCV keeps it: `cv2`, or `cv2.legacy`."""
    name, *files = tracker.split(":")
    if name in NETWORKS:
        kind, fields = NETWORKS[name]
        parameters = getattr(cv2, f"{kind}_Params")()
        for field, file in zip(fields, files, strict=True):
            setattr(parameters, field, file)
        return getattr(cv2, f"{kind}_create")(parameters)
    for module in (cv2, getattr(cv2, "legacy", None)):
        if make := getattr(module, f"{TRACKERS[name]}_create", None):
            return make()
    sys.exit(f"OpenCV {cv2.__version__} has no {TRACKERS[name]}. Install opencv-contrib-python-headless there.")


def follow(tracker: str, frames: list[str], xywh: list[float], threads: int) -> dict[str, Any]:
    cv2.setNumThreads(threads)
    images = [cv2.imread(path) for path in frames]  # BGR, as these trackers expect
    follower = create(tracker)
    follower.init(images[0], tuple(round(value) for value in xywh))
    boxes, found, ms = [list(xywh)], [], []
    for image in images[1:]:
        start = time.perf_counter()
        is_found, box = follower.update(image)
        ms.append((time.perf_counter() - start) * 1e3)
        found.append(bool(is_found))
        boxes.append([float(value) for value in box] if is_found else boxes[-1])
    return {"boxes": boxes, "found": found, "ms": ms}


if __name__ == "__main__":
    print(json.dumps({"version": cv2.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(follow(**json.loads(line))), flush=True)
