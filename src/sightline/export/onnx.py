"""A template-search model as two ONNX graphs, in the layout that `sightline.runtime.onnx` reads."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sightline.errors import CheckpointError, MissingExtra
from sightline.files import atomic_path
from sightline.models.blocks import Maps
from sightline.runtime.onnx import FORMAT, GRAPHS, METADATA_KEY
from sightline.trackers.template_search import TemplateSearchConfig

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20  # the first with GELU as one operator; LayerNormalization came with 17


def export_onnx(
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    tracker: TemplateSearchConfig,
    options: Mapping[str, object],
    weights_sha256: str,
    notice: str = "",
) -> None:
    """Write `encode.onnx` and `track.onnx` of a template-search model into `folder`; both appear, or neither does.

    model: a `TemplateSearchModel` on the CPU, left in eval mode. name: the zoo's. tracker: the loop's constants, which
    also give the sides of the two crops. options: what was chosen of the model's config. weights_sha256: of the file
    the weights came from. notice: rights in these weights. All but the model travel in both files' metadata.

    The leading axis, `targets`, is free in every input and output. Costs ten seconds to a minute, and memory for about
    four times the weights. Raises `MissingExtra`, and `CheckpointError` where `folder` cannot be written or holds
    other things than an earlier export.
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
    metadata = json.dumps(description)
    with output_folder(folder), torch.no_grad():
        model.eval()
        encode_inputs = encode_example(model, tracker)
        features: dict[str, Tensor] = model.encode(**encode_inputs)  # type: ignore[operator]
        track_inputs = {"search": torch.zeros(2, 3, tracker.search_px, tracker.search_px), **features}
        # track.onnx takes its place last: where it is, both are.
        with (
            atomic_path(folder / "track.onnx", CheckpointError) as track_path,
            atomic_path(folder / "encode.onnx", CheckpointError) as encode_path,
        ):
            save_graph(model, "encode", encode_inputs, tuple(features), metadata, encode_path)
            save_graph(model, "track", track_inputs, Maps._fields, metadata, track_path)


def encode_example(model: nn.Module, tracker: TemplateSearchConfig) -> dict[str, Tensor]:
    """Inputs of `encode` for two targets; of one, the exporter would take the batch for a constant."""
    inputs = {"template": torch.zeros(2, 3, tracker.template_px, tracker.template_px)}
    if getattr(model, "takes_template_mask", False):
        inputs["template_mask"] = torch.ones(2, (tracker.template_px // tracker.stride) ** 2)
    return inputs


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
    metadata: str,
    path: Path,
) -> None:
    """Trace one method of `model` on example inputs and write it with the metadata."""
    # ONNX has one name for one value: what `encode` hands through is declared below and never enters the trace.
    passed_on = [position for position, name in enumerate(inputs) if name in outputs]
    computed = tuple(name for name in outputs if name not in inputs)
    targets = torch.export.Dim("targets")
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
            output_names=list(computed),
            dynamic_shapes=(tuple({0: targets} for _ in inputs),),
            verbose=False,
        )
    assert program is not None
    graph = program.model.graph
    graph.outputs.extend(graph.inputs[position] for position in passed_on)
    for node in graph:
        node.metadata_props.clear()  # stack traces, with the paths of the machine that exported
    program.model.metadata_props[METADATA_KEY] = metadata
    program.save(path, external_data=False)


def need_onnx() -> None:
    """Raise `MissingExtra` unless what torch's exporter needs is installed; loads nothing."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"sightline.export needs {package}, which is not installed. Run: pip install 'sightline[export]'"
            )


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make `folder`, and take it away again if the block fails.

    Raises `CheckpointError` where it cannot be made or holds anything but the two files of an earlier export.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: got {error.strerror!r}; expected a folder that can be made. Choose another place."
        ) from error
    files = {f"{graph}.onnx" for graph in GRAPHS}
    if others := sorted(path.name for path in folder.iterdir() if path.name not in files and path.name[0] != "."):
        raise CheckpointError(
            f"{folder}: got a folder with {others[0]!r} in it; expected a new or empty one, or one with nothing but an "
            "earlier export. Choose another name."
        )
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def silence() -> Iterator[None]:
    """Keep to itself what torch's exporter says about torchvision, tracing and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
