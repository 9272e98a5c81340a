"""Anyone's template-search network in ONNX, run through our loop: a TOML file beside it says how.

docs/models/onnx.md is the reference of the file. `SidecarSession` turns what the graphs take and give into what the
`Session` protocol promises; crops, window and decoding are the same as for every other model.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError, ProtocolError
from sightline.runtime.onnx import open_graph, run_graph
from sightline.runtime.session import Arrays
from sightline.runtime.store import sha256_of

MAPS = {"score_map": 1, "size_map": 2, "offset_map": 2}  # channels
IMAGES = ("template", "search")
NUMBERS = ("template_px", "search_px", "stride")  # of [tracker]: the shapes of the graphs follow from them
LIMIT = "Only centre maps are read: a score, a size and an offset for every cell; no corners, no anchors."


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar file says; `read_sidecar` makes one.

    file: the graph that runs on every frame; encode_file: the one that runs once for each target, empty where one graph
    takes template and search region together; both relative to the folder that a session is given. inputs: our names of
    the images (template, search) to the graphs'. features: inputs of `file` to the outputs of `encode_file` that they
    take. outputs: our names of the maps to the graph's. tracker: fields of `TemplateSearchConfig`, of which only
    template_px, search_px and stride are checked here. score: what the score map holds. layout: where the maps have
    their channels. channels: the order of colours that the network takes; mean and std are in RGB order all the same.
    """

    path: Path
    name: str
    file: str
    tracker: dict[str, Any]
    outputs: dict[str, str]
    title: str = ""
    licence: str = "not stated"
    trained_on: str = "not stated"
    page: str = ""
    encode_file: str = ""
    sha256: str = ""
    encode_sha256: str = ""
    inputs: dict[str, str] = field(default_factory=lambda: {name: name for name in IMAGES})
    features: dict[str, str] = field(default_factory=dict)
    score: Literal["probability", "logit"] = "probability"
    layout: Literal["channel-first", "channel-last"] = "channel-first"
    channels: Literal["rgb", "bgr"] = "rgb"

    @property
    def grid(self) -> int:
        """Cells per side of the maps."""
        return int(self.tracker["search_px"]) // int(self.tracker["stride"])


KEYS = tuple(entry.name for entry in fields(Sidecar) if entry.name != "path")
TABLES = ("tracker", "outputs", "inputs", "features")
CHOICES = {
    "score": ("probability", "logit"),
    "layout": ("channel-first", "channel-last"),
    "channels": ("rgb", "bgr"),
}


def read_sidecar(path: str | Path) -> Sidecar:
    """The sidecar file, checked as far as it can be without the graphs; opens none of them.

    Raises `CheckpointError` for a file that is missing or no TOML, an unknown key (with the nearest one), a missing
    one, and a value of the wrong type.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"sidecar {path}: got '{error.strerror}'; expected a TOML file. Check the path."
        ) from error
    except ValueError as error:  # of TOML or of UTF-8
        raise CheckpointError(f"sidecar {path}: got no TOML: {error}; expected a TOML file. Correct it.") from error
    refuse_unknown(path, "key", content, KEYS)
    for key, value in content.items():
        if not isinstance(value, dict if key in TABLES else str):
            raise CheckpointError(
                f"sidecar {path}: got {key} = {value!r}; expected {f'a table [{key}]' if key in TABLES else 'text'}. "
                "Correct it."
            )
    for key in ("name", "file", "tracker", "outputs"):
        if not content.get(key):
            raise CheckpointError(f"sidecar {path}: got no {key}; expected one. Add it, as docs/models/onnx.md shows.")
    for key, choices in CHOICES.items():
        if content.get(key, choices[0]) not in choices:
            raise CheckpointError(
                f"sidecar {path}: got {key} = {content[key]!r}; expected one of {choices}. Choose one."
            )
    for table, known in (("inputs", IMAGES), ("outputs", tuple(MAPS)), ("features", None)):
        names = content.get(table, {})
        if known:
            refuse_unknown(path, f"name in [{table}]", names, known)
        if wrong := [f"{name} = {value!r}" for name, value in names.items() if not isinstance(value, str)]:
            raise CheckpointError(f"sidecar {path}: [{table}]: got {wrong[0]}; expected a name of the graph as text.")
    if absent := [name for name in MAPS if name not in content["outputs"]]:
        raise CheckpointError(f"sidecar {path}: [outputs]: got no {absent[0]}; expected {', '.join(MAPS)}. {LIMIT}")
    for key in NUMBERS:
        value = content["tracker"].get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                f"sidecar {path}: [tracker]: got {key} = {value!r}; expected a whole number, pixels. Add it."
            )
    if bool(content.get("encode_file")) != bool(content.get("features")):
        raise CheckpointError(
            f"sidecar {path}: got {'encode_file' if content.get('encode_file') else '[features]'} alone; expected "
            "encode_file and [features] together. Give both for two graphs, none for one."
        )
    content["inputs"] = {name: name for name in IMAGES} | content.get("inputs", {})
    if taken := [name for name in content.get("features", {}) if name in ("search", content["inputs"]["search"])]:
        raise CheckpointError(
            f"sidecar {path}: [features]: got {taken[0]!r}; expected other names than the search region's. Rename the "
            "graph's input."
        )
    return Sidecar(path=path, **content)


def refuse_unknown(path: Path, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `CheckpointError` for the first name that is not known; says the nearest that is."""
    known = tuple(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else "Drop it."
            raise CheckpointError(f"sidecar {path}: got {what} {name!r}; expected one of {', '.join(known)}. {hint}")


class SidecarSession:
    """Runs the one or two graphs of a sidecar on the CPU, as the `Session` protocol asks.

    files: the folder in which the sidecar's files lie, or the file itself where there is one; None is the sidecar's own
    folder. threads: as for `OnnxSession`. A graph with a fixed batch of one runs once for each target: K targets cost K
    times one.

    Raises `CheckpointError` for a file that is missing, damaged or of another SHA-256, for names and shapes that the
    graphs do not have (the sentence lists what they have), and for outputs that are no centre maps; where the graph
    leaves its shapes open, `run` is the first to see them and raises it.
    """

    def __init__(self, sidecar: Sidecar, files: Path | None = None, threads: int = 0) -> None:
        self.sidecar = sidecar
        # What a state keeps of its template -> the input of the graph that takes it.
        self._features = {name: name for name in sidecar.features} or {"template": sidecar.inputs["template"]}
        place = files or sidecar.path.parent
        if place.is_file() and sidecar.encode_file:
            raise CheckpointError(
                f"{sidecar.name}: got the file {place}; expected the folder of {sidecar.encode_file} and "
                f"{sidecar.file}. Pass the folder."
            )
        path = place if place.is_file() else place / sidecar.file
        self._track = open_checked(path, sidecar.sha256, sidecar, threads)
        template, search = (sidecar.inputs[name] for name in IMAGES)
        images = {search: int(sidecar.tracker["search_px"])}
        if sidecar.encode_file:
            encode_path = place / sidecar.encode_file
            self._encode = open_checked(encode_path, sidecar.encode_sha256, sidecar, threads)
            check_inputs(encode_path, self._encode, {template: int(sidecar.tracker["template_px"])}, ())
            check_outputs(encode_path, self._encode, sidecar.features.values())
        else:
            images[template] = int(sidecar.tracker["template_px"])
        check_inputs(path, self._track, images, sidecar.features)
        check_outputs(path, self._track, sidecar.outputs.values())
        # A leading axis of any fixed length is no axis of targets (it may even be that of tokens).
        self._is_single = any(isinstance(node.shape[0], int) for node in self._track.get_inputs() if node.shape)
        shapes = {node.name: node.shape for node in self._track.get_outputs()}
        for name, output in sidecar.outputs.items():
            if all(isinstance(size, int) for size in shapes[output]):
                check_map(sidecar, name, tuple(shapes[output]), 1)

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template",) if graph == "encode" else ("search", *self._features)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if graph not in ("encode", "track") or sorted(arrays) != sorted(self.inputs(graph)):
            raise ProtocolError(
                f"session: got graph {graph!r} with {sorted(arrays)}; expected 'encode' with "
                f"{self.inputs('encode')} or 'track' with {self.inputs('track')}. Pass these."
            )
        return self._run_encode(arrays["template"]) if graph == "encode" else self._run_track(arrays)

    def _run_encode(self, template: NDArray[np.float32]) -> Arrays:
        """Features of each target, stacked for a graph that takes them one by one, joined for one that takes all."""
        each = [self._encode_one(image[None]) for image in self._coloured(template)]
        if self._is_single:
            return {name: np.stack([features[name] for features in each]) for name in each[0]}
        for name, value in each[0].items():
            if value.shape[:1] != (1,):
                raise CheckpointError(
                    f"{self.sidecar.name}: feature {name!r} of one target: got shape {value.shape}; expected a leading "
                    "axis of 1, since the graph takes any number of targets. Export it with a fixed batch of one."
                )
        return {name: np.concatenate([features[name] for features in each]) for name in each[0]}

    def _encode_one(self, template: NDArray[np.float32]) -> Arrays:
        if not self.sidecar.encode_file:
            return {"template": template}
        outputs = run_graph(self._encode, "encode", {self.sidecar.inputs["template"]: template})
        return {name: outputs[output] for name, output in self.sidecar.features.items()}

    def _run_track(self, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        image, search = self.sidecar.inputs["search"], self._coloured(arrays["search"])
        features = {taken: arrays[name] for name, taken in self._features.items()}
        if not self._is_single:
            return self._maps(run_graph(self._track, "track", {image: search, **features}), len(search))
        each = []
        for k in range(len(search)):
            one = {image: search[k : k + 1], **{name: value[k] for name, value in features.items()}}
            each.append(self._maps(run_graph(self._track, "track", one), 1))
        return {name: np.concatenate([maps[name] for maps in each]) for name in each[0]}

    def _coloured(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(K, 3, S, S) in the order of colours that the network takes."""
        return images if self.sidecar.channels == "rgb" else np.ascontiguousarray(images[:, ::-1])

    def _maps(self, outputs: Arrays, targets: int) -> Arrays:
        """The graph's outputs under our names, as (K, C, G, G) with the score in [0, 1]."""
        sidecar, maps = self.sidecar, {}
        for name, output in sidecar.outputs.items():
            value = outputs[output]
            check_map(sidecar, name, value.shape, targets)
            if sidecar.layout == "channel-last":
                value = value.reshape(targets, sidecar.grid, sidecar.grid, MAPS[name]).transpose(0, 3, 1, 2)
            maps[name] = value.reshape(targets, MAPS[name], sidecar.grid, sidecar.grid)
        score = maps["score_map"]
        if sidecar.score == "logit":
            maps["score_map"] = np.exp(-np.logaddexp(0, -score))
        elif score.min() < -1e-3 or score.max() > 1 + 1e-3:
            raise CheckpointError(
                f"{sidecar.name}: score map: got values from {score.min():.3g} to {score.max():.3g}; expected "
                'probabilities, 0 to 1. Set score = "logit" in the sidecar if the graph has no sigmoid at its end.'
            )
        return maps


def open_checked(path: Path, sha256: str, sidecar: Sidecar, threads: int) -> Any:
    """The graph of a file, after a look at its SHA-256 where the sidecar has one."""
    if not path.is_file():
        raise CheckpointError(f"{sidecar.name}: got no file {path}; expected the graph that {sidecar.path} names.")
    if sha256 and (found := sha256_of(path)) != sha256.lower():
        raise CheckpointError(
            f"{path}: got sha256 {found}; expected {sha256}, as {sidecar.path} says. Fetch the file again, or correct "
            "the sidecar if another file is meant."
        )
    return open_graph(path, threads, "Fetch or export it again.")


def described(nodes: Iterable[Any]) -> str:
    """Names and shapes of a graph's inputs or outputs, in words."""
    return ", ".join(f"{node.name} ({', '.join(str(size) for size in node.shape)})" for node in nodes)


def check_inputs(path: Path, session: Any, images: Mapping[str, int], features: Iterable[str]) -> None:
    """Raise `CheckpointError` unless the graph takes exactly these; `images` gives the side of each in pixels."""
    nodes = {node.name: node for node in session.get_inputs()}
    given = {*images, *features}
    if absent := [name for name in (*images, *features) if name not in nodes]:
        raise CheckpointError(
            f"{path}: got no input {absent[0]!r}; the graph takes {described(nodes.values())}. Correct the sidecar."
        )
    if unfed := [name for name in nodes if name not in given]:
        raise CheckpointError(
            f"{path}: got an input {unfed[0]!r} that the sidecar does not feed; the graph takes "
            f"{described(nodes.values())}. Name it in the sidecar, or export the graph without it."
        )
    for name, side_px in images.items():
        expected, node = (1, 3, side_px, side_px), nodes[name]
        fits = len(node.shape) == 4 and all(
            not isinstance(got, int) or got == size for got, size in zip(node.shape, expected, strict=True)
        )
        if not fits or node.type != "tensor(float)":
            raise CheckpointError(
                f"{path}: input {name!r}: got {node.type} ({', '.join(map(str, node.shape))}); expected float32 "
                f"{expected} or a free batch. Correct [inputs] and the sides in [tracker], or export the graph so."
            )


def check_outputs(path: Path, session: Any, names: Iterable[str]) -> None:
    """Raise `CheckpointError` unless the graph gives all of these."""
    nodes = {node.name: node for node in session.get_outputs()}
    if absent := [name for name in names if name not in nodes]:
        raise CheckpointError(
            f"{path}: got no output {absent[0]!r}; the graph gives {described(nodes.values())}. Correct the sidecar."
        )


def check_map(sidecar: Sidecar, name: str, shape: tuple[int, ...], targets: int) -> None:
    """Raise `CheckpointError` unless `shape` can be a map of K targets: (K, C, G, G), the cells in one axis or two, the
    channels last where the sidecar says so; axes of one do not count."""
    count, grid = MAPS[name], sidecar.grid
    first = sidecar.layout == "channel-first"
    spans = [(grid, grid), (grid * grid,)]
    legal = [(targets, count, *span) if first else (targets, *span, count) for span in spans]
    legal.append((targets, count * grid * grid))

    def bare(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size for size in sizes if size != 1)

    if bare(shape) not in map(bare, legal):
        raise CheckpointError(
            f"{sidecar.name}: {name} (output {sidecar.outputs[name]!r}): got shape {shape}; expected {legal[0]} or "
            f"flat ({sidecar.layout}, search_px / stride = {grid} cells a side). {LIMIT}"
        )
