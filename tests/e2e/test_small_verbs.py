"""The verbs without a source: help, version, doctor; and the status of a process."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version

import pytest

import sightline
from sightline.cli import VERBS, main
from tests.e2e.scene import command

Capture = pytest.CaptureFixture[str]


def test_version(capsys: Capture):
    assert main(["--version"]) == main(["-V"]) == 0
    assert capsys.readouterr().out == f"sightline {sightline.__version__}\n" * 2


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(arguments: list[str], capsys: Capture):
    assert main(arguments) == 0
    told = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w", told, re.MULTILINE)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_every_verb_explains_its_arguments(verb: str, capsys: Capture):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert not stopped.value.code
    told = capsys.readouterr().out
    assert told.startswith(f"usage: sightline {verb}")
    assert "{None}" not in told


def test_an_unknown_verb_is_refused(capsys: Capture):
    assert main(["trakc", "clip.mp4"]) == 2
    assert "Did you mean 'track'?" in capsys.readouterr().err
    assert main(["frobnicate"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"error: verb: got 'frobnicate'; expected one of {', '.join(VERBS)}. Run: sightline --help\n"


@pytest.mark.parametrize(
    ("arguments", "unknown", "nearest"),
    [
        ("track clip.mp4 --bocks 1,2,3,4", "--bocks", "--box"),
        ("track clip.mp4 --max_frame=3", "--max_frame", "--max-frames"),
        ("track clip.mp4 -threads 2", "-threads", "--threads"),
        ("models --bacbone f", "--bacbone", "--backbone"),
        ("convert a.pth -o b --quick", "--quick", ""),
        ("export sightline-nano --outptu a", "--outptu", "--output"),
        ("eval --no-resum", "--no-resum", "--no-resume"),
        ("data --spilt val", "--spilt", "--split"),
        ("doctor --bogus", "--bogus", ""),
    ],
)
def test_an_unknown_option_is_told_with_the_nearest(arguments: str, unknown: str, nearest: str, capsys: Capture):
    assert main(arguments.split()) == 2
    verb = f"sightline {arguments.split()[0]}"
    advice = f"Did you mean {nearest}?" if nearest else f"Run: {verb} --help"
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"error: option: got {unknown}; expected one that {verb} has. {advice}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("track a.mp4 --threads many", "--threads: got 'many'; expected a whole number. Give another."),
        ("track a.mp4 --start 1.5", "--start: got '1.5'; expected a whole number. Give another."),
        ("track a.mp4 --max-frames few", "--max-frames: got 'few'; expected a whole number. Give another."),
        ("track a.mp4 --backend trt", "--backend: got 'trt'; expected one of auto, onnx, torch. Choose one."),
        ("track a.mp4 --backend onxx", "--backend: got 'onxx'; expected one of auto, onnx, torch. Did you mean onnx?"),
        ("track a.mp4 --box", "--box: got no value; expected X,Y,W,H. Write it after the option."),
        ("track a.mp4 --box --start 3", "--box: got no value; expected X,Y,W,H. Write it after the option."),
        ("track a.mp4 --pick=no", "arguments: got 'no'; expected nothing more. Leave it out, or run: sightline track"),
        ("models mvt --backbone", "--backbone: got no value; expected FILE. Write it after the option."),
        ("convert a.pth", "sightline convert: got no --output FILE; expected one. Run: sightline convert --help"),
        ("convert a.pth -o b --seed x", "--seed: got 'x'; expected a whole number. Give another."),
        ("export", "sightline export: got no NAME and no --output FOLDER; expected each. Run: sightline export --help"),
        ("export a b -o c", "arguments: got 'b'; expected nothing more. Leave it out, or run: sightline export --help"),
        ("export a -o b --ce-layers x", "--ce-layers: got 'x'; expected a whole number. Give another."),
        ("export a -o b --ce-keep-ratios x", "--ce-keep-ratios: got 'x'; expected a number. Give another."),
        ("export a -o b --compression no", "--compression: got 'no'; expected one of per_expert, shared. Choose one."),
        ("eval --workers two", "--workers: got 'two'; expected a whole number. Give another."),
        ("eval --dataset", "--dataset: got no value; expected NAME. Write it after the option."),
        ("data pack a -o b --crop wide", "--crop: got 'wide'; expected a number. Give another."),
        ("doctor now", "arguments: got 'now'; expected nothing more. Leave it out, or run: sightline doctor --help"),
    ],
)
def test_what_cannot_be_parsed_is_told_in_a_sentence(arguments: str, sentence: str, capsys: Capture):
    assert main(arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(f"error: {sentence}") and told.err.count("\n") == 1


@pytest.mark.parametrize("trouble", ["missing", "changed"])
def test_where_tyro_does_not_say_what_is_wrong_its_box_does(
    trouble: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    if trouble == "missing":
        monkeypatch.delattr("tyro._errors.on_parse_error")
    else:  # an event without what is asked of it
        monkeypatch.setattr("sightline.cli.parsing.form", lambda argument: argument.anything)
    with pytest.raises(SystemExit) as stopped:
        main(["track", "clip.mp4", "--threads", "many"])
    told = capsys.readouterr()
    assert (stopped.value.code, told.out) == (2, "")
    assert "many" in told.err and told.err.count("\n") > 1


def test_the_status_is_that_of_the_process():
    done = command(["frobnicate"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = command(["--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sightline {sightline.__version__}\n", "")
    done = command(["doctor", "--bogus"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_doctor_prints_versions_and_passes(capsys: Capture):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"^sightline +{re.escape(sightline.__version__)}\s", told, re.MULTILINE)
    for package in ("numpy", "scipy", "opencv-python-headless", "av", "onnxruntime"):
        assert re.search(rf"^{package} +{re.escape(version(package))}\s", told, re.MULTILINE)
    assert re.search(r"^back ends +onnx", told, re.MULTILINE)
    assert re.search(r"self-test passed: 20 frames .* lowest IoU 0\.\d\d", told)
    assert "network" in told


@pytest.mark.parametrize("trouble", ["lost", "broken"])
def test_doctor_fails_with_status_one(trouble: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    """Where the bundled model loses the target, and where a package cannot be loaded at all."""
    blind = sightline.load(search_factor=0.5)
    monkeypatch.setattr("sightline.loading.load", lambda: blind)
    if trouble == "broken":
        monkeypatch.setitem(sys.modules, "av", None)
        monkeypatch.delitem(sys.modules, "sightline.video.sink", raising=False)
    assert main(["doctor"]) == 1
    verdict = capsys.readouterr().out.partition("self-test ")[2]
    assert verdict.startswith("FAILED: ModuleNotFoundError: " if trouble == "broken" else "FAILED: 20 frames")
