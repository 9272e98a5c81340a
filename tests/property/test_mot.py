"""What must hold for the scores of every sequence, and random sets against TrackEval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sightline.datasets.mot_text import read_kitti, read_mot_result, read_mot_truth
from sightline.evaluation.mot import MATCH, MotScores, combine, mot_scores
from sightline.evaluation.mot_events import combine_events, mot_events
from sightline.evaluation.mot_overlap import EPS, Boxes, Overlaps, assign, overlaps
from sightline.evaluation.mot_preprocess import MOT_RULES, kitti, motchallenge
from sightline.geometry.boxes import iou, xyxy_to_xywh

NUM_FRAMES = 8

# Few places and few sizes, so that boxes overlap, coincide, tie, touch, and some have no area.
coordinate = st.integers(0, 6).map(lambda k: 4.0 * k) | st.floats(0, 24).map(lambda value: round(value, 1))
length = st.sampled_from([0.0, -3.0, 8.0, 12.0, 12.0, 16.0]) | st.floats(1, 30).map(lambda value: round(value, 1))
key = st.tuples(st.integers(0, NUM_FRAMES - 1), st.integers(0, 5))
sides = st.dictionaries(key, st.tuples(coordinate, coordinate, length, length), max_size=40)


def as_boxes(side: Mapping[tuple[int, int], tuple[float, ...]]) -> Boxes:
    keys = np.array(list(side), dtype=np.int64).reshape(-1, 2)
    xywh = np.array(list(side.values()), dtype=np.float64).reshape(-1, 4)
    return Boxes(keys[:, 0], keys[:, 1], np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))


side_of_boxes = sides.map(as_boxes)
sequences = st.builds(overlaps, side_of_boxes, side_of_boxes, st.just(NUM_FRAMES))


def differing(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float = 1e-9) -> list[str]:
    assert one.keys() >= other.keys()
    return [
        name
        for name, value in other.items()
        if not np.all(np.abs(np.asarray(one[name], dtype=float) - np.asarray(value, dtype=float)) <= tolerance)
    ]


def same(one: MotScores, other: MotScores) -> bool:
    return not differing(one.fields(), other.fields())


# Pairs and assignments, against the plain way


@given(side_of_boxes, side_of_boxes)
def test_edges_are_the_pairs_with_an_iou(true, result) -> None:
    found = overlaps(true, result, NUM_FRAMES)
    ours = {
        (int(found.true.given[i]), int(found.result.given[j])): value
        for i, j, value in zip(found.edge_true, found.edge_result, found.iou, strict=True)
    }
    value = iou(xyxy_to_xywh(true.xyxy)[:, None], xyxy_to_xywh(result.xyxy)[None])
    value *= true.frame[:, None] == result.frame[None]
    assert ours == pytest.approx({(int(i), int(j)): value[i, j] for i, j in np.argwhere(value)}, abs=1e-12)
    order = found.edge_true * (len(result.frame) + 1) + found.edge_result
    assert (np.diff(order) > 0).all()
    assert (np.diff(found.true.frame) >= 0).all()


@given(sequences, st.data())
def test_assignments_are_those_of_the_solver_frame_by_frame(found, data) -> None:
    """With few different scores, so that equal totals are common."""
    score = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(found.iou), max_size=len(found.iou))))
    edge = np.arange(len(score))
    assert assign(found, edge, score / 4).tolist() == by_frame(found, score / 4).tolist()
    asked = score == 3
    answers = assign(found, edge, score / 4, asked)
    assert answers[asked].tolist() == by_frame(found, score / 4)[asked].tolist()


def by_frame(found: Overlaps, score: np.ndarray) -> np.ndarray:
    chosen = np.zeros(len(score), bool)
    frame = found.true.frame[found.edge_true]
    for t in np.unique(frame):
        rows, columns = np.flatnonzero(found.true.frame == t), np.flatnonzero(found.result.frame == t)
        here = np.flatnonzero(frame == t)
        cost = np.zeros((len(rows), len(columns)))
        cost[found.edge_true[here] - rows[0], found.edge_result[here] - columns[0]] = -score[here]
        best = set(zip(*(side.tolist() for side in linear_sum_assignment(cost)), strict=True))
        at = zip(found.edge_true[here] - rows[0], found.edge_result[here] - columns[0], strict=True)
        chosen[here] = [pair in best for pair in at]
    return chosen


@given(sequences)
def test_clear_is_what_a_walk_through_the_frames_finds(found) -> None:
    true, result = found.true, found.result
    last: dict[int, int] = {}
    before: dict[int, int] = {}
    tp = idsw = frag = 0
    iou_sum = 0.0
    for t in np.intersect1d(true.frame, result.frame):
        rows, columns = np.flatnonzero(true.frame == t), np.flatnonzero(result.frame == t)
        score = np.zeros((len(rows), len(columns)))
        for i, j, value in zip(found.edge_true, found.edge_result, found.iou, strict=True):
            if i in rows and value >= MATCH - EPS:
                held = before.get(true.track[i]) == result.track[j]
                score[i - rows[0], j - columns[0]] = value + 1000 * held
        pairs = [(i, j) for i, j in zip(*linear_sum_assignment(-score), strict=True) if score[i, j] > EPS]
        now = {true.track[rows[i]]: result.track[columns[j]] for i, j in pairs}
        tp += len(pairs)
        iou_sum += sum(score[i, j] % 1000 for i, j in pairs)
        idsw += sum(last.get(i, j) != j for i, j in now.items())
        frag += sum(i in last and i not in before for i in now)
        last |= now
        before = now
    clear = mot_scores(found).clear
    assert (clear.tp, clear.idsw, clear.frag) == (tp, idsw, frag)
    assert clear.motp_sum == pytest.approx(iou_sum, abs=1e-9)


# What changes nothing, and what changes something in a known way


@given(side_of_boxes, side_of_boxes, st.permutations(range(6)), st.permutations(range(6)))
def test_ids_are_only_names(true, result, true_names, result_names) -> None:
    renamed = (
        boxes._replace(track_id=np.array(names)[boxes.track_id] * 10**9 - 7)
        for boxes, names in ((true, true_names), (result, result_names))
    )
    one, other = overlaps(true, result, NUM_FRAMES), overlaps(*renamed, NUM_FRAMES)
    assert same(mot_scores(one), mot_scores(other))
    assert mot_events(one) == pytest.approx(mot_events(other))


@given(side_of_boxes, side_of_boxes, st.randoms(use_true_random=False))
def test_frames_may_come_in_any_order(true, result, random) -> None:
    """Rows of a frame keep their order, which decides between equals."""

    def shuffled(boxes: Boxes) -> Boxes:
        frames = random.sample(range(NUM_FRAMES), NUM_FRAMES)
        order = np.concatenate([np.flatnonzero(boxes.frame == frame) for frame in frames])
        return Boxes(*(column[order] for column in boxes))

    one = overlaps(true, result, NUM_FRAMES)
    assert same(mot_scores(one), mot_scores(overlaps(shuffled(true), shuffled(result), NUM_FRAMES)))


@given(side_of_boxes, side_of_boxes, st.integers(0, 5), st.integers(1, 4))
def test_empty_frames_only_count_as_frames(true, result, first, step) -> None:
    stretched = (boxes._replace(frame=first + step * boxes.frame) for boxes in (true, result))
    one = mot_scores(overlaps(true, result, NUM_FRAMES)).fields()
    other = mot_scores(overlaps(*stretched, first + step * NUM_FRAMES)).fields()
    assert set(differing(one, other)) <= {"Frames", "CLR_Frames", "FP_per_frame"}


@given(st.lists(sequences, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_sequences_may_come_in_any_order(found, random) -> None:
    scores = [mot_scores(one) for one in found]
    events = [mot_events(one) for one in found]
    order = random.sample(range(len(found)), len(found))
    assert same(combine(scores), combine([scores[k] for k in order]))
    assert combine_events(events) == pytest.approx(combine_events([events[k] for k in order]))


@given(sequences)
def test_a_sequence_combined_with_itself_has_the_same_ratios(found) -> None:
    one = mot_scores(found)
    both = combine([one, one, one])
    if len(found.true.frame):  # else CLEAR does not score the one, but does score the sum
        ratios = {name: value for name, value in one.fields().items() if np.max(value) <= 1 and name != "MOTAL"}
        counts = set(differing(both.fields(), ratios))
        assert all(np.allclose(both.fields()[name], 3 * np.asarray(ratios[name])) for name in counts)
        assert not counts & {"HOTA", "AssA", "DetA", "LocA", "MOTA", "MOTP", "IDF1", "MTR"}


@given(side_of_boxes)
def test_a_perfect_tracker_has_one(boxes) -> None:
    has_area = (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all(axis=1)
    true = Boxes(*(column[has_area] for column in boxes))
    found = overlaps(true, true._replace(track_id=true.track_id + 100), NUM_FRAMES)
    values = mot_scores(found).summary()
    ceiling = 1.0 if has_area.any() else 0.0
    for name in ("DetA", "DetRe", "DetPr", "CLR_Re", "CLR_Pr", "CLR_F1", "MODA"):
        assert values[name] == ceiling
    if len(np.unique(np.c_[true.frame, true.xyxy], axis=0)) == len(true.frame):  # else a twin may take the place
        for name in ("HOTA", "AssA", "AssRe", "AssPr", "OWTA", "MOTA", "MOTP", "sMOTA", "MTR", "IDF1", "IDR", "IDP"):
            assert values[name] == ceiling, name
        assert values["IDSW"] == 0  # but where a true track pauses, TrackEval counts a fragmentation
    assert values["LocA"] == 1
    events = mot_events(found)
    assert events.num_misses == events.num_false_positives == 0
    assert events.idf1 == ceiling


@given(side_of_boxes, side_of_boxes, st.integers(0, NUM_FRAMES - 1))
def test_a_box_far_away_is_one_more_false_positive(true, result, frame) -> None:
    more = Boxes(
        np.append(result.frame, frame), np.append(result.track_id, 77), np.vstack([result.xyxy, [900, 900, 950, 950]])
    )
    one, other = (mot_scores(overlaps(true, boxes, NUM_FRAMES)) for boxes in (result, more))
    assert (other.hota.fp == one.hota.fp + 1).all()
    assert (other.hota.det_a <= one.hota.det_a).all()
    assert other.identity == one.identity._replace(idfp=one.identity.idfp + 1)
    assert other.clear.fp == one.clear.fp + 1
    if not len(true.frame) or not len(result.frame) or frame not in set(true.frame) - set(result.frame):
        unchanged = {
            "HOTA_TP",
            "HOTA_FN",
            "DetRe",
            "AssA",
            "AssRe",
            "AssPr",
            "LocA",
            "CLR_TP",
            "CLR_FN",
            "IDSW",
            "IDTP",
        }
        assert not unchanged & set(differing(one.fields(), other.fields()))  # no frame joins those of both sides


@given(sequences)
def test_higher_thresholds_have_fewer_true_positives(found) -> None:
    one = mot_scores(found)
    assert (np.diff(one.hota.tp) <= 0).all()
    assert (np.diff(one.hota.det_a) <= 0).all()
    hits = one.hota.tp > 0
    assert (np.diff(one.hota.loc_a[hits]) >= -1e-12).all()
    for name, value in one.fields().items():
        if name not in ("MOTA", "MODA", "MOTAL", "sMOTA"):
            assert np.all(np.asarray(value) >= 0), name
    for name in ("HOTA", "DetA", "AssA", "OWTA", "LocA", "CLR_Re", "CLR_Pr", "MOTP", "IDF1", "IDR", "IDP", "MTR"):
        assert one.summary()[name] <= 1 + 1e-12, name
    assert one.clear.mota <= one.clear.moda <= 1


@given(sequences)
def test_counts_add_up(found) -> None:
    one, events = mot_scores(found), mot_events(found)
    num_true, num_result = len(found.true.frame), len(found.result.frame)
    assert (one.hota.tp + one.hota.fn == num_true).all()
    assert (one.hota.tp + one.hota.fp == num_result).all()
    assert one.clear.tp + one.clear.fn == one.identity.idtp + one.identity.idfn == num_true
    assert one.clear.tp + one.clear.fp == one.identity.idtp + one.identity.idfp == num_result
    assert one.clear.mt + one.clear.pt + one.clear.ml == found.true.num_tracks
    assert events.num_detections + events.num_misses == num_true
    assert events.num_detections + events.num_false_positives == num_result


# Random sets against TrackEval

KITTI_KINDS = ("Car", "Car", "Car", "Van", "Pedestrian", "Pedestrian", "Person", "Cyclist", "Truck", "Tram", "Misc")
KITTI_REST = (-1, -1, -1, -1000, -1000, -1000, -10)


def write(path: Path, rows: Iterable[Iterable[object]], delimiter: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows))


def mot_rows(rng: np.random.Generator, num_frames: int, num_ids: int, area: int, is_whole: bool) -> tuple[list, list]:
    """Ground truth of all classes and marks that wanders, and results near it: missed, invented, swapped; whole pixels
    give ties. Some frames and some sequences have one side only, some boxes no area."""
    num_true, num_found = rng.integers(0, num_ids + 1, 2)
    boxes = np.concatenate(
        [rng.integers(0, area, (num_true, 2)), rng.integers(4, area // 2 + 5, (num_true, 2))], axis=1
    )
    classes, marks = rng.choice([*[1] * 8, *range(1, 14)], num_true), rng.choice([0, 1, 1, 1], num_true)
    has_gaps, first_id = rng.random() < 0.4, rng.choice([1, 99_990])
    true: list[list[float]] = []
    found: list[list[float]] = []
    for frame in range(1, num_frames + 1):
        boxes[:, :2] += rng.integers(-2, 3, (num_true, 2))
        is_empty = has_gaps and rng.random() < 0.15
        for k in np.flatnonzero(rng.random(num_true) < (0 if is_empty else 0.8)):
            box = boxes[k].copy()
            if rng.random() < 0.05:
                box[rng.integers(2, 4)] = rng.choice([0, -3])
            true.append([frame, first_id + k, *box, marks[k], classes[k], 1])
        if has_gaps and rng.random() < 0.15:
            continue
        for k in np.flatnonzero(rng.random(num_found) < 0.75):
            if num_true and rng.random() < 0.9:
                box = boxes[(k + (rng.random() < 0.1)) % num_true]
            else:
                box = np.append(rng.integers(0, area, 2), rng.integers(4, area // 2 + 5, 2))
            box = box + (rng.integers(-2, 3, 4) if is_whole else rng.normal(0, 2, 4).round(2))
            if rng.random() < 0.03:
                box[2] = 0
            found.append([frame, 7 * k + 1, *box, round(rng.random(), 2)])
    if rng.random() < 0.3:
        rng.shuffle(true)
        rng.shuffle(found)
    drawn = rng.random()
    return [] if drawn < 0.05 else true, [] if 0.05 < drawn < 0.1 else found


def official_metrics() -> list[Any]:
    import trackeval

    settings = {"PRINT_CONFIG": False}
    metrics = (getattr(trackeval.metrics, name)(settings) for name in ("HOTA", "CLEAR", "Identity"))
    return [*metrics, trackeval.metrics.Count()]


def official(name: str, settings: Mapping[str, Any]) -> Any:
    import trackeval

    common = {"TRACKERS_TO_EVAL": ["a"], "TRACKER_SUB_FOLDER": "", "PRINT_CONFIG": False}
    return getattr(trackeval.datasets, name)({**common, **settings})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "num_ids", "area", "is_whole"),
    [(0, 6, 20, True), (1, 8, 40, True), (2, 12, 60, False), (3, 20, 30, True), (4, 30, 100, True), (5, 5, 12, True)],
)
def test_random_sequences_score_as_trackeval_says(tmp_path, seed, num_ids, area, is_whole) -> None:
    rng = np.random.default_rng(seed)
    lengths = {f"s{k:03d}": int(rng.integers(1, 13)) for k in range(50)}
    for name, num_frames in lengths.items():
        true, found = mot_rows(rng, num_frames, num_ids, area, is_whole)
        write(tmp_path / "gt" / name / "gt" / "gt.txt", true, ",")
        write(tmp_path / "trackers" / "a" / f"{name}.txt", found, ",")
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = official_metrics()
        for bench, rule in MOT_RULES.items():
            settings = {
                "GT_FOLDER": str(tmp_path / "gt"),
                "TRACKERS_FOLDER": str(tmp_path / "trackers"),
                "SKIP_SPLIT_FOL": True,
                "SEQ_INFO": lengths,
                "BENCHMARK": "MOT17" if bench == "none" else bench,
                "DO_PREPROC": bench != "none",
            }
            data_set = official("MotChallenge2DBox", settings)
            ours: list[MotScores] = []
            theirs: dict[str, dict[str, dict[str, Any]]] = {}
            for name, num_frames in lengths.items():
                truth = read_mot_truth(tmp_path / "gt" / name / "gt" / "gt.txt", num_frames, rule.has_class)
                result = read_mot_result(tmp_path / "trackers" / "a" / f"{name}.txt", num_frames)
                ours.append(mot_scores(motchallenge(truth, result, num_frames, rule)))
                data = data_set.get_preprocessed_seq_data(data_set.get_raw_seq_data("a", name), "pedestrian")
                for metric in metrics:
                    fields = theirs.setdefault(metric.get_name(), {})[name] = metric.eval_sequence(data)
                    assert differing(ours[-1].fields(), fields) == [], (bench, name)
            for metric in metrics:
                fields = metric.combine_sequences(theirs[metric.get_name()])
                assert differing(combine(ours).fields(), fields) == [], bench


def kitti_rows(rng: np.random.Generator, num_frames: int) -> tuple[list, list]:
    """Ground truth of all types, occluded, truncated, with regions; results of three types, some 20 to 26 px high."""
    area, num_true, num_found = 120, *rng.integers(0, 10, 2)
    boxes = np.concatenate([rng.integers(0, area, (num_true, 2)), rng.integers(15, 60, (num_true, 2))], axis=1)
    others = np.concatenate([rng.integers(0, area, (num_found, 2)), rng.integers(15, 40, (num_found, 2))], axis=1)
    kinds, found_kinds = rng.choice(KITTI_KINDS, num_true), rng.choice(["Car", "car", "Pedestrian"], num_found)
    true: list[list[Any]] = []
    found: list[list[Any]] = []

    def row(frame: int, track_id: int, kind: str, hidden: tuple[float, int], xywh: np.ndarray) -> list[Any]:
        x, y, w, h = xywh
        return [frame, track_id, kind, *hidden, -10, x, y, x + w, y + h, *KITTI_REST]

    for frame in range(num_frames):
        boxes[:, :2] += rng.integers(-2, 3, (num_true, 2))
        for k in np.flatnonzero(rng.random(num_true) < 0.8):
            hidden = (rng.choice([0, 0, 0, 0.5, 1, 2]), rng.choice([0, 0, 1, 2, 3]))
            true.append(row(frame, k, kinds[k], hidden, boxes[k]))
        for _ in range(rng.integers(0, 3)):
            region = np.append(rng.integers(0, area, 2), rng.integers(10, 80, 2))
            true.append(row(frame, -1, "DontCare", (-1, -1), region))
        for k in np.flatnonzero(rng.random(num_found) < (0.8 if rng.random() < 0.9 else 0)):
            near = num_true and rng.random() < 0.6
            box = boxes[k % num_true] + rng.integers(-3, 4, 4) if near else others[k] + rng.integers(-1, 2, 4)
            if rng.random() < 0.2:
                box[3] = rng.choice([20, 24, 25, 26])
            found.append([*row(frame, k, found_kinds[k], (-1, -1), box), 0.5])
    return true, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_kitti_sequences_score_as_trackeval_says(tmp_path, seed) -> None:
    rng = np.random.default_rng(seed)
    lengths = {f"{k:04d}": int(rng.integers(1, 9)) for k in range(50)}
    for name, num_frames in lengths.items():
        true, found = kitti_rows(rng, num_frames)
        write(tmp_path / "gt" / "label_02" / f"{name}.txt", true, " ")
        write(tmp_path / "trackers" / "a" / f"{name}.txt", found, " ")
    seqmap = ([name, "empty", 0, num_frames] for name, num_frames in lengths.items())
    write(tmp_path / "gt" / "evaluate_tracking.seqmap.training", seqmap, " ")
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = official_metrics()
        settings = {"GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "trackers")}
        data_set = official("Kitti2DBox", settings)
        for name, num_frames in lengths.items():
            truth = read_kitti(tmp_path / "gt" / "label_02" / f"{name}.txt", num_frames)
            result = read_kitti(tmp_path / "trackers" / "a" / f"{name}.txt", num_frames)
            raw = data_set.get_raw_seq_data("a", name)
            for kind in ("car", "pedestrian"):
                ours = mot_scores(kitti(truth, result, num_frames, kind)).fields()
                data = data_set.get_preprocessed_seq_data(raw, kind)
                for metric in metrics:
                    assert differing(ours, metric.eval_sequence(data)) == [], (name, kind)
