"""Every row of the zoo is held to the same promises; a new row is tested without a new test."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.loading import empty_model, resolve
from sightline.runtime.session import Arrays, Session
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from sightline.types import TargetState

ROOT = Path(__file__).parents[2]
NETWORKS = {(entry.model, entry.preset): name for name, entry in reversed(ZOO.items())}.values()  # each network once
BOXES = [(100.0, 80.0, 40.0, 60.0), (190.5, 60.25, 52.0, 33.0)]


@pytest.mark.parametrize("name", ZOO)
def test_documentation(name: str) -> None:
    entry = ZOO[name]
    page = (ROOT / entry.page).read_text()
    assert f"{entry.model.split(':')[0].replace('.', '/')}.py" in page
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    assert entry.title and entry.licence and entry.trained_on
    assert bool(entry.bundled) != bool(entry.official_file)  # the weights are inside, or have a name outside


@pytest.mark.parametrize("name", ZOO)
def test_tracker_config(name: str) -> None:
    config = ZOO[name].tracker
    assert config.search_px % config.stride == config.template_px % config.stride == 0
    assert TemplateSearchConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.torch
@pytest.mark.parametrize("name", ZOO)
def test_network_and_tracker_agree_on_sizes(name: str) -> None:
    entry = ZOO[name]
    preset = resolve(entry.preset)
    assert (preset.template_px, preset.search_px) == (entry.tracker.template_px, entry.tracker.search_px)
    for option in entry.options:
        assert hasattr(preset, option)
    assert re.search(r"arXiv|ours", resolve(entry.model.partition(":")[0] + ":__doc__"))


class Watched:
    """A session that notes the shapes that pass through it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.shapes: dict[str, tuple[int, ...]] = {}

    def inputs(self, graph: str) -> tuple[str, ...]:
        return self.session.inputs(graph)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        outputs = self.session.run(graph, arrays)
        self.shapes |= {name: value.shape for name, value in {**arrays, **outputs}.items()}
        assert all(value.dtype == np.float32 for value in outputs.values())
        return outputs


def random_tracker(name: str) -> tuple[TemplateSearchTracker, Watched]:
    """The network of a row with weights that are determined by their names."""
    from sightline.models.session import TorchSession
    from tests.parity.fill import fill

    session = Watched(TorchSession(fill(empty_model(name))))
    return TemplateSearchTracker(session, ZOO[name].tracker, name), session


def through_a_file(state: TargetState, path: Path) -> TargetState:
    np.savez(path, **state.to_arrays())
    with np.load(path, allow_pickle=False) as arrays:
        return TargetState.from_arrays(arrays)


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    return [np.kron(frame, np.ones((10, 10, 1), dtype=np.uint8)) for frame in coarse]  # 240 x 320, in blocks


@pytest.mark.torch
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_batches_saved_states_and_determinism(name: str, frames: Any, tmp_path: Path) -> None:
    tracker, session = random_tracker(name)
    config = tracker.config
    states = [tracker.init(frames[0], xywh=box) for box in BOXES]
    assert [state.xywh for state in states] == BOXES

    together = tracker.update_many(frames[1], states)
    grid = config.search_px // config.stride
    assert session.shapes["template"] == (1, 3, config.template_px, config.template_px)
    assert session.shapes["search"] == (2, 3, config.search_px, config.search_px)
    assert session.shapes["score_map"] == (2, 1, grid, grid)
    assert session.shapes["size_map"] == session.shapes["offset_map"] == (2, 2, grid, grid)
    assert together[0].xywh != together[1].xywh

    alone = tracker.update(frames[1], states[0])
    np.testing.assert_allclose(alone.xywh, together[0].xywh, atol=1e-3, rtol=0)
    assert alone.score == pytest.approx(together[0].score, abs=1e-5)

    restored = through_a_file(states[0], tmp_path / "state.npz")
    assert restored == states[0]
    assert tracker.update(frames[1], restored) == alone  # the same bits


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", NETWORKS)
def test_runtime_agrees_with_torch(name: str, tmp_path: Path) -> None:
    from sightline.export.onnx import export_onnx
    from sightline.export.verify import verify
    from tests.parity.fill import fill

    model = fill(empty_model(name))
    export_onnx(model, tmp_path, name=name, tracker=ZOO[name].tracker, options={}, weights_sha256="")
    assert max(verify(model, tmp_path, tolerance=1e-4, repeats=1).differences.values()) <= 1e-4
