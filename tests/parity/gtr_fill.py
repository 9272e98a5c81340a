"""The rule of the GTR fixtures: a key and a shape determine the value of a parameter, a buffer or an input."""

from __future__ import annotations

import functools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DATA = Path(__file__).parent / "data" / "gtr"


def noise(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float64, determined by the CRC-32 of `key`."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)


def parameter(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One entry of the whole network's state dict, float64; the first matching line wins."""
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    x = noise(key, shape)
    if len(shape) >= 2:
        return x / math.sqrt(math.prod(shape[1:]))
    if last == "weight":
        return 1 + 0.1 * x
    if last == "running_var":
        return 1 + 0.1 * np.abs(x)
    return 0.1 * x


def fill(module: nn.Module, prefix: str = "", plus: dict[str, float] | None = None) -> nn.Module:
    """Fill a part of the network whose keys begin with `prefix`; returns it in eval mode.

    plus: what is added to the parameters whose whole key ends so. Works on a module made on the meta device, too.
    """
    state = {}
    for key, tensor in module.state_dict().items():
        value = parameter(prefix + key, tuple(tensor.shape))
        value = value + sum(extra for end, extra in (plus or {}).items() if (prefix + key).endswith(end))
        state[key] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    module.load_state_dict(state, assign=True)
    return module.eval()


@functools.cache
def manifest(name: str) -> dict[str, dict[str, Any]]:
    """Key to shape, dtype and kind (parameter or buffer) of one of the five configurations."""
    return json.loads((DATA / "manifest.json").read_text())[name]["keys"]


def manifest_of(module: nn.Module, prefix: str = "") -> dict[str, dict[str, Any]]:
    """What the manifest would say of a module."""
    learnt = dict(module.named_parameters())
    return {
        prefix + key: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "kind": "parameter" if key in learnt else "buffer",
        }
        for key, tensor in module.state_dict().items()
    }


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)
