"""What every test may ask for: the shared third-party data, and an honest count of what did not run without it.

With `SIGHTLINE_LIGHT=1` the run is the one without torch and the extras: files that need them are left out, and counted
too.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SIGHTLINE_SHARED", ROOT.parent / "shared"))
LIGHT = os.environ.get("SIGHTLINE_LIGHT") == "1"
NEEDS_MORE = re.compile(r"^(import torch\b|from torch\b|pytestmark = .*mark\.(torch|extras)\b)", re.MULTILINE)


def shared_is_required() -> bool:
    return os.environ.get("SIGHTLINE_REQUIRE_SHARED") == "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of third-party data; a test that asks for it is marked `shared`, so it is present or required."""
    if not SHARED.is_dir():
        pytest.fail(f"shared data: got no folder {SHARED}; expected it. Set SIGHTLINE_SHARED.")
    return SHARED


@pytest.fixture(autouse=True)
def quiet_or_not_as_before() -> Iterator[None]:
    """The level of the library's log is again what it was: a process of several, played in a test, silences itself."""
    log = logging.getLogger("sightline")
    level = log.level
    yield
    log.setLevel(level)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the shared folder its tests are deselected and counted, unless its absence is an error."""
    if SHARED.is_dir() or shared_is_required():
        return
    absent = [item for item in items if item.get_closest_marker("shared")]
    config.stash[NOT_RUN] = [item.nodeid for item in absent]
    items[:] = [item for item in items if not item.get_closest_marker("shared")]
    config.hook.pytest_deselected(items=absent)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In the run without torch, leave out the files that say they need more; whichever does not say so fails."""
    if not LIGHT or not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    if not NEEDS_MORE.search(collection_path.read_text()):
        return None
    config.stash[LEFT_OUT].append(collection_path.name)
    return True


NOT_RUN = pytest.StashKey[list[str]]()
LEFT_OUT = pytest.StashKey[list[str]]()
PARITY = pytest.StashKey[list[int]]()


def pytest_configure(config: pytest.Config) -> None:
    if LIGHT and importlib.util.find_spec("torch"):
        raise pytest.UsageError("SIGHTLINE_LIGHT=1: got an environment with torch; expected none. Use .venv-light.")
    config.stash[NOT_RUN] = []
    config.stash[LEFT_OUT] = []
    config.stash[PARITY] = [0]


@pytest.fixture
def compare(request: pytest.FixtureRequest):
    """Two-sided comparison with a stored official tensor; every call is counted in the `parity:` line."""
    import numpy as np

    def check(ours, stored, *, atol: float, rtol: float = 0.0, what: str = "") -> None:
        request.config.stash[PARITY][0] += 1
        ours, stored = np.asarray(ours), np.asarray(stored)
        assert ours.shape == stored.shape, f"{what}: shape {ours.shape}, stored {stored.shape}"
        np.testing.assert_allclose(ours, stored, atol=atol, rtol=rtol, err_msg=what)

    return check


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"parity: {config.stash[PARITY][0]} tensors compared")
    if LIGHT:
        terminalreporter.write_line(f"without torch: {len(config.stash[LEFT_OUT])} test files that need more left out")
    if not_run := config.stash[NOT_RUN]:
        for nodeid in not_run:
            terminalreporter.write_line(f"  not run: {nodeid}")
        terminalreporter.write_line(f"not run: {len(not_run)} tests, no shared data")
