"""`sightline eval` as a person uses it: tracks and scores, goes on after a kill, compares, reports, packs, refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.cli import main
from sightline.datasets.sot_text import read_rows
from sightline.datasets.table import open_dataset
from sightline.evaluation.run import describe, find_results, open_run, read_run, read_tracked
from sightline.evaluation.sot import measure, summarise
from sightline.runtime.store import BUNDLED
from tests.e2e.scene import NUM_FRAMES, command, command_line, environment, names_in, pictures, truth, write_images
from tests.trees import images, mot_sequence, numbered, write

Capture = pytest.CaptureFixture[str]

NASTY = '<b>&"x'  # a legal name of a folder
TRUTH = {"first": truth(), "second": truth(target=1), NASTY: truth()[::-1]}
# Python for the start of a process: every step takes a tenth of a second more, so that a kill finds it at work.
SLOWLY = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job would ignore
from sightline.trackers.template_search import TemplateSearchTracker as T
step = T.update
T.update = lambda self, *given: (time.sleep(0.1), step(self, *given))[1]
"""


def lines(rows: np.ndarray) -> str:
    return "".join(",".join(f"{value:g}" for value in row) + "\n" for row in rows.tolist())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of a person's own."""
    root = tmp_path_factory.mktemp("data")
    frames = pictures()
    for name, xywh in TRUTH.items():
        (root / name).mkdir()
        write_images(root / name / "img", frames[::-1] if name == NASTY else frames)
        (root / name / "groundtruth.txt").write_text(lines(xywh))
    return root


@pytest.fixture(scope="module")
def tracked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boxes of sightline-nano on them, in one go."""
    out = tmp_path_factory.mktemp("tracked") / "nano"
    assert main([*EVAL, "--data", str(data), "--out", str(out)]) == 0
    return out


EVAL = ["eval", "--model", "sightline-nano", "--dataset", "folder", "--threads", "1"]


def described(data: Path, **settings: Any) -> dict[str, Any]:
    """What a run of sightline-nano on a folder of clips says of itself."""
    opened = open_dataset("folder", "", data)
    clips = list(opened)
    return describe("sightline-nano", dataset="folder", split=opened.split, data=opened.folder, clips=clips, **settings)


def boxes_of(folder: Path) -> dict[str, str]:
    return {name: (folder / f"{name}.txt").read_text() for name in TRUTH}


# Tracks and scores


def test_tracking_leaves_boxes_and_times_and_says_whose_they_are(data: Path, tracked: Path) -> None:
    assert names_in(tracked) == sorted([*(f"{n}{end}.txt" for n in TRUTH for end in ("", "_time")), "run.json"])
    for name, xywh in TRUTH.items():
        rows, seconds = read_rows(tracked / f"{name}.txt"), read_rows(tracked / f"{name}_time.txt", [1])
        assert rows.shape == (NUM_FRAMES, 4) and seconds.shape == (NUM_FRAMES, 1)
        assert rows[0].tolist() == xywh[0].tolist()
        assert (seconds > 0).all()
        assert measure(rows, xywh).auc > 0.6
    about = read_run(tracked)
    assert about == described(data)
    assert len(about["frames"]) == len(TRUTH) and about["split"] == "all" and about["data"] == str(data.resolve())
    assert len(about["weights_sha256"]) == 64


def test_the_table_and_the_reports_say_what_measure_says(
    data: Path, tracked: Path, tmp_path: Path, capsys: Capture
) -> None:
    reports = [tmp_path / f"r{suffix}" for suffix in (".json", ".csv", ".md", ".html")]
    flags = [part for path in reports for part in ("--report", str(path))]
    assert main(["eval", "--results", str(tracked), "--dataset", "folder", "--data", str(data), *flags]) == 0
    scores = [measure(read_rows(tracked / f"{name}.txt"), xywh) for name, xywh in TRUTH.items()]
    mean = summarise(scores)
    printed = capsys.readouterr().out
    assert "3 sequences, 36 frames" in printed and "protocol: plain" in printed
    assert f"{100 * mean.auc:.2f}" in printed and f"{100 * mean.p:.2f}" in printed
    content = json.loads(reports[0].read_text())
    assert content["trackers"][0]["name"] == "sightline-nano"
    assert content["trackers"][0]["overall"]["auc"]["value"] == mean.auc
    assert content["trackers"][0]["rows"]["second"]["sr50"] == scores[1].sr50
    assert content["trackers"][0]["frames_per_second"] > 1
    html = reports[3].read_text()
    assert html.count("<image ") == 3 * 6 and NASTY not in html and "&lt;b&gt;&amp;&quot;x" in html
    assert all(path.stat().st_size > 300 for path in reports)
    assert names_in(tmp_path) == sorted(path.name for path in reports)


def test_by_default_boxes_go_to_a_folder_named_after_model_and_data_set(
    data: Path, tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_DATA", str(data))
    assert main(EVAL) == 0
    assert boxes_of(tmp_path / "eval" / "sightline-nano-folder") == boxes_of(tracked)


def test_workers_find_the_same_boxes(data: Path, tracked: Path, tmp_path: Path) -> None:
    done = command([*EVAL, "--data", data, "--out", tmp_path / "out", "--workers", "2"])
    assert done.returncode == 0, done.stderr
    assert boxes_of(tmp_path / "out") == boxes_of(tracked)


def test_a_setting_changes_boxes_and_name(data: Path, tracked: Path, tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "out")
    assert main([*EVAL, "--data", str(data), "--set", "search_factor=5", "--out", out, "--results", str(tracked)]) == 0
    printed = capsys.readouterr().out
    assert "sightline-nano search_factor=5.0" in printed
    assert "- sightline-nano " in printed  # the difference
    assert boxes_of(tmp_path / "out") != boxes_of(tracked)


def test_several_models_are_tracked_and_compared(data: Path, tracked: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "r.json"
    again = ["--model", "sightline-nano", "--model", "sightline-nano", "--dataset", "folder", "--threads", "1"]
    assert main(["eval", *again, "--data", str(data), "--out", str(tmp_path / "o"), "--report", str(report)]) == 0
    content = json.loads(report.read_text())
    assert [one["name"] for one in content["trackers"]] == ["sightline-nano", "sightline-nano #2"]
    assert content["differences"][0]["values"]["auc"] == {"value": 0, "low": 0, "high": 0}
    assert boxes_of(tmp_path / "o" / "sightline-nano") == boxes_of(tracked)


# Killed and resumed


@pytest.fixture
def started(data: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a slow run, and returns when the first sequence is done."""
    processes = []

    def start(*flags: str) -> subprocess.Popen[str]:
        given = command_line([*EVAL, "--data", data, "--out", tmp_path / "out", *flags], first=SLOWLY)
        process = subprocess.Popen(
            given, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        deadline = time.monotonic() + 60
        while not any((tmp_path / "out" / f"{name}.txt").exists() for name in TRUTH):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=30)


def test_a_killed_run_goes_on_and_loses_nothing(
    data: Path, tracked: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    started().kill()
    out = tmp_path / "out"
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.txt") if not path.stem.endswith("_time")}
    assert 0 < len(done) < len(TRUTH)
    assert main([*EVAL, "--data", str(data), "--out", str(out), "--resume"]) == 0
    assert boxes_of(out) == boxes_of(tracked)
    assert {path: path.stat().st_mtime_ns for path in done} == done  # not tracked again


def test_an_interrupted_run_says_what_it_kept_and_leaves_no_part(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    process = started()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "of 3 sequences in" in said and "Traceback" not in said
    assert not [name for name in names_in(tmp_path / "out") if name.startswith(".")]


def test_workers_end_with_the_process_that_started_them(
    data: Path, tracked: Path, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    process = started("--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.wait(timeout=30)
    deadline = time.monotonic() + 30
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)
    assert main([*EVAL, "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert boxes_of(tmp_path / "out") == boxes_of(tracked)


def is_running(child: str) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_that_die_are_told(started: Callable[..., subprocess.Popen[str]]) -> None:
    process = started("--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    assert len(workers) == 2
    for worker in workers:
        os.kill(int(worker), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "worker: got its end with exit status -9; expected it to go on" in said


def test_a_bar_shows_the_time_left_on_a_terminal(data: Path, tmp_path: Path) -> None:
    shows, terminal = pty.openpty()
    process = subprocess.Popen(
        command_line([*EVAL, "--data", data, "--out", tmp_path / "out"], first=SLOWLY),
        env=environment(COLUMNS="100", TERM="xterm"),
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(shows, 4096):
            shown += part
    except OSError:  # what Linux says when the other end is closed
        pass
    assert process.wait(timeout=60) == 0
    os.close(shows)
    assert b"sightline-nano" in shown and b"/36" in shown and b"0:00:0" in shown


# Whose results


def test_results_of_other_settings_are_refused_unless_begun_anew(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    given = [*EVAL, "--data", str(data), "--out", str(out)]
    assert main(given) == 0
    before = boxes_of(out)
    capsys.readouterr()
    assert main([*given, "--set", "search_factor=5"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "got results with settings {}; expected {'search_factor': 5.0}" in said
    assert boxes_of(out) == before
    assert main([*given, "--set", "search_factor=5", "--no-resume"]) == 0
    assert boxes_of(out) != before
    assert read_run(out) == described(data, settings={"search_factor": 5.0})


def copied(data: Path, to: Path) -> Path:
    shutil.copytree(data, to)
    return to


def test_data_may_move_but_results_on_other_frames_are_refused(
    data: Path, tracked: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, moved = copied(tracked, tmp_path / "out"), copied(data, tmp_path / "moved")
    given = [*EVAL, "--data", str(moved), "--out", str(out)]
    assert main(given) == 0
    assert read_run(out) == described(moved) != described(data)
    shutil.rmtree(moved / "second" / "img")
    write_images(moved / "second" / "img", [frame // 2 for frame in pictures()])
    capsys.readouterr()
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "second.txt: got results on other frames" in said
    (out / "second.txt").unlink()  # of a sequence that is not done, frames may change
    assert main(given) == 0
    assert read_run(out) == described(moved)
    about = read_run(out)
    assert about is not None
    write(out / "run.json", {**about, "frames": "none"})
    assert main(given) == 2
    assert "got results on other frames" in capsys.readouterr().err
    write(out / "run.json", {**about, "split": "val"})
    assert main(given) == 2
    assert "got results with split 'val'; expected 'all'" in capsys.readouterr().err


def test_results_are_not_put_into_the_data_set(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    own = copied(data, tmp_path / "own")
    monkeypatch.chdir(own)
    for flags in (["--out", str(own / "boxes")], ["--out", "."], []):
        assert main([*EVAL, "--data", str(own), *flags]) == 2
        assert "inside the data set" in capsys.readouterr().err
    assert names_in(own) == sorted(TRUTH)


def test_a_description_tells_weights_by_their_content(tmp_path: Path) -> None:
    one = describe("vittrack", weights=write(tmp_path / "a" / "vitTracker.onnx", "1"))
    other = describe("vittrack", weights=write(tmp_path / "b" / "vitTracker.onnx", "2"))
    assert one["weights_sha256"] != other["weights_sha256"]
    assert {**one, "weights_sha256": ""} == {**other, "weights_sha256": ""}
    assert one == describe("vittrack", weights=write(tmp_path / "c" / "renamed.onnx", "1"))
    assert one == describe("vittrack", weights=tmp_path / "a")
    assert describe("csrt")["weights_sha256"] == ""


def test_a_description_of_a_sidecar_tells_it_and_its_graph(tmp_path: Path) -> None:
    sidecar = write(tmp_path / "mine.toml", (BUNDLED / "vittrack.toml").read_text())
    write(tmp_path / "vitTracker.onnx", "1")
    write(tmp_path / "other.onnx", "x")  # none of its graphs
    first = describe(str(sidecar))
    write(tmp_path / "other.onnx", "y")
    assert describe(str(sidecar)) == first
    write(tmp_path / "vitTracker.onnx", "2")
    second = describe(str(sidecar))
    write(sidecar, sidecar.read_text() + "\n")
    assert len({one["weights_sha256"] for one in (first, second, describe(str(sidecar)))}) == 3


def test_a_folder_that_no_run_wrote_is_left_alone(data: Path, tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path / "out" / "notes.txt", "mine")
    assert main([*EVAL, "--data", str(data), "--out", str(tmp_path / "out"), "--no-resume"]) == 2
    assert "notes.txt and no run.json; expected an empty folder" in capsys.readouterr().err
    assert names_in(tmp_path / "out") == ["notes.txt"]


def test_results_of_another_sequence_of_that_name_are_refused(
    data: Path, tracked: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    open_run(out, described(data))
    write(out / "first.txt", (tracked / "second.txt").read_text())
    assert main([*EVAL, "--data", str(data), "--out", str(out)]) == 2
    assert "first.txt: got 12 rows, first 230,120,40,60; expected 12, first 40,60,48,48" in capsys.readouterr().err


def test_a_broken_frame_does_not_stop_the_other_sequences(tmp_path: Path, data: Path, capsys: Capture) -> None:
    for name in ("first", "second"):
        write(tmp_path / "data" / name / "groundtruth.txt", (data / name / "groundtruth.txt").read_text())
        (tmp_path / "data" / name / "img").mkdir()
        for path in (data / name / "img").iterdir():
            (tmp_path / "data" / name / "img" / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "data" / "first" / "img" / "7.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    given = [*EVAL, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "first" in said and "7.png" in said
    assert (tmp_path / "out" / "second.txt").exists() and not (tmp_path / "out" / "first.txt").exists()
    broken.write_bytes(whole)
    assert main(given) == 0
    for name in ("first", "second"):
        (tmp_path / "data" / name / "img" / "7.png").write_bytes(whole[: len(whole) // 2])
    assert main([*given, "--no-resume"]) == 2
    assert "(2 of 2 sequences failed, first, second; the others" in capsys.readouterr().err


# Results that are there


def test_a_protocol_is_what_was_asked_for(data: Path, tracked: Path, tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "r.json"
    given = ["eval", "--results", str(tracked), "--dataset", "folder", "--data", str(data), "--report", str(report)]
    assert main([*given, "--protocol", "trackingnet"]) == 0
    scores = [measure(read_rows(tracked / f"{n}.txt"), xywh, protocol="trackingnet") for n, xywh in TRUTH.items()]
    value = json.loads(report.read_text())["trackers"][0]["overall"]["p"]["value"]
    assert (
        value
        == summarise(scores).p
        != summarise([measure(read_rows(tracked / f"{n}.txt"), x) for n, x in TRUTH.items()]).p
    )
    capsys.readouterr()
    assert main([*given, "--protocol", "lasott"]) == 2
    assert "Did you mean 'lasot'?" in capsys.readouterr().err


def test_results_are_found_under_the_names_that_toolkits_give(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "1,2,3,4\n")
    write(tmp_path / "uav_b.txt", "1\t2\t3\t4\n")
    write(tmp_path / "c" / "c_001.txt", "1,2,3,4\n")
    write(tmp_path / "c" / "c_002.txt", "5,6,7,8\n")
    write(tmp_path / "c" / "c_time.txt", "0.1,0.2\n")
    found = find_results(tmp_path, ["a", "b", "c", "d"], prefix="uav_")
    assert list(found) == ["a", "b", "c"]
    runs, seconds = read_tracked(found["c"])
    assert [run.tolist() for run in runs] == [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]
    assert seconds is not None and seconds.tolist() == [[0.1, 0.2]]
    assert read_tracked(found["b"]).seconds is None


def test_incomplete_results_are_refused_by_name(data: Path, tracked: Path, tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path / "part" / "second.txt", (tracked / "second.txt").read_text())
    assert main(["eval", "--results", str(tmp_path / "part"), "--dataset", "folder", "--data", str(data)]) == 2
    said = capsys.readouterr().err
    assert "got 1 of 3 sequences; expected all, without" in said and "first" in said and NASTY in said


def test_many_targets_are_scored_and_compared(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a", "b"):
        mot_sequence(tmp_path / "data" / name)
        rows = "".join(f"{n},1,{n},2,10,20,0.9,-1,-1,-1\n" for n in range(1, 6))
        write(tmp_path / "good" / f"{name}.txt", rows + "1,2,30,5,8,9,0.5,-1,-1,-1\n")
        write(tmp_path / "bad" / f"{name}.txt", rows if name == "a" else "")
    flags = [
        "--results",
        str(tmp_path / "good"),
        "--results",
        str(tmp_path / "bad"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    html = ["--report", str(tmp_path / "r.html")]
    assert main(["eval", "--dataset", "mot", "--data", str(tmp_path / "data"), *flags, *html]) == 0
    good, bad = json.loads((tmp_path / "r.json").read_text())["trackers"]
    assert good["overall"]["HOTA"] == {"value": 1, "low": 1, "high": 1}
    assert bad["overall"]["MOTA"]["value"] == 5 / 12  # 5 of 6 boxes in one sequence, none in the other
    assert bad["rows"]["b"]["CLR_FN"] == 6
    page = (tmp_path / "r.html").read_text()
    assert page.count("<polyline") == 6 and "alpha" in page and page.count("<image ") == 10


def test_kitti_scores_cars_and_pedestrians_apart(tmp_path: Path) -> None:
    row = "{frame} {id} {kind} 0 0 0 {x} 10 {right} 60 1 1 1 1 1 1 1{score}\n"
    truth_rows = "".join(
        row.format(frame=f, id=n, kind=kind, x=x, right=x + 50, score="")
        for f in range(3)
        for n, kind, x in ((1, "Car", 10), (2, "Pedestrian", 200))
    )
    result_rows = "".join(row.format(frame=f, id=1, kind="Car", x=10, right=60, score=" 0.9") for f in range(3))
    for number in range(21):
        write(tmp_path / "kitti" / "training" / "label_02" / f"{number:04d}.txt", truth_rows)
        write(tmp_path / "mine" / f"{number:04d}.txt", result_rows)
        images(tmp_path / "kitti" / "training" / "image_02" / f"{number:04d}", numbered(3, "{:06d}.png", 0), 8, 8)
    given = ["--results", str(tmp_path / "mine"), "--report", str(tmp_path / "r.json"), "--split", "train"]
    assert main(["eval", "--dataset", "kitti", "--data", str(tmp_path), *given]) == 0
    found = {one["name"]: one for one in json.loads((tmp_path / "r.json").read_text())["trackers"]}
    assert found["mine, car"]["overall"]["HOTA"]["value"] == 1
    assert found["mine, pedestrian"]["overall"]["CLR_FN"]["value"] == 63


# The table


def blocks(printed: str) -> list[list[str]]:
    return [part.splitlines() for part in printed.split("\n\n") if part.startswith("tracker")]


@pytest.mark.parametrize("columns", [16, 30, 50, 61, 80, 200])
def test_a_narrow_terminal_shows_every_number(
    data: Path, tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, columns: int
) -> None:
    long = copied(tracked, tmp_path / f"a-{'long-' * 20}name")
    (long / "run.json").unlink()
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["eval", "--results", str(long), "--dataset", "folder", "--data", str(data)]) == 0
    found = blocks(capsys.readouterr().out)
    assert len(found) > 1 or columns == 200
    headings = [word for block in found for word in block[0].split()[1:]]
    assert headings == ["frames/s", "AUC", "P", "Pn", "AO", "SR.5", "SR.75", "fr0", "1-SR50"]
    numbers = [word for block in found for word in block[1].split()[1:]]
    assert len(numbers) == len(headings)
    mean = summarise([measure(read_rows(tracked / f"{name}.txt"), xywh) for name, xywh in TRUTH.items()])
    assert numbers[1] == f"{100 * mean.auc:.2f}" and numbers[-2] == f"{100 * mean.fr0:.2f}"
    words = [*numbers, *(word for block in found for word in " ".join(block[2:]).split())]
    assert all(re.fullmatch(r"[0-9]+(\.[0-9]+)?(\.\.[0-9.]+)?", word) for word in words)
    assert len(words) == 2 * len(numbers) - 1  # each but the speed with its interval
    assert all(len(line.rstrip()) <= max(columns, 26) for block in found for line in block)


def test_short_results_are_told_with_their_scores(data: Path, tracked: Path, tmp_path: Path, capsys: Capture) -> None:
    part = copied(tracked, tmp_path / "part")
    write(part / "second.txt", lines(read_rows(part / "second.txt")[:5]))
    flags = [word for suffix in ("json", "html", "md") for word in ("--report", str(tmp_path / f"r.{suffix}"))]
    given = ["eval", "--dataset", "folder", "--data", str(data)]
    assert main([*given, "--results", str(part), *flags]) == 0
    printed = capsys.readouterr().out
    assert "note: sightline-nano: results with fewer rows" in printed
    assert "too few for an interval" in " ".join(printed.split())
    texts = [(tmp_path / f"r.{suffix}").read_text() for suffix in ("json", "html", "md")]
    assert all("second 5 of 12 frames" in " ".join(text.split()) for text in [printed, *texts])
    assert not any("first 12 of" in text for text in [printed, *texts])
    assert main([*given, "--results", str(tracked)]) == 0
    assert "note:" not in capsys.readouterr().out


# Two files


def test_a_short_result_beside_its_truth_is_told(tmp_path: Path, capsys: Capture) -> None:
    assert two(tmp_path, lines(TRUTH["first"]), lines(TRUTH["first"][:3])) == 0
    assert "3 of 12 frames" in " ".join(capsys.readouterr().out.split())


def test_a_result_in_the_place_of_the_truth_is_asked_about(tmp_path: Path, capsys: Capture) -> None:
    for found in (MOT_FOUND, MOT_FOUND.replace(",1,-1", ",0.75,-1")):
        assert two(tmp_path, found, MOT_TRUE.replace(",8,1", ",1,1")) == 0
        assert "is the ground truth first?" in " ".join(capsys.readouterr().out.split())
    assert two(tmp_path, MOT_FOUND, MOT_TRUE) == 2  # a class that no result has
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "result.txt:3: got class 8" in said and "is the ground truth first?" in said
    for true, found in ((MOT_TRUE, MOT_FOUND), (MOT_FOUND, MOT_FOUND)):  # the second: MOT15's, also of 10 columns
        assert two(tmp_path, true, found) == 0
        assert "ground truth first" not in capsys.readouterr().out


def two(tmp_path: Path, true: str, found: str, *flags: str, suffix: str = ".txt") -> int:
    write(tmp_path / f"gt{suffix}", true)
    write(tmp_path / f"result{suffix}", found)
    return main(["eval", str(tmp_path / f"gt{suffix}"), str(tmp_path / f"result{suffix}"), *flags])


def test_two_files_of_boxes_are_scored_by_plain(tmp_path: Path, capsys: Capture) -> None:
    true, found = TRUTH["first"], TRUTH["first"] + [3, 0, 0, 0]
    assert two(tmp_path, lines(true), lines(found).replace(",", "\t"), "--report", str(tmp_path / "r.json")) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("assumed: boxes x,y,w,h of one target, protocol plain")
    value = json.loads((tmp_path / "r.json").read_text())["trackers"][0]["overall"]["auc"]
    assert value == {"value": measure(found, true).auc, "low": None, "high": None}
    assert f"{100 * value['value']:.2f}" in printed


def test_polygons_beside_boxes_are_made_upright(tmp_path: Path, capsys: Capture) -> None:
    x, y, w, h = TRUTH["first"].T
    corners = np.stack([x, y, x + w, y, x + w, y + h, x, y + h], axis=1)
    assert two(tmp_path, lines(corners), lines(TRUTH["first"])) == 0
    printed = capsys.readouterr().out
    assert "polygons" in printed.splitlines()[0] and "95.24" in printed


MOT_TRUE = "1,1,10,10,20,20,1,1,1\n2,1,12,10,20,20,1,1,1\n1,2,100,10,20,20,0,8,1\n"
MOT_FOUND = "1,7,10,10,20,20,1,-1,-1,-1\n2,7,12,10,20,20,1,-1,-1,-1\n1,8,100,10,20,20,1,-1,-1,-1\n"


@pytest.mark.parametrize(
    ("flags", "assumed", "false_positives"),
    [((), "preprocessing of MOT17 (--protocol", 0), (("--protocol", "none"), "no classes, only marks", 1)],
)
def test_two_files_of_motchallenge_are_known_by_their_columns(
    tmp_path: Path, capsys: Capture, flags: tuple[str, ...], assumed: str, false_positives: int
) -> None:
    assert two(tmp_path, MOT_TRUE, MOT_FOUND, *flags, "--report", str(tmp_path / "r.json")) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "2 frames up to the last row" in first and assumed in first
    overall = json.loads((tmp_path / "r.json").read_text())["trackers"][0]["overall"]
    assert overall["CLR_FP"]["value"] == false_positives and overall["CLR_FN"]["value"] == 0


def test_the_length_of_a_sequence_is_what_seqinfo_says(tmp_path: Path, capsys: Capture) -> None:
    mot_sequence(tmp_path / "seq", length=5)
    write(tmp_path / "r.txt", "1,1,1,2,10,20,1,-1,-1,-1\n")
    assert main(["eval", str(tmp_path / "seq" / "gt" / "gt.txt"), str(tmp_path / "r.txt")]) == 0
    assert "5 frames as seqinfo.ini says" in capsys.readouterr().out


def test_an_empty_result_is_a_tracker_that_found_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert two(tmp_path, MOT_TRUE, "") == 0
    assert two(tmp_path, lines(TRUTH["first"]), "") == 2
    assert "got 0 rows for 12 true boxes" in capsys.readouterr().err


def test_two_json_files_are_tracks_or_boxes(tmp_path: Path, capsys: Capture) -> None:
    boxes = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200}],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 1, "track_id": 1}]
    assert two(tmp_path, json.dumps(boxes), json.dumps(found), suffix=".json") == 0
    assert "boxes in images, 1 images, 1 classes, rule coco" in capsys.readouterr().out
    videos = {"videos": [{"id": 1, "name": "v"}]}
    image = {"images": [{"id": 1, "file_name": "a.jpg", "video_id": 1, "frame_index": 0}]}
    track = {"annotations": [{**boxes["annotations"][0], "track_id": 1}]}
    assert two(tmp_path, json.dumps(boxes | videos | image | track), json.dumps(found), suffix=".json") == 0
    printed = capsys.readouterr().out
    assert "tracks in videos" in printed and "100.00" in printed
    assert two(tmp_path, json.dumps(boxes), json.dumps(found), "--protocol", "lasot", suffix=".json") == 2


# Servers


@pytest.fixture(scope="module")
def got10k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GOT-10k's test set, two frames each, and results on it in `results`."""
    root = tmp_path_factory.mktemp("got10k")
    names = [f"GOT-10k_Test_{number:06d}" for number in range(1, 181)]
    for name in names:
        home = root / "data" / "test" / name
        images(home, numbered(2), 16, 16)
        write(home / "groundtruth.txt", "1.0,2.0,8.0,8.0\n")
        write(root / "results" / f"{name}.txt", "1.00,2.00,8.00,8.00\n2.00,2.00,8.00,8.00\n")
        write(root / "results" / f"{name}_time.txt", "0.01\n0.02\n")
    write(root / "data" / "test" / "list.txt", "\n".join(names) + "\n")
    return root


def test_an_archive_for_got10k_says_that_a_model_is_not_one_shot(got10k: Path, tmp_path: Path, capsys: Capture) -> None:
    write(got10k / "results" / "run.json", describe("sightline-nano", dataset="got10k"))
    given = ["eval", "--dataset", "got10k", "--split", "test", "--data", str(got10k / "data")]
    assert main([*given, "--results", str(got10k / "results"), "--submission", str(tmp_path / "up")]) == 0
    assert names_in(tmp_path / "up") == ["sightline-nano-got10k-test-not-one-shot.zip"]
    with zipfile.ZipFile(tmp_path / "up" / "sightline-nano-got10k-test-not-one-shot.zip") as archive:
        assert len(archive.namelist()) == 360
        name = "GOT-10k_Test_000180/GOT-10k_Test_000180_001.txt"
        assert archive.read(name) == b"1.000,2.000,8.000,8.000\n2.000,2.000,8.000,8.000\n"
    assert "only the server of got10k can score them" in capsys.readouterr().out


def test_without_an_archive_hidden_truth_is_told(got10k: Path, capsys: Capture) -> None:
    given = ["eval", "--dataset", "got10k", "--split", "test", "--data", str(got10k / "data")]
    assert main([*given, "--results", str(got10k / "results")]) == 2
    assert "only its server knows what is true. Add --submission DIR" in capsys.readouterr().err


def test_an_incomplete_archive_is_refused_with_the_list(got10k: Path, tmp_path: Path, capsys: Capture) -> None:
    for path in sorted((got10k / "results").glob("*.txt"))[:-4]:
        write(tmp_path / "part" / path.name, path.read_text())
    given = ["eval", "--dataset", "got10k", "--split", "test", "--data", str(got10k / "data")]
    assert main([*given, "--results", str(tmp_path / "part"), "--submission", str(tmp_path / "up")]) == 2
    said = capsys.readouterr().err
    assert "178 of 180 sequences" in said and "GOT-10k_Test_000179, GOT-10k_Test_000180" in said
    assert names_in(tmp_path / "up") == []


def test_the_table_says_not_one_shot_too(tmp_path: Path, capsys: Capture) -> None:
    names = [f"GOT-10k_Val_{number:06d}" for number in (1, 2)]
    write(tmp_path / "val" / "list.txt", "\n".join(names))
    for name in names:
        home = tmp_path / "val" / name
        images(home, numbered(3), 16, 16)
        write(home / "groundtruth.txt", "1,2,8,8\n1,2,8,8\n1,2,8,8\n")
        write(home / "absence.label", "0\n0\n0\n")
        write(home / "cover.label", "8\n8\n0\n")
        write(home / "meta_info.ini", "[METAINFO]\nresolution: (16, 16)\nobject_class: cat\n")
        write(tmp_path / "r" / f"{name}.txt", "1,2,8,8\n1,2,8,8\n9,9,2,2\n")
    write(tmp_path / "r" / "run.json", describe("sightline-nano", dataset="got10k"))
    assert main(["eval", "--dataset", "got10k", "--data", str(tmp_path), "--results", str(tmp_path / "r")]) == 0
    printed = capsys.readouterr().out
    assert "sightline-nano (not one-shot)" in printed
    assert "protocol: got10k" in printed and "100.00" in printed


# What is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "eval: got no data set; expected two files, or --dataset with --model or --results"),
        (["a.txt"], "files: got 1; expected two alone"),
        (["a.txt", "b.txt", "--dataset", "folder"], "files: got 2 beside --dataset"),
        (["nowhere.txt", "b.txt"], "nowhere.txt: got 'No such file or directory'"),
        (["--dataset", "folder"], "eval: got neither a model nor results"),
        (["--dataset", "lasott", "--model", "sightline-nano"], "Did you mean 'lasot'?"),
        (["--dataset", "folder", "--model", "sightline-nan"], "Did you mean 'sightline-nano'?"),
        (["--dataset", "folder", "--model", "sightline-nano", "--set", "windo=1"], "windo"),
        (["--dataset", "folder", "--model", "sightline-nano", "--workers", "0"], "workers: got 0; expected 1 to 64"),
        (["--dataset", "folder", "--model", "sightline-nano", "--split", "tes"], "split of folder: got 'tes'"),
        (["--dataset", "folder", "--results", "r", "--set", "a=1", "--workers", "2"], "got --set, --workers without"),
        (["--dataset", "folder", "--results", "r", "--no-resume", "--weights", "w"], "got --weights, --no-resume"),
        (["a.txt", "b.txt", "--out", "o"], "files: got 2 beside --out"),
        (["--dataset", "folder", "--results", "nowhere"], "results nowhere: got no folder"),
        (["--dataset", "folder", "--results", "."], "results .: got no result of 3 sequences"),
        (["--dataset", "folder", "--results", "r", "--report", "r.pdf"], "r.pdf: got suffix '.pdf'"),
        (["--dataset", "folder", "--results", "r", "--report", "no/r.md"], "no/r.md: cannot be written"),
        (
            ["--dataset", "folder", "--results", "r", "--report", "r.md", "--report", "./r.md"],
            "the name of another file",
        ),
        (["--dataset", "folder", "--results", "r", "--submission", "up"], "submission: got folder all"),
        (
            ["--dataset", "folder", "--model", "csrt", "--model", "kcf", "--weights", "x"],
            "got weights or settings for 2 models",
        ),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str], sentence: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_DATA", str(data))
    write(tmp_path / "r" / "first.txt", "1,2,3,4\n")
    assert main(["eval", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert sentence in said.err
    assert names_in(tmp_path) == ["r"]


def test_a_model_that_follows_one_target_gets_no_benchmark_of_many(tmp_path: Path, capsys: Capture) -> None:
    mot_sequence(tmp_path / "a")
    assert main(["eval", "--dataset", "mot", "--data", str(tmp_path), "--model", "sightline-nano"]) == 2
    assert "expected a data set of one given target" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("true", "found"),
    [
        ("1,2,3,4\n", MOT_FOUND),
        (MOT_TRUE, "1,2,3,4\n"),
        ("1,2\n", "1,2\n"),
        ("[]", "1,2,3,4\n"),
        ("a b c d\n", "1 2 3 4"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, true: str, found: str, capsys: Capture) -> None:
    assert two(tmp_path, true, found) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_never_takes_the_place_of_an_input(tmp_path: Path, capsys: Capture) -> None:
    assert two(tmp_path, "{}", "[]", "--report", str(tmp_path / "gt.json"), suffix=".json") == 2
    assert "the name of another file" in capsys.readouterr().err
    assert (tmp_path / "gt.json").read_text() == "{}"


# The real thing


@pytest.mark.shared
@pytest.mark.slow
def test_the_validation_sequences_killed_once_and_resumed(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = [*EVAL, "--split", "val", "--data", shared / "data" / "sot", "--out", out, "--workers", "2"]
    process = subprocess.Popen(command_line(given), env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*_time.txt"))) < 5 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=30)
    assert len(list(out.glob("*_time.txt"))) < 14
    done = command([*given, "--report", tmp_path / "r.json", "--report", tmp_path / "r.html"], timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["trackers"][0]["rows"]) == 14 and sum(report["num_frames"].values()) == 2091
    assert report["trackers"][0]["overall"]["auc"]["value"] == pytest.approx(0.6986, abs=0.003)
    assert (tmp_path / "r.html").read_text().count("<image ") == 30
