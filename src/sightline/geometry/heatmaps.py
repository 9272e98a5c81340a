"""Boxes as maps of a frame and back: OneTrack-M's heat map, dimension and displacement (arXiv 2502.04478, a
reconstruction), after CenterNet and CenterTrack.

`unit` is a fraction of the network's square input, x right, y down. The maps have G x G cells over it.

Legend: N boxes of a frame  K of them with room for more  C classes  G grid
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import GeometryError
from sightline.geometry.boxes import Array

__all__ = [
    "FrameTargets",
    "HeatmapRules",
    "InputFit",
    "Peaks",
    "as_maps",
    "decode_maps",
    "displacement_percentiles",
    "displacement_scale",
    "displacements",
    "draw_gaussians",
    "frame_targets",
    "gaussian_radius",
    "input_fit",
]

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

PERCENTILES = (50.0, 95.0, 99.0, 99.9, 100.0)
NO_SATURATION = 0.999  # tanh beyond it is taken for it: its inverse would tell noise


@dataclass(frozen=True)
class HeatmapRules:
    """How boxes become targets and maps become boxes; the numbers in brackets are assumptions of OneTrack-M's page.

    min_visibility: [A-9] objects that are seen less are no peaks, and where they are costs no loss.
    min_overlap: [A-10] the IoU that a box moved by a peak's radius still has.
    centre_in_cell: [A-11] where in its cell, from 0 to 1 on both axes, a decoded box has its centre: no map tells.
    box: [A-11] what the size map learns: "size", width and height as in the paper, or, ours, "sides", how far the left,
        upper, right and lower side are from that place of the cell (FCOS, arXiv 1904.01355), so that a box is not
        bound to the grid, nor to the right cell: a neighbour of the centre's can tell the same box.
    displacement_scale: [A-12] x and y, unit: a displacement so long becomes tanh(1) = 0.76. Depends on the data, see
        `displacement_percentiles`; this one is MOT17's.

    Raises `GeometryError` for values outside their range.
    """

    min_visibility: float = 0.25
    min_overlap: float = 0.7
    centre_in_cell: float = 0.5
    box: Literal["size", "sides"] = "size"
    displacement_scale: tuple[float, float] = (0.02, 0.01)

    def __post_init__(self) -> None:
        object.__setattr__(self, "displacement_scale", tuple(self.displacement_scale))  # JSON has no tuples
        if not 0 < self.min_overlap < 1 or not 0 <= self.centre_in_cell <= 1:
            raise GeometryError(
                f"heat map rules: got min_overlap={self.min_overlap}, centre_in_cell={self.centre_in_cell}; expected "
                "both from 0 to 1, and the first not to be either. Change one."
            )
        if len(self.displacement_scale) != 2 or not all(0 < scale < np.inf for scale in self.displacement_scale):
            raise GeometryError(
                f"displacement_scale: got {self.displacement_scale}; expected two positive numbers, for x and y, as "
                "fractions of the frame. Take those of displacement_scale()."
            )


class InputFit(NamedTuple):
    """How a frame lies in the network's square input: input pixel = frame pixel * scale + offset, each (2,) x, y."""

    scale: Array
    offset: Array
    image_px: int

    def to_unit(self, xywh: ArrayLike) -> Array:
        """(N, 4) frame pixels to fractions of the input."""
        box = np.asarray(xywh, dtype=np.float64)
        return np.concatenate([box[..., :2] * self.scale + self.offset, box[..., 2:] * self.scale], -1) / self.image_px

    def to_frame(self, xywh_unit: ArrayLike) -> Array:
        """The inverse of `to_unit`."""
        box = np.asarray(xywh_unit, dtype=np.float64) * self.image_px
        return np.concatenate([(box[..., :2] - self.offset) / self.scale, box[..., 2:] / self.scale], -1)


def input_fit(height: int, width: int, image_px: int, letterbox: bool = False) -> InputFit:
    """[A-5] A frame stretched to the square input, or with its own proportions in the middle of it."""
    size = np.array([width, height], dtype=np.float64)
    if not letterbox:
        return InputFit(image_px / size, np.zeros(2), image_px)
    inside = np.maximum(1, np.rint(size * image_px / size.max()))  # whole pixels, as an image is resized
    return InputFit(inside / size, (image_px - inside) // 2, image_px)


class FrameTargets(NamedTuple):
    """What the maps of one frame learn; K rows of objects, of which the first are used.

    heat_map: (C, G, G) float32, 1 at each object's cell. is_counted: (C, G, G), False where the heat map costs no loss.
    cells: (K,) row-major cell of each object, 0 in unused rows. sizes: (K, 2) float32 cells, or (K, 4) the sides'
    distances. displacements: (K, 2) float32 in (-1, 1), 0 where there is none. is_object, has_displacement: (K,).
    """

    heat_map: NDArray[np.float32]
    is_counted: Mask
    cells: Ints
    sizes: NDArray[np.float32]
    displacements: NDArray[np.float32]
    is_object: Mask
    has_displacement: Mask


class Peaks(NamedTuple):
    """What the maps of a frame hold, by falling score.

    xywh_unit: (N, 4). scores: (N,) in [0, 1]. class_ids: (N,). displacements: (N, 2) unit, from the object to where it
    was one frame before.
    """

    xywh_unit: Array
    scores: Array
    class_ids: Ints
    displacements: Array

    def take(self, rows: NDArray[np.integer] | Mask) -> Peaks:
        return Peaks(self.xywh_unit[rows], self.scores[rows], self.class_ids[rows], self.displacements[rows])


def frame_targets(
    xywh_unit: ArrayLike,
    grid: int,
    rules: HeatmapRules,
    *,
    class_ids: ArrayLike | None = None,
    num_classes: int = 1,
    visibility: ArrayLike | None = None,
    displacements: ArrayLike | None = None,
    max_objects: int | None = None,
) -> FrameTargets:
    """Targets of one frame.

    xywh_unit: (N, 4); centres outside the frame count as at its border, so leave out what is not in it. class_ids:
    (N,), by default 0. visibility: (N,) in [0, 1], by default 1; pass 0 for what is neither object nor background.
    displacements: (N, 2) unit, nan where the object has no box in the frame before, by default everywhere.
    max_objects: K, for targets that are to be stacked; by default N.

    Raises `GeometryError` for a box without area or not finite, and for more objects than K.
    """
    boxes = np.asarray(xywh_unit, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise GeometryError("heat map targets: got a box without area or not finite; expected w, h > 0. Leave it out.")
    count = len(boxes)
    classes = np.zeros(count, np.int64) if class_ids is None else np.asarray(class_ids, np.int64)
    seen = np.ones(count) if visibility is None else np.asarray(visibility, np.float64)
    moved = np.full((count, 2), np.nan) if displacements is None else np.asarray(displacements, np.float64)
    is_object = seen >= rules.min_visibility
    cells, sizes = cells_of(boxes, grid), boxes[:, 2:] * grid
    learnt = sides_of(boxes, cells, grid, rules) if rules.box == "sides" else sizes

    heat_map = np.zeros((num_classes, grid, grid), dtype=np.float32)
    covered = np.zeros((num_classes, grid, grid), dtype=np.float32)
    for canvas, drawn in ((heat_map, is_object), (covered, ~is_object)):
        draw_gaussians(canvas, classes[drawn], cells[drawn], sizes[drawn], rules.min_overlap)

    rows = np.flatnonzero(is_object)
    room = len(rows) if max_objects is None else max_objects
    if len(rows) > room:
        raise GeometryError(f"heat map targets: got {len(rows)} objects; expected at most {room}. Raise max_objects.")
    padding = ((0, room - len(rows)), (0, 0))
    has_displacement = np.isfinite(moved[rows]).all(axis=1)
    squashed = np.tanh(np.where(has_displacement[:, None], moved[rows], 0) / rules.displacement_scale)
    return FrameTargets(
        heat_map,
        (covered == 0) | (heat_map == 1),
        np.pad(cells[rows], padding[0]),
        np.pad(learnt[rows], padding).astype(np.float32),
        np.pad(squashed, padding).astype(np.float32),
        np.pad(np.ones(len(rows), dtype=np.bool_), padding[0]),
        np.pad(has_displacement, padding[0]),
    )


def cells_of(xywh_unit: Array, grid: int) -> Ints:
    """(N,) row-major cell that holds each box's centre; [A-9] outside the frame it is the nearest one."""
    column_row = np.clip(np.floor((xywh_unit[:, :2] + xywh_unit[:, 2:] / 2) * grid), 0, grid - 1).astype(np.int64)
    return np.asarray(column_row[:, 1] * grid + column_row[:, 0])


def places_of(cells: NDArray[np.integer], grid: int, rules: HeatmapRules) -> Array:
    """(N, 2) x, y unit that the cells stand for."""
    return np.asarray((np.stack([cells % grid, cells // grid], axis=1) + rules.centre_in_cell) / grid)


def sides_of(xywh_unit: Array, cells: Ints, grid: int, rules: HeatmapRules) -> Array:
    """(N, 4) cells that each box reaches to the left, up, right and down of its cell's place."""
    place = places_of(cells, grid, rules)
    first = xywh_unit[:, :2]
    return np.concatenate([place - first, first + xywh_unit[:, 2:] - place], axis=1) * grid


def gaussian_radius(size_cells: Array, min_overlap: float = 0.7) -> Ints:
    """(N, 2) width and height in cells to (N,) whole cells: how far a peak reaches, so that a box moved so far still
    has the IoU `min_overlap` (CornerNet Sec. 3.2).

    As released with CornerNet and CenterNet: three roots with the 2 a of the quadratic formula replaced by 2.
    """
    w, h = size_cells[:, 0], size_cells[:, 1]
    terms = (
        (h + w, w * h * (1 - min_overlap) / (1 + min_overlap), 1.0),
        (2 * (h + w), (1 - min_overlap) * w * h, 4.0),
        (-2 * min_overlap * (h + w), (min_overlap - 1) * w * h, 4 * min_overlap),
    )
    roots = np.stack([(b + np.sqrt(b**2 - 4 * a * c)) / 2 for b, c, a in terms])
    return np.asarray(np.floor(np.maximum(0, roots.min(axis=0))).astype(np.int64))


def draw_gaussians(
    heat_map: NDArray[np.float32], class_ids: Ints, cells: Ints, size_cells: Array, min_overlap: float = 0.7
) -> None:
    """[A-10] Raise `heat_map` (C, G, G) in place to a Gaussian at each cell: 1 there, sigma (2 r + 1) / 6, 0 from r
    cells on. Where several meet, the highest counts."""
    grid = heat_map.shape[-1]
    radii = gaussian_radius(size_cells, min_overlap).tolist()
    for kind, cell, r in zip(class_ids.tolist(), cells.tolist(), radii, strict=True):
        row, column = divmod(cell, grid)
        top, left, bottom, right = max(0, row - r), max(0, column - r), row + r + 1, column + r + 1
        part = heat_map[kind, top:bottom, left:right]
        line = np.exp(-(np.arange(-r, r + 1) ** 2) / (2 * ((2 * r + 1) / 6) ** 2))
        down, across = line[top - row + r :][: part.shape[0]], line[left - column + r :][: part.shape[1]]
        np.maximum(part, np.outer(down, across).astype(np.float32), out=part)


def as_maps(targets: FrameTargets) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The maps of a network that knows its targets: heat (C, G, G), size (2 or 4, G, G), displacement (2, G, G).

    Of objects in one cell the first is told of.
    """
    grid = targets.heat_map.shape[-1]
    size = np.zeros((targets.sizes.shape[1], grid * grid), dtype=np.float32)
    displacement = np.zeros((2, grid * grid), dtype=np.float32)
    rows = np.flatnonzero(targets.is_object)
    cells, first = np.unique(targets.cells[rows], return_index=True)
    size[:, cells] = targets.sizes[rows[first]].T
    displacement[:, cells] = targets.displacements[rows[first]].T
    return targets.heat_map, size.reshape(-1, grid, grid), displacement.reshape(2, grid, grid)


def decode_maps(
    heat_map: NDArray[np.floating],
    size_map: NDArray[np.floating],
    displacement_map: NDArray[np.floating],
    rules: HeatmapRules,
    *,
    min_score: float = 0.4,
    top_k: int = 500,
) -> Peaks:
    """[A-18] The objects that the maps of one frame hold: heat (C, G, G), size (2, G, G) or sides (4, G, G),
    displacement (2, G, G).

    A peak is a cell above `min_score` that none of its eight neighbours exceeds; at most `top_k`, of equals the first
    in row-major order. Peaks without area are left out. Nothing is suppressed: of two equal neighbours both are peaks.
    """
    num_classes, grid = heat_map.shape[:2]
    heat = heat_map.reshape(num_classes, -1)
    kind, cell = np.nonzero(heat > min_score)
    score = heat[kind, cell]
    walled = np.pad(heat_map, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    row, column = np.divmod(cell, grid)
    is_peak = np.ones(len(cell), dtype=np.bool_)
    for down in range(3):
        for right in range(3):
            is_peak &= score >= walled[kind, row + down, column + right]
    peaks = np.flatnonzero(is_peak)
    peaks = peaks[np.argsort(-score[peaks], kind="stable")[:top_k]]
    kind, cell = kind[peaks], cell[peaks]
    sizes = size_map.reshape(len(size_map), -1)[:, cell].T
    squashed = displacement_map.reshape(2, -1)[:, cell].T
    return peaks_at(cell, sizes, squashed, grid, rules, score[peaks], kind)


def peaks_at(
    cells: NDArray[np.integer],
    sizes: NDArray[np.floating],
    squashed: NDArray[np.floating],
    grid: int,
    rules: HeatmapRules,
    scores: NDArray[np.floating],
    class_ids: NDArray[np.integer],
) -> Peaks:
    """Boxes of known peaks: row-major `cells` (N,), `sizes` (N, 2) or sides (N, 4) in cells, `squashed` (N, 2)
    displacements in (-1, 1). Those without area are left out."""
    told = np.asarray(sizes, dtype=np.float64) / grid
    before, after = (told[:, :2], told[:, 2:]) if told.shape[1] == 4 else (told / 2, told / 2)
    size_unit = before + after
    clipped = np.clip(np.asarray(squashed, dtype=np.float64), -NO_SATURATION, NO_SATURATION)
    found = Peaks(
        np.concatenate([places_of(cells, grid, rules) - before, size_unit], axis=1),
        np.asarray(scores, dtype=np.float64),
        np.asarray(class_ids, dtype=np.int64),
        np.arctanh(clipped) * rules.displacement_scale,
    )
    return found.take(np.flatnonzero((size_unit > 0).all(axis=1)))


def displacements(frame: ArrayLike, track_id: ArrayLike, centre: ArrayLike) -> Array:
    """[A-12] (N, 2) from each box's centre to that of the same identity one frame before; nan where it has none there.

    frame, track_id: (N,) integers. centre: (N, 2) in any unit. The rows may be those of a video, or of a window with
    places 0..W-1 as frames: its first frame then has no displacements.
    """
    frames, ids, centres = np.asarray(frame), np.asarray(track_id), np.asarray(centre, dtype=np.float64).reshape(-1, 2)
    order = np.lexsort((frames, ids))
    follows = (np.diff(ids[order]) == 0) & (np.diff(frames[order]) == 1)
    now, before = order[1:][follows], order[:-1][follows]
    moved = np.full((len(frames), 2), np.nan)
    moved[now] = centres[before] - centres[now]
    return moved


def displacement_percentiles(moved_unit: ArrayLike, percentiles: Sequence[float] = PERCENTILES) -> Array:
    """(P, 2) percentiles of |x| and |y| of displacements (N, 2), those of nan left out; what a scale is chosen by.

    Raises `GeometryError` where there is no displacement: nobody is there for two frames.
    """
    moved = np.asarray(moved_unit, dtype=np.float64).reshape(-1, 2)
    known = np.abs(moved[np.isfinite(moved).all(axis=1)])
    if not len(known):
        raise GeometryError("displacements: got none; expected an object in two frames in a row. Check the data.")
    return np.asarray(np.percentile(known, percentiles, axis=0))


def displacement_scale(moved_unit: ArrayLike, percentile: float = 99.0, least: float = 1e-4) -> tuple[float, float]:
    """The scale of `HeatmapRules` for data: so many percent of its displacements (N, 2) stay below tanh(1) = 0.76.

    At least `least` on each axis, for data in which nothing moves.
    """
    x, y = np.maximum(displacement_percentiles(moved_unit, (percentile,))[0], least).tolist()
    return x, y
