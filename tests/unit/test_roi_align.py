"""RoIAlign against its definition, sample by sample."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sightline.models.deformable import ModulatedDeformConv
from sightline.models.roi_align import roi_align

BINS = 3


def read(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear (C,) of (C, H, W), with RoIAlign's rule at the border."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return (1 - dy) * ((1 - dx) * image[:, top, left] + dx * image[:, top, right]) + dy * (
        (1 - dx) * image[:, bottom, left] + dx * image[:, bottom, right]
    )


def by_definition(features: Tensor, boxes: Tensor, num_bins: int, scale: float, images: list[int]) -> np.ndarray:
    maps = features.numpy()
    out = np.zeros((len(boxes), maps.shape[1], num_bins, num_bins))
    for n, (x1, y1, x2, y2) in enumerate((boxes.double().numpy() * scale - 0.5).tolist()):
        bin_h, bin_w = (y2 - y1) / num_bins, (x2 - x1) / num_bins
        rows, columns = max(math.ceil(bin_h), 0), max(math.ceil(bin_w), 0)
        for i in range(num_bins):
            for j in range(num_bins):
                for r in range(rows):
                    for c in range(columns):
                        y, x = y1 + (i + (r + 0.5) / rows) * bin_h, x1 + (j + (c + 0.5) / columns) * bin_w
                        out[n, :, i, j] += read(maps[images[n]], y, x) / (rows * columns)
    return out


def some_boxes(rng: np.random.Generator, count: int) -> Tensor:
    """Around a map of 11 x 14 cells of 8 px: inside, across every border, far out, tiny and larger than the map."""
    centres = rng.uniform((-30, -30), (142, 118), (count, 2))
    sizes = np.exp(rng.uniform(np.log(0.5), np.log(300), (count, 2)))
    return torch.from_numpy(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1))


def test_every_bin_is_the_mean_of_its_samples() -> None:
    rng = np.random.default_rng(0)
    features, boxes = torch.from_numpy(rng.standard_normal((2, 3, 11, 14))), some_boxes(rng, 60)
    # Samples on cell centres, exactly one cell outside on either side, a box of the whole map, one that is inside out.
    boxes[:5] = torch.tensor(
        [[0, 0, 24, 24], [-16, -16, 8, 8], [84, 72, 132, 108], [0, 0, 112, 88], [50, 50, 20, 80]], dtype=torch.float64
    )
    images = rng.integers(0, 2, 60).tolist()
    expected = by_definition(features, boxes, BINS, 1 / 8, images)
    got = roi_align(features, boxes, BINS, 1 / 8, torch.tensor(images))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    assert not got[4].any()
    first = [0] * 60
    np.testing.assert_allclose(
        roi_align(features, boxes, BINS, 1 / 8).numpy(), by_definition(features, boxes, BINS, 1 / 8, first), atol=1e-12
    )
    assert np.abs(got.numpy() - by_definition(features, boxes + 0.1, BINS, 1 / 8, images)).max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_map_of_one_row_or_column(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    features, boxes = torch.from_numpy(rng.standard_normal((1, 2, *shape))), some_boxes(rng, 30) / 4
    expected = by_definition(features, boxes, 7, 1 / 8, [0] * 30)
    np.testing.assert_allclose(roi_align(features, boxes, 7, 1 / 8).numpy(), expected, atol=1e-12)


def test_single_precision_is_as_good() -> None:
    rng = np.random.default_rng(2)
    features, boxes = torch.from_numpy(rng.standard_normal((1, 3, 11, 14))), some_boxes(rng, 40).float()
    expected = by_definition(features, boxes, 7, 1 / 8, [0] * 40)
    got = roi_align(features.float(), boxes, 7, 1 / 8)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_boxes_without_area_or_with_odd_numbers_give_zeros() -> None:
    nan, inf = math.nan, math.inf
    boxes = torch.tensor([[5.0, 5, 5, 9], [nan, 0, 8, 8], [0, 0, inf, 8], [-1e6, -1e6, -9e5, 0], [0, 0, 40, 40]])
    got = roi_align(torch.ones(1, 2, 11, 14), boxes, BINS, 1 / 8)
    assert not got[:4].any()
    torch.testing.assert_close(got[4], torch.ones(2, BINS, BINS))
    assert roi_align(torch.ones(1, 2, 11, 14), boxes[:0], BINS, 1 / 8).shape == (0, 2, BINS, BINS)


def test_a_huge_box_costs_no_more_than_the_map() -> None:
    huge = torch.tensor([[-1e7, -1e7, 1e7, 1e7]])
    got = roi_align(torch.ones(1, 1, 11, 14), huge, BINS, 1 / 8)
    assert got.shape == (1, 1, BINS, BINS)
    assert got[0, 0, 1, 1] == pytest.approx(13 * 16 / (2e7 / 8 / BINS) ** 2, rel=1e-4)  # samples one cell apart


def test_gradients() -> None:
    rng = np.random.default_rng(3)
    features = torch.from_numpy(rng.standard_normal((2, 2, 6, 5))).requires_grad_()
    boxes, images = some_boxes(rng, 5) / 2, torch.tensor([0, 1, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda f: roi_align(f, boxes, BINS, 1 / 8, images), features)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = ModulatedDeformConv(3, 4)

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(self.layer(x), boxes, 7, 1 / 8)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_it_exports_with_a_deformable_convolution_for_any_size_and_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pooled().eval()
    torch.nn.init.normal_(model.layer.offset.bias)
    free = torch.export.Dim.DYNAMIC
    rng = np.random.default_rng(0)
    program = torch.onnx.export(
        model,
        (torch.randn(1, 3, 11, 14), some_boxes(rng, 3).float()),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({2: free, 3: free}, {0: free}),
        verbose=False,
    )
    program.save(tmp_path / "pooled.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pooled.onnx")
    for count, height, width in ((40, 11, 14), (1, 7, 30), (0, 9, 9)):
        x, boxes = torch.randn(1, 3, height, width), some_boxes(rng, count).float()
        (got,) = session.run(None, {"x": x.numpy(), "boxes": boxes.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(got, model(x, boxes).numpy(), atol=1e-5)
