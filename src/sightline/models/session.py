"""A torch model as a session: the one place where the torch tier meets the trackers."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.errors import ProtocolError
from sightline.models.blocks import Maps
from sightline.runtime.session import Arrays


class TemplateSearchModel(Protocol):
    """What a template tracker's network offers: `encode` once, `track` on every frame."""

    def encode(self, template: Tensor) -> dict[str, Tensor]: ...

    def track(self, search: Tensor, **features: Tensor) -> Maps: ...


class TorchSession:
    """Runs the graphs of a torch model in eval mode on one device, float32 in and out.

    They are the methods that `graphs` of the model names, `encode` and `track` where it has none; each takes tensors
    and gives them by name, in a dict or a NamedTuple.
    """

    def __init__(self, model: torch.nn.Module, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        self.device = torch.device(device)
        self.graphs: tuple[str, ...] = tuple(getattr(model, "graphs", ("encode", "track")))
        self._masked = bool(getattr(model, "takes_template_mask", False))

    def inputs(self, graph: str) -> tuple[str, ...]:
        """What a graph needs; of `encode` a mask too where the elimination of a model asks for one."""
        self._check(graph)
        if graph == "track" and "encode" in self.graphs:
            return ("search",)  # and whatever `encode` gave
        parameters = signature(getattr(self.model, graph)).parameters
        needed = tuple(name for name, value in parameters.items() if value.default is value.empty)
        return (*needed, "template_mask") if graph == "encode" and self._masked else needed

    @torch.inference_mode()
    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        self._check(graph)
        tensors = {name: torch.from_numpy(np.array(value)).to(self.device) for name, value in arrays.items()}
        try:
            answer = getattr(self.model, graph)(**tensors)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:  # torch, of arrays missing or misshapen
            shapes = {name: np.shape(value) for name, value in arrays.items()}
            reason = str(error).partition("\n")[0]
            advice = "Pass what its encode gave and a search region of its size."
            if "encode" not in self.graphs:
                advice = "Leave the sizes among the settings as they are."
            raise ProtocolError(
                f"graph {graph!r} of {type(self.model).__name__}: got {shapes}; expected its own arrays ({reason}). "
                f"{advice}"
            ) from error
        named = answer if isinstance(answer, dict) else answer._asdict()
        return {name: value.float().cpu().numpy() for name, value in named.items()}

    def _check(self, graph: str) -> None:
        if graph not in self.graphs:
            known = " or ".join(map(repr, self.graphs))
            raise ProtocolError(f"session: got graph {graph!r}; expected {known}. Name one of them.")
