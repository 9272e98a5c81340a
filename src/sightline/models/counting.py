"""Multiply-accumulates of a forward pass, by the two rules that tracking papers use.

"Every product" counts convolutions, linear layers and the products of two activations: both products of attention and
correlations. "thop's rule", after the tool behind OSTrack's Table 3, knows layers only, so the products of activations
are missing from it. Neither counts biases, norms, softmax or other element-wise work. One multiply-accumulate is one
here; tools that speak of FLOPs give twice the number.

An attention matrix counts once. Where a model computes a few of its rows a second time beside the fused attention, as
candidate elimination does, those rows are part of what was counted already: the paper forms the matrix and reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GIGA = 1e9
LAYERS = ("conv2d", "linear")
MATRIX_PRODUCTS = ("matmul", "bmm", "mm")


class ProductCounter(TorchFunctionMode):
    """While it is entered, adds up the multiply-accumulates of torch's functions: `layers` and `activations`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = 0
        self.activations = 0
        self._keys: Tensor | None = None  # right side of the last product, while that may be rows of an attention
        self._rows = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name in LAYERS:
            self.layers += result.numel() * args[1][0].numel()  # weight (out, in, ...): products of one output value
            self._keys = None
        elif name in MATRIX_PRODUCTS:
            self._keys, self._rows = args[1], result.numel() * args[0].shape[-1]
            self.activations += self._rows
        elif name == "scaled_dot_product_attention":
            query, key, value = args[:3]
            if self._keys is not None and self._keys.untyped_storage() is key.untyped_storage():
                self.activations -= self._rows
            num_pairs = query.shape[:-1].numel() * key.shape[-2]
            self.activations += num_pairs * (query.shape[-1] + value.shape[-1])  # Q K^T, then A V
            self._keys = None
        return result


def count_gmac(model: Callable[..., Any], *inputs: Tensor, attention: bool = True) -> float:
    """Billions of multiply-accumulates of `model(*inputs)`, the whole batch.

    attention: True for every product, False for thop's rule. Model and inputs may live on the "meta" device, where
    nothing is computed and no memory is taken. Counted are `conv2d`, `linear`, `scaled_dot_product_attention` and
    `matmul`, `bmm`, `mm`, which is all that our networks multiply with; other functions (einsum, say) count nothing.
    """
    with torch.inference_mode(), ProductCounter() as counter:
        model(*inputs)
    return (counter.layers + (counter.activations if attention else 0)) / GIGA
