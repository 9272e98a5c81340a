"""OpenCV's trackers behind standard input and output, for an environment of their own: needs only numpy and
opencv-contrib-python-headless, whose wheel and opencv-python-headless overwrite each other's files.

One JSON object a line comes in: {"tracker", "frames": [paths], "xywh", "threads"}. One goes out: {"boxes", "found",
"ms", "version"}, boxes of every frame, and for each frame after the first whether the tracker said that it found the
target and the milliseconds of its `update`. Frames are decoded before the clock starts; a tracker that reports a loss
is asked again on the next frame, and its last box stands in the row. The benchmarks start this file; people need not.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2

NAMES = {"kcf": "TrackerKCF", "csrt": "TrackerCSRT", "mil": "TrackerMIL", "mosse": "TrackerMOSSE"}


def create(name: str) -> Any:
    """The tracker with its default parameters, from wherever this OpenCV keeps it: `cv2`, or `cv2.legacy`."""
    for module in (cv2, getattr(cv2, "legacy", None)):
        if make := getattr(module, f"{NAMES[name]}_create", None):
            return make()
    sys.exit(f"tracker: OpenCV {cv2.__version__} has no {NAMES[name]}; install opencv-contrib-python-headless.")


def run(tracker: str, frames: list[str], xywh: list[float], threads: int) -> dict[str, Any]:
    cv2.setNumThreads(threads)
    images = [cv2.imread(path) for path in frames]  # BGR, as these trackers expect
    follower = create(tracker)
    try:
        follower.init(images[0], tuple(round(value) for value in xywh))
    except (cv2.error, TypeError):  # cv2.legacy wants floats
        follower.init(images[0], tuple(xywh))
    boxes, found, ms = [list(xywh)], [], []
    for image in images[1:]:
        start = time.perf_counter()
        is_found, box = follower.update(image)
        ms.append((time.perf_counter() - start) * 1e3)
        found.append(bool(is_found))
        boxes.append([float(value) for value in box] if is_found else boxes[-1])
    return {"boxes": boxes, "found": found, "ms": ms, "version": cv2.__version__}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


class OpenCV:
    """The other end of the pipe: a long-lived process of this file under another Python. Use it in a `with` block."""

    def __init__(self, python: Path) -> None:
        import subprocess

        self.process = subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> OpenCV:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def run(self, tracker: str, frames: list[str], xywh: list[float], threads: int) -> dict[str, Any]:
        """One clip through one tracker; the answer is described at the top of this file."""
        assert self.process.stdin and self.process.stdout
        request = {"tracker": tracker, "frames": frames, "xywh": xywh, "threads": threads}
        self.process.stdin.write(json.dumps(request) + "\n")
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"OpenCV's process ended: exit status {self.process.wait()}")
        return dict(json.loads(answer))


if __name__ == "__main__":
    main()
