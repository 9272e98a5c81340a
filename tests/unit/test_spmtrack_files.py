"""What was trained and what was frozen: two files into one network, deltas that take turns, one sentence otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.building import added, bare_model, build_model, checked_weights, empty_model
from sightline.checkpoints.files import read_weights, write_safetensors
from sightline.checkpoints.official import recognise
from sightline.checkpoints.spmtrack import delta_file, delta_of, load_delta
from sightline.checkpoints.starts import start_model
from sightline.cli import main
from sightline.errors import CheckpointError, SightlineError
from sightline.loading import cached_export, load
from sightline.models.spmtrack import SPMTrack, fused, is_trained, trainable_parameters
from sightline.trackers.zoo import ZOO
from tests.spmtrack_files import Files, filled_state, write_files

pytestmark = pytest.mark.torch

TINY = "spmtrack-tiny"
# Section 3 of the specification, from the released file and the official networks: tensors, all parameters, trained.
OFFICIAL = {
    "spmtrack-b": (447, 115_330_565, 29_243_909),
    "spmtrack-l": (879, 379_582_469, 75_872_261),
    "spmtrack-g": (1455, 1_339_511_813, 204_018_693),
}
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("files"), TINY)


@pytest.fixture(scope="module")
def network(files: Files) -> SPMTrack:
    """The two joined; no test changes it."""
    model, _ = build_model(TINY, files.delta, backbone=files.backbone)
    assert isinstance(model, SPMTrack)
    return model


def delta(seed: int = 0) -> Tensors:
    """Another delta of the small model, with its scalars."""
    rng = np.random.default_rng(seed)
    state = bare_model(TINY).state_dict()
    tensors: Tensors = {
        key: rng.normal(0, 0.02, tuple(value.shape)).astype(np.float32)
        for key, value in state.items()
        if is_trained(key)
    }
    return tensors | {"expert_alpha": np.array(16), "use_rsexpert": np.array(False)}


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in model.state_dict().items()}


# Official figures


@pytest.mark.parametrize("name", OFFICIAL)
def test_counts_are_those_of_the_released_file_and_the_official_networks(name: str) -> None:
    model = bare_model(name)
    assert isinstance(model, SPMTrack)
    trained = trainable_parameters(model)
    counts = len(trained), ZOO[name].num_parameters, sum(value.numel() for value in trained.values())
    assert counts == OFFICIAL[name]
    assert sum(value.numel() for value in model.parameters()) == OFFICIAL[name][1]


@pytest.mark.parametrize("name", [*OFFICIAL, TINY])
def test_a_delta_is_recognised_by_its_size_alone(name: str) -> None:
    shapes = {key: np.lib.stride_tricks.as_strided(np.float32(0), value.shape, [0] * value.dim())
              for key, value in bare_model(name).state_dict().items() if is_trained(key)}  # fmt: skip
    known = recognise(shapes)
    assert known and known.model == name


# Two files into one network


def test_the_two_files_make_the_network(files: Files, network: SPMTrack) -> None:
    state = filled_state(TINY)
    for key, value in network.state_dict().items():
        if key != "pos_embed":  # resized: see the test of the positions in tests/parity/test_spmtrack.py
            assert torch.equal(value, state[key]), key
    assert network.pos_embed.shape == (1, 196, 192) and not network.training


def test_what_is_saved_is_what_was_released_to_the_bit(files: Files, network: SPMTrack, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "again.safetensors", delta_of(network), {})
    ours, released = (read_weights(path).tensors for path in (tmp_path / "again.safetensors", files.delta))
    assert ours.keys() == released.keys() and {"expert_alpha", "use_rsexpert"} < ours.keys()
    assert all(np.array_equal(ours[key], value) and ours[key].shape == value.shape for key, value in released.items())
    assert (ours["expert_alpha"].dtype, ours["use_rsexpert"].dtype) == (np.int64, np.bool_)


def test_our_deltas_know_their_backbone(files: Files, network: SPMTrack, tmp_path: Path) -> None:
    tensors, header = delta_file(network)
    ours, other = tmp_path / "last.safetensors", tmp_path / "other.safetensors"
    write_safetensors(ours, tensors, header)
    again, _ = build_model(TINY, ours, backbone=files.backbone)
    assert bits(again) == bits(network)

    backbone = read_weights(files.backbone).tensors
    name = next(key for key in backbone if key.endswith("fc1.weight"))
    write_safetensors(other, backbone | {name: backbone[name] * np.float32(1.0001)}, {})
    with pytest.raises(CheckpointError, match=r"other.safetensors.*other weights than those.*last.safetensors"):
        build_model(TINY, ours, backbone=other)
    build_model(TINY, files.delta, backbone=other)  # a released delta does not say


def test_a_saved_delta_shares_nothing_with_the_network() -> None:
    model = empty_model(TINY)
    assert isinstance(model, SPMTrack)
    saved = delta_of(model)["track_query"]
    before = saved.copy()
    with torch.no_grad():
        model.track_query.add_(1)
    assert np.array_equal(saved, before)


def test_one_file_holds_both(files: Files, network: SPMTrack, tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    assert main(["convert", str(files.delta), "--backbone", str(files.backbone), "-o", str(merged)]) == 0
    alone, _ = build_model(TINY, merged)
    assert bits(alone) == bits(network)
    read = read_weights(merged)
    assert read.metadata["sightline.model"] == TINY
    assert read.metadata["sightline.source_name"] == "model.bin + dinov2.pth"
    assert len(read.metadata["sightline.source_sha256"].split(" + ")) == 2
    assert "expert_alpha" not in read.tensors
    assert checked_weights(merged).name == TINY  # by content


def test_a_backbone_may_be_safetensors_too(files: Files, network: SPMTrack, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "dinov2.bin", read_weights(files.backbone).tensors, {})
    other, _ = build_model(TINY, files.delta, backbone=tmp_path / "dinov2.bin")
    assert bits(other) == bits(network)


def test_the_cache_keeps_one_file(files: Files, network: SPMTrack, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    assert main(["models", "add", TINY, str(files.delta), "--backbone", str(files.backbone)]) == 0
    stored = added(TINY)
    assert stored and list(stored.files) == ["weights.safetensors"]
    assert stored.source_name == "model.bin + dinov2.pth"
    kept, _ = build_model(TINY, None)
    assert bits(kept) == bits(network)


def test_a_cached_export_belongs_to_both_files(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    made: list[Any] = []

    def export(name: str, weights: object, options: object, folder: Path, backbone: object) -> None:
        made.append(backbone)
        (folder / "track.onnx").write_bytes(b"graph")

    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sightline.loading.export_model", export)
    other = tmp_path / "other.pth"
    other.write_bytes(b"another backbone")
    first = cached_export(TINY, files.delta, {}, files.backbone)
    assert cached_export(TINY, files.delta, {}, files.backbone) == first
    assert cached_export(TINY, files.delta, {}, other) != first
    assert made == [files.backbone, other]


# Deltas that take turns


def test_deltas_take_turns_on_one_backbone(files: Files) -> None:
    model, _ = build_model(TINY, files.delta, backbone=files.backbone)
    assert isinstance(model, SPMTrack)
    released = read_weights(files.delta).tensors
    before, trained = bits(model), set(trainable_parameters(model))
    load_delta(model, released)
    assert bits(model) == before
    for _ in range(2):  # the second time changes nothing
        load_delta(model, delta(1))
        other = bits(model)
        assert {key for key in before if other[key] != before[key]} == trained
    assert all(np.array_equal(value, delta_of(model)[key]) for key, value in delta(1).items())
    load_delta(model, released)
    assert bits(model) == before


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key not in names}


def scaled(**scalars: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {key: np.asarray(value) for key, value in scalars.items()}


BROKEN: Mapping[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "short": (without("head.cls_mlp.layers.0.bias"), "miss 1 of 231 tensors, first head.cls_mlp.layers.0.bias (192,)"),
    "misshapen": (scaled(track_query=np.zeros((1, 96), np.float32)), "track_query: got (1, 96), expected (1, 192)"),
    "more": (scaled(surplus=np.zeros(3, np.float32)), "hold 1 tensor unknown to this network, first surplus (3,)"),
    "alpha": (scaled(expert_alpha=32), "expert_alpha: got 32; expected 16, the rank of the experts"),
    "alphas": (scaled(expert_alpha=[16, 16]), "expert_alpha: got [16, 16]; expected 16"),
    "no alpha": (without("expert_alpha"), "expert_alpha: got none, which means 1; expected 16"),
    "rank stabilised": (scaled(use_rsexpert=True), "use_rsexpert: got True; expected false, as in every released file"),
    "no scale": (without("use_rsexpert"), "use_rsexpert: got none; expected false"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_delta_that_does_not_fit_changes_nothing(fault: str) -> None:
    model = empty_model(TINY)
    assert isinstance(model, SPMTrack)
    before = bits(model)
    change, sentence = BROKEN[fault]
    with pytest.raises(CheckpointError) as refused:
        load_delta(model, change(delta()), "mine")
    assert sentence in str(refused.value) and str(refused.value).startswith("weights 'mine'")
    assert "\n" not in str(refused.value)
    assert bits(model) == before


def test_the_copy_for_inference_takes_no_delta(network: SPMTrack) -> None:
    with pytest.raises(CheckpointError, match="tensors unknown to this network"):
        load_delta(fused(network), delta())


# One sentence otherwise


@pytest.fixture(scope="module")
def others(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by what they are; those of B are cut down to what tells them apart."""
    folder = tmp_path_factory.mktemp("others")
    paths = {kind: folder / f"{kind}.bin" for kind in ("merged", "b", "dinov2_b", "register", "alpha", "foreign")}
    network, _ = build_model(TINY, files.delta, backbone=files.backbone)
    contents: dict[str, Mapping[str, Any]] = {
        "merged": {key: value.numpy() for key, value in network.state_dict().items()},
        "b": {
            "track_query": np.zeros((1, 768), np.float32),
            "blocks.11.attn.qkv.q.tmoe.routed_experts.0": np.zeros((768, 64), np.float32),
        },
        "dinov2_b": {
            "pos_embed": np.zeros((1, 1370, 768), np.float32),
            "blocks.11.ls1.gamma": np.zeros(768, np.float32),
        },
        "register": {**read_weights(files.backbone).tensors, "register_tokens": np.zeros((1, 4, 192), np.float32)},
        "alpha": delta() | {"expert_alpha": np.array(1)},
        "foreign": {"conv.weight": np.zeros((3, 3), np.float32)},
    }
    for kind, content in contents.items():
        write_safetensors(paths[kind], content, {})
    return paths | {"delta": files.delta, "dinov2": files.backbone}


@pytest.mark.parametrize(
    ("model", "weights", "backbone", "sentence"),
    [
        (TINY, "delta", None, "got what was trained alone; expected the file of its backbone besides"),
        (TINY, "delta", "dinov2_b", "this looks like a DINOv2 file. Pass it with --backbone"),
        (TINY, "delta", "register", "hold 1 tensor unknown to the backbone of spmtrack-tiny, first register_tokens"),
        (TINY, "delta", "delta", "this looks like an SPMTrack-tiny file."),
        (TINY, "delta", "merged", "this looks like an SPMTrack-tiny file."),
        (TINY, "delta", "foreign", "miss 89 of 89 tensors, first pos_embed"),
        (TINY, "b", "dinov2", 'this looks like an SPMTrack-b file. Load "spmtrack-b".'),
        (TINY, "dinov2", None, "ass it with --backbone"),
        (TINY, "dinov2", "delta", "ass it with --backbone"),
        (TINY, "merged", "dinov2", "got a merged file, and the backbone 'dinov2.pth' besides"),
        (TINY, "alpha", "dinov2", "expert_alpha: got 1; expected 16"),
        (TINY, "foreign", "dinov2", "got none of the trained tensors"),
        ("spmtrack-b", "delta", "dinov2", 'this looks like an SPMTrack-tiny file. Load "spmtrack-tiny".'),
        ("mvt", "delta", None, 'this looks like an SPMTrack-tiny file. Load "spmtrack-tiny".'),
        ("mvt", "delta", "dinov2", "mvt: got a backbone; expected none, since only spmtrack-b, spmtrack-l, spmtrack-g"),
        ("sightline-nano", None, "dinov2", "sightline-nano: got a backbone; expected none"),
        ("csrt", None, "dinov2", "csrt: got a backbone; expected none"),
        (TINY, "delta", "nowhere", "no such file. Check the path."),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_one_sentence(
    model: str, weights: str | None, backbone: str | None, sentence: str, others: dict[str, Path],
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In the library, and at the command line, where nothing is written."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    paths = others | {"nowhere": tmp_path / "nowhere.pth"}
    with pytest.raises(SightlineError) as refused:
        load(model, weights=weights and paths[weights], backbone=backbone and paths[backbone], backend="auto")
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    if weights and model != "csrt":
        beside = ["--backbone", str(paths[backbone])] if backbone else []
        for verb in (["convert", str(paths[weights]), "--model", model, "-o", str(tmp_path / "out.safetensors")],
                     ["models", "add", model, str(paths[weights])]):  # fmt: skip
            assert main([*verb, *beside]) == 2
            told = capsys.readouterr()
            assert sentence in told.err and told.err.count("\n") == 1 and told.out == ""
        assert not (tmp_path / "out.safetensors").exists() and not added(model)


def test_a_backbone_alone_is_not_a_tracker(others: dict[str, Path]) -> None:
    for kind in ("dinov2", "dinov2_b"):
        with pytest.raises(
            CheckpointError, match="got a DINOv2 file; expected a tracker's weights. Pass it with --backb"
        ):
            checked_weights(others[kind])


def test_models_tells_which_two_files_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models", "spmtrack-b"]) == 0
    told = capsys.readouterr().out
    for word in ("model.bin", "dinov2_vitb14_pretrain.pth", "sightline models add spmtrack-b FILE --backbone FILE"):
        assert word in told
    assert main(["models", "ostrack-256"]) == 0
    assert "--backbone" not in capsys.readouterr().out


def test_a_training_starts_from_a_backbone_or_a_tracker(files: Files, network: SPMTrack, tmp_path: Path) -> None:
    fresh, begun = (start_model(TINY, init, seed=3).model for init in ("none", files.backbone))
    whole = start_model(TINY, files.delta, backbone=files.backbone).model
    assert bits(whole) == bits(network)
    for key, value in bits(begun).items():
        assert value == (bits(fresh) if is_trained(key) else bits(network))[key], key
