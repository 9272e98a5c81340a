"""Small trainings, each a process of its own, some of them killed: `python -m tests.e2e.killed_run DATA OUT`.

Writes the runs `RECIPE-whole`, which nothing disturbs; `RECIPE-killed`, which saves after every step and is killed
(SIGKILL, when a step chosen by a seed stands in its log) and given again until it is through; `ostrack-seldom`, which
is killed too and saves when it is judged; `ostrack-careless`, whole, but with random numbers that go on from step to
step. And `backbone.safetensors`, which SPMTrack's begin with.
Prints a line of JSON: of every start of a run that was killed, the step at which it began.

Processes are forked, because importing torch is what takes long; this one has run nothing of it before.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from sightline.checkpoints.files import write_safetensors
from sightline.models.dinov2 import DINOv2, DINOv2Config
from sightline.recipes import train_nano, train_ostrack, train_spmtrack
from sightline.training.run import Run, RunSettings

NUM_STEPS = 9  # three epochs of three, judged after each
KILLS = ((1, 4), (4, 7))  # between which steps each run is killed, so that there is some left to do
DEADLINE_S = 120  # to reach a step, on a busy machine
SOURCES = ("folder:train=sot*2", "images=images")
TINY: dict[str, Any] = {"width": 32, "heads": 2, "depth": 3, "ce_layers": (1,)}
SMALL: dict[str, Any] = {
    "epochs": 3,
    "pairs_per_epoch": 6,
    "batch": 2,
    "sources": SOURCES,
    "val": ("folder:val=sot",),
    "validate_epochs": 1,
    "init": "none",
    "warmup_steps": 0,
}
# Elimination comes in and the rate falls on the way.
FULL = train_ostrack.PRESETS["ostrack-tiny:full"]
OSTRACK = dataclasses.replace(
    FULL,
    **SMALL,
    pairs=dataclasses.replace(FULL.pairs, min_pictures=2, min_visible=2),
    options=TINY,
    ce_start=2,
    ce_warm=1,
    drop_epoch=2,
)
NANO = dataclasses.replace(train_nano.PRESETS["sightline-nano:full"], **{**SMALL, "val": ()}, freeze_blocks=5)
# Paths are dropped, and the box's loss weighs ten times, then once.
VIT = DINOv2Config(width=32, depth=2, heads=2, image_px=56)
SPMTRACK = dataclasses.replace(
    train_spmtrack.PRESETS["spmtrack-tiny:full"],
    **{name: value for name, value in SMALL.items() if name not in ("init", "warmup_steps")},
    run=RunSettings(),
    warmup_epochs=1,
    giou_warmup_epochs=2,
    options={"backbone": VIT, "rank": 8, "drop_path": 0.1},
)
RECIPES: dict[str, tuple[ModuleType, Any]] = {
    "ostrack": (train_ostrack, OSTRACK),
    "nano": (train_nano, NANO),
    "spmtrack": (train_spmtrack, SPMTRACK),
}


def write_backbone(path: Path) -> None:
    """As a pre-training leaves it."""
    torch.manual_seed(0)
    write_safetensors(path, {name: value.numpy() for name, value in DINOv2(VIT).state_dict().items()}, {})


def start(job: Callable[[], None]) -> int:
    """A process that does a job; its id, and that of its group."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setpgid(0, 0)
        job()
        status = 0
    except BaseException:  # the fork must not return into its parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def logged(out: Path) -> int:
    """The last step in a run's log."""
    path = out / "log.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    return int(rows[-1]["step"] or 0) if rows else 0


def kill_at(step: int, process: int, out: Path) -> None:
    """Kill a run, and what it has started, as soon as the log has a step."""
    deadline = time.monotonic() + DEADLINE_S
    while logged(out) < step and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), f"the run was through, or failed, before it was killed: {status}"
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # workers


def through(process: int) -> None:
    _, status = os.waitpid(process, 0)
    assert status == 0, status


def careless(job: Callable[[], None]) -> None:
    Run.reseed = lambda self, step: None  # type: ignore[method-assign]
    job()


def main(data: Path, out: Path) -> None:
    backbone = out / "backbone.safetensors"

    def job(recipe: str, name: str, **changes: Any) -> tuple[Path, Callable[[], None]]:
        module, settings = RECIPES[recipe]
        folder = out / f"{recipe}-{name}"
        run = RunSettings(out=folder, accelerator="cpu", threads=1, log_steps=1, **{"workers": 0, **changes})
        init = str(backbone) if recipe == "spmtrack" else settings.init
        return folder, partial(module.train, dataclasses.replace(settings, data=data, run=run, init=init))

    rng = np.random.default_rng(0)
    begun: dict[str, list[int]] = {}
    through(start(partial(write_backbone, backbone)))
    for recipe in RECIPES:
        through(start(job(recipe, "whole")[1]))
        for name, save_minutes in (("killed", 0.0), *([("seldom", 60.0)] if recipe == "ostrack" else [])):
            folder, again = job(recipe, name, workers=1, save_minutes=save_minutes)
            starts = begun[folder.name] = []
            for low, high in KILLS:
                kill_at(max(int(rng.integers(low, high)), logged(folder) + 1), start(again), folder)
                starts.append(json.loads((folder / "run.json").read_text())["first_step"])
            through(start(again))
            starts.append(json.loads((folder / "run.json").read_text())["first_step"])
    through(start(partial(careless, job("ostrack", "careless")[1])))
    print(json.dumps(begun))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
