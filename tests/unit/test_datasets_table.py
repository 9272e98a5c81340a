"""The table of data sets, where they lie, and the size of an image from its header."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.cli.data import data
from sightline.datasets.check import check
from sightline.datasets.images import Annotated
from sightline.datasets.root import bare, config_file
from sightline.datasets.table import DATASETS, NothingThere, dataset_row, folder_of, open_dataset
from sightline.errors import DatasetError, VideoError
from sightline.evaluation.mot_preprocess import MOT_RULES
from sightline.evaluation.protocols import PROTOCOLS
from sightline.imaging import headers
from sightline.imaging.frames import read_image
from sightline.imaging.headers import image_size
from tests.trees import FOUR, coco_json, image_bytes, images, numbered, write


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)


# The table


def test_the_counts_of_the_benchmarks() -> None:
    """As their papers and pages state them."""
    counts = {name: dict(row.splits) | dict(row.parts) for name, row in DATASETS.items()}
    assert counts["lasot"] == {"test": 280, "train": 1120} and counts["lasot_ext"] == {"test": 150}
    assert counts["got10k"] == {
        "val": 180, "test": 180, "train": 9335, "vot-train": 7086, "vot-val": 1249, "paper-train": 8335,
        "train-full": 9335,
    }  # fmt: skip
    assert counts["trackingnet"] == {"test": 511, "train": 30132}
    assert [counts[name]["test"] for name in ("nfs30", "uav123", "otb100", "tnl2k")] == [100, 123, 100, 700]
    assert [counts[f"mot{year}"]["train"] for year in (15, 16, 17, 20)] == [11, 7, 21, 4]
    assert [counts[f"mot{year}"]["half-val"] for year in (15, 16, 17, 20)] == [11, 7, 7, 4]
    assert counts["dancetrack"] == {"val": 25, "train": 40, "test": 35} and counts["kitti"] == {"train": 21, "test": 29}
    assert len(DATASETS) == 24


def test_every_row_is_scored_by_something() -> None:
    of_kind = {"sot": set(PROTOCOLS), "mot": {*MOT_RULES, "kitti", "tao", "coco"}, "images": {"coco", "lvis"}}
    for name, row in DATASETS.items():
        assert row.protocol in of_kind[row.kind], name
        assert row.page.startswith("http") or name in ("folder", "mot", "images"), name
        assert not set(row.splits) & set(row.parts)
    assert [len(DATASETS[name].attributes) for name in ("lasot", "lasot_ext", "tnl2k", "otb100", "uav123")] == [
        14, 14, 17, 11, 12,
    ]  # fmt: skip


def test_names_in_any_spelling(tmp_path: Path) -> None:
    assert [dataset_row(name)[0] for name in ("GOT-10k", "LaSOT_ext", "OTB 100", "coco-vid")] == [
        "got10k", "lasot_ext", "otb100", "coco_vid",
    ]  # fmt: skip
    assert len({bare(name) for name in DATASETS}) == len(DATASETS)
    with pytest.raises(DatasetError, match="data set: got 'lasott'; expected one of lasot, .*. Did you mean 'lasot'?"):
        open_dataset("lasott", root=tmp_path)
    with pytest.raises(DatasetError, match="data set: got 'xyz'; .*. Run: sightline data$"):
        open_dataset("xyz", root=tmp_path)
    with pytest.raises(DatasetError, match="split of lasot: got 'val'; expected one of test, train. Choose one"):
        open_dataset("lasot", "val", root=tmp_path)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_empty_folder_holds_nothing_of_any(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for split in {**DATASETS[name].splits, **DATASETS[name].parts}:
        with pytest.raises(NothingThere) as refused:
            open_dataset(name, split, tmp_path / "empty")
        assert "expected" in str(refused.value) and name in str(refused.value) and "\n" not in str(refused.value)


def test_a_dataset_is_a_sequence(tmp_path: Path) -> None:
    for name in "abc":
        images(tmp_path / name, [f"{number}.jpg" for number in range(4)])
        write(tmp_path / name / "groundtruth.txt", FOUR)
    clips = open_dataset("folder", root=tmp_path)
    assert [clip.name for clip in clips] == ["a", "b", "c"] and clips[-1].name == clips["c"].name == "c"
    assert isinstance(clips.row.layout(tmp_path, "all"), tuple) and not isinstance(clips.annotated, Annotated)
    with pytest.raises(IndexError):
        clips[3]


# Where they lie


def test_the_root_by_flag_variable_and_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("flag", "variable", "configured"):
        (tmp_path / root / "LaSOT").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    text = f'data = "{tmp_path}/configured"\n[datasets]\ngot10k = "{tmp_path}/elsewhere"\n'
    with pytest.raises(
        DatasetError, match=r"data root: got none; expected --data, SIGHTLINE_DATA, or data in .*config"
    ):
        folder_of("lasot")
    assert write(config_file(), text) == tmp_path / "config" / "sightline" / "config.toml"
    assert folder_of("lasot") == tmp_path / "configured" / "LaSOT"
    assert folder_of("got10k") == tmp_path / "elsewhere"
    monkeypatch.setenv("SIGHTLINE_DATA", str(tmp_path / "variable"))
    assert folder_of("lasot") == tmp_path / "variable" / "LaSOT"
    assert folder_of("lasot", tmp_path / "flag") == tmp_path / "flag" / "LaSOT"
    assert folder_of("got10k", tmp_path / "flag") == tmp_path / "flag"  # the root is the data set itself


def test_the_folder_of_a_data_set_in_any_spelling(tmp_path: Path) -> None:
    (tmp_path / "GOT-10K").mkdir()
    (tmp_path / "lasot.zip").touch()
    assert folder_of("got10k", tmp_path) == tmp_path / "GOT-10K"
    (tmp_path / "LaSOTBenchmark").mkdir()
    assert folder_of("lasot", tmp_path) == tmp_path / "LaSOTBenchmark"


def test_a_persons_own_data_are_the_root_whatever_lies_in_it(tmp_path: Path) -> None:
    write(tmp_path / "annotations.json", coco_json())
    images(tmp_path / "images", ["000000000009.jpg"])
    stills = open_dataset("images", root=tmp_path)
    assert stills.folder == tmp_path and stills["000000000009.jpg"].path == tmp_path / "images" / "000000000009.jpg"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data = ", "config.toml: got 'Invalid value.*; expected a TOML file. Correct it"),
        ("data = 3", "config.toml: got .*; expected data = .FOLDER."),
        ('datasets = "x"', "config.toml: got .*; expected data"),
        ('dta = "x"', "config.toml: got the key dta; expected one of data, datasets. Did you mean data?"),
        ('[datasets]\nlasoot = "x"', "config.toml: got the key datasets.lasoot; expected one of lasot.* mean lasot?"),
        ("[datasets]\nlasot = 3", "config.toml: got"),
        (
            'data = "/nowhere/at/all"',
            "data root: got /nowhere/at/all, which is no folder; expected one. Check the path",
        ),
        ('[datasets]\nlasot = "/nowhere/at/all"', "config.toml: lasot: got /nowhere/at/all, which is no folder"),
        ("", "data root: got none"),
    ],
)
def test_a_config_file_that_says_nothing_useful(text: str, sentence: str) -> None:
    write(config_file(), text)
    with pytest.raises(DatasetError, match=sentence):
        folder_of("lasot")


# Sizes


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_the_size_of_an_image(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / f"a{suffix}", image_bytes(suffix, 37, 21))
    assert image_size(path) == (37, 21) == read_image(path).shape[1::-1]
    monkeypatch.setattr(headers, "read_image", lambda path: pytest.fail("decoded"))
    if suffix in (".jpg", ".png"):
        assert image_size(path) == (37, 21)
        assert image_size(write(path, path.read_bytes()[:400])) == (37, 21)  # only the beginning counts


def test_a_grey_progressive_jpeg_and_one_with_other_segments(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    plain = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    comment = b"\xff\xfe" + (60_002).to_bytes(2, "big") + bytes(60_000)
    for content in (
        plain,
        plain[:2] + comment + comment + plain[2:],
        plain[:2] + b"\xff\xff" + comment[1:] + plain[2:],
    ):
        assert image_size(write(tmp_path / "a.jpg", content)) == (70, 50)


def test_a_turned_jpeg_is_as_it_is_read(tmp_path: Path) -> None:
    plain = image_bytes(".jpg", 64, 48)
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00" + b"\x00" * 4
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\x00\x00" + tiff
    path = write(tmp_path / "a.jpg", plain[:2] + exif + plain[2:])
    assert read_image(path).shape[:2] == (64, 48)
    assert image_size(path) == (48, 64)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00", b"\x89PNG\r\n\x1a\n", b"text", None])
def test_no_image_has_no_size(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        write(path, content)
    with pytest.raises(VideoError, match="a.jpg: got"):
        image_size(path)


# The page


def test_the_page_names_every_data_set_with_its_counts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, row in DATASETS.items():
        (line,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        told = line.split("|")[2]
        for split, count in row.counts.items():
            if row.page and not name.startswith("mot"):
                assert f"{split} {count or ''}".strip() in told, (name, split)


def test_splits_that_a_folder_names_itself(tmp_path: Path) -> None:
    for name in ("a", "b"):
        images(tmp_path / name / "img", numbered(1))
        write(tmp_path / name / "groundtruth.txt", "1,2,3,4\n")
    with pytest.raises(DatasetError, match=r"^split of folder: got 'test'; expected one of all. Name others in .*json"):
        open_dataset("folder", "test", tmp_path)
    write(tmp_path / "split.json", {"mysplit": ["b"]})
    mine = open_dataset("folder", "mysplit", tmp_path)
    assert ([clip.name for clip in mine], mine.split) == (["b"], "mysplit")
    assert [report.name for report in check(mine)] == ["", "b"]
    with pytest.raises(DatasetError, match=r"^split of folder: got 'test'; expected one of all, mysplit. Choose one"):
        open_dataset("folder", "test", tmp_path)


def test_a_variable_that_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_DATA", str(tmp_path / "none"))
    with pytest.raises(DatasetError, match=r"^SIGHTLINE_DATA: got .*/none, which is no folder; expected one"):
        folder_of("lasot")
    with pytest.raises(DatasetError, match=r"^SIGHTLINE_DATA: got .*/none, which is no folder; expected one"):
        data()
