"""A torch model as a session: the one place where the torch tier meets the trackers."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, Protocol

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
    """Runs `encode` and `track` of a torch model in eval mode on one device, float32 in and out."""

    def __init__(self, model: torch.nn.Module, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        self.device = torch.device(device)
        self._masked = bool(getattr(model, "takes_template_mask", False))

    def inputs(self, graph: str) -> tuple[str, ...]:
        """`encode`: the template and what else the model needs of it, a mask where its elimination asks for one."""
        check_graph(graph)
        if graph == "track":
            return ("search",)
        encode: Any = self.model.encode
        needed = (name for name, value in signature(encode).parameters.items() if value.default is value.empty)
        return (*needed, "template_mask") if self._masked else tuple(needed)

    @torch.inference_mode()
    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        check_graph(graph)
        tensors = {name: torch.from_numpy(np.array(value)).to(self.device) for name, value in arrays.items()}
        try:
            answer = getattr(self.model, graph)(**tensors)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:  # torch, of arrays missing or misshapen
            shapes = {name: np.shape(value) for name, value in arrays.items()}
            reason = str(error).partition("\n")[0]
            raise ProtocolError(
                f"graph {graph!r} of {type(self.model).__name__}: got {shapes}; expected its own arrays ({reason}). "
                "Pass what its encode gave and a search region of its size."
            ) from error
        named = answer if graph == "encode" else answer._asdict()
        return {name: value.float().cpu().numpy() for name, value in named.items()}


def check_graph(name: str) -> None:
    """Raise `ProtocolError` unless the graph is one of the two."""
    if name not in ("encode", "track"):
        raise ProtocolError(f"session: got graph {name!r}; expected 'encode' or 'track'. Name one of them.")
