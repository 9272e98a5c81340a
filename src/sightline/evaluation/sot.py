"""Single-object metrics. Boxes are (N, 4) `xywh` float, frame by frame.

The definitions come first: how near two boxes are, and what share of the frames is near enough. `measure` applies them
to one sequence under a protocol (`protocols.py`: which frames count, and what a frame without a target does), and
`summarise` puts sequences together. Curves are those of the OTB benchmark (Wu, Lim and Yang, CVPR 2013: success and
precision), normalised precision that of TrackingNet (Müller et al., ECCV 2018), AO and SR those of GOT-10k (Huang, Zhao
and Huang, 2019), the failure rate fr0 that of MVT (Gopal and Amer, BMVC 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import DatasetError
from sightline.evaluation.protocols import PLAIN, Protocol, Reading, Valid, find_protocol
from sightline.geometry.boxes import iou

Array = NDArray[np.float64]
Curve = NDArray[np.floating]

THRESHOLDS = np.linspace(0, 1, 21)  # 0, 0.05 .. 1 (OTB, Wu et al. 2013)
MAX_DISTANCE_PX = 50.0
HIT, MISS = -1.0, np.inf  # distances that pass every threshold, and none

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "auc": "AUC",
        "p": "P",
        "pn": "Pn",
        "ao": "AO",
        "sr50": "SR.5",
        "sr75": "SR.75",
        "fr0": "fr0",
        "one_minus_sr50": "1-SR50",
    }
)
AVERAGES = ("sequences", "pooled", "classes")


# How near


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def overlap(predicted_xywh: ArrayLike, true_xywh: ArrayLike, protocol: Protocol = PLAIN) -> Array:
    """(N,) intersection over union i / (a + b - i + epsilon), areas being w * h; nan where a row is or the union is 0.

    Its last bit is the toolkits', unlike that of `geometry.boxes.iou`, which measures the corners.
    """
    (x, y, w, h), (x_true, y_true, w_true, h_true) = _columns(predicted_xywh), _columns(true_xywh)
    width = np.clip(np.minimum(x + w, x_true + w_true) - np.maximum(x, x_true), 0, None)
    height = np.clip(np.minimum(y + h, y_true + h_true) - np.maximum(y, y_true), 0, None)
    intersection = width * height
    union = w * h + w_true * h_true - intersection + protocol.union_epsilon
    share = intersection / union
    return np.clip(share, 0, 1) if protocol.clips_overlap else np.asarray(share)


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def centre_distance(predicted_xywh: ArrayLike, true_xywh: ArrayLike) -> Array:
    """(N,) pixels between the centres: |c_p - c_g|."""
    (x, y), (x_true, y_true) = _centres(predicted_xywh), _centres(true_xywh)
    return np.asarray(np.sqrt((x - x_true) ** 2 + (y - y_true) ** 2))


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def normalised_distance(predicted_xywh: ArrayLike, true_xywh: ArrayLike, protocol: Protocol = PLAIN) -> Array:
    """(N,) distance of the centres in sizes of the true box: |((x_p - x_g) / w_g, (y_p - y_g) / h_g)|.

    Whether centres are subtracted first or divided first is the protocol's: (11, 0, 5, 5) and (10, 0, 5, 5) are 0.2
    apart by the first order and 0.2 + 2e-16 by the second, within the threshold and beyond it.
    """
    predicted, true = _centres(predicted_xywh), _centres(true_xywh)
    sizes = [np.maximum(size, protocol.size_floor) + protocol.size_epsilon for size in _columns(true_xywh)[2:]]
    if protocol.normalised_by == "divide, subtract":
        x, y = (p / size - t / size for p, t, size in zip(predicted, true, sizes, strict=True))
    else:
        x, y = ((p - t) / size for p, t, size in zip(predicted, true, sizes, strict=True))
    return np.asarray(np.sqrt(x**2 + y**2))


# Which share is near enough


def success_curve(overlap: ArrayLike, thresholds: ArrayLike = THRESHOLDS, *, is_strict: bool = True) -> Array:
    """(21,) share of frames whose IoU is above each of the thresholds 0, 0.05 .. 1, strictly; nan is below all of them.

    thresholds: (K,) others, ascending. not is_strict: the share whose IoU is at least the threshold.
    """
    share, edges = np.fmax(np.asarray(overlap, dtype=np.float64), -1.0), np.asarray(thresholds, dtype=np.float64)
    num_passed = np.searchsorted(edges, share, side="left" if is_strict else "right")
    at_least = np.bincount(num_passed, minlength=len(edges) + 1)[::-1].cumsum()[::-1]
    return np.asarray(at_least[1:] / len(share))


def precision_curve(distance: ArrayLike, thresholds: ArrayLike) -> Array:
    """(K,) share of frames whose distance is at most each of the ascending thresholds; nan is beyond all of them."""
    far, edges = np.asarray(distance, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    first_passed = np.searchsorted(edges, far, side="left")  # nan is sorted behind every number
    return np.asarray(np.bincount(first_passed, minlength=len(edges) + 1).cumsum()[:-1] / len(far))


def read_off(curve: Curve, reading: Reading) -> float:
    """One number of a curve over evenly spaced thresholds.

    The mean of its points; its area by trapezoids, the axis scaled to [0, 1]; or the point at 20 px of 50, at 0.20 of
    0.5. A curve of 21 points that is 1, but 0 at the last, has a mean of 20/21 and an area of 39/40.
    """
    if reading == "mean":
        return float(curve.mean(dtype=np.float64))
    if reading == "trapezoid":
        return float(((curve[1:] + curve[:-1]) / 2).mean(dtype=np.float64))
    return float(curve[round(0.4 * (len(curve) - 1))])


# One sequence


@dataclass(frozen=True, eq=False)
class Scores:
    """What a protocol says of one sequence (`measure`), or of several (`summarise`): the same numbers, averaged.

    num_sequences: 1, or how many were averaged. num_frames: those that counted, the denominator of every share.
    success, precision, normalised_precision: curves, (points of the protocol,). ao: mean IoU, a miss being 0. sr50,
    sr75: share of frames with an IoU above .5, .75. fr0: share with an IoU of 0, frames without a target included.
    The properties are the numbers read off the curves; `METRICS` lists all by name, with their headings.
    """

    protocol: Protocol
    num_sequences: int
    num_frames: int
    success: Curve
    precision: Curve
    normalised_precision: Curve
    ao: float
    sr50: float
    sr75: float
    fr0: float

    @property
    def auc(self) -> float:
        """Area under the success curve."""
        return read_off(self.success, self.protocol.auc)

    @property
    def p(self) -> float:
        """Precision: by most protocols, the share of frames within 20 px."""
        return read_off(self.precision, self.protocol.p)

    @property
    def pn(self) -> float:
        """Normalised precision: by most protocols, the share of frames within 0.20 of the target's size."""
        return read_off(self.normalised_precision, self.protocol.pn)

    @property
    def one_minus_sr50(self) -> float:
        """The other number that is called failure rate: the share of frames with an IoU of at most .5."""
        return 1 - self.sr50


def measure(
    predicted_xywh: ArrayLike,
    true_xywh: ArrayLike,
    *,
    protocol: str | Protocol = "plain",
    dataset: str = "",
    absent: ArrayLike | None = None,
    cover: ArrayLike | None = None,
    image_size: tuple[float, float] | None = None,
) -> Scores:
    """One sequence of a tracker under a protocol, with the exceptions that it makes for a data set.

    predicted_xywh: (M, 4), pixels of the image, the first row being the box that the tracker was given. true_xywh:
    (N, 4). absent: (N,) true where the target is flagged as gone (LaSOT: full occlusion or out of view). cover: (N,)
    GOT-10k's 0 .. 8. image_size: width, height in pixels. The last three serve those protocols that ask for them, and
    without them nothing is absent, uncovered or clipped.

    Raises `DatasetError` for shapes that do not fit, lengths or rows that the protocol refuses, and when no frame is
    left to count. An empty result is a missing sequence: refused, but by `trackingnet`, where all of it is a miss.
    """
    rule = find_protocol(protocol, dataset)
    predicted, true = _boxes(predicted_xywh, "predicted"), _boxes(true_xywh, "true")
    num_true = len(true)
    gone = np.zeros(num_true, dtype=bool) if absent is None else _flags(absent, "absent", num_true) > 0
    kept = np.ones(num_true, dtype=bool)
    if cover is not None and rule.uncovered == "dropped":
        kept &= _flags(cover, "cover", num_true) > 0
    if rule.first_frame == "left out":
        kept[:1] = False
    if rule.invalid == "dropped":
        kept &= VALID[rule.valid](true)
    if rule.absent == "like any other":
        gone[:] = False

    length = _common_length(len(predicted), num_true, rule)
    true, gone, kept = true[:length], gone[:length], kept[:length]
    predicted = _arranged(predicted, true, rule)
    if rule.box == "rounded":
        predicted, true = np.rint(predicted), np.rint(true)
    if rule.box == "clipped to the image" and image_size is not None:
        predicted, true = _clipped(predicted, image_size), _clipped(true, image_size)
    if not kept.any():
        raise DatasetError(
            f"single-object scores: got {length} frames, none of which counts under protocol {rule.name!r}; expected "
            "some. Leave the sequence out."
        )
    if not kept.all():
        predicted, true, gone = predicted[kept], true[kept], gone[kept]
    return _scores(predicted, true, gone, rule)


def _scores(predicted: Array, true: Array, gone: NDArray[np.bool_], rule: Protocol) -> Scores:
    """Every number of the frames that count. `gone`: frames that the protocol takes to have no target."""
    of_invalid = {"hit": HIT, "miss": MISS}
    is_valid = VALID[rule.valid](true) & ~gone
    has_centre, has_normalised = (
        is_valid if needs == "same" else VALID[needs](true) & ~gone
        for needs in (rule.valid_centre, rule.valid_normalised)
    )
    share = np.where(is_valid, overlap(predicted, true, rule), -1.0)
    distance = np.where(has_centre, centre_distance(predicted, true), of_invalid[rule.invalid_distance])
    normalised = normalised_distance(predicted, true, rule)
    normalised = np.where(has_normalised, normalised, of_invalid[rule.invalid_normalised])
    if rule.absent == "miss":
        distance[gone] = normalised[gone] = MISS

    success = success_curve(share, np.linspace(0, 1, rule.success_points), is_strict=rule.success_test == ">")
    precision = precision_curve(distance, np.linspace(0, MAX_DISTANCE_PX, rule.precision_points))
    steps = np.arange(rule.normalised_points) / 2 / (rule.normalised_points - 1)  # the doubles nearest to k / 100
    above = [int(np.count_nonzero(share > limit)) for limit in (0, 0.5, 0.75)]
    num_frames = len(share)
    num_averaged = int(np.count_nonzero(is_valid)) if rule.ao == "valid frames" else num_frames
    return Scores(
        protocol=rule,
        num_sequences=1,
        num_frames=num_frames,
        success=success.astype(rule.curves),
        precision=precision.astype(rule.curves),
        normalised_precision=precision_curve(normalised, steps).astype(rule.curves),
        ao=float(np.fmax(share, 0).sum() / max(1, num_averaged)),
        sr50=above[1] / num_frames,
        sr75=above[2] / num_frames,
        fr0=(num_frames - above[0]) / num_frames,
    )


# Many sequences


def weights(scores: Sequence[Scores], average: str = "", classes: Sequence[str] | None = None) -> Array:
    """(S,) what each sequence weighs in a mean; also what `bootstrap` takes.

    average: "sequences", all alike; "pooled", by their frames, as if they were one (GOT-10k's toolkit: long sequences
    weigh more); "classes", so that each of the `classes`, one name for each sequence, weighs the same (mAO and mSR of
    the GOT-10k paper); by default, what the protocol does. Raises `DatasetError`.
    """
    average = average or _one_protocol(scores).average
    if average not in AVERAGES:
        raise DatasetError(f"average: got {average!r}; expected one of {', '.join(AVERAGES)}. Pass one of these names.")
    if average == "pooled":
        return np.array([one.num_frames for one in scores], dtype=np.float64)
    if average == "sequences":
        return np.ones(len(scores))
    if classes is None or len(classes) != len(scores):
        got = "no" if classes is None else len(classes)
        raise DatasetError(
            f"average by class: got {got} class names for {len(scores)} sequences; expected one each. "
            "Pass `classes`, or another average."
        )
    _, of_sequence, size = np.unique(np.asarray(classes), return_inverse=True, return_counts=True)
    return np.asarray(1 / size[of_sequence])


def summarise(scores: Sequence[Scores], *, average: str = "", classes: Sequence[str] | None = None) -> Scores:
    """The mean over sequences, curve by curve and number by number; `average` and `classes` as in `weights`.

    Several runs of one sequence are averaged first, by this function too; the mean then stands for the sequence.
    Raises `DatasetError` for no sequences, for those of different protocols, and as `weights` does.
    """
    rule = _one_protocol(scores)
    weight = weights(scores, average, classes)

    def mean(name: str) -> float:
        return float(np.average([getattr(one, name) for one in scores], weights=weight))

    def mean_curve(name: str) -> Curve:
        curves = np.stack([getattr(one, name) for one in scores])
        return np.asarray(np.average(curves, axis=0, weights=weight.astype(rule.curves)))

    return Scores(
        protocol=rule,
        num_sequences=len(scores),
        num_frames=sum(one.num_frames for one in scores),
        success=mean_curve("success"),
        precision=mean_curve("precision"),
        normalised_precision=mean_curve("normalised_precision"),
        ao=mean("ao"),
        sr50=mean("sr50"),
        sr75=mean("sr75"),
        fr0=mean("fr0"),
    )


def by_attribute(
    scores: Sequence[Scores], flags: Mapping[str, ArrayLike], *, average: str = "", classes: Sequence[str] | None = None
) -> dict[str, Scores]:
    """Attribute name -> the mean over the sequences that have it; a sequence counts under each of its attributes.

    flags: attribute name -> (S,) true where the sequence has it. Attributes of fewer sequences than the protocol wants
    are left out. Raises `DatasetError` as `summarise` does, and for flags that are not one per sequence.
    """
    least, means = max(1, _one_protocol(scores).least_sequences), {}
    for name, flag in flags.items():
        has_it = np.flatnonzero(_flags(flag, f"attribute {name}", len(scores))).tolist()
        if len(has_it) >= least:
            chosen = None if classes is None else [classes[row] for row in has_it]
            means[name] = summarise([scores[row] for row in has_it], average=average, classes=chosen)
    return means


def _one_protocol(scores: Sequence[Scores]) -> Protocol:
    if not scores:
        raise DatasetError("scores: got no sequence; expected at least one. Check the folder of results.")
    rule = scores[0].protocol
    if any(one.protocol != rule for one in scores):
        names = sorted({f"{one.protocol.name} {one.protocol.dataset}".strip() for one in scores})
        raise DatasetError(
            f"scores: got sequences under {', '.join(names)}; expected one protocol. Measure them alike."
        )
    return rule


# What goes in


VALID: Mapping[Valid, Callable[[Array], NDArray[np.bool_]]] = MappingProxyType(
    {
        "w, h > 0": lambda true: _each(true[:, 2:] > 0),
        "x, y, w, h > 0": lambda true: _each(true > 0),
        "centre > 0": lambda true: _each(np.stack(_centres(true), axis=1) > 0),
        "centre / size > 0": lambda true: _each(_centres_in_sizes(true) > 0),
        "no nan": lambda true: _each(~np.isnan(true)),
        "always": lambda true: np.ones(len(true), dtype=bool),
    }
)


def _each(holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) whether it holds for each number of the row."""
    return np.asarray(holds.all(axis=1), dtype=bool)


def _columns(xywh: ArrayLike) -> Array:
    return np.asarray(xywh, dtype=np.float64).T


def _centres(xywh: ArrayLike) -> tuple[Array, Array]:
    x, y, w, h = _columns(xywh)
    with np.errstate(invalid="ignore"):
        return x + (w - 1) / 2, y + (h - 1) / 2  # the toolkits' "- 1", without which the last bit differs


def _centres_in_sizes(xywh: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.stack(_centres(xywh), axis=1) / xywh[:, 2:])


def _boxes(xywh: ArrayLike, what: str) -> Array:
    """(N, 4) float64, a copy of its own, columns contiguous."""
    try:
        boxes = np.array(xywh, dtype=np.float64, order="F")
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{what} boxes: got {error}; expected (N, 4) numbers x,y,w,h. Pass one row each.") from error
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DatasetError(f"{what} boxes: got shape {boxes.shape}; expected (N, 4) x,y,w,h. Pass one row per frame.")
    return boxes


def _flags(values: ArrayLike, what: str, length: int) -> Array:
    flags = np.asarray(values, dtype=np.float64)
    if flags.shape != (length,):
        raise DatasetError(f"{what}: got shape {flags.shape}; expected ({length},). Pass one number each.")
    return flags


def _common_length(num_predicted: int, num_true: int, rule: Protocol) -> int:
    """How many frames are scored, before some are left out."""
    got = f"result: got {num_predicted} rows for {num_true} true boxes"
    if not num_true:
        raise DatasetError(f"{got}; expected some true boxes. Leave the sequence out.")
    if not num_predicted and rule.short != "miss":
        raise DatasetError(f"{got}; expected one each. Run the tracker on this sequence, or leave it out.")
    if (num_predicted < num_true and rule.short == "refused") or (num_predicted > num_true and rule.long == "refused"):
        name = f"{rule.name!r} for {rule.dataset}" if rule.dataset else repr(rule.name)
        raise DatasetError(
            f"{got}; expected one each under protocol {name}. Complete the result, or score it by 'plain', which cuts "
            "both to the common length."
        )
    return min(num_predicted, num_true) if rule.short == "cut" else num_true


def _arranged(predicted: Array, true: Array, rule: Protocol) -> Array:
    """One result row per true box, as the protocol has it: cut or filled up, broken rows repaired."""
    common = min(len(predicted), len(true))
    predicted = predicted[:common]
    if rule.bad_rows != "kept":
        predicted = _repaired(predicted, true[:common], rule)
    if len(true) > common:
        fill = 0.0 if rule.short == "filled with 0" else np.nan
        predicted = np.concatenate([predicted, np.full((len(true) - common, 4), fill)])
    if rule.first_frame == "true box" and common:
        predicted[0] = true[0]
    return predicted


def _repaired(predicted: Array, true: Array, rule: Protocol) -> Array:
    """Bad rows become the (repaired) row before, unless the true row has nan. The first row stays."""
    has_nan, sizes = ~_each(~np.isnan(predicted)), predicted[:, 2:]
    if rule.bad_rows == "row before, or refused" and (is_refused := has_nan | ~_each(sizes >= 0)).any():
        row = int(np.argmax(is_refused))
        raise DatasetError(
            f"result row {row + 1}: got {predicted[row].tolist()}; expected numbers and sizes of at least 0 under "
            f"protocol {rule.name!r}. Mend the row, or score by another protocol."
        )
    is_bad = ~_each(sizes > 0) | has_nan
    is_bad &= _each(~np.isnan(true))
    is_bad[0] = False
    source = np.maximum.accumulate(np.where(is_bad, 0, np.arange(len(predicted))))
    return predicted[source]


def _clipped(xywh: Array, image_size: tuple[float, float]) -> Array:
    """The corner moved into the image, then the size cut at its border: x = -10, w = 20 becomes x = 0, w = 20."""
    size = np.asarray(image_size, dtype=np.float64)
    corner = np.clip(xywh[:, :2], 0, size)
    return np.concatenate([corner, np.clip(xywh[:, 2:], 0, size - corner)], axis=1)


# The measure of the demonstration and the training recipe


def success_auc(predicted_xywh: ArrayLike, true_xywh: ArrayLike, is_present: ArrayLike) -> float:
    """Area under the success curve of one sequence: the first frame (given) and frames without a target left out.

    The mean of the 21 points, so a perfect track has 20/21: no overlap is above 1. A predicted row of nan is a miss.
    This is no benchmark's protocol (see `measure`): it says how well a box is followed while there is something to
    follow. Raises `DatasetError` when the three differ in length or no frame is left to count.
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
    return float(success_curve(iou(predicted[counted], true[counted])).mean())
