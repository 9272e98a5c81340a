"""A model as ONNX graphs, one to a file, in the layout that `sightline.runtime.onnx` reads."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.errors import CheckpointError, MissingExtra
from sightline.export import detection_graphs
from sightline.export.examples import example, track_inputs
from sightline.files import NO_ROOM
from sightline.models.blocks import Maps
from sightline.models.session import TorchSession
from sightline.models.spmtrack import SideMaps
from sightline.runtime.onnx import FILES, FORMAT, METADATA_KEY, NEXT
from sightline.runtime.session import Arrays
from sightline.trackers.spmtrack import SPMTrackConfig
from sightline.trackers.zoo import BoxTrackerConfig, MultiObjectConfig, TrackerConfig

if TYPE_CHECKING:
    from torch.export import Dim
    from torch.onnx import ONNXProgram

    FreeAxes = Mapping[str, Mapping[int, Dim]]

OPSET = 20  # the first with GELU as one operator; LayerNormalization came with 17
LARGEST = 1_800_000_000  # bytes of weights; more lie in a file of their own, since protobuf ends at 2 GiB


def export_onnx(
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    tracker: TrackerConfig,
    options: Mapping[str, object],
    weights_sha256: str,
    notice: str = "",
) -> None:
    """Write the graphs of a model into `folder`, as `encode.onnx` and `track.onnx`; all appear, or none does.

    model: on the CPU, left in eval mode: a `TemplateSearchModel`, an SPMTrack, whose `fused` copy makes the graphs of
    few large products that one wants, or a model that finds its targets, which names its graphs. name: the zoo's.
    tracker: the loop's constants, which also give the sizes of images. options: what was chosen of the model's config.
    weights_sha256: of the file the weights came from. notice: rights in these weights. All but the model travel in the
    metadata of every file.

    The leading axis, `targets`, is free in every input and output of a model that starts on boxes, and so is the number
    of SPMTrack's templates; GTR's images may have any size that is padded as the tracker does, and there may be any
    number of objects. Weights beyond `LARGEST` bytes go to `track.onnx.data`. Costs ten seconds to some minutes, and
    memory for about four times the weights. Raises `MissingExtra`, and `CheckpointError` where `folder` cannot be
    written or holds other things than an earlier export.
    """
    need_onnx()
    description = {
        "format": FORMAT,
        "model": name,
        "tracker": tracker.to_json(),
        "options": dict(options),
        "weights_sha256": weights_sha256,
        "notice": notice,
    }
    with output_folder(folder) as part, torch.no_grad():
        model.eval()
        if isinstance(tracker, MultiObjectConfig):
            description["graphs"] = list(TorchSession(model).graphs)
            save_named_graphs(model, tracker, json.dumps(description), part)
        else:
            save_two_graphs(model, tracker, json.dumps(description), part)


def save_two_graphs(model: nn.Module, tracker: BoxTrackerConfig, metadata: str, folder: Path) -> None:
    """`encode` and `track`."""
    maps: tuple[str, ...] = Maps._fields
    if isinstance(tracker, SPMTrackConfig):
        maps, tracker = SideMaps._fields, replace(tracker, num_templates=2)
    # Two targets and two templates: of one, the exporter would take the axis for a constant.
    arrays = example(np.random.default_rng(0), 2, tracker, masked=getattr(model, "takes_template_mask", False))
    inputs = {key: torch.from_numpy(array) for key, array in arrays.items()}
    search = inputs.pop("search")
    features: dict[str, Tensor] = model.encode(**inputs)  # type: ignore[operator]
    passed_on = {key for key, feature in features.items() if feature is inputs.get(key)}
    save_graph(model, "encode", inputs, tuple(features), free_axes(inputs), metadata, folder / "encode.onnx", passed_on)
    inputs = track_inputs(search, features, tracker)
    save_graph(model, "track", inputs, maps, free_axes(inputs), metadata, folder / "track.onnx")


def save_named_graphs(model: nn.Module, tracker: MultiObjectConfig, metadata: str, folder: Path) -> None:
    """Every graph that one pass calls, traced on what it was called with."""
    session = TorchSession(model)

    def traced(graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        answer, path = session.run(graph, arrays), folder / f"{graph}.onnx"
        if not path.exists():
            inputs = {key: torch.from_numpy(array) for key, array in arrays.items()}
            free = detection_graphs.free_axes(arrays, tracker)
            save_graph(model, graph, inputs, tuple(answer), free, metadata, path)
        return answer

    detection_graphs.one_pass(traced, detection_graphs.example(np.random.default_rng(0), tracker), tracker)


def free_axes(inputs: Mapping[str, Tensor]) -> FreeAxes:
    """The number of targets, and of SPMTrack's templates."""
    targets, templates = torch.export.Dim("targets"), torch.export.Dim("templates")
    # SPMTrack's memory is (K, M, T, D); the tokens that other models call so are of one template, (K, T, D).
    is_memory = {name: name == "template_tokens" and tensor.dim() == 4 for name, tensor in inputs.items()}
    return {name: {0: targets, 1: templates} if is_memory[name] else {0: targets} for name in inputs}


class Graph(nn.Module):
    """One method of a model as a module: the named inputs in order, the named outputs in order."""

    def __init__(self, model: nn.Module, method: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.method, self.inputs, self.outputs = method, inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = getattr(self.model, self.method)(**dict(zip(self.inputs, tensors, strict=True)))
        arrays = found if isinstance(found, dict) else found._asdict()
        return tuple(arrays[name] for name in self.outputs)


def save_graph(
    model: nn.Module,
    method: str,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    free: FreeAxes,
    metadata: str,
    path: Path,
    passed_on: Collection[str] = (),
) -> None:
    """Trace one method of `model` on example inputs and write it with the metadata, large weights to `path`.data.

    free: axes of the inputs, by name, that need not be as long as here. passed_on: outputs that are inputs handed
    through. An output that is computed anew under the name of an input is called `NEXT` and that name in the file.
    """
    # ONNX has one name for one value: what is handed through is declared below and never enters the trace.
    computed = tuple(name for name in outputs if name not in passed_on)
    with silence():
        # The torch.export way, not the older tracer: it proves that the batch is free instead of leaving Python
        # numbers in the graph unseen, its graphs have half the nodes, and it is the one that torch maintains. The
        # tracer's graphs differ neither in numbers nor in speed, and onnxslim on top gains nothing.
        program: ONNXProgram | None = torch.onnx.export(
            Graph(model, method, tuple(inputs), computed).eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[f"{NEXT}{name}" if name in inputs else name for name in computed],
            dynamic_shapes=(tuple(dict(free.get(name, {})) for name in inputs),) if inputs else (),
            verbose=False,
        )
    assert program is not None
    graph = program.model.graph
    graph.outputs.extend(value for value in graph.inputs if value.name in passed_on)
    for node in graph:
        node.metadata_props.clear()  # stack traces, with the paths of the machine that exported
    program.model.metadata_props[METADATA_KEY] = metadata
    num_bytes = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    program.save(path, external_data=num_bytes > LARGEST)


def need_onnx() -> None:
    """Raise `MissingExtra` unless what torch's exporter needs is installed; loads nothing."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"sightline.export needs {package}, which is not installed. Run: pip install 'sightline[export]'"
            )


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Make `folder`, and give a hidden one in it, whose files take their places when the block ends well.

    If the block fails, `folder` is as it was, or away again. Raises `CheckpointError` where it cannot be made, holds
    anything but the files of an earlier export, or has no room.
    """
    is_new = not folder.exists()
    part = folder / f".{token_hex(4)}.part"
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: got {error.strerror!r}; expected a folder that can be made and written. Choose another place."
        ) from error
    try:
        if others := sorted(path.name for path in folder.iterdir() if path.name not in FILES and path.name[0] != "."):
            raise CheckpointError(
                f"{folder}: got a folder with {others[0]!r} in it; expected a new or empty one, or one with nothing "
                "but an earlier export. Choose another name."
            )
        yield part
        # track.onnx leaves first and comes last: a folder that has it never mixes old files with new ones.
        for name in reversed(FILES):
            (folder / name).unlink(missing_ok=True)
        for path in sorted(part.iterdir(), key=lambda path: FILES.index(path.name)):
            path.rename(folder / path.name)
        part.rmdir()
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise CheckpointError(
                f"{folder}: cannot be written: got {error.strerror!r}; expected room for all files. Free some space or "
                "write elsewhere."
            ) from error
        raise


@contextmanager
def silence() -> Iterator[None]:
    """Keep to itself what torch's exporter says about torchvision, tracing, constants and its own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
