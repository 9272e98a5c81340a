"""`sightline track` as a person uses it: what it writes, what it takes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sightline.cli import main
from sightline.geometry.boxes import iou
from sightline.imaging.draw import draw_targets
from sightline.runtime.store import bundled_folder
from sightline.types import TrackResult
from tests.e2e.scene import (
    BOX,
    HEIGHT,
    NUM_FRAMES,
    OTHER_BOX,
    WIDTH,
    Picture,
    command,
    command_line,
    environment,
    limit_files,
    names_in,
    picture,
    pictures,
    read_rows,
    truth,
    write_clip,
    write_images,
)

ROW = re.compile(r"(-?\d+\.\d{2,},){3}-?\d+\.\d{2,}")
NAN = "nan,nan,nan,nan"
BUNDLED = bundled_folder("sightline-nano")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "frames", pictures())


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = pictures()
    return write_clip(tmp_path_factory.mktemp("long") / "long.mp4", (frames + frames[::-1]) * 20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what a command writes."""
    path = tmp_path / "out"
    path.mkdir()
    return path


def track(source: str | Path, *arguments: str | Path, box: str = BOX) -> int:
    return main(["track", str(source), "--box", box, *map(str, arguments)])


def follows(rows: np.ndarray, target: int = 0, start: int = 0) -> bool:
    """Every box overlaps the truth by more than one half."""
    expected = truth(start + len(rows), target)[start:]
    return bool((iou(rows, expected) > 0.5).all())


def decoded(path: Path) -> list[Picture]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# What it writes


def test_boxes_follow_the_target_with_one_row_per_frame(clip: Path, out: Path, capsys: Capture):
    assert track(clip, "--results", out / "boxes.txt") == 0
    text = (out / "boxes.txt").read_text()
    assert text.endswith("\n")
    assert len(text.splitlines()) == NUM_FRAMES
    assert all(ROW.fullmatch(line) for line in text.splitlines())
    assert follows(read_rows(text))
    assert not follows(read_rows(text), target=1)
    told = capsys.readouterr()
    assert re.fullmatch(rf"{NUM_FRAMES} frames, \d+\.\d frames/s: {out / 'boxes.txt'}\n", told.out)
    assert told.err == ""
    assert names_in(out) == ["boxes.txt"]


@pytest.mark.parametrize(
    ("box", "row"),
    [
        ("40,60,48,48", "40.00,60.00,48.00,48.00"),
        ("40.25,60.5,47,48.125", "40.25,60.50,47.00,48.125"),
        ("4e1, 60, 48, 48", "40.00,60.00,48.00,48.00"),
    ],
)
def test_row_zero_is_the_box_as_typed(clip: Path, out: Path, box: str, row: str):
    assert track(clip, "--results", out / "boxes.txt", box=box) == 0
    assert (out / "boxes.txt").read_text().splitlines()[0] == row


@pytest.mark.parametrize("words", ["40 60 48 48", "40, 60, 48, 48"])
def test_a_box_may_be_four_words(clip: Path, out: Path, words: str):
    asked = ["--box", *words.split(), "--max-frames", "1", "--results", str(out / "boxes.txt")]
    assert main(["track", str(clip), *asked]) == 0 == main(["track", *asked, str(clip)])
    assert (out / "boxes.txt").read_text() == "40.00,60.00,48.00,48.00\n"


def test_a_box_partly_outside_is_legal_and_kept(clip: Path, out: Path):
    assert track(clip, "--results", out / "boxes.txt", box="-20,-10.5,60,80") == 0
    rows = (out / "boxes.txt").read_text().splitlines()
    assert rows[0] == "-20.00,-10.50,60.00,80.00"
    assert len(rows) == NUM_FRAMES


@pytest.mark.parametrize("start", [1, 4, NUM_FRAMES - 1])
def test_start_gives_the_rows_from_there_on(clip: Path, out: Path, start: int):
    x, y, w, h = truth()[start]
    box = f"{x},{y},{w},{h}"
    assert track(clip, "--start", str(start), "--results", out / "boxes.txt", box=box) == 0
    assert track(clip, "--start", str(start), "--results", out / "boxes.json", box=box) == 0
    rows = read_rows((out / "boxes.txt").read_text())
    assert len(rows) == NUM_FRAMES - start
    assert follows(rows, start=start)
    frames = json.loads((out / "boxes.json").read_text())["frames"]
    assert [frame["frame_index"] for frame in frames] == list(range(start, NUM_FRAMES))
    np.testing.assert_allclose([frame["time_s"] for frame in frames], np.arange(start, NUM_FRAMES) / 25, atol=1e-6)


def test_several_targets_make_motchallenge_rows(clip: Path, out: Path):
    assert track(clip, "--box", OTHER_BOX, "--results", out / "boxes.txt") == 0
    rows = read_rows((out / "boxes.txt").read_text())
    assert rows.shape == (2 * NUM_FRAMES, 10)
    assert rows[:, 0].tolist() == np.repeat(np.arange(1, NUM_FRAMES + 1), 2).tolist()
    assert rows[:, 1].tolist() == [1, 2] * NUM_FRAMES
    assert (rows[:, 7:] == -1).all()
    assert ((rows[:, 6] > 0) & (rows[:, 6] <= 1)).all()
    for target in (0, 1):
        assert follows(rows[target::2, 2:6], target)


def test_json_says_everything(clip: Path, out: Path):
    path = out / "boxes.json"
    assert track(clip, "--box", OTHER_BOX, "--results", path, "-o", out / "boxes.mp4", "--threads", "1") == 0
    assert path.read_text().endswith("}\n")
    told = json.loads(path.read_text())
    assert told["model"] == "sightline-nano"
    assert told["source"] == str(clip)
    assert (told["num_frames"], told["num_unreadable"]) == (NUM_FRAMES, 0)
    assert told["frames_per_second"] > 0
    assert {"crop", "network", "decode", "draw", "encode"} < told["stages_ms"].keys()
    for stage in told["stages_ms"].values():
        assert stage.keys() == {"median_ms", "p95_ms"}
        assert 0 <= stage["median_ms"] <= stage["p95_ms"]
    assert [frame["frame_index"] for frame in told["frames"]] == list(range(NUM_FRAMES))
    np.testing.assert_allclose([frame["time_s"] for frame in told["frames"]], np.arange(NUM_FRAMES) / 25, atol=1e-6)
    for target in (0, 1):
        found = [frame["targets"][target] for frame in told["frames"]]
        assert all(entry.keys() == {"id", "xywh", "score", "presence"} for entry in found)
        assert {entry["id"] for entry in found} == {target + 1}
        assert found[0]["score"] == 1
        assert all(0 < entry["score"] <= 1 for entry in found)
        assert follows(np.array([entry["xywh"] for entry in found]), target)


def test_without_an_output_the_rows_of_the_text_file_are_printed(clip: Path, out: Path, capsys: Capture):
    assert track(clip) == 0
    printed = capsys.readouterr()
    assert track(clip, "--results", out / "boxes.txt") == 0
    assert printed.out == (out / "boxes.txt").read_text()
    assert printed.err == ""


def test_the_video_has_every_frame_and_the_box_on_it(clip: Path, out: Path):
    assert track(clip, "-o", out / "boxed.mp4", "--results", out / "boxes.json") == 0
    assert names_in(out) == ["boxed.mp4", "boxes.json"]
    before, after = decoded(clip), decoded(out / "boxed.mp4")
    assert len(after) == NUM_FRAMES
    for index, entry in enumerate(json.loads((out / "boxes.json").read_text())["frames"]):
        (found,) = entry["targets"]
        result = TrackResult(index, None, found["id"], tuple(found["xywh"]), found["score"], "tracked")
        drawn = draw_targets(before[index], [result])
        is_changed = (drawn != before[index]).any(axis=-1)
        assert is_changed.sum() > 300
        difference = np.abs(after[index].astype(int) - drawn)
        assert difference[~is_changed].mean() < 6
        assert difference[is_changed].mean() < 0.5 * np.abs(after[index].astype(int) - before[index])[is_changed].mean()


def test_odd_sizes_are_padded_by_one_pixel(out: Path, tmp_path: Path):
    source = write_images(tmp_path / "odd", [frame[:239, :317] for frame in pictures()])
    assert track(source, "-o", out / "boxed.mp4", "--results", out / "boxes.txt") == 0
    frames = decoded(out / "boxed.mp4")
    assert len(frames) == NUM_FRAMES
    assert {frame.shape for frame in frames} == {(240, 318, 3)}
    np.testing.assert_allclose(frames[5][-1].astype(int), frames[5][-2], atol=40)
    assert follows(read_rows((out / "boxes.txt").read_text()))


# What it takes


def test_a_folder_and_a_glob_are_read_in_natural_order(folder: Path, out: Path):
    assert track(folder, "--results", out / "folder.txt") == 0
    assert track(folder / "*.png", "--results", out / "glob.txt") == 0
    assert track(folder / "1*.png", "--results", out / "some.txt") == 0
    rows = (out / "folder.txt").read_text()
    assert rows == (out / "glob.txt").read_text()
    assert len(rows.splitlines()) == NUM_FRAMES
    assert follows(read_rows(rows))
    assert len((out / "some.txt").read_text().splitlines()) == 4  # 1, 10, 11, 12


def grey(frame: Picture) -> np.ndarray:
    return (frame @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def with_alpha(frame: Picture) -> np.ndarray:
    return np.dstack([frame, np.random.default_rng(0).integers(0, 256, frame.shape[:2], dtype=np.uint8)])


def sixteen_bits(frame: Picture) -> np.ndarray:
    return frame.astype(np.uint16) * 257


@pytest.mark.parametrize("convert", [grey, with_alpha, sixteen_bits, lambda frame: sixteen_bits(grey(frame))])
def test_grey_alpha_and_sixteen_bits(tmp_path: Path, folder: Path, out: Path, convert: Callable[[Picture], np.ndarray]):
    source = write_images(tmp_path / "frames", [convert(frame) for frame in pictures()])
    assert track(source, "--results", out / "boxes.txt") == 0
    rows = (out / "boxes.txt").read_text()
    assert follows(read_rows(rows))
    if convert in (with_alpha, sixteen_bits):  # nothing is lost
        assert track(folder, "--results", out / "plain.txt") == 0
        assert rows == (out / "plain.txt").read_text()


def test_frames_may_change_size(tmp_path: Path, out: Path):
    sizes = [(HEIGHT, WIDTH), (201, 251), (HEIGHT + 60, WIDTH + 80)]  # all keep their upper left corner
    frames = []
    for index in range(NUM_FRAMES):
        height, width = sizes[index // 4]
        canvas = np.full((300, 400, 3), 110, np.uint8)
        canvas[:HEIGHT, :WIDTH] = picture(index)
        frames.append(canvas[:height, :width])
    source = write_images(tmp_path / "frames", frames)
    assert track(source, "--results", out / "boxes.txt", "-o", out / "boxed.mp4") == 0
    assert follows(read_rows((out / "boxes.txt").read_text()))
    assert {frame.shape for frame in decoded(out / "boxed.mp4")} == {(HEIGHT, WIDTH, 3)}


def unreadable_image(tmp_path: Path) -> tuple[Path, int]:
    source = write_images(tmp_path / "frames", pictures())
    (source / "6.png").write_bytes((source / "6.png").read_bytes()[:2000])
    return source, 5


def damaged_packet(tmp_path: Path) -> tuple[Path, int]:
    source = write_clip(tmp_path / "clip.mp4", pictures())
    with av.open(str(source)) as container:
        packet = list(container.demux(video=0))[4]  # the last of its group: no other frame needs it
    assert packet.pos is not None
    data = bytearray(source.read_bytes())
    data[packet.pos : packet.pos + packet.size] = np.random.default_rng(1).bytes(packet.size)
    source.write_bytes(data)
    return source, 4


@pytest.mark.parametrize("damage", [unreadable_image, damaged_packet])
def test_an_unreadable_frame_is_told_and_keeps_its_row(
    tmp_path: Path, out: Path, capsys: Capture, damage: Callable[[Path], tuple[Path, int]]
):
    source, lost = damage(tmp_path)
    assert track(source, "--results", out / "boxes.txt") == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("warning: ")
    rows = (out / "boxes.txt").read_text().splitlines()
    assert len(rows) == NUM_FRAMES
    assert [index for index, row in enumerate(rows) if row == NAN] == [lost]
    kept = np.arange(NUM_FRAMES) != lost
    assert (iou(read_rows("\n".join(rows))[kept], truth()[kept]) > 0.5).all()

    assert track(source, "--results", out / "boxes.json", "-o", out / "boxed.mp4") == 0
    told_json = json.loads((out / "boxes.json").read_text())
    assert told_json["num_unreadable"] == 1
    assert [frame["frame_index"] for frame in told_json["frames"] if frame.get("error")] == [lost]
    assert told_json["frames"][lost]["targets"] == []
    assert len(decoded(out / "boxed.mp4")) == NUM_FRAMES - 1

    assert track(source, "--box", OTHER_BOX, "--results", out / "two.txt") == 0
    mot = read_rows((out / "two.txt").read_text())
    assert sorted(set(mot[:, 0])) == [number for number in range(1, NUM_FRAMES + 1) if number != lost + 1]


# Terminals


def test_it_is_silent_where_there_is_no_terminal(clip: Path, out: Path):
    done = command(["track", clip, "--box", BOX, "--results", out / "boxes.txt", "-o", out / "boxed.mp4"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert f"{out / 'boxed.mp4'} and {out / 'boxes.txt'}" in done.stdout


def on_a_terminal(arguments: list[str], stdout: Any) -> str:
    """What the command shows on a terminal that is its standard error; `stdout` may be that terminal too."""
    ours, theirs = pty.openpty()
    child = environment(TERM="xterm-256color", COLUMNS="120")
    stdout = theirs if stdout == "terminal" else stdout
    process = subprocess.Popen(command_line(arguments), stderr=theirs, stdout=stdout, env=child)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # what Linux says when the other end of a terminal is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return shown.decode()


def test_a_terminal_sees_progress(clip: Path, out: Path):
    arguments = ["track", str(clip), "--box", BOX, "--results", str(out / "boxes.txt")]
    shown = on_a_terminal(arguments, subprocess.DEVNULL)
    assert "clip.mp4" in shown
    assert f"{NUM_FRAMES}/{NUM_FRAMES}" in shown
    assert re.search(r"\d frames/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)  # time left
    assert len((out / "boxes.txt").read_text().splitlines()) == NUM_FRAMES


def test_progress_keeps_out_of_the_rows(clip: Path, out: Path):
    """With the rows in a file, and with both on one terminal, where the rows are progress enough."""
    arguments = ["track", str(clip), "--box", BOX]
    with (out / "rows.txt").open("w") as rows:
        shown = on_a_terminal(arguments, rows)
    assert re.search(r"\d frames/s", shown)
    assert follows(read_rows((out / "rows.txt").read_text()))
    assert on_a_terminal(arguments, "terminal").replace("\r\n", "\n") == (out / "rows.txt").read_text()


# What it refuses


def refusal(capsys: Capture, arguments: list[str | Path]) -> str:
    """The one line on standard error with which the command refuses; nothing else is printed."""
    assert main(["track", *map(str, arguments)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return told.err


def outputs(out: Path) -> list[str | Path]:
    return ["-o", out / "boxed.mp4", "--results", out / "boxes.txt"]


def missing(folder: Path) -> str:
    return str(folder / "missing.mp4")


def empty(folder: Path) -> str:
    (folder / "empty.mp4").touch()
    return str(folder / "empty.mp4")


def no_video(folder: Path) -> str:
    (folder / "text.mp4").write_text("It was a dark and stormy night.\n" * 50)
    return str(folder / "text.mp4")


def only_sound(folder: Path) -> str:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return str(folder / "sound.mp4")


def cut_short(folder: Path) -> str:
    path = write_clip(folder / "cut.mp4", pictures(2))
    path.write_bytes(path.read_bytes()[:300])
    return str(path)


def no_images(folder: Path) -> str:
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").touch()
    return str(folder / "notes")


def glob_of_nothing(folder: Path) -> str:
    return str(folder / "*.png")


def unreadable_start(folder: Path) -> str:
    images = write_images(folder / "frames", pictures(2))
    (images / "1.png").write_bytes(b"no image")
    return str(images)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (missing, "no such file"),
        (empty, "empty file"),
        (no_video, "expected a video"),
        (only_sound, "without a video stream"),
        (cut_short, "expected a video"),
        (no_images, "no image among them"),
        (glob_of_nothing, "no image among them"),
        (unreadable_start, "the first frame, 0, cannot be read"),
    ],
)
def test_sources_are_refused(tmp_path: Path, out: Path, capsys: Capture, source: Callable[[Path], str], sentence: str):
    assert sentence in refusal(capsys, [source(tmp_path), "--box", BOX, *outputs(out)])
    assert names_in(out) == []


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ("40,60,0,48", "no area"),
        ("40,60,48,-1", "no area"),
        ("nan,60,48,48", "not finite"),
        ("40,60,inf,48", "not finite"),
        ("400,60,48,48", "outside the frame: got xywh=(400, 60, 48, 48), image pixels in a frame of 320 x 240"),
        ("-50,60,48,48", "outside the frame"),
        ("40,60,48", "got '40,60,48'; expected X,Y,W,H"),
        ("40,60,48,48,1", "expected X,Y,W,H"),
        ("40 60 48 48", "expected X,Y,W,H"),
        ("a,b,c,d", "expected X,Y,W,H"),
        ("", "expected X,Y,W,H"),
    ],
)
def test_boxes_are_refused(clip: Path, out: Path, capsys: Capture, box: str, sentence: str):
    assert sentence in refusal(capsys, [clip, f"--box={box}", *outputs(out)])
    assert sentence in refusal(capsys, [clip, "--box", BOX, f"--box={box}", *outputs(out)])
    assert names_in(out) == []


@pytest.mark.parametrize("words", ["40 60 48", "40, 60, 48", "40"])
def test_fewer_than_four_words_are_refused_as_a_box(clip: Path, out: Path, capsys: Capture, words: str):
    typed = ",".join(words.replace(",", "").split())
    sentence = f"target box: got {typed!r}; expected X,Y,W,H, four numbers in pixels."
    assert sentence in refusal(capsys, [clip, "--box", *words.split(), *outputs(out)])
    assert names_in(out) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--box", BOX, "--max-frames", "0"], "max-frames: got 0"),
        (["--box", BOX, "--set", "windw=0.5"], "Did you mean 'window'?"),
        (["--box", BOX, "--set", "window"], "expected NAME=VALUE"),
        (["--box", BOX, "--set", "window=wide"], "window: got 'wide'; expected a number"),
        (["--box", BOX, "--set", "search_px=200"], "which the network is made for"),
        pytest.param(["--box", BOX, "--device", "cuda"], "got 'cuda'", marks=pytest.mark.torch),
        (["--box", BOX, "--start", "-1"], "start: got -1"),
        (["--box", BOX, "--start", "12"], "start: got 12; expected 0 to 11"),
        (["--box", BOX, "--threads", "-1"], "threads: got -1"),
        (["--box", BOX, "--threads", "100000"], "threads: got 100000"),
        (["--box", BOX, "--model", "sightline-nana"], "Did you mean 'sightline-nano'?"),
        (["--box", BOX, "--model", "resnet"], "csrt, kcf, nano, vit. Run: sightline models"),
        (["--box", BOX, "--set", "colour=1"], "tracked_from. Run: sightline models sightline-nano"),
        (["--box", BOX, "--model", "nano"], "a file or their folder. Sightline's own is sightline-nano."),
        (["--model", "onetrack-m-tiny", "--classes", "dog"], "class: got 'dog'; expected person. Choose one."),
        (["--box", BOX, "--model", "ostrack-256-c"], "Did you mean 'ostrack-256-ce'?"),
        (["--box", BOX, "--model", "ostrack-256-ce"], "got no weights"),
        (["--box", BOX, "--model", "mvt", "--backend", "onnx"], "got no weights"),
        (["--box", BOX, "--weights", "missing.pth"], "weights missing.pth: no such file"),
        (["--box", BOX, "--weights", "/"], "got no encode.onnx"),
        (["--box", BOX, "--model", "mvt", "--weights", str(BUNDLED)], "got 'sightline-nano'; expected 'mvt'"),
        (["--box", BOX, "--backend", "torch", "--weights", str(BUNDLED)], "folder of exported graphs"),
    ],
)
def test_choices_are_refused(clip: Path, out: Path, capsys: Capture, arguments: list[str], sentence: str):
    assert sentence in refusal(capsys, [clip, *arguments, *outputs(out)])
    assert names_in(out) == []


def test_damaged_graphs_are_refused(clip: Path, tmp_path: Path, out: Path, capsys: Capture):
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    (graphs / "encode.onnx").write_bytes((BUNDLED / "encode.onnx").read_bytes())
    (graphs / "track.onnx").write_bytes((BUNDLED / "track.onnx").read_bytes()[:100_000])
    assert "track.onnx" in refusal(capsys, [clip, "--box", BOX, "--weights", graphs, *outputs(out)])
    assert names_in(out) == []


@pytest.mark.parametrize("arguments", [["--backend", "torch"], ["--model", "mvt", "--weights", __file__]])
def test_what_needs_torch_says_so(
    clip: Path, out: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    told = refusal(capsys, [clip, "--box", BOX, *arguments, *outputs(out)])
    assert "pip install 'sightline[torch]'" in told
    assert names_in(out) == []


def test_outputs_are_refused(clip: Path, tmp_path: Path, out: Path, capsys: Capture):
    def said(*arguments: str | Path) -> str:
        return refusal(capsys, [clip, "--box", BOX, *arguments])

    before = clip.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    assert "expected .txt, .csv, .json, .jsonl or .parquet" in said("--results", out / "boxes.xml")
    assert "suffix '.avi'" in said("-o", out / "boxed.avi")
    assert "suffix ''" in said("-o", out / "boxed.mp4", "--results", out / "boxes")
    assert "suffix '.txt'; expected .pdf, .png, .svg" in said("-o", out / "boxed.mp4", "--plot", out / "plot.txt")
    assert "suffix '.gif'" in said("-o", out / "boxed.mp4", "--contact-sheet", out / "page.gif")
    assert "No such file or directory" in said("-o", out / "missing" / "boxed.mp4")
    assert "No such file or directory" in said("--results", out / "missing" / "boxes.txt")
    assert "name of the source" in said("-o", clip)
    assert "name of the source" in said("-o", link)
    assert "expected two names" in said("-o", out / "same.mp4", "--results", out / "same.mp4")
    (out / "folder.txt").mkdir()
    assert "not a file" in said("--results", out / "folder.txt")
    assert names_in(out) == ["folder.txt"]
    assert names_in(clip.parent) == [clip.name]
    assert clip.read_bytes() == before


def test_an_earlier_result_stays_when_a_run_is_refused(clip: Path, out: Path, capsys: Capture):
    (out / "boxes.txt").write_text("earlier")
    (out / "boxed.mp4").write_text("earlier")
    refusal(capsys, [clip, "--box", "400,60,48,48", *outputs(out)])
    assert names_in(out) == ["boxed.mp4", "boxes.txt"]
    assert {path.read_text() for path in out.iterdir()} == {"earlier"}


# Processes: exit status, full disks, and what is left when one is stopped


def test_a_refusal_is_the_status_of_the_process(tmp_path: Path, out: Path):
    done = command(["track", tmp_path / "missing.mp4", "--box", BOX, *outputs(out)])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert names_in(out) == []


@pytest.mark.parametrize(
    ("names", "room_bytes"),
    [(["-o", "boxed.mp4"], 20_000), (["--results", "boxes.json"], 1000), (["--results", "boxes.txt"], 100)],
)
def test_a_full_disk_leaves_nothing(clip: Path, out: Path, names: list[str], room_bytes: int):
    """A first run with room shows that the limit is what stops the second; both outputs go, not only the large one."""
    arguments = ["track", str(clip), "--box", BOX, "--results", "small.txt", *names]
    done = command(arguments, cwd=out)
    assert done.returncode == 0, done.stderr
    assert (out / names[1]).stat().st_size > room_bytes
    for path in out.iterdir():
        path.unlink()
    done = command(arguments, cwd=out, first=limit_files(room_bytes))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert names_in(out) == []


@pytest.mark.parametrize("arguments", [["--version"], ["models"], ["track", "CLIP", "--box", BOX]])
def test_a_full_standard_output_is_told(clip: Path, arguments: list[str]):
    with open("/dev/full", "w") as full:
        given = [str(clip) if word == "CLIP" else word for word in arguments]
        done = command(given, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: got 'No space left on device'; expected room for it. Free some space.\n"
    )


def test_a_reader_that_goes_away_is_no_error(clip: Path):
    line = command_line(["track", clip, "--box", BOX])
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
    assert process.stdout is not None and process.stderr is not None
    assert ROW.fullmatch(process.stdout.readline().rstrip())
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
    process.stderr.close()


def test_an_interrupt_leaves_nothing(long_clip: Path, out: Path):
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where the shell does not
    line = command_line(["track", long_clip, "--box", BOX, *outputs(out)], first=heed)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
    limit = time.monotonic() + 60
    while not any(path.stat().st_size > 1000 for path in out.iterdir()):  # in the middle: the first data are written
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert (process.returncode, printed, told) == (130, "", "interrupted\n")
    assert names_in(out) == []
