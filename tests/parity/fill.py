"""The rule that fills every parameter, buffer and input of a parity test from its name alone.

The stored outputs under `data/` were made by the official implementations with weights filled by this rule, so no
trained weights are needed: a key and a shape determine the values.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import nn

EMBEDDINGS = {
    "cls_token", "mask_token", "pos_embed", "pos_embed_z", "pos_embed_x",
    "cls_pos_embed", "track_query", "query_embed", "token_type_embed",
}  # fmt: skip


def unit(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise of mean 0 and variance 1, float64, determined by the CRC-32 of `name`."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    u01 = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((2 * u01 - 1) * math.sqrt(3)).reshape(shape)


def parameter(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float64 value of one `state_dict` entry; the first matching line wins."""
    last = key.rsplit(".", 1)[-1]
    u = unit(key, shape)
    if last == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if last == "running_var":
        return 1 + 0.1 * u
    if last == "running_mean":
        return 0.05 * u
    if key.startswith("neck.") and last == "weight":
        return 0.05 * (1 + 0.1 * u)
    if key == "norm.weight":
        return 0.2 * (1 + 0.1 * u)
    if last == "gamma":
        return 0.5 + 0.05 * u
    for suffix, bias in (("conv5_size.bias", -1.5), ("conv5_offset.bias", 0.5), ("reg_mlp.layers.2.bias", -2.2)):
        if key.endswith(suffix):
            return bias + 0.02 * u
    if last in EMBEDDINGS:
        return 0.5 * u
    if len(shape) <= 1:
        return 1 + 0.1 * u if last == "weight" else 0.02 * u
    return gain(key, shape) / math.sqrt(math.prod(shape[1:])) * u


def gain(key: str, shape: tuple[int, ...]) -> float:
    """The factor of a weight matrix; each matching line replaces the one before."""
    value = 1.0
    if len(shape) == 4 and "patch_embed" not in key:
        value = 1.5
    if key.endswith("feature_fusor.adj_layer.weight"):
        value = 0.1
    if ".routed_experts." in key:
        value = 0.5
    if key.endswith(("conv5_size.weight", "conv5_offset.weight", "reg_mlp.layers.2.weight")):
        value = 0.2
    return value


def fill(module: nn.Module) -> nn.Module:
    """Fill a module in place by its `state_dict` keys; returns it in eval mode."""
    state = {
        key: torch.from_numpy(np.asarray(parameter(key, tuple(tensor.shape)))).to(tensor.dtype)
        for key, tensor in module.state_dict().items()
    }
    module.load_state_dict(state, strict=True)
    return module.eval()


def image_input(name: str, side_px: int, *, unit_range: bool = False) -> torch.Tensor:
    """A (1, 3, S, S) float32 input: normalised noise, or values in [0, 1] for MVT (`unit_range`)."""
    noise = unit("input:" + name, (1, 3, side_px, side_px))
    if unit_range:
        noise = np.clip(0.5 + 0.25 * noise, 0, 1)
    return torch.from_numpy(noise.astype(np.float32))


def synthetic_video() -> list[np.ndarray]:
    """Eight RGB uint8 frames, 320 x 240, in integer arithmetic; the target starts at xywh = (100, 90, 64, 48)."""
    y, x = np.mgrid[0:240, 0:320].astype(np.int64)
    frames = []
    for t in range(8):
        sx, sy = x - (100 + 11 * t), y - (90 + 7 * t)
        inside = (sx >= 0) & (sx < 64) & (sy >= 0) & (sy < 48)
        channels = []
        for c in range(3):
            base = (3 * x + 5 * y + ((x * y) >> 5) + 37 * c + ((x * x) >> 6) * (c + 1)) % 160
            h = ((x * 73856093) ^ (y * 19349663) ^ ((c + 1) * 83492791)) % 48
            checker = (((sx // 8) + (sy // 8)) % 2) * (150 - 40 * c) + ((5 * sx + 9 * sy * (c + 1)) % 90) + 10
            channels.append(np.where(inside, checker, 32 + base + h))
        frames.append(np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8))
    return frames
