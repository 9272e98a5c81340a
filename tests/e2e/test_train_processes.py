"""A training of several processes on the CPU follows that of one, and when it ends badly it ends as one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.cli import main
from sightline.datasets import footage
from sightline.datasets.mixture import open_sources
from sightline.models import ostrack
from sightline.recipes import train_ostrack
from sightline.training.pairs import OfficialPairs
from sightline.training.run import LAST
from tests.e2e.scene import command_line, environment, pictures, truth, write_images

# Without BatchNorm and dropped paths; with a centre in every crop, so that the focal loss divides by the number of
# pairs: then the mean over processes is the one over pairs.
SMALL = {"width": 32, "heads": 2, "depth": 3, "ce_layers": (1,), "head_norm": "group"}
SCRIPT = f"""
import sys
from dataclasses import replace
from sightline.cli import main
from sightline.models import ostrack
from sightline.recipes import train_ostrack
if __name__ == "__main__":
    ostrack.DROP_PATH = 0.0
    preset = replace(train_ostrack.PRESETS["ostrack-tiny"], options={SMALL})
    train_ostrack.PRESETS = {{"ostrack-tiny": preset}}
    sys.exit(main())
"""
ASKED: dict[str, object] = {
    "init": "none", "accelerator": "cpu", "precision": "32-true", "batch": 4, "epochs": 1, "warmup_steps": 1,
    "lr": 1e-4, "centre_jitter": 1, "log_steps": 1, "workers": 0, "threads": 1,
}  # fmt: skip
STEPS = 20
RTOL = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of twelve pictures."""
    root = tmp_path_factory.mktemp("clips")
    for target in (0, 1):
        clip = root / f"clip{target}"
        clip.mkdir()
        write_images(clip / "img", pictures())
        np.savetxt(clip / "groundtruth.txt", truth(target=target), fmt="%g", delimiter=",")
    return root


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "small.py"
    path.write_text(SCRIPT)
    return path


@contextmanager
def small() -> Iterator[None]:
    """The script's changes in this process."""
    preset = replace(train_ostrack.PRESETS["ostrack-tiny"], options=SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ostrack, "DROP_PATH", 0.0)
        patch.setattr(train_ostrack, "PRESETS", {"ostrack-tiny": preset})
        threads = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def asked(data: Path, out: Path, steps: int = STEPS, **changes: object) -> list[str]:
    """What follows `sightline`."""
    settings = ASKED | {"data": data, "out": out, "pairs_per_epoch": 4 * steps, **changes}
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items()]
    return ["train", "ostrack-tiny", *chain(*flags)]


def start(command: Sequence[str | Path]) -> subprocess.Popen[str]:
    """In a process group of its own, as a terminal does."""
    return subprocess.Popen(
        list(map(str, command)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """(status, lines of standard error). No process that it started is left."""
    try:
        _, complaints = process.communicate(timeout=300)
        for _ in range(100):
            if not alive(process.pid):
                break
            time.sleep(0.1)
        assert not alive(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, complaints.splitlines()


def alive(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    rows = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                rows.append(path.parent.name)
    return rows


def losses(out: Path) -> np.ndarray:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return np.array([[float(row[name]) for name in ("total", "focal", "l1", "giou")] for row in rows])


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """(20, 4) the losses of one process."""
    out = tmp_path_factory.mktemp("alone")
    with small():
        assert main(asked(data, out)) == 0
    return losses(out)


@pytest.fixture(scope="module")
def both(data: Path, script: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run of two processes that Fabric started, and what they said."""
    out = tmp_path_factory.mktemp("both")
    status, said = end(start([sys.executable, script, *asked(data, out, devices=2)]))
    assert status == 0, said
    return out, said


def test_the_losses_tell_the_batch_of_one_process_from_a_part_of_it(
    data: Path, tmp_path: Path, alone: np.ndarray
) -> None:
    """What the next tests compare would miss: the log of a first process that tells of its own part."""
    with small():
        assert main(asked(data, tmp_path, 1, batch=2)) == 0  # the first half of the first batch
    assert (np.abs(losses(tmp_path)[0] / alone[0] - 1) > 1e-3).all()
    assert alone[-1, 0] < alone[0, 0] / 2


def test_two_processes_that_fabric_starts_follow_one_and_speak_once(
    both: tuple[Path, list[str]], alone: np.ndarray
) -> None:
    out, said = both
    np.testing.assert_allclose(losses(out), alone, rtol=RTOL)
    assert [line.split()[1] for line in said if line.startswith("step ")] == [str(n) for n in range(1, STEPS + 1)]
    assert len(said) == len(set(said))
    assert not [line for line in said if "Warning" in line]
    assert json.loads((out / "run.json").read_text())["processes"] == 2


def test_two_processes_that_torchrun_starts_follow_one(
    data: Path, script: Path, tmp_path: Path, alone: np.ndarray
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    status, said = end(start([*torchrun, script, *asked(data, tmp_path, devices=2)]))
    assert status == 0, said
    np.testing.assert_allclose(losses(tmp_path), alone, rtol=RTOL)
    assert sum(line.startswith("step ") for line in said) == STEPS


def test_weights_in_pieces_follow_too_and_go_on_in_one_process(
    data: Path, script: Path, tmp_path: Path, alone: np.ndarray
) -> None:
    arguments = asked(data, tmp_path, 5, devices=2, strategy="fsdp2")
    status, said = end(start([sys.executable, script, *arguments]))
    assert status == 0, said
    assert not [line for line in said if "Warning" in line]
    np.testing.assert_allclose(losses(tmp_path), alone[:5], rtol=RTOL)
    with small():
        assert main(asked(data, tmp_path, 10)) == 0
    np.testing.assert_allclose(losses(tmp_path), alone[:10], rtol=RTOL)


def test_a_loss_that_is_no_number_ends_both_with_one_sentence(
    data: Path, script: Path, both: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    out, _ = both
    before = (out / LAST).read_bytes()
    status, said = end(start([sys.executable, script, *asked(data, out, 2 * STEPS, devices=2, lr="1e30")]))
    assert status == 2
    (kept,) = out.glob("nan-step-*.pt")
    (told,) = (line for line in said if line.startswith("error: "))
    assert f"expected finite numbers. See where it begins with --replay {kept}, or go on" in told
    assert said[-1] == told  # no traceback
    assert (out / LAST).read_bytes() == before
    saved = torch.load(kept, weights_only=True)
    assert {name: len(value) for name, value in saved["batch"].items()} == dict.fromkeys(saved["batch"], 4)
    with small(), caplog.at_level("INFO", logger="sightline"):
        assert main([*asked(data, out), "--replay", str(kept)]) == 0
    assert "not finite: what backbone." in caplog.text
    assert f"step {saved['step']}: loss nan" in caplog.text


def pictures_read(data: Path, numbers: Iterable[int]) -> set[Path]:
    """By the pairs of these numbers, as `asked` draws them."""
    read: set[Path] = set()
    preset = train_ostrack.PRESETS["ostrack-tiny"]
    with pytest.MonkeyPatch.context() as patch:
        real = footage.read_image
        patch.setattr(footage, "read_image", lambda path: (read.add(path), real(path))[1])
        pairs = OfficialPairs(open_sources([str(data)]), replace(preset.pairs, centre_jitter=1.0))
        for number in numbers:
            pairs[number]
    return read


def test_a_picture_that_only_the_second_process_cannot_read_ends_both_with_its_name(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "clips")
    bad = min(pictures_read(copy, (2, 3)) - pictures_read(copy, (0, 1)))
    bad.write_text("junk")
    status, said = end(start(command_line(asked(copy, tmp_path / "run", devices=2, workers=1))))
    assert status == 2
    assert [line for line in said if line.startswith("error: ") or "Traceback" in line or "Warning" in line] == [
        said[-1]
    ]
    assert said[-1].startswith(f"error: {bad}: got ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_after_its_step_and_saves_that(
    number: signal.Signals, data: Path, script: Path, tmp_path: Path
) -> None:
    process = start([sys.executable, script, *asked(data, tmp_path, 10_000, workers=1)])
    try:
        while not (tmp_path / "log.csv").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
    finally:
        status, said = end(process)
    assert status == 130
    saved = torch.load(tmp_path / LAST, weights_only=True)["step"]
    assert said[-2:] == [f"stopped at step {saved}, which is saved; the same command goes on from there", "interrupted"]
    assert "stopping after this step; once more stops at once" in said
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, saved + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "sentence"),
    [
        ("the keyboard's interrupt", 130, "interrupted"),
        ("the end of the first process", 130, "interrupted"),
        ("the death of the second", 2, "error: processes: got no answer from another one; expected all of them to"),
    ],
)
def test_what_ends_one_process_ends_both_and_is_told_once(
    how: str, status: int, sentence: str, data: Path, script: Path, tmp_path: Path
) -> None:
    process = start([sys.executable, script, *asked(data, tmp_path, 10_000, devices=2, workers=1)])
    try:
        while not (tmp_path / "log.csv").exists():
            assert process.poll() is None
            time.sleep(0.1)
        if how == "the keyboard's interrupt":
            os.killpg(process.pid, signal.SIGINT)
        elif how == "the end of the first process":
            process.terminate()
        else:
            (second, *_) = sorted(int(pid) for pid in alive(process.pid) if b"LOCAL_RANK=1" in environment_of(pid))
            os.kill(second, signal.SIGKILL)
    finally:
        ended, said = end(process)
    assert ended == status
    assert said[-1].startswith(sentence)
    assert not [line for line in said[:-1] if line.startswith(("error", "interrupted", "Traceback"))]


def environment_of(pid: str) -> bytes:
    return Path("/proc", pid, "environ").read_bytes()
