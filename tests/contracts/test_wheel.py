"""What a person installs is whole: a wheel built from this checkout holds the package, and runs by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = {"av", "numpy", "onnxruntime", "opencv-python-headless", "rich", "scipy", "tyro"}
MUST_HAVE = (
    "py.typed",
    "recipes/train_nano.py",
    "weights/WEIGHTS.md",
    "weights/sightline-nano/encode.onnx",
    "weights/sightline-nano/track.onnx",
    "weights/onetrack-m-tiny/tokens.onnx",
    "weights/onetrack-m-tiny/track.onnx",
    "datasets/lvis_v1.txt",
    "weights/vittrack.toml",
    "datasets/splits/got10k_vot_train.txt",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packed = {name for name in names if ".dist-info/" not in name}
    source = ROOT / "src"
    files = {str(path.relative_to(source)) for path in (source / "sightline").rglob("*") if path.is_file()}
    assert packed == {name for name in files if "__pycache__" not in name}
    assert {f"sightline/{name}" for name in MUST_HAVE} <= packed
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE", "WEIGHTS.md"}


def test_it_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 25e6


def test_its_base_dependencies_are_seven_and_none_is_torch(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">=")[0] for line in required} == BASE
    assert all("<" not in line and "==" not in line for line in required)  # lower bounds only
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_it_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone, unpacked, goes before the installed package; `doctor` tracks with the bundled model."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SIGHTLINE_CACHE": str(tmp_path / "cache")}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    where = subprocess.run([sys.executable, "-c", "import sightline; print(sightline.__file__)"], **run)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path)
    doctor = subprocess.run([sys.executable, "-m", "sightline", "doctor"], **run)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert not (tmp_path / "cache").exists()
