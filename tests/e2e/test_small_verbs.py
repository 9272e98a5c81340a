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


def test_the_status_is_that_of_the_process():
    done = command(["frobnicate"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = command(["--version"])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sightline {sightline.__version__}\n", "")
    done = command(["doctor", "--bogus"])
    assert (done.returncode, done.stdout) == (2, "")


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
