"""Every row of the README's table "What you can do" does it, in a folder where the files it names are."""

from __future__ import annotations

import csv
import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sightline.cli import main
from sightline.loading import empty_model
from sightline.video.source import open_source
from tests.contracts.test_docs import README, frames, write_clip
from tests.e2e.live_server import LiveServer

TABLE = README.partition("## What you can do\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"\| `(sightline [^`]*)` \|$", TABLE, re.MULTILINE)
SHARED = [command for command in COMMANDS if "vitTracker.onnx" in command]
LIVE = ["--max-frames", "5"]  # what would go on for ever
SHORT = ["--epochs", "1", "--pairs-per-epoch", "8", "--batch", "4", "--workers", "0"]  # what would take minutes


class Camera:
    """What OpenCV would open: the targets of the README, over and over."""

    def __init__(self, index: int) -> None:
        self.pictures = [picture[..., ::-1] for picture in frames()] * 1000

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        time.sleep(0.02)  # 50 frames a second
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, self.pictures.pop()

    def get(self, _: int) -> float:
        return 25.0

    def set(self, *_: object) -> bool:
        return True

    def release(self) -> None:
        """Nothing to release."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """clip.mp4, frames/ and an official file of MVT, which `models add` puts into a cache of this folder."""
    here = tmp_path_factory.mktemp("readme")
    write_clip(here / "clip.mp4")
    (here / "frames").mkdir()
    for index, picture in enumerate(frames()):
        cv2.imwrite(str(here / "frames" / f"{index}.png"), picture[..., ::-1])
    write_sequences(here)
    torch.manual_seed(0)
    torch.save({"net": empty_model("mvt").state_dict(), "epoch": 100}, here / "MobileViT_Track_ep0100.pth.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("SIGHTLINE_CACHE", str(here / "cache"))
        patch.setattr(cv2, "VideoCapture", Camera)
        yield here


def write_sequences(here: Path) -> None:
    """truth.txt and boxes.txt of the clip, and sequences/ with the clip as a sequence of a person's own."""
    truth = [(100 + 2 * step, 50 + step, 40, 90) for step in range(12)]
    sequence = here / "sequences" / "clip"
    sequence.mkdir(parents=True)
    for path in (here / "truth.txt", here / "boxes.txt", sequence / "groundtruth.txt"):
        path.write_text("".join(f"{x},{y},{w},{h}\n" for x, y, w, h in truth))
    (sequence / "img").symlink_to(here / "frames")


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What one row prints; everything that it names as an output is there afterwards and is what its suffix says."""
    arguments = shlex.split(command)[1:]
    with ExitStack() as stack:
        if "http://camera.local" in command:
            server = stack.enter_context(LiveServer())
            arguments = [word.replace("http://camera.local", server.http) for word in arguments] + LIVE
        if arguments[:2] == ["track", "0"]:
            arguments += LIVE
        if arguments[0] == "train":
            arguments += SHORT
        status = main(arguments)
    told = capsys.readouterr()
    assert status == (2 if arguments == ["track", "clip.mp4"] else 0), told.err
    for flag, name in pairwise(arguments):
        if flag in ("-o", "--out", "--results", "--plot", "--contact-sheet", "--report"):
            assert_is_whole(Path(name))
    return told.out + told.err


def assert_is_whole(path: Path) -> None:
    match path.suffix:
        case ".csv":
            rows = list(csv.DictReader(path.open()))
            assert len(rows) == 12 and {row["presence"] for row in rows} <= {"tracked", "uncertain"}
        case ".json":
            assert len(json.loads(path.read_text())["frames"]) == 12
        case ".jsonl":
            assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5 + 1  # and the summary
        case ".txt":
            assert len(np.loadtxt(path, delimiter=",")) == (4 if path.stem == "part" else 12)
        case ".mp4" | ".gif":
            with open_source(path) as source:
                assert sum(frame.rgb is not None for frame in source) >= 5
        case ".html":
            assert "<svg" in path.read_text()
        case ".png":
            picture = cv2.imread(str(path))
            assert picture is not None and picture.std() > 5
        case "":
            files = {file.name for file in path.iterdir()}
            wholes = (
                {"track.onnx", "encode.onnx"},
                {"last.safetensors", "last.pt", "log.csv"},
                {"shards.json", "index.npy"},
            )
            assert any(whole <= files for whole in wholes)
        case _:
            raise AssertionError(path)


def test_the_table_is_read_whole() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("|")][2:]
    assert len(COMMANDS) == len(rows) >= 15


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in SHARED])
def test_a_row_does_what_it_says(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said = run(command, capsys)
    if command == "sightline track clip.mp4":
        assert_is_whole(folder / "clip-first-frame.png")
        assert "clip-first-frame.png" in said and "--box X,Y,W,H" in said
    assert said or "--weights runs/mine/last.safetensors" in caplog.text


@pytest.mark.shared
@pytest.mark.parametrize("command", SHARED)
def test_a_row_with_a_foreign_file(
    command: str, folder: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command.replace("vitTracker.onnx", str(shared / "weights" / "vitTracker.onnx")), capsys)
