"""The official ways to score one target's boxes, as rows of one table of named switches.

The same result file scored by two toolkits gives two numbers, because they treat the first frame, frames without a
target, broken rows and ties at a threshold differently. Each difference is a switch here; a protocol is a row, and a
data set for which its toolkit makes an exception is a row of its own. `dataclasses.replace` makes a variant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from sightline.errors import DatasetError

Valid = Literal["w, h > 0", "x, y, w, h > 0", "centre > 0", "centre / size > 0", "no nan", "always"]
Reading = Literal["mean", "trapezoid", "at 20 px", "at 0.20"]


@dataclass(frozen=True)
class Protocol:
    """One way to score; the values of the switches are words, so that a row reads like the table in the docs.

    dataset: empty, or the one data set that this row is for.

    first_frame: what is compared on the first frame: the row as submitted, the true box (given to the tracker), or
    nothing (left out).
    short, long: a result with fewer or more rows than there are true boxes: refused; both cut to the common length;
    filled up with boxes 0,0,0,0; missing rows are misses.
    bad_rows: a result row with nan, w <= 0 or h <= 0 is kept; or becomes the row before; or becomes the row before if w
    or h is 0 and is refused if it holds nan or a negative size. Only where the true row has no nan.
    box: as given; rounded to integers, half to even; or clipped to the image, corner first, then size.

    valid: when a true box can be compared. valid_centre, valid_normalised: when its distances can, in pixels and in
    sizes of the true box, where that is not the same.
    invalid: frames that are not valid are counted, as a miss of overlap and as the next two say; or dropped.
    invalid_distance, invalid_normalised: what they are to precision and normalised precision.
    absent: frames flagged as without a target are scored like any other; are a miss in everything; or are invalid.
    uncovered: frames whose target is not covered by the image at all (`cover` 0) are counted or dropped.

    union_epsilon: is added to the union of two boxes. clips_overlap: IoU is forced into [0, 1].
    normalised_by: the order of operations, which shows at the last bit and so at a threshold: the difference of the
    centres divided by the true size; or the difference of centres that were each divided by it. size_floor,
    size_epsilon: the divisor is max(size_floor, size) + size_epsilon.
    success_test: a frame counts at a threshold that its IoU is above, or reaches. *_points: number of thresholds,
    evenly over IoU 0 .. 1, 0 .. 50 px, 0 .. 0.5.
    auc, p, pn: how a number is read off its curve. ao: the frames over which the mean IoU goes.
    curves: the type in which curves are stored and averaged.
    average: how sequences are put together (`AVERAGES` in sot.py). least_sequences: attributes with fewer are left out.
    """

    name: str
    dataset: str = ""
    first_frame: Literal["as submitted", "true box", "left out"] = "as submitted"
    short: Literal["refused", "cut", "filled with 0", "miss"] = "cut"
    long: Literal["refused", "cut"] = "cut"
    bad_rows: Literal["kept", "row before", "row before, or refused"] = "kept"
    box: Literal["as given", "rounded", "clipped to the image"] = "as given"
    valid: Valid = "w, h > 0"
    valid_centre: Valid | Literal["same"] = "same"
    valid_normalised: Valid | Literal["same"] = "same"
    invalid: Literal["counted", "dropped"] = "counted"
    invalid_distance: Literal["miss", "hit"] = "miss"
    invalid_normalised: Literal["miss", "hit"] = "miss"
    absent: Literal["like any other", "miss", "invalid"] = "like any other"
    uncovered: Literal["counted", "dropped"] = "counted"
    union_epsilon: float = 0.0
    clips_overlap: bool = False
    normalised_by: Literal["subtract, divide", "divide, subtract"] = "subtract, divide"
    size_floor: float = 0.0
    size_epsilon: float = 0.0
    success_test: Literal[">", ">="] = ">"
    success_points: int = 21
    precision_points: int = 51
    normalised_points: int = 51
    auc: Reading = "mean"
    p: Reading = "at 20 px"
    pn: Reading = "at 0.20"
    ao: Literal["all frames", "valid frames"] = "all frames"
    curves: Literal["float64", "float32"] = "float64"
    average: Literal["sequences", "pooled"] = "sequences"
    least_sequences: int = 1


PLAIN = Protocol("plain", clips_overlap=True)

LASOT = Protocol(  # also the toolkits of LaSOT_ext and TNL2K, and OTB's, from which they come
    "lasot",
    first_frame="true box",
    short="refused",
    bad_rows="row before",
    valid="x, y, w, h > 0",
    invalid_distance="hit",
    invalid_normalised="hit",
    absent="miss",
    normalised_by="divide, subtract",
    least_sequences=2,
)

PYTRACKING = Protocol(
    "pytracking",
    first_frame="true box",
    short="filled with 0",
    bad_rows="row before, or refused",
    valid="x, y, w, h > 0",
    invalid_normalised="hit",
    normalised_by="divide, subtract",
    ao="valid frames",
    curves="float32",
)

OSTRACK = replace(PYTRACKING, name="ostrack", valid="w, h > 0")  # and MVT, STARK ...

PYSOT = Protocol(
    "pysot",
    short="refused",
    long="refused",
    valid="x, y, w, h > 0",
    valid_centre="centre > 0",
    valid_normalised="centre / size > 0",
    invalid_distance="hit",
    invalid_normalised="hit",
    absent="miss",
    clips_overlap=True,
    normalised_by="divide, subtract",
    size_epsilon=1e-16,
)

GOT10K = Protocol(
    "got10k",
    first_frame="true box",
    valid="no nan",
    invalid="dropped",
    union_epsilon=2.0**-52,
    clips_overlap=True,
    size_floor=1.0,
    pn="mean",
)

TRACKINGNET = Protocol(
    "trackingnet",
    first_frame="true box",
    short="miss",
    box="rounded",
    valid="always",
    success_test=">=",
    precision_points=21,
    normalised_points=21,
    auc="trapezoid",
    p="trapezoid",
    pn="trapezoid",
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {row.name: row for row in (PLAIN, LASOT, PYTRACKING, OSTRACK, PYSOT, GOT10K, TRACKINGNET)}
)

EXCEPTIONS = (
    *(replace(row, dataset="lasot", absent="miss", short="refused") for row in (PYTRACKING, OSTRACK)),
    *(replace(row, dataset="lasot_ext", absent="invalid") for row in (PYTRACKING, OSTRACK)),
    *(replace(row, dataset="uav123", invalid_distance="hit") for row in (PYTRACKING, OSTRACK)),
    *(replace(GOT10K, dataset=name, valid="always") for name in ("otb100", "nfs30")),
    replace(
        GOT10K,
        dataset="got10k",
        first_frame="left out",
        short="refused",
        long="refused",
        box="clipped to the image",
        valid="always",
        uncovered="dropped",
        success_points=101,
        average="pooled",
    ),
)

OTHER_NAMES = {"otb": "otb100", "otb50": "otb100", "otb2013": "otb100", "otb2015": "otb100", "nfs": "nfs30"}
OTHER_NAMES |= {"uav": "uav123"}


def find_protocol(protocol: str | Protocol, dataset: str = "") -> Protocol:
    """The row for a protocol on a data set; a `Protocol` is returned as it is.

    dataset: its name, in any case, with or without `-`, `_` and blanks; a data set without a row of its own, of
    whatever name, is scored by the protocol's common row. Raises `DatasetError` when no protocol has that name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        close = difflib.get_close_matches(protocol, PROTOCOLS, n=1)
        advice = f"Did you mean {close[0]!r}?" if close else "Pass one of these names."
        raise DatasetError(f"protocol: got {protocol!r}; expected one of {', '.join(PROTOCOLS)}. {advice}")
    bare = _bare(dataset)
    bare = OTHER_NAMES.get(bare, bare)
    exceptions = (row for row in EXCEPTIONS if row.name == protocol and _bare(row.dataset) == bare)
    return next(exceptions, PROTOCOLS[protocol])


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
