"""What a run leaves behind to be read: every step once, whatever interrupted it; honest times; a page of examples."""

from __future__ import annotations

import csv
import errno
import logging
import math
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch

from sightline.errors import SightlineError
from sightline.training import journal as module
from sightline.training.journal import PREDICTED, TRUE, Journal, duration, example_sheet, objects_sheet
from sightline.training.validation import ClipScore, Validation

pytestmark = pytest.mark.torch


class Clock:
    """Stands in for time.monotonic."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def take_steps(journal: Journal, first: int, last: int, loss: Callable[[int], float] = float, **more: Any) -> None:
    for step in range(first, last + 1):
        parts = {"loss": torch.tensor(loss(step)), "l1": torch.tensor(0.5)}
        journal.step(step, parts, **{"lr": 1e-3, "num_examples": 4, **more})


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps_of(path: Path) -> list[int]:
    return [int(row["step"]) for row in table(path)]


def scores(*auc: float) -> Validation:
    return Validation(tuple(ClipScore(f"clip{i}", value + 0.1, value) for i, value in enumerate(auc)))


# log.csv


def test_a_line_has_the_means_of_its_steps_and_the_last_step_has_one_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 25, every=10)
    take_steps(journal, 1, 25, num_skipped=3, epoch=2)
    rows = table(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["10", "20", "25"]
    assert [float(row["loss"]) for row in rows] == [5.5, 15.5, 23.0]
    assert {(row["l1"], row["lr"], row["skipped"], row["epoch"]) for row in rows} == {("0.5", "0.001", "3", "2")}


def test_numbers_are_read_when_a_line_is_due_and_not_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100, every=10)
    unreadable = torch.zeros((), device="meta")  # raises when its value is asked for
    for step in range(1, 10):
        journal.step(step, {"loss": unreadable}, lr=1, num_examples=1)
    with pytest.raises(RuntimeError, match="meta"):
        journal.step(10, {"loss": unreadable}, lr=1, num_examples=1)


def test_parts_keep_no_graph(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    journal.step(1, {"loss": torch.ones((), requires_grad=True) * 2}, lr=1, num_examples=1)
    assert not journal._parts["loss"][0].requires_grad


def test_nan_is_written_and_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 20, every=5)
    take_steps(journal, 1, 10, loss=lambda step: math.nan if step == 3 else math.inf if step == 8 else 1.0)
    nan, inf = (float(row["loss"]) for row in table(tmp_path / "log.csv"))
    assert math.isnan(nan)
    assert inf == math.inf
    journal.validation(10, scores(math.nan), num_examples=40)
    assert table(tmp_path / "validation.csv")[0]["AUC"] == "nan"


def test_speed_and_waiting_are_of_training_alone(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, 100, every=10)
    for step in range(1, 21):
        clock.now += 0.5
        journal.step(step, {"loss": torch.tensor(1.0)}, lr=1, num_examples=8, waited_s=0.05)
        if step == 15:
            with journal.pause():
                clock.now += 60
    first, second = table(tmp_path / "log.csv")
    for row in (first, second):
        assert float(row["examples_per_s"]) == pytest.approx(16)
        assert float(row["waiting"]) == pytest.approx(0.1)
    assert (first["seconds"], second["seconds"]) == ("5.0", "70.0")


def test_the_time_left_follows_the_recent_speed_and_tells_validation_apart(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sightline")
    journal = Journal(tmp_path, 2000, every=10)
    for step in range(1, 201):
        clock.now += 9 if step <= 100 else 1
        journal.step(step, {"loss": torch.tensor(1.0)}, lr=1, num_examples=8)
        if step == 110:
            with journal.pause():
                clock.now += 200
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert len(lines) == 20
    assert lines[9].endswith("4 h 45 min left")  # 1900 steps of 9 s
    # 1800 steps of 1 s, and 200 s for every 200 steps; at the average speed it would be 3 h
    assert lines[19].endswith("1 h 0 min left, 30 min of it validating and saving")
    assert "step 200 of 2000  loss 1.0000" in lines[19]


def test_a_pause_that_fails_counts_too(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path, 10, every=10)

    def fail() -> None:
        with journal.pause():
            clock.now += 50
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 5
    take_steps(journal, 1, 10)
    assert float(table(tmp_path / "log.csv")[0]["examples_per_s"]) == pytest.approx(40 / 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3540, "59 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"),
     (86_399, "1 d 0 h"), (190_800, "2 d 5 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ranks_that_are_not_the_writer_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    journal = Journal(folder, 10, every=1, is_writer=False)
    take_steps(journal, 1, 5)
    journal.validation(5, scores(0.5), num_examples=1)
    journal.picture(5, np.zeros((8, 8, 3), np.uint8))
    journal.close()
    assert not folder.exists()
    Journal(folder, 10, every=1).close()
    assert folder.exists()


def test_a_part_that_comes_later_gets_a_column_and_one_that_ends_an_empty_cell(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10, every=1)
    for step, names in enumerate((("loss",), ("loss", "giou"), ("giou",)), start=1):
        journal.step(step, {name: torch.tensor(float(step)) for name in names}, lr=1, num_examples=1)
    rows = table(tmp_path / "log.csv")
    assert [(row["loss"], row["giou"]) for row in rows] == [("1", ""), ("2", "2"), ("", "3")]


# Going on


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 60, every=10)
    take_steps(journal, 1, 50)
    for step in (15, 30, 45):
        journal.validation(step, scores(step / 100), num_examples=step)
    again = Journal(tmp_path, 60, start_step=30, every=10)
    assert steps_of(tmp_path / "log.csv") == [10, 20, 30]
    assert steps_of(tmp_path / "validation.csv") == [15, 30]
    take_steps(again, 31, 60, loss=lambda step: -1.0)
    again.validation(45, scores(0.9), num_examples=45)
    rows = table(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["10", "20", "30", "40", "50", "60"]
    assert [float(row["loss"]) for row in rows] == [5.5, 15.5, 25.5, -1, -1, -1]
    assert steps_of(tmp_path / "validation.csv") == [15, 30, 45]
    assert float(table(tmp_path / "validation.csv")[2]["AUC"]) == 0.9


def test_the_seconds_go_on_from_the_row_before(tmp_path: Path, clock: Clock) -> None:
    take_steps(Journal(tmp_path, 20, every=10), 1, 4)
    journal = Journal(tmp_path, 30, every=10)
    clock.now += 100
    take_steps(journal, 1, 10)
    clock.now += 5000  # stopped
    again = Journal(tmp_path, 30, start_step=10, every=10)
    clock.now += 7
    take_steps(again, 11, 20)
    assert [row["seconds"] for row in table(tmp_path / "log.csv")] == ["100.0", "107.0"]


WHOLE = "step,loss,seconds\n10,0.5,1.0\n20,0.25,2.0\n"


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (WHOLE, [10, 20]),
        (WHOLE + "30,0.125,3.0", [10, 20]),  # perhaps 3.05
        (WHOLE + "30,0.1", [10, 20]),
        (WHOLE + "3", [10, 20]),
        (WHOLE + "30,0.1\n", [10, 20]),
        (WHOLE + "\0\0\0\0\n", [10, 20]),
        (WHOLE + "30,0.1,3.0,7\n", [10, 20]),
        (WHOLE + "\xff\xfe", [10, 20]),
        (WHOLE + "30,0.1,3.0\n", [10, 20, 30]),
        ("step,loss,sec", []),
        ("", []),
    ],
)
def test_a_damaged_line_is_dropped_and_whole_ones_stay(tmp_path: Path, content: str, kept: list[int]) -> None:
    for name in ("log.csv", "validation.csv"):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    journal = Journal(tmp_path, 100, start_step=40, every=50)
    take_steps(journal, 41, 50)
    journal.validation(50, scores(0.5), num_examples=1)
    assert steps_of(tmp_path / "log.csv") == steps_of(tmp_path / "validation.csv") == [*kept, 50]
    assert table(tmp_path / "log.csv")[-1]["l1"] == "0.5"


def test_rows_stay_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(WHOLE)
    Journal(tmp_path, 100, start_step=20)
    assert (tmp_path / "log.csv").read_text() == WHOLE
    Journal(tmp_path, 100, start_step=19)
    assert (tmp_path / "log.csv").read_text() == WHOLE.removesuffix("20,0.25,2.0\n")


def test_a_run_begun_anew_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(WHOLE)
    take_steps(Journal(tmp_path, 10, every=10), 1, 10)
    assert steps_of(tmp_path / "log.csv") == [10]
    assert float(table(tmp_path / "log.csv")[0]["loss"]) == 5.5


# validation.csv


def test_a_validation_has_the_means_and_a_column_per_clip(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10)
    journal.validation(5, scores(0.25, 0.75), num_examples=160, epoch=1.5)
    header, row = csv.reader((tmp_path / "validation.csv").open(newline=""))
    assert header == ["step", "epoch", "examples", "AO", "AUC", "clip0", "clip1"]
    assert [float(value) for value in row] == pytest.approx([5, 1.5, 160, 0.6, 0.5, 0.25, 0.75])


def test_the_same_step_validated_again_replaces_its_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10)
    for step, auc in ((0, 0.1), (5, 0.2), (5, 0.3)):
        journal.validation(step, scores(auc), num_examples=step)
    assert [(row["step"], float(row["AUC"])) for row in table(tmp_path / "validation.csv")] == [("0", 0.1), ("5", 0.3)]


def test_scores_of_any_kind_are_written_by_their_own_names(tmp_path: Path) -> None:
    class Many:
        column = "HOTA"
        overall: ClassVar = {"HOTA": 0.1 + 0.2, "IDF1": 0.5}
        by_name: ClassVar = {"a": 0.25, "b": 1 / 3}

    journal = Journal(tmp_path, 10)
    journal.validation(5, Many(), num_examples=160)
    header, row = csv.reader((tmp_path / "validation.csv").open(newline=""))
    assert header == ["step", "epoch", "examples", "HOTA", "IDF1", "a", "b"]
    assert row == ["5", "", "160", "0.30000000000000004", "0.5", "0.25", "0.333333"]
    tags = {value.tag for event in events(tmp_path) for value in event.summary.value}
    assert tags == {"validation/HOTA", "validation/IDF1", "validation_hota/a", "validation_hota/b"}


# Pictures and TensorBoard


def events(folder: Path) -> Iterator[Any]:
    """The events of every file, with the framing of TFRecord: length, its checksum, data, their checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    for path in (folder / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:
            end = 12 + struct.unpack("Q", data[:8])[0]
            assert struct.unpack("I", data[end : end + 4])[0] == masked_crc32c(data[12:end])
            yield Event.FromString(data[12:end])
            data = data[end + 4 :]


def test_tensorboard_has_the_same_numbers_while_the_run_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 20, every=10)
    take_steps(journal, 1, 20)
    journal.validation(20, scores(0.25, 0.75), num_examples=1)
    journal.picture(20, np.full((12, 16, 3), 99, np.uint8))
    journal.picture(20, np.full((8, 10, 3), 9, np.uint8), "scenes")
    found = {
        (event.step, value.tag): value.image if value.HasField("image") else value.simple_value
        for event in events(tmp_path)
        for value in event.summary.value
    }
    assert found[10, "train/loss"] == 5.5
    assert found[20, "train/loss"] == 15.5
    assert found[20, "train/lr"] == pytest.approx(1e-3)
    assert found[20, "validation/AUC"] == 0.5
    assert found[20, "validation_auc/clip1"] == 0.75
    assert {tag for _, tag in found} >= {"speed/examples_per_s", "speed/waiting", "validation/AO"}
    image = found[20, "examples"]
    assert (image.height, image.width) == (12, 16)
    assert image.encoded_image_string == (tmp_path / "pictures" / "step-000020.jpg").read_bytes()
    scenes = (tmp_path / "pictures" / "step-000020-scenes.jpg").read_bytes()
    assert found[20, "scenes"].encoded_image_string == scenes != image.encoded_image_string
    journal.close()


def test_tensorboard_is_told_from_which_step_on_it_starts_anew(tmp_path: Path) -> None:
    for start in (0, 30):
        journal = Journal(tmp_path, 60, start_step=start)
        journal.close()
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert sorted(starts) == [1, 31]


def test_without_tensorboardx_a_line_says_so_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sightline")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    journal = Journal(tmp_path, 10, every=10)
    take_steps(journal, 1, 10)
    journal.picture(10, np.zeros((8, 8, 3), np.uint8))
    journal.validation(10, scores(0.5), num_examples=1)
    journal.close()
    assert [
        record.levelname for record in caplog.records if "pip install 'sightline[train]'" in record.getMessage()
    ] == ["INFO"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "pictures", "validation.csv"]


def test_a_picture_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 10)
    rgb = np.full((40, 60, 3), (200, 30, 10), np.uint8)
    journal.picture(123, rgb)
    path = tmp_path / "pictures" / "step-000123.jpg"
    assert np.abs(cv2.imread(str(path))[:, :, ::-1].astype(int) - rgb).max() < 6
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sightline.files.os.replace", full)
    with pytest.raises(SightlineError, match="No space left on device"):
        journal.picture(123, rgb[:8])
    assert [p.read_bytes() for p in path.parent.iterdir()] == [before]


# A full disk


def test_a_full_disk_is_one_sentence_that_names_the_checkpoint(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100, start_step=20, every=10)
    take_steps(journal, 21, 30)
    (tmp_path / "log.csv").unlink()
    (tmp_path / "log.csv").symlink_to("/dev/full")
    sentence = (
        f"run {tmp_path}: its logs cannot be written: got 'No space left on device'; expected room in the folder."
    )
    with pytest.raises(SightlineError) as error:
        take_steps(journal, 31, 40)
    assert str(error.value).startswith(sentence)
    assert "checkpoints up to step 20 are intact" in str(error.value)
    journal.saved_step = 40
    with pytest.raises(SightlineError, match="up to step 40 are intact"):
        take_steps(journal, 41, 50)


def test_a_full_disk_before_the_first_checkpoint_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 100, every=10)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal._events, "_write", full)
    with pytest.raises(SightlineError, match=r"No space left on device.*no checkpoint yet"):
        take_steps(journal, 1, 10)


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10)
    with pytest.raises(SightlineError, match="got a picture of 70000 x 1 pixels"):
        journal.picture(1, np.zeros((1, 70_000, 3), np.uint8))


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SightlineError, match=r"file/run: its logs cannot be written: got 'Not a directory'"):
        Journal(tmp_path / "file" / "run", 10)


# The page of examples


def examples(batch: int = 3, grid: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    score_map = np.zeros((batch, 1, grid, grid), np.float32)
    score_map[:, 0, 3, 8] = 0.75
    return {
        "template": np.full((batch, 96, 96, 3), 90, np.uint8),
        "search": rng.integers(60, 100, (batch, 192, 192, 3), np.uint8),
        "true_xywh_unit": np.tile([0.25, 0.25, 0.25, 0.5], (batch, 1)).astype(np.float32),
        "predicted_xywh_unit": np.tile([0.625, 0.125, 0.25, 0.25], (batch, 1)).astype(np.float32),
        "score_map": score_map,
    }


def has_colour(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (sheet == colour).all(axis=2)


@pytest.mark.parametrize(("batch", "shown"), [(1, (1, 1)), (3, (1, 3)), (5, (2, 4)), (8, (2, 4)), (12, (2, 4))])
def test_a_sheet_has_up_to_eight_examples_four_in_a_row(batch: int, shown: tuple[int, int]) -> None:
    one, sheet = example_sheet(**examples(1)), example_sheet(**examples(batch))
    gap = module.GAP_PX
    assert [side - gap for side in sheet.shape[:2]] == [
        count * (side - gap) for count, side in zip(shown, one.shape[:2], strict=True)
    ]
    assert sheet.dtype == np.uint8
    assert np.array_equal(sheet[: one.shape[0], : one.shape[1] - gap], one[:, :-gap])


def test_boxes_lie_where_the_fractions_say() -> None:
    sheet = example_sheet(**examples(1))
    top, left = module.GAP_PX, module.GAP_PX + module.HALF_PX + 2
    search = sheet[top : top + 256, left : left + 256]
    for colour, (x, y, w, h) in ((TRUE, (64, 64, 64, 128)), (PREDICTED, (160, 32, 64, 64))):
        rows, columns = np.nonzero(has_colour(search, colour))
        edges = np.array([[columns.min(), columns.max()], [rows.min(), rows.max()]])
        assert np.abs(edges - [[x, x + w - 1], [y, y + h - 1]]).max() <= 2
        assert edges.sum(axis=1).tolist() == [2 * x + w - 1, 2 * y + h - 1]  # the lines lie evenly about them
    moved = examples(1)
    moved["predicted_xywh_unit"][0, 0] = 0
    other = example_sheet(**moved)[top : top + 256, left : left + 256]
    assert np.nonzero(has_colour(other, PREDICTED))[1].max() == pytest.approx(63, abs=2)


def test_boxes_that_agree_are_both_seen() -> None:
    batch = examples(1)
    batch["predicted_xywh_unit"] = batch["true_xywh_unit"]
    sheet = example_sheet(**batch)
    picture = sheet[: module.GAP_PX + 256]
    assert has_colour(picture, TRUE).sum() > 200
    assert has_colour(picture, PREDICTED).sum() > 200


@pytest.mark.parametrize(
    "row", [[np.nan] * 4, [np.nan, 0.2, 0.3, 0.3], [0.2, 0.2, 0, 0.3], [1.2, 0.2, 0.3, 0.3], [0.2, 0.2, 0.2, -1]]
)
def test_a_box_without_area_or_of_nan_or_outside_is_left_out(row: list[float]) -> None:
    batch = examples(1)
    for name, colour, other in (("true_xywh_unit", TRUE, PREDICTED), ("predicted_xywh_unit", PREDICTED, TRUE)):
        sheet = example_sheet(**{**batch, name: np.array([row])})[: module.GAP_PX + 256]
        assert not has_colour(sheet, colour).any()
        assert has_colour(sheet, other).any()


def test_the_score_map_is_lit_at_its_peak_whatever_its_scale_and_a_nan_is_survived() -> None:
    batch = examples(1)
    half = module.HALF_PX
    corner = module.GAP_PX + half + 2, module.GAP_PX

    def lit(score_map: np.ndarray) -> np.ndarray:
        sheet = example_sheet(**{**batch, "score_map": score_map})
        return sheet[corner[0] : corner[0] + half, corner[1] : corner[1] + half].astype(int)

    bright = lit(batch["score_map"])
    y, x = int(3.5 / 12 * half), int(8.5 / 12 * half)
    assert bright[y, x].sum() > bright[half // 2, half // 4].sum() + 200
    assert np.array_equal(bright, lit(batch["score_map"] / 100))
    assert np.array_equal(bright, lit(batch["score_map"][:, 0]))
    assert not np.array_equal(bright, lit(np.roll(batch["score_map"], 1, axis=3)))
    with np.errstate(invalid="raise"):
        assert lit(np.full((1, 1, 12, 12), np.nan)).max() < 100


def test_tensors_are_taken_too() -> None:
    batch = examples(2)
    assert np.array_equal(
        example_sheet(**batch), example_sheet(**{name: torch.from_numpy(value) for name, value in batch.items()})
    )


def many(num: int = 2, grid: int = 16) -> dict[str, Any]:
    """Frames with a board in each, that is found a fifth of the frame to its right."""
    heat = np.zeros((2, num, grid, grid), np.float32)
    heat[0, :, 8, 4], heat[1, :, 8, 7] = 1, 0.5
    box = np.array([[0.125, 0.25, 0.25, 0.5]])
    return {
        "frames": np.full((num, 64, 64, 3), 90, np.uint8),
        "true_xywh_unit": [box] * num,
        "found_xywh_unit": [box + np.array([0.2, 0, 0, 0])] * num,
        "true_heat": heat[0],
        "heat": heat[1],
    }


def test_a_sheet_of_many_objects_shows_both_maps_and_all_boxes() -> None:
    sheet = objects_sheet(**many())
    gap, half = module.GAP_PX, module.HALF_PX
    assert sheet.shape == example_sheet(**examples(2)).shape
    frame = sheet[gap : gap + 256, gap + half + 2 :][:, :256]
    for colour, left in ((TRUE, 32), (PREDICTED, 32 + 51)):
        columns = np.nonzero(has_colour(frame, colour))[1]
        assert columns.min() == pytest.approx(left, abs=2) and columns.max() == pytest.approx(left + 63, abs=2)
    assert len(np.unique(np.nonzero(has_colour(frame, PREDICTED))[0])) > 100
    for top, column in ((gap, 4), (gap + half + 2, 7)):  # to be learnt above what came out
        lit = sheet[top : top + half, gap : gap + half].astype(int).sum(axis=2)
        y, x = np.unravel_index(lit.argmax(), lit.shape)
        assert (int(y / half * 16), int(x / half * 16)) == (8, column)
    nobody = many() | {"true_xywh_unit": [np.empty((0, 4))] * 2, "found_xywh_unit": [np.empty((0, 4))] * 2}
    empty = objects_sheet(**nobody)[gap : gap + 256]
    assert not has_colour(empty, TRUE).any() and not has_colour(empty, PREDICTED).any()
    assert objects_sheet(**many(9)).shape == objects_sheet(**many(8)).shape != sheet.shape
