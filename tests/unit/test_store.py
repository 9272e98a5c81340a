"""The cache: whole sets of files or none, damage that is noticed, old weights that stay until new ones are there."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import sightline
from sightline import loading
from sightline.errors import CheckpointError
from sightline.runtime import store
from sightline.runtime.store import MANIFEST, cache_folder, export_shelf, find, find_whole, model_shelf, put, sha256_of


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty shelf in a cache of this test's own."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    return model_shelf("mvt")


def fill(shelf: Path, content: bytes = b"weights", *names: str) -> None:
    with put(shelf, source_name="official.pth", source_sha256="ab" * 32) as folder:
        for name in names or ("weights.safetensors",):
            (folder / name).write_bytes(content)


def interrupted(shelf: Path) -> None:
    with put(shelf, source_name="", source_sha256="") as folder:
        (folder / "weights.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt


def content_of(shelf: Path) -> dict[str, bytes]:
    stored = find_whole(shelf)
    assert stored
    return {name: (stored.folder / name).read_bytes() for name in stored.files}


def folders(shelf: Path) -> list[str]:
    return sorted(path.name for path in shelf.iterdir() if path.is_dir())


def age(folder: Path) -> None:
    """Make a folder one that nobody can be writing any more."""
    then = time.time() - store.GRACE_S - 1
    os.utime(folder, (then, then))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SIGHTLINE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "sightline"
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert not cache_folder().exists()
    monkeypatch.delenv("SIGHTLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "sightline"


def test_what_is_kept_comes_back_with_where_it_came_from(shelf: Path) -> None:
    assert find(shelf) is find_whole(shelf) is None
    fill(shelf, b"graph", "encode.onnx", "track.onnx")
    stored = find_whole(shelf)
    assert stored and stored == find(shelf)
    assert content_of(shelf) == {"encode.onnx": b"graph", "track.onnx": b"graph"}
    assert stored.num_bytes == 10
    assert (stored.source_name, stored.source_sha256) == ("official.pth", "ab" * 32)
    assert stored.version == sightline.__version__
    assert stored.files["track.onnx"].sha256 == sha256_of(stored.folder / "track.onnx")
    assert stored.added[:2] == "20" and stored.added.endswith("+00:00")
    assert folders(shelf) == [stored.folder.name]


def test_new_weights_take_the_place_of_old_ones_in_one_step(shelf: Path) -> None:
    fill(shelf, b"old")
    with put(shelf, source_name="n", source_sha256="") as folder:
        (folder / "weights.safetensors").write_bytes(b"new")
        assert content_of(shelf) == {"weights.safetensors": b"old"}
    assert content_of(shelf) == {"weights.safetensors": b"new"}


def test_a_step_that_fails_leaves_the_old_weights_and_nothing_else(shelf: Path) -> None:
    with pytest.raises(ZeroDivisionError), put(shelf, source_name="", source_sha256=""):
        _ = 1 / 0
    assert not shelf.exists()
    fill(shelf, b"old")
    before = sorted(os.listdir(shelf))
    with pytest.raises(KeyboardInterrupt):
        interrupted(shelf)
    assert sorted(os.listdir(shelf)) == before
    assert content_of(shelf) == {"weights.safetensors": b"old"}


def test_leftovers_go_once_nobody_can_need_them(shelf: Path) -> None:
    """The folder of a process that was killed, and the one whose place was taken; a new one may still be written."""
    fill(shelf, b"old")
    (old,) = folders(shelf)
    for name in ("dead.part", "alive.part"):
        (shelf / name).mkdir()
    age(shelf / "dead.part")
    fill(shelf, b"new")
    stored = find(shelf)
    assert stored
    assert folders(shelf) == sorted([stored.folder.name, old, "alive.part"])
    age(shelf / old)
    age(stored.folder)
    fill(shelf, b"newer")
    assert old not in folders(shelf) and stored.folder.name not in folders(shelf)
    assert content_of(shelf) == {"weights.safetensors": b"newer"}


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_damage_is_noticed_and_told_by_the_files_name(damage: str, shelf: Path) -> None:
    fill(shelf, b"some weights")
    stored = find(shelf)
    assert stored
    path = stored.folder / "weights.safetensors"
    stored.verify()  # the control: before the damage all is well
    match damage:
        case "flipped":
            path.write_bytes(b"some Weights")
        case "cut":
            path.write_bytes(b"some")
        case _:
            path.unlink()
    with pytest.raises(CheckpointError) as refused:
        find_whole(shelf)
    assert str(refused.value).startswith(f"{path}: got ")
    assert "\n" not in str(refused.value)
    fill(shelf, b"again")
    assert content_of(shelf) == {"weights.safetensors": b"again"}


@pytest.mark.parametrize(
    "change",
    [
        lambda about: "{",
        lambda about: "[]",
        lambda about: json.dumps({**about, "format": 2}),
        lambda about: json.dumps({**about, "folder": "../other"}),
        lambda about: json.dumps({**about, "folder": ".."}),
        lambda about: json.dumps({**about, "files": {"../../x": about["files"]["weights.safetensors"]}}),
        lambda about: json.dumps({**about, "files": {}}),
        lambda about: json.dumps({key: value for key, value in about.items() if key != "added"}),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(change: Any, shelf: Path) -> None:
    fill(shelf)
    manifest = shelf / MANIFEST
    manifest.write_text(change(json.loads(manifest.read_text())))
    with pytest.raises(CheckpointError, match=r"manifest.json: got damaged data; expected a manifest of format 1\."):
        find(shelf)


def test_weights_that_are_replaced_while_they_are_read_are_no_damage(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(shelf, b"old")
    (old,) = folders(shelf)
    age(shelf / old)
    read, verify = [], store.Stored.verify

    def slow(stored: store.Stored) -> None:
        read.append(stored.folder.name)
        if len(read) == 1:
            fill(shelf, b"new")
        verify(stored)

    monkeypatch.setattr(store.Stored, "verify", slow)
    stored = find_whole(shelf)
    assert stored and (stored.folder / "weights.safetensors").read_bytes() == b"new"
    assert read[0] == old and len(read) == 2


def test_writers_and_readers_at_once_see_whole_sets(shelf: Path) -> None:
    fill(shelf, b"0" * 1000, "encode.onnx", "track.onnx")
    seen: set[bytes] = set()
    faults: list[BaseException] = []
    start = threading.Barrier(5)

    def write(number: int) -> None:
        start.wait(10)
        for _ in range(5):
            fill(shelf, bytes([number]) * 1000, "encode.onnx", "track.onnx")

    def read() -> None:
        start.wait(10)
        for _ in range(40):
            encode, track = content_of(shelf).values()
            assert encode == track
            seen.add(encode[:1])

    def run(task: Any, *arguments: int) -> None:
        try:
            task(*arguments)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(write, number)) for number in (1, 2, 3)]
    threads += [threading.Thread(target=run, args=(read,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not faults
    assert seen <= {b"0", b"\1", b"\2", b"\3"} and seen
    assert not [name for name in folders(shelf) if name.endswith(".part")]


def test_a_cache_that_cannot_be_written_is_one_sentence(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(CheckpointError, match="cannot be written: got 'No space left on device'; .* SIGHTLINE_CACHE"),
        put(shelf, source_name="", source_sha256="") as folder,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "x"))
    assert not shelf.exists()
    with pytest.raises(FileNotFoundError), put(shelf, source_name="", source_sha256=""):
        (tmp_path / "no such weights").read_bytes()  # the reader's own trouble
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be written: got 'Not a directory'"):
        fill(model_shelf("mvt"))
    assert find(model_shelf("mvt")) is None


def test_a_cached_export_is_made_once_and_again_when_damaged(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[dict[str, object]] = []

    def export(name: str, weights: object, options: dict[str, object], folder: Path, backbone: object) -> None:
        made.append(dict(options))
        for graph in ("encode", "track"):
            (folder / f"{graph}.onnx").write_bytes(b"graph")

    monkeypatch.setattr(loading, "export_model", export)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    folder = loading.cached_export("mvt", weights, {})
    assert folder.parent.parent == export_shelf("mvt", "").parent
    assert loading.cached_export("mvt", weights, {}) == folder
    assert len(made) == 1 and not [record for record in caplog.records if record.levelname == "WARNING"]
    assert loading.cached_export("mvt", weights, {"fusion": False}) != folder
    assert made[1:] == [{"fusion": False}]

    (folder / "track.onnx").write_bytes(b"grape")
    again = loading.cached_export("mvt", weights, {})
    assert again != folder and (again / "track.onnx").read_bytes() == b"graph"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(folder / "track.onnx") in warning and warning.endswith("It is exported again.")
    weights.write_bytes(b"two")
    assert loading.cached_export("mvt", weights, {}) not in (folder, again)
    assert len(made) == 4
