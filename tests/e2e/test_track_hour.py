"""`sightline track` in the hands of a person: choosing the target, settings, pictures of a run, live sources."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.cli import main
from tests.e2e.live_server import LiveServer, truth
from tests.e2e.scene import NUM_FRAMES, environment, names_in, pictures, write_clip, write_images

pytestmark = pytest.mark.extras

BOX = "40,60,48,48"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: an empty folder with clip.mp4."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", pictures())
    return tmp_path


def test_without_a_box_the_first_frame_is_left_with_rulers(here: Path, capsys: Capture):
    assert main(["track", "clip.mp4", "-o", "out.mp4"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "clip-first-frame.png" in told.err and "--box X,Y,W,H" in told.err and "--pick" in told.err
    assert names_in(here) == ["clip-first-frame.png", "clip.mp4"]
    page = cv2.imread("clip-first-frame.png")
    assert page.shape[1] >= 1600
    assert main(["track", "clip.mp4", "--start", "5"]) == 2  # of the frame that is asked for
    assert not np.array_equal(cv2.imread("clip-first-frame.png"), page)


def test_a_box_can_be_picked_where_there_is_a_display(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    shown = []

    def draw(rgb: np.ndarray, title: str) -> list[tuple[float, float, float, float]]:
        shown.append((rgb.shape, title))
        return [(40.0, 60.0, 48.0, 48.0)]

    monkeypatch.setattr("sightline.cli.pick.pick_boxes", draw)
    assert main(["track", "clip.mp4", "--pick", "--results", "picked.txt"]) == 0
    assert main(["track", "clip.mp4", "--box", BOX, "--results", "typed.txt"]) == 0
    assert Path("picked.txt").read_text() == Path("typed.txt").read_text()
    assert shown == [((240, 320, 3), "clip.mp4")]


def test_without_a_display_picking_is_refused(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")  # where the environment says it
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["track", "clip.mp4", "--pick", "-o", "out.mp4"]) == 2
    assert "display" in capsys.readouterr().err
    assert names_in(here) == ["clip.mp4"]


def test_a_setting_changes_the_tracker(here: Path):
    def presences(*arguments: str) -> set[str]:
        assert main(["track", "clip.mp4", "--box", BOX, "--results", "r.json", *arguments]) == 0
        frames = json.loads(Path("r.json").read_text())["frames"][1:]
        return {target["presence"] for frame in frames for target in frame["targets"]}

    assert presences("--set", "tracked_from=0") == {"tracked"}
    assert presences("--set", "tracked_from=1", "--set", "window=0.5") == {"uncertain"}


def test_pictures_of_a_run(here: Path, capsys: Capture):
    arguments = ["track", "clip.mp4", "--box", BOX, "--plot", "score.svg", "--contact-sheet", "page.jpg"]
    assert main(arguments) == 0
    assert "<svg" in Path("score.svg").read_text()
    assert cv2.imread("page.jpg").shape[1] >= 1500
    assert capsys.readouterr().out.endswith("score.svg and page.jpg\n")
    assert names_in(here) == ["clip.mp4", "page.jpg", "score.svg"]


def test_a_refused_run_leaves_no_picture(here: Path):
    arguments = ["track", "clip.mp4", "--box", "900,60,48,48", "--plot", "score.svg", "--contact-sheet", "page.jpg"]
    assert main(arguments) == 2
    assert names_in(here) == ["clip.mp4"]


def test_it_stops_after_so_many_frames(here: Path, capsys: Capture):
    assert main(["track", "clip.mp4", "--box", BOX, "--max-frames", "4", "-o", "four.mp4"]) == 0
    assert capsys.readouterr().out.startswith("4 frames")
    assert main(["track", "four.mp4", "--box", BOX]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_images_may_be_named_one_by_one(here: Path, capsys: Capture):
    write_images(here / "frames", pictures())
    names = [str(path) for path in sorted((here / "frames").iterdir())]
    assert main(["track", *names, "--box", BOX]) == 0
    assert len(capsys.readouterr().out.splitlines()) == NUM_FRAMES


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ([], "source: got none"),
        (["clip.mp4", "clip.mp4"], "got 'clip.mp4' among several; expected images"),
        (["ftp://somewhere/clip.mp4"], "rtsp://"),
    ],
)
def test_what_is_no_source_is_said(here: Path, capsys: Capture, sources: list[str], sentence: str):
    assert main(["track", *sources, "--box", BOX]) == 2
    assert sentence in capsys.readouterr().err


def test_an_interrupt_ends_a_live_source_well(tmp_path: Path):
    box = ",".join(str(side) for side in truth(0))
    with LiveServer() as server:
        arguments = [f"{server.http}/live.ts", "--box", box, "--results", "live.jsonl", "-o", "live.mp4"]
        process = subprocess.Popen(
            [sys.executable, "-m", "sightline", "track", *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            rows = tmp_path / "live.jsonl"
            deadline = time.monotonic() + 60
            while not (rows.exists() and rows.read_text().count("\n") >= 5):  # rows can be read while it runs
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    *frames, last = [json.loads(line) for line in rows.read_text().splitlines()]
    assert last["summary"]["num_frames"] == len(frames) >= 5
    assert out.startswith(f"{len(frames)} frames") and "live.mp4" in out
    assert names_in(tmp_path) == ["live.jsonl", "live.mp4"]


def test_onnx_runtime_sends_nothing_home(here: Path):
    reports = here / "cache" / "Microsoft"
    variables = environment(XDG_CACHE_HOME=str(here / "cache"), HOME=str(here))
    variables.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-m", "sightline", "track", "clip.mp4", "--box", BOX, "--results", "r.txt"]
    done = subprocess.run(command, cwd=here, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not reports.exists() and not list(here.rglob("*onnxruntime*"))


def test_a_picture_among_the_pictures_is_refused(here: Path, capsys: Capture):
    write_images(here / "frames", pictures())
    before = names_in(here / "frames")
    for source in ("frames", "frames/*.png", f"frames/{before[0]}"):
        assert main(["track", source, "--box", BOX, "--contact-sheet", "frames/page.png"]) == 2
        assert "would be taken for a frame" in capsys.readouterr().err
    assert main(["track", "frames", "--box", BOX, "--plot", f"frames/{before[0]}"]) == 2
    assert names_in(here / "frames") == before


def test_no_picture_of_the_first_frame_is_left_among_the_frames(here: Path, capsys: Capture, monkeypatch):
    write_images(here / "frames", pictures())
    before = names_in(here / "frames")
    monkeypatch.chdir(here / "frames")
    assert main(["track", "."]) == 2
    assert "go to another folder" in capsys.readouterr().err
    assert names_in(here / "frames") == before


def test_several_images_are_taken_in_natural_order(here: Path):
    write_images(here / "frames", pictures())
    paths = sorted((here / "frames").iterdir())
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"f{number}.png"))
    shell = sorted(str(path) for path in (here / "frames").iterdir())  # f0 f1 f10 f11 f2
    assert main(["track", *shell, "--box", BOX, "--results", "shell.txt"]) == 0
    assert main(["track", "frames", "--box", BOX, "--results", "folder.txt"]) == 0
    assert Path("shell.txt").read_text() == Path("folder.txt").read_text()


def test_a_box_may_be_written_with_spaces(here: Path):
    assert main(["track", "clip.mp4", "--box", "40", "60", "48", "48", "--results", "spaces.txt"]) == 0
    assert main(["track", "clip.mp4", "--box", BOX, "--results", "commas.txt"]) == 0
    assert Path("spaces.txt").read_text() == Path("commas.txt").read_text()


def test_corners_given_as_sizes_are_pointed_at(here: Path, caplog: pytest.LogCaptureFixture):
    assert main(["track", "clip.mp4", "--box", "40,60,88,230", "--results", "r.txt"]) == 0
    assert "reaches 50 px beyond the frame" in caplog.text and "X,Y,W,H" in caplog.text
    caplog.clear()
    assert main(["track", "clip.mp4", "--box", BOX, "--results", "r.txt"]) == 0
    assert caplog.text == ""


@pytest.mark.parametrize("box", ["0.1,0.25,0.2,0.2", "0,0,1,1"])
def test_fractions_are_refused(here: Path, capsys: Capture, box: str):
    assert main(["track", "clip.mp4", "--box", box, "--results", "r.txt"]) == 2
    assert "not fractions of the frame" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "loop.mp4", "locked/clip.mp4", ""])
def test_names_that_the_system_refuses_are_told(here: Path, capsys: Capture, name: str, monkeypatch):
    (here / "loop.mp4").symlink_to("loop.mp4")
    real = os.stat

    def stat(path, *rest, **more):  # as for a person without rights; the tests may run as one who has all
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "stat", stat)
    assert main(["track", name, "--box", BOX, "--results", "r.txt"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert not Path("r.txt").exists()


def test_a_working_directory_that_is_gone_is_told_and_a_fault_is_not_hidden(here: Path, capsys: Capture, monkeypatch):
    def fails(error: OSError):
        def load(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("sightline.cli.track.load", load)
        return main(["track", "clip.mp4", "--box", BOX, "--results", "r.txt"])

    assert fails(FileNotFoundError(2, "No such file or directory")) == 2
    assert "the working directory" in capsys.readouterr().err
    with pytest.raises(OSError, match="Broken"):
        fails(OSError(71, "Broken protocol"))
    assert names_in(here) == ["clip.mp4"]
