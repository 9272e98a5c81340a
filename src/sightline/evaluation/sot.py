"""Single-object metrics. Boxes are (N, 4) `xywh` float, frame by frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import DatasetError
from sightline.geometry.boxes import iou

THRESHOLDS = np.linspace(0, 1, 21)  # 0, 0.05 .. 1 (OTB, Wu et al. 2013)


def success_curve(overlap: ArrayLike) -> NDArray[np.float64]:
    """(21,) share of frames whose IoU is above each of the thresholds 0, 0.05 .. 1, strictly."""
    return np.asarray((np.asarray(overlap, dtype=np.float64)[None] > THRESHOLDS[:, None]).mean(axis=1))


def success_auc(predicted_xywh: ArrayLike, true_xywh: ArrayLike, is_present: ArrayLike) -> float:
    """Area under the success curve of one sequence: the first frame (given) and frames without a target left out.

    The mean of the 21 points, so a perfect track has 20/21: no overlap is above 1. A predicted row of nan is a miss.
    Raises `DatasetError` when the three differ in length or no frame is left to count.
    """
    predicted, true = np.asarray(predicted_xywh, dtype=np.float64), np.asarray(true_xywh, dtype=np.float64)
    counted = np.array(is_present, dtype=bool)
    if not predicted.shape == true.shape == (len(counted), 4):
        raise DatasetError(
            f"success: got predicted {predicted.shape}, true {true.shape}, present {counted.shape}; expected (N, 4), "
            "(N, 4), (N,). Pass one row per frame."
        )
    counted[:1] = False
    if not counted.any():
        raise DatasetError("success: got no frame with a target after the first; expected some. Leave the clip out.")
    overlap = iou(predicted[counted], true[counted])
    return float(success_curve(overlap).mean())
