"""Scenes that a run is judged by: which they are, that the real tracker follows them, and how they are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.datasets.mot_text import MotRows
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence, write_sequence
from sightline.errors import DatasetError
from sightline.geometry.heatmaps import HeatmapRules, as_maps, displacements, frame_targets
from sightline.models.onetrack_m import WindowMaps
from sightline.trackers.onetrack_m import OneTrackMConfig
from sightline.training import opening, windows
from sightline.training.keeping import scene_sheet
from sightline.training.opening import SCENE_SEED, open_scenes
from sightline.training.scenes import Scene, mot_rows, track_scenes
from sightline.training.windows import SyntheticWindows, WindowsConfig
from sightline.types import Track

pytestmark = pytest.mark.torch

PX, GRID = 64, 64
REGIME = SyntheticConfig(width=PX, height=PX, num_people=(2, 2), num_others=(1, 1), object_height=(0.3, 0.4))
LOOP = OneTrackMConfig(image_px=PX, grid=GRID, clip_length=2, mean=(0, 0, 0), std=(1, 1, 1))
NUM = 6


class Knows(nn.Module):
    """Tells the truth of the frame whose number its first pixel has; `shift_px` off to the right."""

    graphs = ("tokens", "track")

    def __init__(self, truth: MotRows, shift_px: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.truth, self.shift_px = truth, shift_px
        self.modes: list[bool] = []

    def tokens(self, frame: Tensor) -> dict[str, Tensor]:
        self.modes.append(self.training)
        return {"tokens": frame[:, 0, :1, :1]}

    def track(self, tokens: Tensor) -> WindowMaps:
        number = round(float(tokens[0, -1, 0, 0]) * 255)
        xywh = self.truth.xywh / PX + [self.shift_px / PX, 0, 0, 0]
        moved = displacements(self.truth.frame, self.truth.track_id, xywh[:, :2] + xywh[:, 2:] / 2)
        rows = self.truth.frame == number
        rules = HeatmapRules(displacement_scale=LOOP.displacement_scale)
        targets = frame_targets(xywh[rows], GRID, rules, displacements=moved[rows])
        return WindowMaps(*(torch.from_numpy(value.astype(np.float32))[None, None] for value in as_maps(targets)))


def scene(name: str = "two", seed: int = 0) -> Scene:
    """Two boards that walk past each other."""
    at = np.arange(NUM)
    left, right = (
        np.stack([x, at * 0 + 20 + seed, at * 0 + 8, at * 0 + 20], axis=1) for x in (4 + 3 * at, 50 - 3 * at)
    )
    ids, ones = np.repeat([1, 2], NUM), np.ones(2 * NUM)
    truth = MotRows(np.tile(at, 2), ids, np.concatenate([left, right]).astype(np.float64), ones, ones.astype(np.int64))

    def image(index: int) -> np.ndarray:
        return np.full((PX, PX, 3), index, np.uint8)

    return Scene(name, NUM, image, truth)


def test_who_knows_the_truth_has_all_of_it_and_who_is_off_has_less() -> None:
    two = scene()
    known, off, lost = (
        track_scenes(Knows(two.truth, px), [two], LOOP, "m", ("person",)).overall for px in (0.0, 3.0, 30.0)
    )
    assert list(known) == ["HOTA", "DetA", "AssA", "IDF1", "MOTA"]
    assert known["MOTA"] == known["IDF1"] == 1 and 0.8 < known["HOTA"] < 1  # the grid's cells are what is lost
    assert lost["HOTA"] < 0.1 < off["HOTA"] < 0.7 and lost["MOTA"] < 0


def test_scores_of_all_are_those_of_the_counts_and_each_has_its_own() -> None:
    one, other = scene("one"), scene("other", seed=20)  # where the model sees nobody
    scores = track_scenes(Knows(one.truth), [one, other], LOOP, "m", ("person",))
    alone = track_scenes(Knows(one.truth), [one], LOOP, "m", ("person",))
    assert list(scores.by_name) == ["one", "other"] and scores.by_name["one"] == alone.overall["HOTA"]
    assert scores.by_name["other"] < 0.1 and scores.column == "HOTA"
    assert scores.overall["IDF1"] == 0.5  # half of the boxes
    assert len(scores.tracks["one"]) == 2 * NUM and {track.track_id for track in scores.tracks["one"]} == {1, 2}


def test_it_tracks_in_eval_mode_and_every_module_is_as_it_was() -> None:
    model = Knows(scene().truth).train()
    random = torch.get_rng_state()
    track_scenes(model, [scene()], LOOP, "m", ("person",))
    assert model.modes == [False] * NUM and model.training
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(DatasetError, match="validation: got no scene"):
        track_scenes(model, [], LOOP, "m", ("person",))


def test_tracks_are_rows_of_a_result() -> None:
    rows = mot_rows([Track(3, 7, (1.0, 2.0, 3.0, 4.0), 0.5), Track(4, 8, (0.0, 0.0, 1.0, 1.0), 0.25)])
    assert rows.frame.tolist() == [3, 4] and rows.track_id.tolist() == [7, 8] and rows.mark.tolist() == [0.5, 0.25]
    assert rows.xywh.tolist() == [[1, 2, 3, 4], [0, 0, 1, 1]] and mot_rows([]).xywh.shape == (0, 4)


def test_a_page_shows_the_truth_in_white_and_the_tracks_in_their_colours() -> None:
    two = scene()
    told = track_scenes(Knows(two.truth, 5.0), [two], LOOP, "m", ("person",))
    silent = track_scenes(Knows(two.truth._replace(frame=two.truth.frame + NUM)), [two], LOOP, "m", ("person",))
    page, empty = scene_sheet([two], told), scene_sheet([two], silent)
    assert page.shape == empty.shape and page.shape[1] == 1600
    coloured, none = (np.ptp(picture.astype(int), axis=2).max(axis=0) > 100 for picture in (page, empty))
    assert coloured.any() and not none.any()
    assert (empty.min(axis=2) > 200)[40:-80].any()  # the true boxes


# Which they are


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SCENE_FRAMES", NUM)


def test_synthetic_scenes_are_the_same_every_time_and_trained_on_by_nobody(short: None) -> None:
    scenes, again = (open_scenes(("synthetic", "synthetic:drawn"), None, REGIME) for _ in range(2))
    assert [one.name for one in scenes] == ["synthetic-0", "synthetic-1", "synthetic-drawn-2", "synthetic-drawn-3"]
    for number, (one, other) in enumerate(zip(scenes, again, strict=True)):
        sequence = SyntheticSequence(replace(REGIME, num_frames=NUM), SCENE_SEED, number)
        seen = sequence.truth.visibility >= 0.1
        assert one.num_frames == NUM and one.rule == "none"
        assert np.array_equal(one.truth.xywh, sequence.truth.xywh[seen])
        assert np.array_equal(one.image(NUM - 1), sequence.image(NUM - 1))
        assert np.array_equal(one.image(2), other.image(2))
    pictures = [one.image(0) for one in scenes]
    assert all(not np.array_equal(a, b) for k, a in enumerate(pictures) for b in pictures[:k])


def test_windows_of_training_have_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def watched(config: SyntheticConfig, seed: int, *given: object) -> SyntheticSequence:
        seeds.append(seed)
        return SyntheticSequence(config, seed, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "SyntheticSequence", watched)
    for number in range(20):
        SyntheticWindows(REGIME).draw(WindowsConfig(1, PX), np.random.default_rng((0, number)))
    assert len(set(seeds)) == 20 and min(seeds) > SCENE_SEED


def test_cut_outs_are_those_of_the_training_and_opened_once(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(windows, "open_gallery", lambda folders: opened.append(folders) or windows.drawn_gallery(3, 9))
    (source, drawn) = windows.open_window_sources(("synthetic", "synthetic:drawn"), tmp_path, REGIME, ("people",))
    scenes = open_scenes(("synthetic", "synthetic:drawn"), tmp_path, REGIME, ("people",))
    assert opened == [(tmp_path / "people",)]
    assert isinstance(source, SyntheticWindows) and isinstance(drawn, SyntheticWindows)
    assert source.gallery is not drawn.gallery
    for number, gallery in ((1, source.gallery), (2, drawn.gallery)):
        sequence = SyntheticSequence(replace(REGIME, num_frames=NUM), SCENE_SEED, number, gallery)
        assert np.array_equal(scenes[number].image(0), sequence.image(0))


def test_sequences_of_a_folder_are_scenes(tmp_path: Path) -> None:
    sequence = SyntheticSequence(replace(REGIME, num_frames=NUM), 5, 0)
    home = write_sequence(sequence, tmp_path / "mine")
    (found,) = open_scenes(("mot=mine",), tmp_path, REGIME)
    assert (found.name, found.num_frames, found.rule) == (sequence.name, NUM, "none")
    np.testing.assert_allclose(found.truth.xywh, sequence.truth.xywh, atol=0.006)
    assert np.abs(found.image(3).astype(int) - sequence.image(3)).mean() < 6  # a JPEG of it
    with pytest.raises(DatasetError, match=rf"validation sequence '{sequence.name}': got it twice"):
        open_scenes(("mot=mine", "mot=mine"), tmp_path, REGIME)
    (home / "gt" / "gt.txt").unlink()
    with pytest.raises(DatasetError, match=rf"validation sequence '{sequence.name}': got no truth, .*gt.txt; expected"):
        open_scenes(("mot=mine",), tmp_path, REGIME)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("got10k:val", "got no data set in MOTChallenge's layout"),
        ("tao:val", "got no data set in MOTChallenge's layout"),
        ("kitti:train", "got no data set in MOTChallenge's layout"),
        ("synthetic*2", "got no data set in MOTChallenge's layout"),
        ("mot=nowhere", "Or name others with --val, or none."),
        ("nothing", "got 'nothing'"),
    ],
)
def test_what_is_no_scene_is_told(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        open_scenes((text,), tmp_path, REGIME)
    assert sentence in str(refused.value)
