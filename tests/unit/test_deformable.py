"""Modulated deformable convolution against its definition, tap by tap."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from sightline.models.deformable import ModulatedDeformConv, deform_conv, split_offset


def read(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear (C,) of (C, H, W), cells outside being 0."""
    height, width = image.shape[1:]
    total = np.zeros(len(image))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def by_definition(x, offset, mask, weight, bias) -> np.ndarray:
    batch, _, height, width = x.shape
    out = np.tile(bias[None, :, None, None], (batch, 1, height, width))
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                for k in range(9):
                    y_at = i + k // 3 - 1 + offset[b, 2 * k, i, j]
                    x_at = j + k % 3 - 1 + offset[b, 2 * k + 1, i, j]
                    out[b, :, i, j] += mask[b, k, i, j] * weight[:, :, k // 3, k % 3] @ read(x[b], y_at, x_at)
    return out


def arrays(seed: int, shape: tuple[int, int] = (5, 6), spread: float = 3.0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    sizes = [(2, 3, *shape), (2, 18, *shape), (2, 9, *shape), (4, 3, 3, 3), (4,)]
    x, offset, mask, weight, bias = (torch.from_numpy(rng.standard_normal(size)) for size in sizes)
    return [x, spread * offset, mask.sigmoid(), weight, bias]


def test_every_cell_is_the_sum_of_its_taps() -> None:
    for shape in ((5, 6), (1, 4), (4, 1), (1, 1)):
        inputs = arrays(0, shape)
        if shape == (5, 6):
            inputs[1][0] = torch.randint(-3, 4, (18, 5, 6))  # whole cells, also exactly onto and beyond the border
        expected = by_definition(*(tensor.numpy() for tensor in inputs))
        np.testing.assert_allclose(deform_conv(*inputs).numpy(), expected, atol=1e-12)
        without = deform_conv(*inputs[:4]) + inputs[4][:, None, None]
        np.testing.assert_allclose(without.numpy(), expected, atol=1e-12)
    x, offset, *rest = inputs = arrays(0)
    swapped = offset.unflatten(1, (9, 2)).flip(2).flatten(1, 2)  # dx before dy
    assert (deform_conv(*inputs) - deform_conv(x, swapped, *rest)).abs().max() > 0.1


def test_without_offsets_and_masks_it_is_a_convolution() -> None:
    x, offset, mask, weight, bias = arrays(1)
    got = deform_conv(x, torch.zeros_like(offset), torch.ones_like(mask), weight, bias)
    torch.testing.assert_close(got, F.conv2d(x, weight, bias, padding=1))


def test_single_precision_is_as_good() -> None:
    inputs = arrays(2, (40, 50))
    torch.testing.assert_close(
        deform_conv(*(tensor.float() for tensor in inputs)), deform_conv(*inputs).float(), atol=3e-4, rtol=0
    )


def test_gradients() -> None:
    inputs = [tensor.requires_grad_() for tensor in arrays(3, (3, 4), spread=0.3)]
    assert torch.autograd.gradcheck(deform_conv, inputs)


def test_the_module_predicts_its_offsets() -> None:
    torch.manual_seed(0)
    layer = ModulatedDeformConv(3, 4).double()
    assert list(layer.state_dict()) == ["offset.weight", "offset.bias", "conv.weight", "conv.bias"]
    assert layer.offset.weight.shape == (27, 3, 3, 3)
    torch.nn.init.normal_(layer.offset.bias)
    x = arrays(4)[0]
    predicted = layer.offset(x)
    offset, mask = split_offset(predicted)
    assert torch.equal(offset, predicted[:, :18])
    assert torch.equal(mask, predicted[:, 18:].sigmoid())
    expected = by_definition(*(t.detach().numpy() for t in (x, offset, mask, layer.conv.weight, layer.conv.bias)))
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)
    layer(x).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in layer.parameters())
