"""What the documentation says is true: its Python runs, its commands parse, its links and its tree exist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import sightline
from sightline.cli import VERBS, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])


def blocks(text: str, *languages: str) -> list[str]:
    """The contents of the fenced blocks of these languages, in order; "" is a fence that names none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for language, content in fences if language in languages]


def frames(count: int = 12) -> list[np.ndarray]:
    """240 x 320 RGB: two textured targets moving over noise, where the README's boxes are."""
    rng = np.random.default_rng(0)
    background = rng.integers(60, 120, (240, 320, 3), dtype=np.uint8)
    targets = [((100, 50), rng.integers(0, 256, (90, 40, 3))), ((180, 60), rng.integers(0, 256, (60, 30, 3)))]
    pictures = []
    for step in range(count):
        picture = background.copy()
        for (x, y), texture in targets:
            h, w = texture.shape[:2]
            picture[y + step : y + step + h, x + 2 * step : x + 2 * step + w] = texture
        pictures.append(picture)
    return pictures


@pytest.fixture
def clip_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is an empty folder that holds clip.mp4."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for picture in frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "start.md"], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, clip_here: None, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = blocks(page.read_text(), "python")
    assert snippets
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, page.name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) >= 12


def test_the_packages_example_runs(clip_here: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert sightline.__doc__
    code = textwrap.dedent("\n".join(line for line in sightline.__doc__.splitlines() if line.startswith("    ")))
    exec(compile(code, "sightline.__doc__", "exec"), {"frame": frames(1)[0]})
    assert len(capsys.readouterr().out.splitlines()) == 13  # one state, twelve frames


COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for page in PAGES
        for block in blocks(page.read_text(), "sh", "")
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(r"(sightline|make) ", line)
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, verb, *rest = command.split()
    if program == "make":
        assert re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert verb in VERBS
    if verb == "train":  # its flags are those of a recipe, which needs torch to be asked
        return
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert not stopped.value.code
    flags = capsys.readouterr().out
    for word in rest:
        if word.startswith("-"):
            assert re.search(rf"(^|[ ,]){word}\b", flags, re.MULTILINE), f"{word} is no flag of sightline {verb}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readmes_tree_is_the_tree() -> None:
    (tree,) = [block for block in blocks(README, "") if block.startswith("src/sightline/")]
    told = set(re.findall(r"^  (\S+)", tree, re.MULTILINE))
    assert told
    for name in told:
        assert (ROOT / "src/sightline" / name).exists(), name
    packages = {f"{path.parent.name}/" for path in (ROOT / "src/sightline").glob("*/__init__.py")}
    assert packages <= told


def test_models_pages_name_files_that_exist() -> None:
    for page in (ROOT / "docs" / "models").glob("*.md"):
        for name in re.findall(r"`((?:sightline|tests)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / "src" / name).exists() or (ROOT / name).exists(), f"{page.name} names {name}"


def test_no_path_of_a_single_machine() -> None:
    private = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w+")
    assert private.search("see " + "/home" + "/someone")
    files = [*ROOT.glob("*.*"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    for folder in ("src", "tests", "docs", "benchmarks"):
        files += (ROOT / folder).rglob("*.*")
    for file in files:
        if file.suffix in {".py", ".md", ".toml", ".txt", ".json", ""} and file.is_file():
            found = private.search(file.read_text())
            assert not found, f"{file.relative_to(ROOT)}: {found and found[0]}"
