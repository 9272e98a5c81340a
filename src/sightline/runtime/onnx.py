"""ONNX Runtime as a session: a folder with one file for each graph, as `encode.onnx`, that explains itself.

Each file carries one metadata entry, `sightline`, a JSON object: `format` (1), `model` (the zoo's name), `tracker` (the
fields of its config), `graphs` (the names of all files of the folder; `encode` and `track` where it says nothing),
`options` (what was chosen at export), `weights_sha256`, `notice` (rights). Weights of more than 1.8 GB lie beside their
graph, in `track.onnx.data`.

ONNX has one name for one value, so what a graph takes and gives anew, as SPMTrack's `query`, is called `next_query`
among the outputs of the file; the session calls it `query`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError, ProtocolError
from sightline.runtime.session import Arrays

GRAPHS = ("encode", "track")  # of a tracker that starts on a box
KNOWN = ("encode", "tokens", "association", "associate", "classify", "embed", "detect", "track")  # of any
# All that may lie in such a folder, those of data only where they are large.
FILES = tuple(f"{graph}.onnx{suffix}" for graph in KNOWN for suffix in (".data", ""))
NEXT = "next_"
METADATA_KEY = "sightline"
FORMAT = 1


class OnnxSession:
    """Runs the graphs of an exported folder on the CPU.

    `threads` 0 leaves the count to ONNX Runtime, whose threads then sleep whenever they wait; a number of threads stays
    awake inside each call, which is faster as long as so many cores are free.

    Raises `CheckpointError` when a file is missing, damaged, without our metadata, or of another model than the others.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        first = next((graph for graph in KNOWN if (folder / f"{graph}.onnx").is_file()), GRAPHS[0])
        self._sessions: dict[str, Any] = {}
        self.metadata = self._open(folder, first, threads)
        self.graphs: tuple[str, ...] = tuple(self.metadata.get("graphs", GRAPHS))
        for graph in self.graphs:
            if graph != first and self._open(folder, graph, threads) != self.metadata:
                raise CheckpointError(f"exported model {folder}: its files differ in metadata. Export it again.")

    def _open(self, folder: Path, graph: str, threads: int) -> dict[str, Any]:
        """Open one graph; returns what its file says of itself."""
        path = folder / f"{graph}.onnx"
        if not path.is_file():
            expected = " and ".join(f"{name}.onnx" for name in (self.graphs if self._sessions else GRAPHS))
            files = ", ".join(sorted(path.name for path in folder.glob("*.safetensors")))  # a training's folder, say
            advice = f"Pass a file of it: {files}." if files else "Run: sightline export NAME --weights FILE -o DIR"
            raise CheckpointError(f"exported model {folder}: got no {graph}.onnx; expected {expected}. {advice}")
        session = self._sessions[graph] = open_graph(path, threads, "Export it again.")
        return read_metadata(session.get_modelmeta().custom_metadata_map, path)

    def inputs(self, graph: str) -> tuple[str, ...]:
        return tuple(node.name for node in self._session(graph).get_inputs())

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        return {
            name.removeprefix(NEXT): value for name, value in run_graph(self._session(graph), graph, arrays).items()
        }

    def _session(self, graph: str) -> Any:
        if graph not in self._sessions:
            raise ProtocolError(f"session: got graph {graph!r}; expected one of {self.graphs}. Name one of them.")
        return self._sessions[graph]


def open_graph(path: Path, threads: int, cure: str) -> Any:
    """The `InferenceSession` of a file on the CPU; `threads` as for `OnnxSession`. `CheckpointError` ends in `cure`."""
    # ONNX Runtime reports on its use to its makers unless told otherwise before it is loaded. A person may insist.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort  # heavy: only who runs a network pays

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised, and once is enough
    # Threads that spin inside a call answer sooner: 2.9 against 3.9 ms a step of sightline-nano on two. They must
    # stop with it: spinning on between frames takes the cores that decode and encode, a fifth of the rate with -o.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no public base class of its errors
        raise CheckpointError(f"{path}: {first_line(error)}; expected an ONNX file. {cure}") from error


def run_graph(session: Any, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """All outputs of an `InferenceSession` by name; `ProtocolError` calls it `graph`."""
    names = [node.name for node in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))
    except Exception as error:
        shapes = {name: np.shape(value) for name, value in arrays.items()}
        expected = {node.name: node.shape for node in session.get_inputs()}
        raise ProtocolError(f"graph {graph!r}: got {shapes}; expected {expected}. {first_line(error)}") from error


def read_metadata(entries: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Our JSON object out of an ONNX file's metadata, or `CheckpointError`."""
    try:
        content = json.loads(entries[METADATA_KEY])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: got no {METADATA_KEY!r} metadata; expected a file made by 'sightline export'. Export it again."
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path}: got format {found}; expected {FORMAT}. Export it again.")
    if missing := {"model", "tracker"} - content.keys():
        raise CheckpointError(f"{path}: got metadata without {sorted(missing)}; expected both. Export it again.")
    return dict(content)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
