"""A scene of two textured targets whose boxes are known, as pictures, as a clip, as a folder; and the command on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import sightline

Picture = NDArray[np.uint8]

WIDTH, HEIGHT = 320, 240
NUM_FRAMES = 12
BOX = "40,60,48,48"  # the first target on frame 0, as typed
OTHER_BOX = "230,120,40,60"


def truth(num_frames: int = NUM_FRAMES, target: int = 0) -> NDArray[np.float64]:
    """(num_frames, 4) `xywh` of one target: the first goes right and down, the other left and up."""
    steps = np.arange(num_frames)[:, None]
    start, step = [((40, 60, 48, 48), (5, 2, 0, 0)), ((230, 120, 40, 60), (-2, -3, 0, 0))][target]
    return np.array(start) + steps * np.array(step, dtype=np.float64)


def picture(index: int) -> Picture:
    """(240, 320, 3) uint8 RGB: a red and yellow board and a striped post over a smooth, grainy ground."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    frame = np.stack([70 + rows // 4, 100 + columns // 6, 130 - rows // 6], axis=-1)
    frame += np.random.default_rng(7).integers(-12, 13, (HEIGHT, WIDTH, 1))
    colours = [((225, 60, 40), (250, 215, 70)), ((30, 40, 90), (235, 235, 245))]
    for target, (dark, bright) in enumerate(colours):
        x, y, w, h = truth(index + 1, target)[index].astype(int)
        cells = (np.mgrid[0:h, 0:w] // 12)[(slice(None), slice(0, 1))[target]].sum(axis=0) % 2 == 0
        frame[y : y + h, x : x + w] = np.where(cells[..., None], dark, bright)
    return np.clip(frame, 0, 255).astype(np.uint8)


def pictures(num_frames: int = NUM_FRAMES) -> list[Picture]:
    return [picture(index) for index in range(num_frames)]


def write_clip(path: Path, frames: Sequence[Picture]) -> Path:
    """The frames as H.264, 25 a second, with a key frame every fifth and no frame that refers to a later one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5", "bf": "0", "crf": "16"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_images(folder: Path, frames: Iterable[NDArray[Any]]) -> Path:
    """The frames as 1.png, 2.png ... 10.png, without loss; colour in RGB or RGBA order, 8 or 16 bits."""
    folder.mkdir()
    for number, frame in enumerate(frames, start=1):
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        stored = cv2.cvtColor(frame, order[frame.shape[2]]) if frame.ndim == 3 else frame
        assert cv2.imwrite(str(folder / f"{number}.png"), stored)
    return folder


def read_rows(text: str) -> NDArray[np.float64]:
    """The rows of a `.txt` file, or of standard output."""
    return np.array([[float(number) for number in line.split(",")] for line in text.splitlines()])


def names_in(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def environment(**variables: str) -> dict[str, str]:
    """This process's, and the package under test before any installed one; one thread to each numerical library."""
    source = str(Path(sightline.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **variables}


def command_line(arguments: Sequence[str | Path], first: str = "") -> list[str]:
    """`sightline ARGUMENTS` for `subprocess`; `first` is Python that the process runs before."""
    program = ["-c", f"{first}\nimport sys\nfrom sightline.cli import main\nsys.exit(main())"]
    return [sys.executable, *(program if first else ["-m", "sightline"]), *map(str, arguments)]


def command(arguments: Sequence[str | Path], first: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `sightline ARGUMENTS` as a process of its own, to its end."""
    given: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "env": environment()} | options
    return subprocess.run(command_line(arguments, first), check=False, **given)


def limit_files(size_bytes: int) -> str:
    """Python for `first`: no file may grow beyond so many bytes, which a writer meets as it meets a full disk."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size_bytes}, {size_bytes}))"
