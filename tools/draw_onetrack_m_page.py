"""The pictures of docs/models/onetrack_m.md, drawn anew: what onetrack-m-tiny sees, and where it fails.

    python tools/draw_onetrack_m_page.py [--weights RUN/last.safetensors] [--runs RUN ...] [--pets FOLDER]

It follows sequences of the generator with drawn figures, on seeds of their own, and looks for what is shown: the frame
whose people move most, a number that goes over from one person to another, the frame with the most small people
missed. Nothing of these pictures is anybody's but ours. With `--pets` the same three are also drawn of PETS09-S2L1,
which stands in the shared data, into a folder: its frames are not ours to hand on. Takes some two minutes, and one for
PETS.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.optimize import linear_sum_assignment

from sightline.datasets.cutouts import drawn_gallery
from sightline.datasets.mot_text import MotRows
from sightline.datasets.multi import read_mot_sequence
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence
from sightline.files import atomic_path
from sightline.geometry.boxes import iou, xywh_to_xyxy
from sightline.imaging.draw import colour_of
from sightline.imaging.frames import read_image
from sightline.loading import load
from sightline.trackers.onetrack_m import OneTrackMTracker, detections, input_pixels
from sightline.types import Track

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
TRAINING = ROOT / "docs" / "models" / "onetrack_m_training.csv"
NAME = "onetrack-m-tiny"
FIGURES = 1  # seed of the drawn ones; the training has those of seed 0
SEED = 3  # no training, no choice of thresholds and no table has it
PETS = "PETS09-S2L1-a"
MATCH = 0.5  # IoU from which a box is found, as CLEAR MOT has it
NEAR = 0.2  # from which it at least lies near
SEEN = 0.5  # visibility from which a person should be found
HEIGHTS = (0, 12, 16, 20, 25, 32, 40, 50, 64, 80, 256)  # px of the network's input
FEW = 20  # people, of fewer no share is told
# What the pictures are looked for in: the training's regime, and two in which people are faster, and smaller and more.
USUAL = SyntheticConfig()
FAST = SyntheticConfig(speed=(0.06, 0.12), pan=(0.0, 0.05))
SMALL = SyntheticConfig(object_height=(0.06, 0.5), num_people=(8, 14))
STEPS = (-6, -3, -1, 0, 3, 6)  # frames around a theft
BEFORE_AND_AFTER = 6  # frames in which a theft's two people are looked at
ARROW = 5  # times as long as the displacement
ROOM = np.array([-1.0, -1.0, 2.0, 2.0])  # px around a small box, so that its outline does not hide it
WIDTH_IN, DPI = 9.0, 150
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
HOW = {"found": GREEN, "box does not fit": "#f0c040", "not found": "#d93025"}

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Matches = list[dict[int, int]]  # of each frame: true number -> number of the track


class Video(NamedTuple):
    """`visibility` (N,) of the rows of `truth`."""

    name: str
    num_frames: int
    image: Callable[[int], Image]
    truth: MotRows
    visibility: Floats

    def people(self, frame: int) -> dict[int, tuple[Floats, float]]:
        """Box, xywh, and visibility by true number."""
        rows = np.flatnonzero(self.truth.frame == frame)
        return {int(self.truth.track_id[row]): (self.truth.xywh[row], float(self.visibility[row])) for row in rows}


class Followed(NamedTuple):
    """What a tracker made of a video: its tracks of each frame, and who each of them is."""

    video: Video
    tracks: list[dict[int, Track]]
    matches: Matches


class Theft(NamedTuple):
    """In `frame` the number `stolen`, until then `victim`'s, goes on with `thief`, who was `own` before."""

    frame: int
    victim: int
    thief: int
    stolen: int
    own: int


def main(
    weights: Path | None = None,
    runs: tuple[Path, ...] = (),
    pets: Path | None = None,
    out: Path = PICTURES,
    sequences: int = 12,
    frames: int = 60,
    threads: int = 1,
) -> None:
    """Draw them all.

    Args:
        weights: A run's weights, or a folder of graphs; by default those of the package.
        runs: Folders of training runs, the later continuing the earlier; without, the curve that is kept is drawn.
        pets: A folder for pictures of PETS, which are not to be handed on.
        out: A folder for all others.
        sequences: Of the generator, for each picture.
        frames: Of each.
        threads: Of the network.
    """
    tracker: Any = load(NAME, weights=weights, threads=threads)
    out.mkdir(parents=True, exist_ok=True)
    if runs:
        keep_training(runs)
    if TRAINING.exists():
        draw_training(out / "onetrack-m-training.svg")
    moving, crossing, small = (
        [follow(tracker, video) for video in generated(replace(regime, num_frames=frames), sequences)]
        for regime in (FAST, USUAL, SMALL)
    )
    draw_all(tracker, moving, crossing, small, out, "onetrack-m")
    if pets:
        pets.mkdir(parents=True, exist_ok=True)
        real = [follow(tracker, pets_video())]
        draw_all(tracker, real, real, real, pets, "pets")


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def draw_all(
    tracker: OneTrackMTracker,
    moving: Sequence[Followed],
    crossing: Sequence[Followed],
    small: Sequence[Followed],
    out: Path,
    prefix: str,
) -> None:
    draw_maps(tracker, *most_moving(moving), out / f"{prefix}-maps.png")
    found = [(one, theft) for one in crossing for theft in thefts(one)]
    if found:
        draw_theft(*max(found, key=lambda pair: clarity(*pair)), out / f"{prefix}-theft.png")
    else:
        tell("no theft found: its picture stays as it is")
    draw_missed(tracker, small, out / f"{prefix}-missed.png")


# What is followed


def generated(regime: SyntheticConfig, sequences: int) -> Iterator[Video]:
    for number in range(sequences):
        sequence = SyntheticSequence(regime, SEED, number, drawn_gallery(seed=FIGURES))
        frame, track_id, xywh, visibility = sequence.truth
        ones = np.ones(len(frame))
        truth = MotRows(frame, track_id, xywh, ones, ones.astype(np.int64))
        yield Video(sequence.name, len(sequence), sequence.image, truth, visibility)


def pets_video() -> Video:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from measure import SHARED

    read = read_mot_sequence(SHARED / "data" / "mot" / PETS, has_class=True)
    assert isinstance(read.truth, MotRows)
    return Video(PETS, len(read), lambda k: read_image(read.frames[k]), read.truth, np.ones(len(read.truth.frame)))


def follow(tracker: Any, video: Video) -> Followed:
    tell(f"following {video.name}, {video.num_frames} frames")
    state, tracks = tracker.init(), []
    for frame in range(video.num_frames):
        state = tracker.update(video.image(frame), state)
        tracks.append({track.track_id: track for track in state.tracks})
    return Followed(video, tracks, matches_of(video, tracks))


def matches_of(video: Video, tracks: Sequence[Mapping[int, Track]]) -> Matches:
    """CLEAR MOT's matches: who was matched stays so while the boxes overlap enough, others go for the highest IoU."""
    before: dict[int, int] = {}
    matches: Matches = []
    for frame, here in enumerate(tracks):
        people = video.people(frame)
        matches.append({})
        if not people or not here:
            continue
        overlap = iou(
            np.array([box for box, _ in people.values()])[:, None], np.array([track.xywh for track in here.values()])
        )
        true, found = list(people), list(here)
        held = np.array([[before.get(person) == number for number in found] for person in true])
        gain = np.where(overlap >= MATCH, overlap + 1000 * held, 0)
        for row, column in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
            if gain[row, column] > 0:
                matches[-1][true[row]] = found[column]
        before = matches[-1]
    return matches


# What is looked for


def most_moving(followed: Iterable[Followed]) -> tuple[Followed, int]:
    """The frame in which found people move most, those missed and false ones counted against it."""
    best: tuple[float, Followed, int] | None = None
    for one in followed:
        height = one.video.image(0).shape[0]
        for frame in range(1, one.video.num_frames):
            people, before = one.video.people(frame), one.video.people(frame - 1)
            found = one.matches[frame]
            moved = [float(np.hypot(*(people[p][0] - before[p][0])[:2])) for p in found if p in before]
            missed = sum(seen >= SEEN for p, (_, seen) in people.items() if p not in found)
            wrong = len(one.tracks[frame]) - len(found)
            value = sum(min(step / height, 0.04) for step in moved) - 0.03 * (missed + wrong)
            if best is None or value > best[0]:
                best = value, one, frame
    assert best is not None
    return best[1], best[2]


def thefts(one: Followed) -> list[Theft]:
    """Switches of CLEAR MOT in which the new number was, until a few frames ago, that of another, and both people are
    in view all the while."""
    number_of: dict[int, tuple[int, int]] = {}  # true -> number, last frame
    person_of: dict[int, tuple[int, int]] = {}
    found = []
    for frame, here in enumerate(one.matches):
        for person, number in here.items():
            own, _ = number_of.get(person, (number, frame))
            victim, last = person_of.get(number, (person, frame))
            if own == number or victim == person or frame - last > BEFORE_AND_AFTER:
                continue
            around = [frame + step for step in STEPS if 0 <= frame + step < one.video.num_frames]
            if all({person, victim} <= one.video.people(k).keys() for k in around):
                found.append(Theft(frame, victim, person, number, own))
        for person, number in here.items():
            number_of[person], person_of[number] = (number, frame), (person, frame)
    return found


def clarity(one: Followed, theft: Theft) -> float:
    """How plainly a theft is to be seen: frames around it in which both people bear the numbers of the tale, and their
    size."""
    matches, frame = one.matches, theft.frame
    before = matches[max(0, frame - BEFORE_AND_AFTER) : frame]
    after = matches[frame : frame + BEFORE_AND_AFTER + 1]
    tale = sum((m.get(theft.victim) == theft.stolen) + (m.get(theft.thief) == theft.own) for m in before)
    tale += sum((m.get(theft.thief) == theft.stolen) + (theft.victim in m) for m in after)
    shown = [one.video.people(frame + step) for step in STEPS if 0 <= frame + step < one.video.num_frames]
    boxes = [here[p][0] for here in shown for p in (theft.victim, theft.thief)]
    height = min(float(box[3]) for box in boxes) / len(one.video.image(0))
    return tale + 40 * min(height, 0.25)


# Pictures


def draw_maps(tracker: OneTrackMTracker, one: Followed, frame: int, path: Path) -> None:
    """The heat map, the boxes with their displacements, and the boxes moved back onto the frame before."""
    config, image = tracker.config, one.video.image(frame)
    window = [one.video.image(max(0, frame - back)) for back in reversed(range(config.clip_length))]
    tokens = [tracker.session.run("tokens", {"frame": input_pixels(seen, config)[None]})["tokens"] for seen in window]
    maps = tracker.session.run("track", {"tokens": np.stack(tokens, axis=1)})
    newest = {name: values[0, -1] for name, values in maps.items()}
    found = detections(newest, (image.shape[0], image.shape[1]), config)

    figure, panels = row_of_pictures(3, image.shape)
    titles = (
        "1  heat map: where centres are",
        f"2  boxes; displacement x {ARROW} (black: true)",
        "3  frame before: boxes moved back",
    )
    shown = (grey(image), image, window[-2] if len(window) > 1 else image)
    for panel, title, picture in zip(panels, titles, shown, strict=True):
        show(panel, picture, title)
    heat = newest["heat_map"].max(axis=0)
    frame_px = (0, image.shape[1], image.shape[0], 0)  # the input is the frame, stretched
    strength = heat / max(float(heat.max()), config.detected_from)
    panels[0].imshow(strength, cmap="hot", alpha=np.sqrt(np.clip(strength - 0.05, 0, 1)), extent=frame_px, vmin=-0.3)
    for number, (xywh, moved) in enumerate(zip(found.xywh, found.displacements, strict=True)):
        colour = as_hex(colour_of(number))
        outline(panels[1], xywh, colour)
        outline(panels[2], xywh, colour, 1.4, dashed=True)
        outline(panels[2], xywh + np.pad(moved, (0, 2)), colour)
    centres = found.xywh[:, :2] + found.xywh[:, 2:] / 2
    truth = true_displacements(one.video, frame, found.xywh)
    for moved, inside, rim, width_px in (
        (truth, "black", "white", 0.013),
        (found.displacements, "white", "black", 0.009),
    ):
        arrows: Any = {
            "angles": "xy",
            "scale_units": "xy",
            "scale": 1 / ARROW,
            "headaxislength": 3.5,
            "headlength": 3.5,
        }
        width = width_px * image.shape[0] / image.shape[1]
        panels[1].quiver(
            *centres.T, *moved.T, width=width, color=inside, edgecolor=rim, linewidth=0.8, zorder=4, **arrows
        )
    save(figure, path)


def true_displacements(video: Video, frame: int, xywh: Floats) -> Floats:
    """(N, 2) from where each box's person is to where it was a frame before; nan where it is nobody's."""
    moved = np.full((len(xywh), 2), np.nan)
    before = video.people(frame - 1)
    for person, (box, _) in video.people(frame).items():
        if person in before:
            step = before[person][0] - box
            moved[iou(xywh, box) >= MATCH] = step[:2] + step[2:] / 2
    return moved


def draw_theft(one: Followed, theft: Theft, path: Path) -> None:
    """Crops that go with the two people; letters are people, colours and numbers the tracker's."""
    letters = {theft.thief: "A", theft.victim: "B"}
    shown = [theft.frame + step for step in STEPS if 0 <= theft.frame + step < one.video.num_frames]
    people = [one.video.people(frame) for frame in shown]
    corners = [xywh_to_xyxy(np.array([here[p][0] for p in letters])) for here in people]
    spans = [(box[:, :2].min(axis=0), box[:, 2:].max(axis=0)) for box in corners]
    side = max(1.3 * float((high - low).max()) for low, high in spans)
    figure, panels = row_of_pictures(len(shown), (1, 1))
    for panel, frame, here, (low, high) in zip(panels, shown, people, spans, strict=True):
        is_it = frame == theft.frame
        show(panel, one.video.image(frame), f"A takes #{theft.stolen}" if is_it else f"{frame - theft.frame:+d} frames")
        panel.title.set_fontweight("bold" if is_it else "normal")
        left, top = (low + high) / 2 - side / 2
        panel.set(xlim=(left, left + side), ylim=(top + side, top), facecolor="0.85")
        for person, letter in letters.items():
            number = one.matches[frame].get(person)
            if number is not None:
                box = one.tracks[frame][number].xywh
                outline(panel, box, as_hex(colour_of(number)), 3)
                tag(panel, box[0] + box[2] / 2, box[1], f"#{number}", as_hex(colour_of(number)), "bottom")
            if person in here:
                x, y, w, h = here[person][0]
                tag(panel, x + w / 2, y + h, letter, "white", "top")
    save(figure, path)


def draw_missed(tracker: OneTrackMTracker, followed: Sequence[Followed], path: Path) -> None:
    """The share of people found by their height, and the frame with the most small ones missed."""
    to_input = tracker.config.image_px / len(followed[0].video.image(0))
    rows = [
        (place, frame, one.video.people(frame)[person][0][3] * to_input, how)
        for place, one in enumerate(followed)
        for frame in range(one.video.num_frames)
        for person, how in how_found(one, frame).items()
    ]
    heights, hows = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    worth: Counter[tuple[int, int]] = Counter()
    for place, frame, height, how in rows:
        worth[place, frame] += 2 * bool(how == "not found" and height < np.median(heights)) + (how == "found")
    place, frame = max(worth, key=worth.__getitem__)
    one = followed[place]
    image = one.video.image(frame)
    height_in = 3.4
    picture_in = height_in * image.shape[1] / image.shape[0]
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    bars, picture = figure.subplots(1, 2, width_ratios=(WIDTH_IN - picture_in, picture_in))
    draw_shares(bars, heights, hows)
    found = how_found(one, frame)
    missed = sum(how == "not found" for how in found.values())
    show(picture, image, f"{missed} of {len(found)} not found (red)")
    for person, how in found.items():
        outline(picture, one.video.people(frame)[person][0] + ROOM, HOW[how], 1.4, dashed=how != "found")
    save(figure, path)


def how_found(one: Followed, frame: int) -> dict[int, str]:
    """Of everybody who is seen: matched, near a box that is nobody else's, or neither."""
    matches, tracks = one.matches[frame], one.tracks[frame]
    free = np.array([track.xywh for number, track in tracks.items() if number not in matches.values()]).reshape(-1, 4)
    people = {person: box for person, (box, seen) in one.video.people(frame).items() if seen >= SEEN}
    is_near = {person: bool((iou(box, free) >= NEAR).any()) for person, box in people.items()}
    return {p: "found" if p in matches else "box does not fit" if is_near[p] else "not found" for p in people}


def draw_shares(axes: Axes, heights: Floats, hows: NDArray[np.str_]) -> None:
    """A bar for each range of heights, in three parts."""
    which = np.digitize(heights, HEIGHTS) - 1
    bins = [k for k in range(len(HEIGHTS) - 1) if (which == k).sum() >= FEW]
    below = np.zeros(len(bins))
    for how, colour in HOW.items():
        shares = np.array([(hows[which == k] == how).mean() for k in bins])
        axes.bar(range(len(bins)), shares, bottom=below, color=colour, width=0.85, label=how)
        below += shares
    for place, k in enumerate(bins):
        share = float((hows[which == k] == "found").mean())
        axes.text(place, share + 0.01, f"{share:.0%}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(bins)), [label_of(k) for k in bins], fontsize=8)
    axes.set(xlabel="height of a person in the network's input, px", ylabel="people", ylim=(0, 1))
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def label_of(k: int) -> str:
    low, high = HEIGHTS[k : k + 2]
    return f"< {high}" if not low else f"> {low}" if k == len(HEIGHTS) - 2 else f"{low}-{high}"


# Training


def keep_training(runs: Sequence[Path]) -> None:
    """The curves of all runs in one small table: windows seen, the phase, losses, and HOTA where it was measured."""
    rows, seen = [], 0
    for number, run in enumerate(runs, 1):
        settings = json.loads((run / "run.json").read_text())["settings"]
        ends = np.cumsum(settings["tmp_epochs"])
        hota = {row["step"]: row["HOTA"] for row in read_csv(run / "validation.csv") if "HOTA" in row}
        log = {row["step"]: row for row in read_csv(run / "log.csv")}
        for step in sorted({*log, *hota}, key=int):
            line = log.get(step, {})
            windows = seen + int(step) * settings["batch"]
            epoch = int(step) * settings["batch"] / settings["pairs_per_epoch"]
            phase = ("heat map", "size", "displacement", "all")[min(int(np.searchsorted(ends, epoch)), 3)]
            losses = [line.get(name, "") for name in ("heat", "size", "displacement")]
            rows.append([number, windows, phase, *losses, hota.get(step, "")])
        seen = rows[-1][1]
    with atomic_path(TRAINING) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([["run", "windows", "phase", "heat", "size", "displacement", "HOTA"], *rows])


def read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def draw_training(path: Path) -> None:
    """The losses over the windows seen, and HOTA on validation where there is one; shaded where one head learns."""
    rows = read_csv(TRAINING)
    columns = {"heat": "heat map: focal loss", "size": "size: L1, cells", "displacement": "displacement: L1"}
    if any(row["HOTA"] for row in rows):
        columns["HOTA"] = "validation: HOTA"
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    panels = figure.subplots(1, len(columns))
    for panel, (column, title) in zip(panels, columns.items(), strict=True):
        for run, colour in zip(dict.fromkeys(row["run"] for row in rows), (BLUE, ORANGE, GREEN, GREY), strict=False):
            points = [(int(r["windows"]) / 1e3, float(r[column])) for r in rows if r["run"] == run and r[column]]
            panel.plot(*zip(*points, strict=True), "o-" if column == "HOTA" else "-", markersize=3, color=colour)
        panel.set_title(title, fontsize=10)
        panel.set_ylim(0)
        panel.grid(color="#e5e5e5")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("thousand windows seen", fontsize=9)
        shade(panel, rows)
    with atomic_path(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})


def shade(panel: Axes, rows: Sequence[Mapping[str, str]]) -> None:
    """The phases in which one head learns alone."""
    begins, tones = 0.0, {"heat map": "0.95", "size": "0.89", "displacement": "0.83"}
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        if after is None or after["phase"] != row["phase"]:
            ends = int(row["windows"]) / 1e3
            if row["phase"] in tones:
                panel.axvspan(begins, ends, color=tones[row["phase"]], linewidth=0, zorder=0)
            begins = ends


# Drawing


def row_of_pictures(num: int, shape: Sequence[int]) -> tuple[Figure, list[Axes]]:
    side_in = WIDTH_IN / num
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(WIDTH_IN, side_in * shape[0] / shape[1] + 0.25), layout=layout)
    return figure, list(np.atleast_1d(figure.subplots(1, num)))


def show(panel: Axes, image: Image, title: str) -> None:
    panel.imshow(image, interpolation="bilinear")
    panel.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=[], yticks=[])
    panel.set_title(title, fontsize=10, pad=3)
    panel.spines[:].set_visible(False)


def outline(panel: Axes, xywh: Sequence[float] | Floats, colour: str, width: float = 2.2, dashed: bool = False) -> None:
    """A box with a rim, to be seen on any ground: dark, of a dashed one white."""
    x, y, w, h = xywh
    dashes: Any = (0, (3, 2)) if dashed else "solid"
    for tone, line, style in (("white" if dashed else "black", width + 0.8, "solid"), (colour, width, dashes)):
        panel.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=tone, linewidth=line, linestyle=style))


def tag(panel: Axes, x: float, y: float, text: str, colour: str, va: str) -> None:
    box = {"facecolor": colour, "edgecolor": "black", "pad": 1.5, "linewidth": 0.6}
    panel.text(x, y, text, va=va, ha="center", fontsize=9, fontweight="bold", bbox=box, clip_on=True)


def grey(image: Image) -> Image:
    return np.repeat(image.mean(axis=2, keepdims=True) * 0.7, 3, axis=2).astype(np.uint8)


def as_hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def save(figure: Figure, path: Path) -> None:
    """As a PNG of few colours, which is a third of the size of one of all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    few = Pillow.open(drawn).convert("RGB").quantize(192, dither=Pillow.Dither.NONE)
    with atomic_path(path) as part:
        few.save(part, format="png", optimize=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
