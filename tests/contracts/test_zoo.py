"""Every row of the zoo is held to the same promises; a new row is tested without a new test.

Most rows have a torch network; those that are an ONNX file alone have a sidecar, and are run with that file where the
third-party data is at hand.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.building import classes_of
from sightline.cli.train import RECIPES
from sightline.loading import MultiObjectName, empty_model, load, resolve
from sightline.options import variant_of
from sightline.runtime.session import Arrays, Session
from sightline.runtime.sidecar import read_sidecar
from sightline.runtime.store import BUNDLED
from sightline.trackers.gtr import GTRConfig, size_in_network
from sightline.trackers.onetrack_m import OneTrackMConfig
from sightline.trackers.opencv import OPENCV
from sightline.trackers.protocol import Tracker
from sightline.trackers.spmtrack import SPMTrackConfig
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import MULTI_OBJECT, TRACKERS, ZOO, MultiObjectConfig

ROOT = Path(__file__).parents[2]
WITH_NETWORK = [name for name, entry in ZOO.items() if entry.model]
WITH_SIDECAR = [name for name, entry in ZOO.items() if entry.sidecar]
BY_BOX = [name for name, entry in ZOO.items() if not entry.is_multi_object]
FINDERS = [name for name, entry in ZOO.items() if entry.is_multi_object]
EACH_ONCE = [  # larger ones are run by the parity tests alone
    name
    for name in {(ZOO[name].model, ZOO[name].preset): name for name in reversed(WITH_NETWORK)}.values()
    if ZOO[name].size_mb < 1000
]
NETWORKS = [name for name in EACH_ONCE if name in BY_BOX]
FINDING_NETWORKS = [name for name in EACH_ONCE if name in FINDERS]
SLOW_GMAC = 100


def with_torch(names: list[str]) -> list[Any]:
    """The names as parameters of a test that runs networks."""
    slow = {name: [pytest.mark.slow] if ZOO[name].gmac > SLOW_GMAC else [] for name in names}
    return [pytest.param(name, marks=[pytest.mark.torch, *slow[name]]) for name in names]


# What can run, each in the run that has what it needs.
RUNNABLE = [*with_torch(NETWORKS), *(pytest.param(name, marks=pytest.mark.shared) for name in WITH_SIDECAR)]
TRAINED = {name for models in RECIPES.values() for name in models}
# What a loop's maps are called besides the score, and how many channels they have.
MAPS: Mapping[type, Mapping[str, int]] = {
    TemplateSearchConfig: {"size_map": 2, "offset_map": 2},
    SPMTrackConfig: {"box_map": 4},
}
BOXES = [(100.0, 80.0, 40.0, 60.0), (190.5, 60.25, 52.0, 33.0)]


def test_every_row_is_a_network_or_a_sidecar() -> None:
    assert sorted(WITH_NETWORK + WITH_SIDECAR) == sorted(ZOO)
    assert WITH_SIDECAR and not set(WITH_NETWORK) & set(WITH_SIDECAR)
    assert not set(ZOO) & set(OPENCV)  # one name, one tracker


@pytest.mark.parametrize("name", ZOO)
def test_documentation(name: str) -> None:
    entry = ZOO[name]
    page = (ROOT / entry.page).read_text()
    assert (entry.sidecar or f"{entry.model.split(':')[0].replace('.', '/')}.py") in page
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    assert entry.title and entry.licence and entry.trained_on


@pytest.mark.parametrize("name", ZOO)
def test_the_weights_are_inside_or_have_a_page_and_a_name(name: str) -> None:
    entry = ZOO[name]
    assert bool(entry.official_file) == bool(entry.official_page)
    assert not (entry.bundled and entry.official_file)
    if entry.bundled:
        assert entry.measured
    elif not entry.official_file:
        assert f"sightline train {name}:full" in entry.trained_on and name in TRAINED
    else:
        assert entry.official_page.startswith("https://") and entry.published


@pytest.mark.parametrize("name", ZOO)
def test_figures_are_in_their_units(name: str) -> None:
    entry = ZOO[name]
    assert all(1 < value < 100 for value in entry.published.values())  # percent
    assert all(0 < value < 1 for value in entry.measured.values())
    assert entry.size_mb == pytest.approx(sum(entry.parameters.values()) * 4 / 1e6)


@pytest.mark.parametrize("name", ZOO)
def test_tracker_config(name: str) -> None:
    config: Any = ZOO[name].tracker
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config
    assert (type(config) in TRACKERS) != (type(config) in MULTI_OBJECT)
    if name in BY_BOX:
        assert config.search_px % config.stride == config.template_px % config.stride == 0


@pytest.mark.parametrize("name", FINDERS)
def test_what_finds_by_itself_names_what_it_finds(name: str) -> None:
    entry = ZOO[name]
    names = classes_of(entry)
    assert len(set(names)) == len(names) >= 1 and all(names)
    assert name in get_args(MultiObjectName)
    for variant, changed in entry.variants.items():
        assert variant_of(entry, variant) == changed(entry.tracker) != entry.tracker == variant_of(entry, "official")


def test_types_know_every_name_that_finds_by_itself() -> None:
    assert sorted(get_args(MultiObjectName)) == sorted(FINDERS)


@pytest.mark.parametrize("name", WITH_SIDECAR)
def test_row_and_sidecar_agree(name: str) -> None:
    entry = ZOO[name]
    sidecar = read_sidecar(BUNDLED / entry.sidecar)
    assert TemplateSearchConfig.from_json(sidecar.tracker) == entry.tracker
    told = (sidecar.name, sidecar.file, sidecar.licence, sidecar.page)
    assert told == (name, entry.official_file, entry.licence, entry.page)
    assert not entry.preset and not entry.options and not entry.bundled and not entry.fused and not entry.join


@pytest.mark.torch
@pytest.mark.parametrize("name", WITH_NETWORK)
def test_what_a_row_names_is_there(name: str) -> None:
    entry = ZOO[name]
    for path in filter(None, (entry.model, entry.preset, entry.fused, entry.join)):
        assert resolve(path)
    assert bool(entry.backbone_file) == bool(entry.backbone_page)
    assert entry.join or not entry.backbone_file


@pytest.mark.torch
@pytest.mark.parametrize("name", WITH_NETWORK)
def test_network_and_row_agree_on_sizes_and_options(name: str) -> None:
    entry = ZOO[name]
    preset, tracker = resolve(entry.preset), entry.tracker
    if not isinstance(tracker, MultiObjectConfig):
        assert (preset.template_px, preset.search_px) == (tracker.template_px, tracker.search_px)
    elif isinstance(tracker, OneTrackMConfig):
        same = ("image_px", "grid", "clip_length")
        assert [getattr(preset, size) for size in same] == [getattr(tracker, size) for size in same]
    kinds = get_type_hints(type(preset))
    for name, option in entry.options.items():
        assert (option.kind, option.default) == (kinds[name], getattr(preset, name))
    assert re.search(r"arXiv|ours", resolve(entry.model.partition(":")[0] + ":__doc__"))


@pytest.mark.torch
@pytest.mark.parametrize("name", WITH_NETWORK)
def test_parameters_and_cost_are_those_of_the_network(name: str) -> None:
    import torch

    entry = ZOO[name]
    with torch.device("meta"):
        model: Any = empty_model(name).eval()
        gmac, gmac_template = cost(model, entry.tracker)
    parts: Counter[str] = Counter()
    for key, parameter in model.named_parameters():
        parts[key.partition(".")[0]] += parameter.numel()
    assert parts == dict(entry.parameters)
    assert gmac_template == pytest.approx(entry.gmac_template, abs=6e-4)
    assert gmac == pytest.approx(entry.gmac, abs=6e-4)


def cost(model: Any, tracker: Any) -> tuple[float, float]:
    """GMAC on every frame and of a template, of a network on the "meta" device, which is that of new tensors."""
    import torch

    from sightline.export.examples import example, track_inputs
    from sightline.models.counting import count_gmac

    if isinstance(tracker, GTRConfig):
        height, width = (-(-side // tracker.pad_to) * tracker.pad_to for side in size_in_network(1080, 1920, tracker))
        return count_gmac(lambda: model.detect(torch.empty(1, 3, height, width))), 0.0
    if isinstance(tracker, OneTrackMConfig):
        frame = torch.empty(1, 3, tracker.image_px, tracker.image_px)
        tokens = model.tokens(frame)["tokens"][:, None].expand(-1, tracker.clip_length, -1, -1)
        return count_gmac(lambda: model.tokens(frame)) + count_gmac(lambda: model.track(tokens)), 0.0
    arrays = example(np.random.default_rng(0), 1, tracker, masked=False)
    inputs = {key: torch.from_numpy(value).to("meta") for key, value in arrays.items()}
    search = inputs.pop("search")
    features = model.encode(**inputs)
    of_templates = count_gmac(lambda: model.encode(**inputs))
    on_every_frame = count_gmac(lambda: model.track(**track_inputs(search, features, tracker)))
    if isinstance(tracker, SPMTrackConfig):
        on_every_frame += of_templates
    return on_every_frame, of_templates / len(inputs["template"])


@pytest.mark.shared
@pytest.mark.torch  # for the package onnx, which comes with the export
@pytest.mark.parametrize("name", WITH_SIDECAR)
def test_parameters_and_cost_are_those_of_the_onnx_file(name: str, shared: Path) -> None:
    """Weights that the file holds twice, for the template and for the search region, count once."""
    import onnx
    import onnxruntime

    entry = ZOO[name]
    model = onnx.load(shared / "weights" / entry.official_file)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    learnt = [value for value in stored.values() if value.dtype == np.float32 and value.ndim]
    assert sum(value.size for value in {value.tobytes(): value for value in learnt}.values()) == entry.num_parameters
    assert sum(value.size for value in learnt) > entry.num_parameters  # the control: it does hold some twice
    for part, count in entry.parameters.items():
        if part in stored:
            assert stored[part].size == count

    products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
    inputs = {
        node.name: np.zeros([size.dim_value for size in node.type.tensor_type.shape.dim], np.float32)
        for node in model.graph.input
    }
    shown = {name for node in products for name in (node.input[0], *node.output)} - {*stored, *inputs}
    shown -= {node.name for node in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(shown))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    arrays = stored | inputs | dict(zip(names, session.run(names, inputs), strict=True))
    macs = sum(
        arrays[node.output[0]].size
        * (arrays[node.input[1]][0].size if node.op_type == "Conv" else arrays[node.input[0]].shape[-1])
        for node in products
    )
    assert macs / 1e9 == pytest.approx(entry.gmac, abs=6e-4)


class Watched:
    """A session that notes the shapes that its graphs take and give."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.taken: dict[str, tuple[int, ...]] = {}
        self.given: dict[str, tuple[int, ...]] = {}

    def inputs(self, graph: str) -> tuple[str, ...]:
        return self.session.inputs(graph)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        outputs = self.session.run(graph, arrays)
        self.taken |= {f"{graph} {name}": value.shape for name, value in arrays.items()}
        self.given |= {f"{graph} {name}": value.shape for name, value in outputs.items()}
        assert all(value.dtype == np.float32 for value in outputs.values())
        return outputs


def watched_tracker(name: str, request: pytest.FixtureRequest) -> tuple[Tracker, Watched]:
    """The ONNX file of a row, or its network with weights that are determined by their names."""
    entry = ZOO[name]
    if entry.sidecar:
        official = request.getfixturevalue("shared") / "weights" / entry.official_file
        loaded = load(name, weights=official, threads=1)
        assert isinstance(loaded, TemplateSearchTracker)
        session = Watched(loaded.session)
    else:
        from sightline.models.session import TorchSession
        from tests.parity.fill import fill

        session = Watched(TorchSession(fill(empty_model(name))))
    return TRACKERS[type(entry.tracker)](session, entry.tracker, name), session


def filled(name: str) -> Any:
    """The network of a row that finds its targets, with weights that are determined by their names."""
    from tests.parity import fill, gtr_fill

    model = empty_model(name)
    if isinstance(ZOO[name].tracker, OneTrackMConfig):
        return fill.fill(model)
    return gtr_fill.fill(model, plus={"bbox_pred.bias": 3.0, ".scale": 1.0, "edge_weights": 0.5})  # boxes with sides


def through_a_file(state: Any, path: Path) -> Any:
    np.savez(path, **state.to_arrays())
    with np.load(path, allow_pickle=False) as arrays:
        return type(state).from_arrays(arrays)


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    return [np.kron(frame, np.ones((10, 10, 1), dtype=np.uint8)) for frame in coarse]  # 240 x 320, in blocks


@pytest.mark.parametrize("name", RUNNABLE)
def test_shapes_batches_saved_states_and_determinism(
    name: str, frames: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tracker, session = watched_tracker(name, request)
    config: Any = ZOO[name].tracker
    states = [tracker.init(frames[0], xywh=box) for box in BOXES]
    assert [state.xywh for state in states] == BOXES

    together = tracker.update_many(frames[1], states)
    grid = config.search_px // config.stride
    assert session.taken["encode template"][1:] == (3, config.template_px, config.template_px)
    assert session.taken["track search"] == (2, 3, config.search_px, config.search_px)
    assert session.given["track score_map"] == (2, 1, grid, grid)
    for key, channels in MAPS[type(config)].items():
        assert session.given[f"track {key}"] == (2, channels, grid, grid)
    assert together[0].xywh != together[1].xywh

    alone = tracker.update(frames[1], states[0])
    np.testing.assert_allclose(alone.xywh, together[0].xywh, atol=1e-3, rtol=0)
    assert alone.score == pytest.approx(together[0].score, abs=1e-5)

    for state in (alone, states[0]):
        restored = through_a_file(state, tmp_path / "state.npz")
        assert restored == state == pickle.loads(pickle.dumps(state))
    assert tracker.update(frames[1], restored) == alone  # the same bits


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many small maps are slower by two."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", with_torch(FINDING_NETWORKS))
def test_saved_states_and_determinism_of_what_finds_by_itself(name: str, frames: Any, tmp_path: Path) -> None:
    from sightline.models.session import TorchSession

    entry = ZOO[name]
    few: Any = {"side_px": 256, "max_objects": 8} if isinstance(entry.tracker, GTRConfig) else {"started_from": 0.4}
    names = classes_of(entry)
    tracker = MULTI_OBJECT[type(entry.tracker)](TorchSession(filled(name)), replace(entry.tracker, **few), name, names)
    seen = [*frames, None, *frames]
    states = [tracker.init()]
    for frame in seen:
        states.append(tracker.update(frame, states[-1]))
    history = [track for state in states for track in state.tracks]
    assert len(history) >= 4 and {track.frame_index for track in history} <= {0, 1, 3, 4}
    assert all(0 <= track.class_id < len(names) for track in history)
    for frame, before, after in zip(seen, states, states[1:], strict=False):
        restored = through_a_file(before, tmp_path / "state.npz")
        assert restored == before == pickle.loads(pickle.dumps(before)) != after
        assert tracker.update(frame, restored) == after  # the same bits
    finished = tracker.finish(states[-1], history)
    assert finished == tracker.finish(restored := through_a_file(states[-1], tmp_path / "state.npz"), history)
    assert restored == states[-1]
    assert [track.frame_index for track in finished] == sorted(track.frame_index for track in finished)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", NETWORKS)
def test_runtime_agrees_with_torch(name: str, tmp_path: Path) -> None:
    from sightline.export.onnx import export_onnx
    from sightline.export.verify import verify
    from tests.parity.fill import fill

    model: Any = fill(empty_model(name))
    if ZOO[name].fused:
        model = resolve(ZOO[name].fused)(model)
    export_onnx(model, tmp_path, name=name, tracker=ZOO[name].tracker, options={}, weights_sha256="")
    assert max(verify(model, tmp_path, tolerance=1e-4, repeats=1).differences.values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in FINDING_NETWORKS if not ZOO[name].official_file])
def test_runtime_agrees_with_torch_of_what_finds_by_itself(name: str, tmp_path: Path) -> None:
    """The released sizes of GTR are exported in tests/e2e/test_gtr_commands.py."""
    from sightline.export.onnx import export_onnx
    from sightline.export.verify import verify

    model = filled(name)
    export_onnx(model, tmp_path, name=name, tracker=ZOO[name].tracker, options={}, weights_sha256="")
    assert max(verify(model, tmp_path, tolerance=1e-4, repeats=1).differences.values()) <= 1e-4
