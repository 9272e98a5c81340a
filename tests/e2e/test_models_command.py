"""`sightline models`: the table, one model in full, and weights: checked, kept, found, and told when damaged."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

import sightline
from sightline.cli import main
from sightline.cli.models import MEASURED, PUBLISHED, is_here
from sightline.errors import CheckpointError, SightlineError
from sightline.runtime.store import BUNDLED, find, model_shelf, sha256_of
from sightline.trackers.opencv import OPENCV
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from tests.e2e.scene import command, environment, pictures, truth

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, empty."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def told(capsys: Capture, *words: object) -> str:
    """What the verb says."""
    assert main(["models", *map(str, words)]) == 0
    return capsys.readouterr().out


def refused(capsys: Capture, *words: object) -> str:
    """The one sentence with which the verb refuses."""
    assert main(["models", *map(str, words)]) == 2
    heard = capsys.readouterr()
    assert not heard.out and heard.err.count("\n") == 1
    return heard.err


def row_of(table: str, name: str) -> list[str]:
    (row,) = [
        line.split() for line in table.partition("Terms of the weights")[0].splitlines() if line.startswith(name + " ")
    ]
    return row


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# The table


def test_the_table_has_every_row_and_its_figures(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = told(capsys)
    for name, entry in ZOO.items():
        row = row_of(table, name)
        assert float(row[1]) == pytest.approx(entry.num_parameters / 1e6, rel=0.01)
        assert float(row[3]) == pytest.approx(entry.gmac, rel=0.05)
        for figure in set(entry.published) & set(PUBLISHED.values()):
            assert f"{entry.published[figure]:.1f}" in row[4:]
        for figure in set(entry.measured) & set(MEASURED.values()):
            assert f"{entry.measured[figure]:.3f}" in row[4:]
        assert " ".join(row[8:]) == ("bundled" if entry.bundled else "not here")
        assert entry.licence in table
    for name, tracker in OPENCV.items():
        (line,) = [line for line in table.splitlines() if line.startswith(f"{name} ")]
        assert tracker.title in line
        here = "here, needs --weights" if tracker.files else "here"
        assert line.rstrip().endswith(f" {here}" if is_here(tracker) else tracker.wheel)
    assert str(BUNDLED / "WEIGHTS.md") in table


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "words", [(), ("sightline-nano",), ("ostrack-384-ce-got10k",), ("vittrack",), ("nano",)], ids=str
)
def test_it_fits_a_terminal(
    width: int, words: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = told(capsys, *words).splitlines()
    assert all(len(line) <= width for line in lines if str(BUNDLED) not in line)  # a path is not broken
    assert max(len(line) for line in lines) > width - 25  # the control: the room is used


LOADED = """
import atexit, sys
atexit.register(lambda: print([name for name in ("torch", "onnxruntime") if name in sys.modules], file=sys.stderr))
"""


def test_neither_table_nor_model_loads_what_runs_networks() -> None:
    for words in ([], ["mvt"], ["sightline-nano"], ["kcf"]):
        done = command(["models", *words], first=LOADED)
        assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "onnxruntime" in command(["doctor"], first=LOADED).stderr  # the control


def test_the_help_shows_the_three_forms(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["models", "--help"])
    said = capsys.readouterr().out
    for form in ("sightline models:", "sightline models NAME:", "sightline models add NAME FILE:"):
        assert form in said


# One model


@pytest.mark.parametrize("name", ZOO)
def test_one_model_is_told_in_full(name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    entry, said = ZOO[name], told(capsys, name)
    published = (entry.official_page, entry.official_file, entry.backbone_page, entry.backbone_file)
    for text in (entry.title, entry.page, entry.licence, entry.trained_on, *published):
        assert text in said
    for part, count in entry.parameters.items():
        assert f"{part} {count:,}" in said
    assert f"{entry.num_parameters:,}" in said
    assert f"{entry.gmac:g} on every frame" in said
    if entry.is_multi_object:
        assert re.search(r"^finds +(person|1203 classes, as aerosol_can, )", said, re.MULTILINE)
        assert not entry.variants or re.search(r"^  variant +official +or paper", said, re.MULTILINE)
    else:
        assert f"tracked from a score of {entry.tracker.tracked_from:g} on" in said
    for figures in (entry.published, entry.measured):
        assert all(figure in said for figure in figures)
    for field in fields(entry.tracker):
        assert re.search(rf"^  {field.name} +\S+ +\S", said, re.MULTILINE)
    for option, about in entry.options.items():
        assert re.search(rf"^  {option} +\S.* {re.escape(about.meaning)}", said, re.MULTILINE)
    if entry.bundled:
        assert sha256_of(BUNDLED / entry.bundled / "track.onnx") in said
    else:
        what, beside = ("files", " --backbone FILE") if entry.join else ("file", "")
        assert f"not here; with the {what} below run: sightline models add {name} FILE{beside}" in said


def test_opencvs_trackers_are_told_too(capsys: Capture) -> None:
    said = told(capsys, "nano")
    assert "*backbone*.onnx" in said and "--weights" in said
    assert OPENCV["kcf"].title in told(capsys, "kcf")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mtv"], "Did you mean 'mvt'?"),
        (["mvt", "ostrack-256"], "models: got ['mvt', 'ostrack-256']; expected nothing, NAME or add NAME FILE."),
        (["add"], "models add: got []; expected a model and a file. Write: models add NAME FILE"),
        (["add", "mvt"], "models add: got ['mvt']; expected a model and a file."),
        (["add", "mvt", "missing.pth"], "weights missing.pth: no such file or folder. Check the path."),
        (["add", "w.pth", "mvt"], "Write: models add mvt w.pth"),
        (["add", "mtv", "w.pth"], "Did you mean 'mvt'?"),
        (["add", "kcf", "w.pth"], "a tracker of OpenCV's own"),
        (
            ["add", "sightline-nano", "w.pth"],
            "its weights are inside the package. Pass yours with weights= (--weights).",
        ),
    ],
)
def test_what_it_cannot_do_is_one_sentence(words: list[str], sentence: str, capsys: Capture, cache: Path) -> None:
    assert sentence in refused(capsys, *words)
    assert not cache.exists()


def test_without_weights_the_way_to_them_is_told() -> None:
    with pytest.raises(CheckpointError) as heard:
        sightline.load("mvt")
    assert "Run 'sightline models mvt' for the page and the file's name, then 'sightline models add mvt FILE'" in str(
        heard.value
    )


# Weights that are an ONNX file


@pytest.mark.shared
def test_an_onnx_file_is_checked_kept_and_found(shared: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    official = shared / "weights" / "vitTracker.onnx"
    assert told(capsys, "add", "vittrack", official).startswith(
        "vittrack: vitTracker.onnx from vitTracker.onnx, 0.8 MB: "
    )
    assert row_of(told(capsys), "vittrack")[8:] == ["added"]
    monkeypatch.setenv("COLUMNS", "200")
    said = told(capsys, "vittrack")
    assert f"{sha256_of(official)} vitTracker.onnx" in said and "in the cache" in said

    tracker = sightline.load("vittrack", threads=1)
    frames, boxes = pictures(3), truth(3)
    state = tracker.init(frames[0], xywh=boxes[0])
    found = tracker.update(frames[1], state)
    given = sightline.load("vittrack", weights=official, threads=1)
    assert found == given.update(frames[1], given.init(frames[0], xywh=boxes[0]))

    stored = find(model_shelf("vittrack"))
    assert stored
    damage(stored.folder / "vitTracker.onnx")
    with pytest.raises(
        CheckpointError, match=r"vitTracker.onnx: got damaged data, .* Run again: sightline models add vit"
    ):
        sightline.load("vittrack")
    assert "damaged" in told(capsys, "vittrack")
    (stored.folder / "vitTracker.onnx").unlink()
    assert row_of(told(capsys), "vittrack")[8:] == ["damaged"]
    told(capsys, "add", "vittrack", official)
    assert isinstance(sightline.load("vittrack"), TemplateSearchTracker)


@pytest.mark.shared
def test_a_sidecar_of_ones_own_names_its_file(shared: Path, tmp_path: Path) -> None:
    """By path, with the graph beside it or given, with options of the tracker."""
    official = shared / "weights" / "vitTracker.onnx"
    sidecar = tmp_path / "mine.toml"
    sidecar.write_text((BUNDLED / "vittrack.toml").read_text().replace('name = "vittrack"', 'name = "mine"'))
    with pytest.raises(CheckpointError, match="vitTracker.onnx"):
        sightline.load(sidecar)
    given = sightline.load(str(sidecar), weights=official, window=0.5)
    assert isinstance(given, TemplateSearchTracker)
    assert (given.name, given.config.window) == ("mine", 0.5)
    shutil.copy(official, tmp_path / "vitTracker.onnx")
    assert sightline.load(sidecar).name == "mine"
    text = sidecar.read_text()
    for line, sentence in (
        ('window = "wide"', "window: got 'wide'; expected a number. Correct .*mine.toml."),
        ("windw = 1.0", "option of .*mine.toml: got 'windw'; .* Did you mean 'window'?"),
        ("window = 2.0", "got window=2.0; expected 0 to 1"),
    ):
        sidecar.write_text(text.replace("window = 1.0", line))
        with pytest.raises(SightlineError, match=sentence):
            sightline.load(sidecar)
    sidecar.write_text(text)
    for wrong, sentence in (
        ({"backend": "torch"}, "backend: got 'torch' for .*mine.toml, an ONNX file"),
        ({"device": "cuda"}, "device: got 'cuda' for ONNX Runtime"),
        ({"windw": 1}, "Did you mean 'window'?"),
        ({"search_px": 320}, "mine: got search_px=320; expected search_px=256, which the network is made for."),
    ):
        with pytest.raises(SightlineError, match=sentence):
            sightline.load(sidecar, **wrong)


def test_a_graph_of_another_network_is_not_kept(capsys: Capture, cache: Path) -> None:
    said = refused(capsys, "add", "vittrack", BUNDLED / "sightline-nano" / "track.onnx")
    assert "track.onnx" in said
    assert not cache.exists()


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"backend": "onnx"}, {"device": "cuda"}, {"window": 0.5}])
def test_opencvs_trackers_have_no_options(options: dict[str, object]) -> None:
    with pytest.raises(SightlineError, match="expected none"):
        sightline.load("vit", **options)


@pytest.mark.shared
def test_opencvs_trackers_are_loaded_by_name(shared: Path) -> None:
    threads = cv2.getNumThreads()
    try:
        tracker = sightline.load("vit", weights=shared / "weights" / "vitTracker.onnx", threads=1)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(threads)
    frames, boxes = pictures(2), truth(2)
    state = tracker.update(frames[1], tracker.init(frames[0], xywh=boxes[0]))
    assert state.model == tracker.name == "vit"
    with pytest.raises(CheckpointError, match=r"got no file; expected net \(\*.onnx\)"):
        sightline.load("vit")


# Weights of a torch network


@pytest.mark.torch
def test_a_weights_file_is_checked_converted_kept_and_found(tmp_path: Path, cache: Path, capsys: Capture) -> None:
    import torch

    from sightline.checkpoints.files import read_weights
    from sightline.loading import build_model, empty_model
    from tests.parity.fill import fill

    official = tmp_path / "MobileViT_Track_ep0100.pth.tar"
    state = fill(empty_model("mvt")).state_dict()
    torch.save({"net": state, "epoch": 100}, official)
    assert told(capsys, "add", "mvt", official).startswith(f"mvt: weights.safetensors from {official.name}, 22.")
    stored = find(model_shelf("mvt"))
    assert stored and (stored.source_name, stored.source_sha256) == (official.name, sha256_of(official))
    written = read_weights(stored.folder / "weights.safetensors")
    assert written.metadata["sightline.model"] == "mvt"
    assert all(np.array_equal(written.tensors[name], value.numpy()) for name, value in state.items())
    official.unlink()
    assert row_of(told(capsys), "mvt")[8:] == ["added"]

    tracker = sightline.load("mvt", threads=1)
    frame = pictures(1)[0]
    assert tracker.update(frame, tracker.init(frame, xywh=truth(1)[0])).model == "mvt"
    assert isinstance(sightline.load("mvt", search_px=320), TemplateSearchTracker)  # no weight depends on it
    with pytest.raises(SightlineError, match="mvt: got template_px=160; expected template_px=128, which the network"):
        sightline.load("mvt", template_px=160)

    wrong = tmp_path / "wrong.pth"
    torch.save({"net": {name: value for name, value in state.items() if "offset" not in name}}, wrong)
    assert "looks like an MVT file that was cut or changed" in refused(capsys, "add", "mvt", wrong)
    torch.save({"net": state}, wrong)
    assert 'looks like an MVT file. Load "mvt".' in refused(capsys, "add", "ostrack-256", wrong)
    assert find(model_shelf("mvt")) == stored
    assert not model_shelf("ostrack-256").exists()

    damage(stored.folder / "weights.safetensors")
    for load in (lambda: sightline.load("mvt"), lambda: build_model("mvt", None)):
        with pytest.raises(CheckpointError, match="got damaged data, .* Run again: sightline models add mvt FILE"):
            load()
    assert "damaged" in told(capsys, "mvt")
    told(capsys, "add", "mvt", wrong)
    assert isinstance(sightline.load("mvt"), TemplateSearchTracker)


@pytest.mark.torch  # for the package onnx, which comes with the export
def test_an_exported_folder_is_kept_too(tmp_path: Path, capsys: Capture) -> None:
    """The bundled graphs, said to be MVT's: what they compute does not matter here."""
    import onnx

    folder = tmp_path / "graphs"
    folder.mkdir()
    for graph in ("encode", "track"):
        model = onnx.load(BUNDLED / "sightline-nano" / f"{graph}.onnx")
        (entry,) = [entry for entry in model.metadata_props if entry.key == "sightline"]
        entry.value = json.dumps(json.loads(entry.value) | {"model": "mvt"})
        onnx.save(model, folder / f"{graph}.onnx")
    assert "got 'mvt'; expected 'ostrack-256'. Run: sightline models add mvt" in refused(
        capsys, "add", "ostrack-256", folder
    )
    assert told(capsys, "add", "mvt", folder).startswith("mvt: encode.onnx, track.onnx from graphs, ")
    tracker = sightline.load("mvt", threads=1)
    assert isinstance(tracker, TemplateSearchTracker) and tracker.config.search_px == 192
    with pytest.raises(SightlineError, match="got a folder of exported graphs for torch; expected a weights file"):
        sightline.load("mvt", backend="torch")
    (folder / "track.onnx").write_bytes(b"no graph")
    assert "track.onnx" in refused(capsys, "add", "mvt", folder)
    assert isinstance(sightline.load("mvt", threads=1), TemplateSearchTracker)


def test_adding_weights_without_torch_names_the_extra(tmp_path: Path) -> None:
    """In a process where torch cannot be found."""
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"x")
    hide = "import sightline.building; sightline.building.importlib.util.find_spec = lambda name: None"
    done = command(["models", "add", "mvt", weights], first=hide, env=environment(SIGHTLINE_CACHE=str(tmp_path / "c")))
    assert done.returncode == 2
    assert "checking w.pth against 'mvt' needs torch" in done.stderr and "pip install 'sightline[torch]'" in done.stderr


def test_a_cache_that_cannot_be_is_one_sentence(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands where the cache should be; nothing is written and the reason is told."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("sightline.adding.try_out", lambda *_: None)
    graph = tmp_path / "vitTracker.onnx"
    graph.write_bytes(b"graph")
    assert "cannot be written: got 'Not a directory'" in refused(capsys, "add", "vittrack", graph)
    assert row_of(told(capsys), "vittrack")[8:] == ["not", "here"]
