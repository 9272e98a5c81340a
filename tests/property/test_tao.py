"""Boxes and tracks in federated sets: what must hold for every set, and random sets against the published
evaluators."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.datasets.tao_json import (
    Boxes,
    GroundTruth,
    find,
    parse_ground_truth,
    parse_results,
    read_ground_truth,
    read_results,
)
from sightline.evaluation.average_precision import COCO, LVIS, box_ap, mean
from sightline.evaluation.tao import RANGES, RULES, TRACKEVAL, federated_mot, numbered, track_ap

NAME = Path("file.json")


def near(rng: np.random.Generator, xywh: np.ndarray, spread: float) -> list[float]:
    """A box that overlaps a given one more or less, in tenths of a pixel; some on whole pixels, so that there are
    ties."""
    x, y, w, h = xywh
    moved = [
        x + w * spread * rng.normal(),
        y + h * spread * rng.normal(),
        *(np.array([w, h]) * np.exp(spread * rng.normal(size=2))),
    ]
    return [round(float(value), int(rng.integers(0, 2))) for value in np.maximum(moved, (-50, -50, 1, 1))]


def some_box(rng: np.random.Generator) -> list[float]:
    """Of sides around the borders of the ranges of area, 32 and 96 px, and often exactly these."""
    side = rng.choice([8, 32, 32, 60, 96, 96, 200], size=2) * rng.choice([1, 1, 0.7, 1.3])
    return [round(float(value), 1) for value in (*rng.uniform(0, 400, 2), *side)]


def image_set(
    rng: np.random.Generator, num_images: int, most: int, federated: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth of COCO (with crowds) or LVIS, and results that find, miss, repeat and invent."""
    categories = [{"id": 3 * k + 1, "name": f"c{k}", "synset": f"c.n.{k}", "frequency": "rcf"[k % 3]} for k in range(7)]
    ids = [row["id"] for row in categories]
    images, annotations, results = [], [], []
    for image_id in rng.permutation(num_images).tolist():
        image: dict[str, Any] = {"id": image_id + 5, "file_name": f"{image_id}.jpg", "width": 640, "height": 480}
        present = rng.choice(ids, size=3, replace=False).tolist()
        if federated:
            image["neg_category_ids"] = [key for key in ids if key not in present and rng.random() < 0.4]
            image["not_exhaustive_category_ids"] = [key for key in present if rng.random() < 0.3]
        images.append(image)
        boxes = [(some_box(rng), int(rng.choice(present))) for _ in range(rng.integers(0, 12))]
        for xywh, category in boxes:
            area = xywh[2] * xywh[3] * float(rng.choice([1, 0.8]))
            row = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category,
                "bbox": xywh,
                "area": area,
            }
            if not federated:
                row["iscrowd"] = int(rng.random() < 0.15)
            annotations.append(row)
        for _ in range(int(rng.integers(0, most))):
            if boxes and rng.random() < 0.7:
                xywh, category = boxes[rng.integers(len(boxes))]
                xywh = near(rng, np.array(xywh), 0.15)
            else:
                xywh, category = some_box(rng), int(rng.choice(ids[:2]))
            score = round(float(rng.random()), int(rng.integers(1, 4)))
            results.append({"image_id": image["id"], "category_id": category, "bbox": xywh, "score": score})
    rng.shuffle(results)
    return {"images": images, "annotations": annotations, "categories": categories}, results


def written(folder: Path, truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Path, Path]:
    paths = folder / "gt.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def track_set(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth of TAO and results: images without boxes, categories that are merged, absent, not exhaustive or
    unknown to the video, tracks of the lengths and areas where ranges meet, ids that recur in other videos, equal
    scores."""
    categories: list[dict[str, Any]] = [{"id": 2 * k + 1, "name": f"c{k}", "synset": f"c.n.{k}"} for k in range(6)]
    categories[0]["merged"] = [{"id": 11, "name": "c5"}]
    ids = [row["id"] for row in categories]
    videos, images, tracks, annotations, results = [], [], [], [], []
    free = iter(rng.permutation(10**4).tolist())
    for video_id in (rng.permutation(5) + 1).tolist():
        present, rest = np.split(rng.permutation(ids), [3])
        videos.append(
            {
                "id": video_id,
                "name": f"set/{7 * video_id % 5}",
                "neg_category_ids": [key for key in rest.tolist() if rng.random() < 0.4],
                "not_exhaustive_category_ids": [key for key in ids if rng.random() < 0.2],
            }
        )
        times = (rng.permutation(14) * 30)[: rng.integers(6, 15)].tolist()
        own = [
            {"id": next(free), "video_id": video_id, "frame_index": time, "file_name": f"{time}.jpg"} for time in times
        ]
        images += own
        shown = sorted(own, key=lambda image: image["frame_index"])
        for _ in range(rng.integers(0, 9)):
            track = {"id": len(tracks) + 1, "category_id": int(rng.choice(present)), "video_id": video_id}
            tracks.append(track)
            length = min(int(rng.choice([1, 3, 3, 4, 10, 10, 12])), len(shown) - 1)
            start = int(rng.integers(0, len(shown) - length))
            box, name = np.array(some_box(rng)), int(rng.integers(0, 12))
            found_category = track["category_id"] if rng.random() < 0.8 else int(rng.choice(ids))
            score, share = round(float(rng.random()), 1), float(rng.choice([1, 1, 0.8]))  # of the box that is its mask
            for image in shown[start : start + length]:
                key = {"image_id": image["id"], "category_id": track["category_id"], "track_id": track["id"]}
                xywh = [round(float(value), 1) for value in box]
                area = xywh[2] * xywh[3] * share
                annotations.append(key | {"id": len(annotations) + 1, "bbox": xywh, "area": area, "video_id": video_id})
                if rng.random() < 0.1:
                    name += 100  # a switch
                if rng.random() < 0.85:
                    found = {
                        "image_id": image["id"],
                        "category_id": found_category,
                        "bbox": near(rng, np.array(xywh), 0.1),
                    }
                    results.append(found | {"track_id": name + 12 * len(tracks), "score": score})
                box[:2] += rng.normal(size=2) * 4
        for other in range(rng.integers(0, 8)):
            category, box = int(rng.choice(ids)), some_box(rng)
            for image in rng.permutation(np.array(own, dtype=object))[: rng.integers(1, 12)]:
                found = {"image_id": image["id"], "category_id": category, "bbox": near(rng, np.array(box), 0.05)}
                results.append(found | {"track_id": 5000 + other, "score": round(float(rng.random()), 2)})
    for row in rng.choice(np.array(results, dtype=object), 3):
        row["bbox"][int(rng.integers(2, 4))] = 0.0
    if rng.random() < 0.5:  # one image with more boxes than are looked at
        many = [results[0] | {"track_id": 6000 + k, "score": round(float(rng.random()), 2)} for k in range(320)]
        results += [row | {"bbox": some_box(rng), "image_id": images[0]["id"]} for row in many]
    if rng.random() < 0.5:
        first = results[0]["track_id"]
        again = [row | {"track_id": 7000, "score": row["score"] / 2} for row in results if row["track_id"] == first]
        results = [row | {"track_id": 0} if row["track_id"] == first else row for row in results] + again
    rng.shuffle(annotations)
    rng.shuffle(results)
    content = {
        "videos": videos,
        "images": images,
        "tracks": tracks,
        "annotations": annotations,
        "categories": categories,
    }
    return content, results


# What must hold for every set

SEEDS = st.integers(0, 10**6)
some = settings(max_examples=30)


def tracks(seed: int) -> tuple[GroundTruth, Boxes]:
    """A random set without ties: each found track has a score of its own, no two boxes found are the same."""
    rng = np.random.default_rng(seed)
    content, rows = track_set(rng)
    truth = parse_ground_truth(content, NAME)
    results = parse_results(rows, truth, NAME, has_tracks=True)
    xywh = results.xywh + rng.uniform(0, 1e-3, results.xywh.shape) * (results.xywh > 0)
    track = numbered(truth.image_video[find(truth.image, results.image)], results.track)
    score = rng.permutation(track.max() + 1)[track] / (track.max() + 1)
    return truth, replace(results, xywh=xywh, area=xywh[:, 2] * xywh[:, 3], score=score)


def scores(truth: GroundTruth, results: Boxes) -> list[np.ndarray]:
    ap, mot = track_ap(truth, results), federated_mot(truth, results)
    return [ap.ap, ap.recall, *(np.array(list(row.summary().values())) for row in mot.scores)]


def same(ours: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, rtol=0, atol=1e-12, equal_nan=True) for a, b in zip(ours, others, strict=True))


@some
@given(SEEDS)
def test_the_order_of_rows_changes_nothing(seed) -> None:
    truth, results = tracks(seed)
    rng = np.random.default_rng(seed)
    shuffled = replace(truth, boxes=truth.boxes.take(rng.permutation(len(truth.boxes))))
    assert same(scores(truth, results), scores(shuffled, results.take(rng.permutation(len(results)))))


@some
@given(SEEDS)
def test_the_names_of_tracks_and_videos_change_nothing(seed) -> None:
    truth, results = tracks(seed)
    rng = np.random.default_rng(seed)
    new = rng.permutation(10**4)
    renamed = replace(
        truth,
        video=new[truth.video],
        image_video=new[truth.image_video],
        negative=np.column_stack([new[truth.negative[:, 0]], truth.negative[:, 1]]),
        not_exhaustive=np.column_stack([new[truth.not_exhaustive[:, 0]], truth.not_exhaustive[:, 1]]),
        boxes=replace(truth.boxes, track=new[truth.boxes.track]),
    )
    assert same(scores(truth, results), scores(renamed, replace(results, track=new[results.track])))


@some
@given(SEEDS)
def test_a_perfect_tracker_has_1(seed) -> None:
    truth, _ = tracks(seed)
    ap, mot = track_ap(truth, truth.boxes), federated_mot(truth, truth.boxes)
    assert np.nan_to_num(ap.ap, nan=1) == pytest.approx(1, abs=1e-12)
    assert (np.nan_to_num(ap.recall, nan=1) == 1).all()
    for row in mot.scores:
        line = row.summary()
        assert [line[name] for name in ("HOTA", "AssA", "DetA", "MOTA", "MOTP", "IDF1")] == pytest.approx(
            [1] * 6, abs=1e-12
        )
        assert line["IDSW"] == line["CLR_FP"] == line["HOTA_FN"] == line["ML"] == 0


@some
@given(SEEDS)
def test_one_more_track_of_the_lowest_score_finds_no_less(seed) -> None:
    truth, results = tracks(seed)
    without = results.take(results.score > results.score.min())
    more, less = track_ap(truth, results), track_ap(truth, without)
    assert (np.nan_to_num(more.recall) >= np.nan_to_num(less.recall)).all()
    found_more = np.nan_to_num(more.recall) > np.nan_to_num(less.recall)
    assert (found_more | (np.nan_to_num(more.ap) <= np.nan_to_num(less.ap) + 1e-12)).all()


@some
@given(SEEDS)
def test_rules_agree_where_nothing_sets_them_apart(seed) -> None:
    """Distinct scores, ids from 1, areas of boxes, none flat: the toolkit has the sane AP50, TrackEval the sane AP."""
    truth, results = tracks(seed)
    results = results.take(results.area > 0)
    truth = replace(truth, boxes=replace(truth.boxes, area=np.prod(truth.boxes.xywh[:, 2:], axis=1)))
    results = replace(results, track=results.track + 1)
    sane, toolkit, trackeval = (
        track_ap(truth, results, RULES[name]) for name in ("sane", "toolkit-array", "trackeval")
    )
    np.testing.assert_allclose(toolkit.ap[:, 0], sane.ap[:, 0], atol=1e-12)
    has_tracks = np.isin(sane.category, trackeval.category)
    np.testing.assert_allclose(trackeval.ap, sane.ap[:, :, has_tracks], atol=1e-12)


@some
@given(SEEDS)
def test_boxes_in_any_order_and_perfect_ones(seed) -> None:
    rng = np.random.default_rng(seed)
    for rule in (COCO, LVIS):
        content, rows = image_set(rng, 4, 30, rule.is_federated)
        truth = parse_ground_truth(content, NAME)
        results = parse_results(rows, truth, NAME)
        results = replace(results, score=rng.permutation(len(results)) / max(1, len(results)))
        shuffled = results.take(rng.permutation(len(results)))
        assert same([box_ap(truth, results, rule).ap], [box_ap(truth, shuffled, rule).ap])
        perfect = box_ap(truth, truth.boxes.take(~truth.boxes.is_crowd), rule)
        assert np.nan_to_num(perfect.ap[0], nan=1) == pytest.approx(1, abs=1e-12)


def test_every_switch_of_a_rule_shows_on_some_set() -> None:
    """So that the comparison with TrackEval below could not be passed without it."""
    shown: dict[str, int] = dict.fromkeys(SWITCHED, 0)
    for seed in range(NUM_TRACK_SETS):
        content, rows = track_set(np.random.default_rng(seed))
        truth = parse_ground_truth(content, NAME)
        results = parse_results(rows, truth, NAME, has_tracks=True)
        plain = track_ap(truth, results, TRACKEVAL)
        for name, value in SWITCHED.items():
            changed = track_ap(truth, results, replace(TRACKEVAL, **{name: value}))
            shown[name] += changed.ap.shape != plain.ap.shape or not same([plain.ap], [changed.ap])
    assert min(shown.values()) > 0, shown


NUM_TRACK_SETS = 24
SWITCHED: dict[str, Any] = {
    "states_area": True,
    "rounds_equal_scores": False,
    "frees_id_zero": False,
    "lists_all_categories": True,
    "pools_by_name": False,
    "keeps_flat_boxes": False,
}


# Random sets against the published evaluators; without those installed these tests fail


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_box_ap_is_that_of_pycocotools(tmp_path, seed) -> None:
    from pycocotools.coco import COCO as Coco
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    gt_path, results_path = written(tmp_path, *image_set(rng, 12, 1200 if seed % 4 == 0 else 25, federated=False))
    with contextlib.redirect_stdout(io.StringIO()):
        official = Coco(str(gt_path))
        run = COCOeval(official, official.loadRes(str(results_path)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    truth = read_ground_truth(gt_path)
    ours = box_ap(truth, read_results(results_path, truth), COCO)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert np.nan_to_num([ours.summary()[name] for name in names], nan=-1) == pytest.approx(run.stats, abs=1e-12)
    per_class = np.where(run.eval["precision"][..., -1] < 0, np.nan, run.eval["precision"][..., -1]).mean(
        axis=1
    )  # T K A
    np.testing.assert_allclose(ours.ap, per_class.transpose(2, 0, 1), atol=1e-12)
    recall = np.where(run.eval["recall"] < 0, np.nan, run.eval["recall"])  # T K A M
    np.testing.assert_allclose(ours.recall, recall.transpose(3, 2, 0, 1), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_federated_box_ap_is_that_of_lvis(tmp_path, seed, monkeypatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # an alias that lvis 0.5.3 still uses
    from lvis import LVIS as Lvis
    from lvis import LVISEval, LVISResults

    rng = np.random.default_rng(seed)
    gt_path, results_path = written(tmp_path, *image_set(rng, 8, 500, federated=True))
    official = Lvis(str(gt_path))
    run = LVISEval(official, LVISResults(official, str(results_path), max_dets=300), "bbox")
    run.run()
    truth = read_ground_truth(gt_path)
    ours = box_ap(truth, read_results(results_path, truth), LVIS)
    keys = {"AR300": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300"}
    for name, value in ours.summary().items():
        assert np.nan_to_num(value, nan=-1) == pytest.approx(run.results[keys.get(name, name)], abs=1e-12), name
    precision = np.where(run.eval["precision"] < 0, np.nan, run.eval["precision"]).mean(axis=1)  # T K A
    np.testing.assert_allclose(ours.ap, precision.transpose(2, 0, 1), atol=1e-12)


def trackeval_scores(folder: Path, truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """What TrackEval says: name of a category, or of a mean over them, to metric to field to value."""
    import trackeval

    (folder / "gt").mkdir()
    (folder / "trackers" / "ours" / "data").mkdir(parents=True)
    (folder / "gt" / "gt.json").write_text(json.dumps(truth))
    (folder / "trackers" / "ours" / "data" / "results.json").write_text(json.dumps(results))
    quiet = {"PRINT_CONFIG": False}
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = trackeval.datasets.TAO(
            quiet | {"GT_FOLDER": str(folder / "gt"), "TRACKERS_FOLDER": str(folder / "trackers")}
        )
        metrics = [trackeval.metrics.TrackMAP(quiet), trackeval.metrics.HOTA()]
        metrics += [trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
        run = trackeval.Evaluator(
            quiet
            | {"USE_PARALLEL": False, "BREAK_ON_ERROR": True, "PRINT_RESULTS": False, "TIME_PROGRESS": False}
            | {"OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False, "PLOT_CURVES": False, "LOG_ON_ERROR": None}
        )
        scores, _ = run.evaluate([dataset], metrics)
    return scores["TAO"]["ours"]["COMBINED_SEQ"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_TRACK_SETS))
def test_track_scores_are_those_of_trackeval(tmp_path, seed) -> None:
    content, rows = track_set(np.random.default_rng(seed))
    official = trackeval_scores(tmp_path, content, rows)
    truth = parse_ground_truth(content, NAME)
    results = parse_results(rows, truth, NAME, has_tracks=True)
    ap, mot = track_ap(truth, results, TRACKEVAL), federated_mot(truth, results)
    assert list(ap.name) == list(mot.name) == [name for name in official if not name.startswith("cls_comb")]
    num_compared = 0
    for name, metrics in official.items():
        for row, size in enumerate(RANGES):
            for ours, kind in ((ap.ap, "AP"), (ap.recall, "AR")):
                of_class = ours[row, :, ap.name.index(name)] if name in ap.name else [mean(at) for at in ours[row]]
                stored = metrics["TrackMAP"][f"{kind}{size or '_all'}"]
                np.testing.assert_allclose(
                    np.nan_to_num(of_class, nan=-1), stored, atol=1e-9, err_msg=f"{name} {kind}{size}"
                )
        if name in mot.name:
            fields = mot.scores[mot.name.index(name)].fields()
        else:
            fields = mot.over_classes() if name == "cls_comb_cls_av" else mot.over_boxes().fields()
        for metric in ("HOTA", "CLEAR", "Identity", "Count"):
            for field, stored in metrics[metric].items():
                np.testing.assert_allclose(fields[field], stored, atol=1e-9, err_msg=f"{name} {field}")
                num_compared += 1
    assert num_compared == len(official) * 47
