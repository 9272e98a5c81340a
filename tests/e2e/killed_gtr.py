"""GTR's training twice, each a process of its own: `python -m tests.e2e.killed_gtr OUT`.

Writes `OUT/whole`, which nothing disturbs, and `OUT/killed`, which saves after every step and is killed (SIGKILL) when
its third step stands in the log, and given again until it is through. Prints the step at which it went on.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sightline.datasets.synthetic import SyntheticConfig
from sightline.recipes import train_gtr
from sightline.training.clips import ClipsConfig
from sightline.training.run import RunSettings
from tests.e2e.killed_run import kill_at, start, through

# Everything that is random: which clips, with how many frames; which regions; what is dropped out.
SMALL = dataclasses.replace(
    train_gtr.PRESETS["gtr-tiny:full"],
    init="none",
    steps=7,
    batch=1,
    warmup_steps=5,
    losses=dataclasses.replace(train_gtr.TINY.losses, score_above=0.05),
    pairs=ClipsConfig(2, 3, train_px=128, scale=(0.6, 1.0), max_objects=16),
    synthetic=SyntheticConfig(width=128, height=128, object_height=(0.3, 0.5)),
    keep_steps=3,
)


def main(out: Path) -> None:
    def job(name: str, **changes: Any) -> partial[None]:
        run = RunSettings(out=out / name, accelerator="cpu", threads=1, log_steps=1, **{"workers": 0, **changes})
        return partial(train_gtr.train, dataclasses.replace(SMALL, run=run))

    through(start(job("whole")))
    again = job("killed", workers=1, save_minutes=0.0)
    kill_at(3, start(again), out / "killed")
    through(start(again))
    print(json.loads((out / "killed" / "run.json").read_text())["first_step"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
