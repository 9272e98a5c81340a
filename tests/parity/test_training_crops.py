"""The crops and boxes that OSTrack and MVT are trained on, against the official transform's: nine boxes, four sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.geometry.boxes import Box
from sightline.geometry.crops import CropRegion
from sightline.training import pairs
from sightline.training.pairs import official_cut
from tests.parity.fill import synthetic_video

pytestmark = pytest.mark.torch  # by the rule of `fill`

STORED = dict(np.load(Path(__file__).parent / "data" / "ostrack" / "common_ops.npz"))
BOXES = [tuple(row) for row in STORED["crop_boxes_xywh"].tolist()]
FACTORS = {128: 2.0, 256: 4.0, 192: 2.0, 384: 5.0}  # crop side: multiple of sqrt(wh)
TARGET: Box = (110.0, 95.0, 50.0, 40.0)
FRAME = synthetic_video()[0]
ATOL = 1e-6  # stored in float32


def stored_box(index: int, side: int) -> np.ndarray:
    return STORED[f"crop{index}_{side}_box_of_110_95_50_40"]


def cut(index: int, side: int, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    arguments = {
        "rgb": FRAME,
        "xywh": TARGET,
        "around": BOXES[index],
        "factor": FACTORS[side],
        "out_px": side,
    } | changes
    found = official_cut(**arguments)
    assert found is not None  # none of these is rejected
    return found[0], np.array(found[1])


@pytest.mark.parametrize("side", FACTORS)
@pytest.mark.parametrize("index", range(9))
def test_crop_and_box(index: int, side: int, compare) -> None:
    crop, xywh_unit = cut(index, side)
    compare(xywh_unit, stored_box(index, side), atol=ATOL, what=f"box in crop{index} of {side}")
    name = next(name for name in STORED if name.startswith(f"crop{index}_{side}_image_stride"))
    stride = int(name.rsplit("stride", 1)[1])
    compare(crop[::stride, ::stride], STORED[name], atol=0, what=name)
    compare(crop.sum(axis=(0, 1), dtype=np.int64), STORED[f"crop{index}_{side}_sum"], atol=0, what=f"{name}, sums")


def misses(**changes: Any) -> int:
    """How many of the 36 boxes come out otherwise."""
    return sum(
        not np.allclose(cut(index, side, **changes)[1], stored_box(index, side), atol=ATOL, rtol=0)
        for index in range(9)
        for side in FACTORS
    )


def test_all_nine_boxes_and_four_sides_are_stored() -> None:
    assert (len(BOXES), misses()) == (9, 0)
    assert len([name for name in STORED if "box_of" in name]) == 36


def test_boxes_fail_by_another_target_factor_or_rule(monkeypatch) -> None:
    def tracked(xywh: Box, _around: Box, region: CropRegion) -> np.ndarray:
        return region.to_crop(xywh) / region.out_px

    def half_a_pixel_off(xywh: Box, _around: Box, region: CropRegion) -> np.ndarray:
        return (region.to_crop(xywh) - (0.5, 0.5, 0, 0)) / region.out_px

    assert misses(xywh=(110.1, 95.0, 50.0, 40.0)) == 36
    assert misses(factor=4.1) == 36
    for rule in (tracked, half_a_pixel_off):  # the second still knows that the corner was rounded
        monkeypatch.setattr(pairs, "official_training_box", rule)
        assert misses() > 18
