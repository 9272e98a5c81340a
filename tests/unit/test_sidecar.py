"""Sidecars: other people's graphs as sessions, and a sentence for every way in which a sidecar can be wrong.

The graphs are the bundled ones, or plain functions behind the few methods of ONNX Runtime that are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import sightline
from sightline.errors import CheckpointError, ProtocolError
from sightline.runtime import sidecar as sidecar_module
from sightline.runtime.sidecar import Sidecar, SidecarSession, read_sidecar
from sightline.runtime.store import BUNDLED, bundled_folder, sha256_of
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from tests.e2e.scene import pictures, truth

Array = NDArray[np.float32]

NANO = """
name = "nano-by-sidecar"
file = "track.onnx"
encode_file = "encode.onnx"

[features]
template_tokens = "template_tokens"

[outputs]
score_map = "score_map"
size_map = "size_map"
offset_map = "offset_map"

[tracker]
template_px = 96
search_px = 192
stride = 16
mean = [0.4980392156862745, 0.4980392156862745, 0.4980392156862745]
std = [0.50196078431372548, 0.50196078431372548, 0.50196078431372548]
crop = "exact"
map_back = "exact"
"""
ONE_GRAPH = """
name = "small"
file = "small.onnx"

[inputs]
template = "z"
search = "x"

[outputs]
score_map = "score"
size_map = "size"
offset_map = "offset"

[tracker]
template_px = 32
search_px = 64
stride = 16
"""
TWO_GRAPHS = ONE_GRAPH.replace('file = "small.onnx"', 'file = "small.onnx"\nencode_file = "first.onnx"').replace(
    "[outputs]", '[features]\nzf = "tokens"\n\n[outputs]'
)
GRID = 4


@dataclass
class Node:
    name: str
    shape: list[int | str]
    type: str = "tensor(float)"


@dataclass
class Graph:
    """What is used of an `InferenceSession`: names and shapes of both ends, and a function between them."""

    takes: list[Node]
    gives: list[Node]
    function: Callable[[Mapping[str, Array]], list[Array]]
    calls: list[dict[str, tuple[int, ...]]] = field(default_factory=list)

    def get_inputs(self) -> list[Node]:
        return self.takes

    def get_outputs(self) -> list[Node]:
        return self.gives

    def run(self, names: list[str], arrays: Mapping[str, Array]) -> list[Array]:
        self.calls.append({name: value.shape for name, value in arrays.items()})
        for node in self.takes:
            assert [a for a, b in zip(arrays[node.name].shape, node.shape, strict=True) if a != b and b != "n"] == []
        return self.function(arrays)


def maps_of(search: Array) -> list[Array]:
    """Maps that tell targets, channels and cells apart: (K, C, G, G), from the means of the cells' colours."""
    cells = search.reshape(len(search), 3, GRID, 16, GRID, 16).mean(axis=(3, 5))
    score = 1 / (1 + np.exp(-cells[:, :1]))
    return [score.astype(np.float32), 0.1 + 0.01 * cells[:, :2], 0.5 + 0.01 * cells[:, 1:]]


def one_graph(batch: int | str = 1, shapes: list[list[int | str]] | None = None, **changes: object) -> Graph:
    """A graph that takes both images; its maps are moved by the template's mean."""

    def function(arrays: Mapping[str, Array]) -> list[Array]:
        score, size, offset = maps_of(arrays["x"])
        return [score, size + arrays["z"].mean(axis=(1, 2, 3))[:, None, None, None], offset]

    shapes = shapes or [[batch, channels, GRID, GRID] for channels in (1, 2, 2)]
    gives = [Node(name, shape) for name, shape in zip(("score", "size", "offset"), shapes, strict=True)]
    takes = [Node("z", [batch, 3, 32, 32]), Node("x", [batch, 3, 64, 64])]
    return replace(Graph(takes, gives, function), **changes)


def write(folder: Path, text: str = ONE_GRAPH) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    for name in ("small.onnx", "first.onnx"):
        (folder / name).write_bytes(b"opened by nobody")
    return path


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SidecarSession]:
    """A session over the given graphs, by file name, described by the given sidecar."""

    def session(text: str = ONE_GRAPH, **graphs: Graph) -> SidecarSession:
        monkeypatch.setattr(sidecar_module, "open_graph", lambda path, threads, cure: graphs[path.stem])
        return SidecarSession(read_sidecar(write(tmp_path, text)))

    return session


def images(targets: int, side_px: int) -> Array:
    return np.random.default_rng(side_px).standard_normal((targets, 3, side_px, side_px), dtype=np.float32)


def track(session: SidecarSession, targets: int = 2) -> dict[str, Array]:
    features = session.run("encode", {"template": images(targets, 32)})
    assert all(len(value) == targets for value in features.values())
    return session.run("track", {"search": images(targets, 64), **features})


# Two graphs, and the loop around them


def nano_boxes(text: str, folder: Path) -> NDArray[np.float64]:
    (folder / "nano.toml").write_text(text)
    sidecar = read_sidecar(folder / "nano.toml")
    session = SidecarSession(sidecar, bundled_folder("sightline-nano"), threads=1)
    tracker = TemplateSearchTracker(session, TemplateSearchConfig.from_json(sidecar.tracker), sidecar.name)
    return follow_both(tracker)


def follow_both(tracker: TemplateSearchTracker) -> NDArray[np.float64]:
    first, *frames = pictures(5)
    states = [tracker.init(first, xywh=truth(target=target)[0]) for target in (0, 1)]
    for frame in frames:
        states = tracker.update_many(frame, states)
    return np.array([state.xywh for state in states])


def test_the_bundled_graphs_run_by_a_sidecar_as_they_do_by_name(tmp_path: Path) -> None:
    expected = follow_both(sightline.load(threads=1))
    np.testing.assert_array_equal(nano_boxes(NANO, tmp_path), expected)
    moved = nano_boxes('channels = "bgr"\n' + NANO, tmp_path)  # the negative control: other colours, other boxes
    assert np.abs(moved - expected).max() > 0.01


def test_features_go_from_one_graph_into_the_other(opened: Callable[..., SidecarSession]) -> None:
    """Tokens first, as some graphs have them: no axis of targets, so a graph for one target gets them as they were."""
    encode = Graph(
        [Node("z", [1, 3, 32, 32])],
        [Node("unused", [1]), Node("tokens", [7, 1, 2])],
        lambda arrays: [np.zeros(1, np.float32), np.full((7, 1, 2), arrays["z"].mean(), np.float32)],
    )
    first = one_graph()
    second = replace(
        first,
        takes=[Node("x", [1, 3, 64, 64]), Node("zf", [7, 1, 2])],
        function=lambda a: [value + (k == 1) * a["zf"].mean() for k, value in enumerate(maps_of(a["x"]))],
    )
    session = opened(TWO_GRAPHS, small=second, first=encode)
    assert session.inputs("encode") == ("template",)
    assert session.inputs("track") == ("search", "zf")
    answer, expected = track(session), track(opened(small=one_graph()))
    assert second.calls == [{"x": (1, 3, 64, 64), "zf": (7, 1, 2)}] * 2
    for name, value in expected.items():
        np.testing.assert_allclose(answer[name], value, rtol=0, atol=1e-6)
    assert np.abs(answer["size_map"][0] - answer["size_map"][1]).min() > 1e-5  # each has its own template


def test_tokens_first_are_refused_where_the_graph_takes_all_targets(opened: Callable[..., SidecarSession]) -> None:
    encode = Graph(
        [Node("z", ["n", 3, 32, 32])], [Node("tokens", [7, "n", 2])], lambda _: [np.zeros((7, 1, 2), np.float32)]
    )
    second = one_graph("n", takes=[Node("x", ["n", 3, 64, 64]), Node("zf", ["n", 1, 2])])
    with pytest.raises(CheckpointError, match=r"feature 'zf' .* got shape \(7, 1, 2\); expected a leading axis of 1"):
        track(opened(TWO_GRAPHS, small=second, first=encode))


# One graph


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_graph_for_one_target_runs_once_for_each(batch: int | str, opened: Callable[..., SidecarSession]) -> None:
    graph = one_graph(batch)
    answer = track(opened(small=graph), targets=3)
    assert [calls["x"][0] for calls in graph.calls] == ([1, 1, 1] if batch == 1 else [3])
    template, search = images(3, 32), images(3, 64)
    score, size, offset = maps_of(search)
    np.testing.assert_allclose(answer["score_map"], score, rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer["offset_map"], offset, rtol=0, atol=1e-6)
    shift = template.mean(axis=(1, 2, 3))[:, None, None, None]
    np.testing.assert_allclose(answer["size_map"], size + shift, rtol=0, atol=1e-6)
    assert np.abs(np.diff(shift, axis=0)).min() > 1e-4  # targets that swapped their templates would show


LAYOUTS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "flat": ("channel-first", lambda m: m.reshape(len(m), m.shape[1], -1)),
    "flatter": ("channel-first", lambda m: m.reshape(len(m), -1)),
    "without the axis of one": ("channel-first", np.squeeze),
    "channel-last": ("channel-last", lambda m: m.transpose(0, 2, 3, 1)),
    "flat, channel-last": ("channel-last", lambda m: m.reshape(*m.shape[:2], -1).transpose(0, 2, 1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_come_out_alike(name: str, opened: Callable[..., SidecarSession]) -> None:
    layout, change = LAYOUTS[name]
    expected, usual = track(opened(small=one_graph())), one_graph()
    graph = one_graph(function=lambda arrays: [change(value) for value in usual.function(arrays)])
    for node in graph.gives:
        node.shape = list(change(np.zeros(node.shape)).shape)
    answer = track(opened(f'layout = "{layout}"\n{ONE_GRAPH}', small=graph))
    for key, value in expected.items():
        np.testing.assert_array_equal(answer[key], value)
    assert answer["size_map"].shape == (2, 2, GRID, GRID)


def test_logits_become_probabilities(opened: Callable[..., SidecarSession]) -> None:
    expected, usual = track(opened(small=one_graph())), one_graph()

    def logits(arrays: Mapping[str, Array]) -> list[Array]:
        score, *rest = usual.function(arrays)
        return [100 * np.log(score / (1 - score)), *rest]

    score = track(opened(f'score = "logit"\n{ONE_GRAPH}', small=one_graph(function=logits)))["score_map"]
    assert score.dtype == np.float32
    assert ((score >= 0) & (score <= 1)).all()
    np.testing.assert_array_equal(score > 0.5, expected["score_map"] > 0.5)
    with pytest.raises(
        CheckpointError, match=r'got values from -\d.* to \d.*; expected probabilities.* score = "logit"'
    ):
        track(opened(small=one_graph(function=logits)))


def test_colours_are_turned_once(opened: Callable[..., SidecarSession]) -> None:
    seen: dict[str, Array] = {}

    def function(arrays: Mapping[str, Array]) -> list[Array]:
        seen.update(arrays)
        return maps_of(arrays["x"])

    track(opened('channels = "bgr"\n' + ONE_GRAPH, small=one_graph(function=function)), targets=1)
    np.testing.assert_array_equal(seen["x"], images(1, 64)[:, ::-1])
    np.testing.assert_array_equal(seen["z"], images(1, 32)[:, ::-1])


# Sentences


WRONG_TEXT = {
    "no TOML": ("name = ", "got no TOML: "),
    "unknown key": ("scores = 'logit'\n" + ONE_GRAPH, r"got key 'scores'; .* Did you mean 'score'\?"),
    "text for a table": (
        "inputs = 'x'\n" + ONE_GRAPH.replace("[inputs]", "[features]"),
        r"expected a table \[inputs\]",
    ),
    "a table for text": ("[name]\n" + ONE_GRAPH.replace('name = "small"', ""), "got name = .*; expected text"),
    "no file": (ONE_GRAPH.replace('file = "small.onnx"', ""), "got no file; expected one"),
    "choice": ("score = 'sigmoid'\n" + ONE_GRAPH, r"got score = 'sigmoid'; expected one of \('probability', 'logit'\)"),
    "unknown input": (ONE_GRAPH.replace("template =", "templat ="), r"in \[inputs\] 'templat'.* mean 'template'\?"),
    "unknown output": (ONE_GRAPH.replace("size_map =", "sizemap ="), r"in \[outputs\] 'sizemap'.* mean 'size_map'\?"),
    "no centre maps": (ONE_GRAPH.replace('size_map = "size"', ""), "got no size_map; .* Only centre maps are read"),
    "number for a name": (ONE_GRAPH.replace('"score"', "1"), r"\[outputs\]: got score_map = 1; expected a name"),
    "no side": (ONE_GRAPH.replace("search_px = 64", ""), r"\[tracker\]: got search_px = None; expected a whole number"),
    "text for a side": (ONE_GRAPH.replace("= 64", "= '64'"), r"\[tracker\]: got search_px = '64'; expected a whole"),
    "features alone": (TWO_GRAPHS.replace('encode_file = "first.onnx"', ""), r"got \[features\] alone"),
    "encode_file alone": (TWO_GRAPHS.replace('zf = "tokens"', ""), "got encode_file alone"),
    "one name twice": (TWO_GRAPHS.replace("zf =", "x ="), r"\[features\]: got 'x'; expected other names"),
}


@pytest.mark.parametrize("case", WRONG_TEXT)
def test_a_wrong_sidecar_is_one_sentence(case: str, tmp_path: Path) -> None:
    text, sentence = WRONG_TEXT[case]
    path = write(tmp_path, text)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        read_sidecar(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_a_missing_sidecar_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.toml: got 'No such file or directory'; expected a TOML file"):
        read_sidecar(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("windw = 0.5", r"unknown fields \['windw'\]"),
        ("window = 'half'", "expected numbers"),
        ("mean = [0.5, 0.5]", "three in mean and std|three finite numbers"),
        ("mean = 0.5", "three in mean and std|three finite numbers"),
        ("std = [1.0, 0.0, 1.0]", "none of std 0"),
    ],
)
def test_a_wrong_tracker_table_is_one_sentence(line: str, sentence: str, tmp_path: Path) -> None:
    sidecar = read_sidecar(write(tmp_path, ONE_GRAPH + line))
    with pytest.raises(ProtocolError, match=sentence):
        TemplateSearchConfig.from_json(sidecar.tracker)


def changed(graph: Graph, node: str, **changes: object) -> Graph:
    """The graph with one of its inputs or outputs changed."""
    ends = {end: [replace(n, **changes) if n.name == node else n for n in getattr(graph, end)] for end in ENDS}
    return replace(graph, **ends)


ENDS = ("takes", "gives")
WRONG_GRAPH = {
    "input": (
        lambda g: changed(g, "x", name="search"),
        r"no input 'x'; the graph takes z \(1, 3, 32, 32\), search \(1, ",
    ),
    "output": (
        lambda g: changed(g, "size", name="boxes"),
        r"no output 'size'; the graph gives score .*, boxes \(1, 2, 4",
    ),
    "one more": (
        lambda g: replace(g, takes=[*g.takes, Node("mask", [1, 4])]),
        "input 'mask' that the sidecar does not",
    ),
    "side": (
        lambda g: changed(g, "x", shape=[1, 3, 96, 96]),
        r"'x': got .* \(1, 3, 96, 96\); expected float32 \(1, 3, 64",
    ),
    "channels last": (lambda g: changed(g, "x", shape=[1, 64, 64, 3]), "input 'x': got .*; expected float32"),
    "half": (lambda g: changed(g, "z", type="tensor(float16)"), r"input 'z': got tensor\(float16\)"),
    "batch of two": (lambda g: changed(g, "x", shape=[2, 3, 64, 64]), r"'x': got .*; expected .* or a free batch"),
    "corners": (
        lambda g: changed(g, "size", shape=[1, 4]),
        r"size_map \(output 'size'\): got shape \(1, 4\).*centre maps",
    ),
    "grid": (lambda g: changed(g, "score", shape=[1, 1, 8, 8]), "score_map .* = 4 cells a side"),
    "channel-last": (
        lambda g: changed(g, "size", shape=[1, 4, 4, 2]),
        r"got shape \(1, 4, 4, 2\); expected \(1, 2, 4, 4\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_GRAPH)
def test_a_graph_that_does_not_fit_is_one_sentence(case: str, opened: Callable[..., SidecarSession]) -> None:
    change, sentence = WRONG_GRAPH[case]
    with pytest.raises(CheckpointError, match=sentence) as caught:
        opened(small=change(one_graph()))
    assert "\n" not in str(caught.value)


def test_shapes_that_the_graph_leaves_open_are_looked_at_when_it_runs(opened: Callable[..., SidecarSession]) -> None:
    graph = one_graph("n", shapes=[["n", "c", "h", "w"]] * 3)
    assert track(opened(small=graph))["size_map"].shape == (2, 2, GRID, GRID)
    boxes = replace(graph, function=lambda arrays: [np.zeros((len(arrays["x"]), 4), np.float32)] * 3)
    with pytest.raises(CheckpointError, match=r"score_map .* got shape \(2, 4\).* Only centre maps"):
        track(opened(small=boxes))


def test_files_that_are_missing_damaged_or_of_another_sum(tmp_path: Path) -> None:
    sidecar = read_sidecar(write(tmp_path))
    with pytest.raises(CheckpointError, match=r"small\.onnx: .*; expected an ONNX file"):
        SidecarSession(sidecar)
    with pytest.raises(
        CheckpointError, match=r"small: got no file .*small\.onnx; expected the graph that .*small\.toml"
    ):
        SidecarSession(sidecar, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"got sha256 [0-9a-f]{64}; expected 0000"):
        SidecarSession(replace(sidecar, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="expected an ONNX file"):  # of the right sum it is opened
        SidecarSession(replace(sidecar, sha256=sha256_of(tmp_path / "small.onnx").upper()))
    with pytest.raises(CheckpointError, match=r"expected the folder of first\.onnx and small\.onnx"):
        SidecarSession(read_sidecar(write(tmp_path, TWO_GRAPHS)), tmp_path / "small.onnx")


def test_a_session_refuses_other_arrays(opened: Callable[..., SidecarSession]) -> None:
    session = opened(small=one_graph())
    for graph, names in (("encode", ["search"]), ("track", ["search"]), ("decode", ["template"])):
        with pytest.raises(ProtocolError, match=rf"got graph '{graph}' with {re.escape(str(names))}"):
            session.run(graph, dict.fromkeys(names, images(1, 32)))


# The sidecar that is shipped


def test_the_shipped_sidecar_says_what_the_table_of_models_says() -> None:
    sidecar, entry = read_sidecar(BUNDLED / "vittrack.toml"), ZOO["vittrack"]
    assert isinstance(sidecar, Sidecar)
    assert TemplateSearchConfig.from_json(sidecar.tracker) == entry.tracker
    told = (sidecar.title, sidecar.licence, sidecar.trained_on, sidecar.page, sidecar.file)
    assert told == (entry.title, entry.licence, entry.trained_on, entry.page, entry.official_file)
    assert not list(BUNDLED.rglob("*ittrack*.onnx")), "its network belongs to the OpenCV zoo"


def test_the_page_shows_sidecars_that_can_be_read_and_every_key(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models" / "onnx.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        sidecar = read_sidecar(write(tmp_path, example))
        entry = ZOO["vittrack" if sidecar.name == "vittrack" else "sightline-nano"]
        shown, known = TemplateSearchConfig.from_json(sidecar.tracker), entry.tracker
        np.testing.assert_allclose([shown.mean, shown.std], [known.mean, known.std], rtol=0, atol=1e-6)
        assert replace(shown, mean=known.mean, std=known.std) == known
    reference = page[page.index("### Every key") : page.index("## OpenCV's own trackers")]
    named = set(re.findall(r"`\[?(\w+)\]?`", reference))
    fields_of_tracker = TemplateSearchConfig(32, 64).to_json().keys()
    assert {*sidecar_module.KEYS, *fields_of_tracker, *sidecar_module.IMAGES, *sidecar_module.MAPS} <= named
