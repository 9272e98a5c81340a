"""Where a training starts: files of every known layout, made here in small, and what is taken of them.

The networks are OSTrack with two blocks of width 48, and MVT and sightline-nano as they are; one test, marked slow, is
of full size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sightline.checkpoints.files import read_weights, write_safetensors
from sightline.checkpoints.starts import OWN, START, Start, start_model
from sightline.cli import main
from sightline.errors import CheckpointError
from sightline.loading import build_model, empty_model
from sightline.models.ostrack import OSTrack
from tests.parity.fill import fill, unit

WIDTH = 48
SMALL = {"width": WIDTH, "depth": 2, "heads": 3}  # 128 and 256 px: grids of 8 and 16
Tensors = dict[str, Tensor]


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Noise that is determined by the names."""
    return {name: torch.from_numpy(unit(name, shape).astype(np.float32)) for name, shape in shapes.items()}


def encoder(width: int = WIDTH, depth: int = 2, positions: int = 197, patch: int = 16) -> Tensors:
    """A ViT's encoder in timm's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(depth):
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in linear.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.weight": (width,), f"blocks.{block}.{name}.bias": (width,)}
    return tensors(shapes)


def head(classes: int = 1000, width: int = WIDTH, name: str = "head") -> Tensors:
    return tensors({f"{name}.weight": (classes, width), f"{name}.bias": (classes,)})


DECODER = tensors(
    {
        "mask_token": (1, 1, 32),
        "decoder_pos_embed": (1, 197, 32),
        "decoder_embed.weight": (32, WIDTH),
        "decoder_blocks.0.norm1.weight": (32,),
        "decoder_pred.bias": (768,),
    }
)
DISTILLED = tensors({"dist_token": (1, 1, WIDTH)}) | head(name="head_dist")
PRE_LOGITS = tensors({"pre_logits.fc.weight": (WIDTH, WIDTH), "pre_logits.fc.bias": (WIDTH,)})

# layout -> (the file's tree, side of its grid, tokens before it, words of the title, what the notes call ignored)
LAYOUTS: dict[str, tuple[dict[str, Any], int, int, str, str]] = {
    "MAE": ({"model": encoder() | DECODER}, 14, 1, "MAE's ViT-B/16, encoder and decoder", "decoder_blocks, decoder_e"),
    "MAE, encoder": ({"model": encoder()}, 14, 1, "a ViT-B/16 encoder, as MAE's", ""),
    "DeiT": ({"model": encoder() | head()}, 14, 1, "classifier of 1,000 classes", "head"),
    "DeiT, distilled": (
        {"model": encoder(positions=198) | head() | DISTILLED}, 14, 2, "DeiT's distilled", "dist_token, head, head_",
    ),
    "AugReg": (encoder() | head(), 14, 1, "classifier of 1,000 classes", "head"),
    "AugReg, 21k": (encoder() | head(21843) | PRE_LOGITS, 14, 1, "classifier of 21,843 classes", "head, pre_logits"),
    "AugReg, 384 px": (encoder(positions=1 + 24 * 24) | head(), 24, 1, "classifier of 1,000 classes", "head"),
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """A file of `torch.save`."""

    def write(tree: dict[str, Any]) -> Path:
        torch.save(tree, tmp_path / "init.pth")
        return tmp_path / "init.pth"

    return write


def resized(grid: Tensor, side: int) -> Tensor:
    """(1, G * G, C) positions as (1, side * side, C): bicubic, corners not aligned, written apart from the library."""
    old = round(grid.shape[1] ** 0.5)
    picture = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    new = F.interpolate(picture, size=(side, side), mode="bicubic", align_corners=False)
    return new.permute(0, 2, 3, 1).reshape(1, side * side, -1)


def state_of(start: Start) -> Tensors:
    return dict(start.model.state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vit_of_every_layout_starts_the_backbone(layout: str, file: Callable[..., Path]) -> None:
    tree, side, before, title, ignored = LAYOUTS[layout]
    given = tree.get("model", tree)
    start = start_model("ostrack-256", file(tree), seed=3, options=SMALL)
    own = state_of(start_model("ostrack-256", seed=3, options=SMALL))
    assert title in start.title
    assert isinstance(start.model, OSTrack)
    found = state_of(start)
    taken = {name for name in own if name.startswith("backbone.") and "pos_embed" not in name}
    for name in taken:
        assert torch.equal(found[name], given[name.removeprefix("backbone.")]), name
        assert not torch.equal(found[name], own[name]) or name.endswith("bias"), name  # the control
    grid = given["pos_embed"][:, before:]
    for name, new_side in (("pos_embed_z", 8), ("pos_embed_x", 16)):
        torch.testing.assert_close(found[f"backbone.{name}"], resized(grid, new_side), atol=1e-6, rtol=0)
    assert found["backbone.pos_embed"].shape == (1, 197, WIDTH)
    assert torch.equal(found["backbone.pos_embed"][:, 0], given["pos_embed"][:, 0])
    for name in own.keys() - taken:
        if name.startswith("box_head."):
            assert torch.equal(found[name], own[name]), name
    notes = "\n".join(start.notes)
    assert f"taken: {len(taken) + 1} tensors of the backbone" in notes  # and the embedding that nothing reads
    assert f"from {side} x {side} to 8 x 8 for the template and 16 x 16 for the search region" in notes
    assert (f"ignored: {ignored}" in notes) if ignored else ("ignored" not in notes)
    assert "initialised: box_head, seed 3" in notes


def test_a_grid_of_another_side_is_resized_once(file: Callable[..., Path]) -> None:
    """From 24 x 24 to 16 x 16 at once, not by way of 14 x 14."""
    tree = encoder(positions=1 + 24 * 24)
    found = state_of(start_model("ostrack-256", file(tree), options=SMALL))["backbone.pos_embed_x"]
    twice = resized(resized(tree["pos_embed"][:, 1:], 14), 16)
    assert (found - twice).abs().max() > 0.1


def without(given: Tensors, *names: str) -> Tensors:
    return {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (
            encoder(width=24),
            "got patch_embed.proj.weight (24, 3, 16, 16); expected (48, 3, 16, 16), as ViT-B/16 has it",
        ),
        (encoder(patch=32), "got patch_embed.proj.weight (48, 3, 32, 32)"),
        (encoder(depth=3), "got blocks.2.attn.qkv.weight (144, 48), which a plain ViT does not have"),
        (encoder() | tensors({"blocks.0.gamma_1": (WIDTH,)}), "got blocks.0.gamma_1 (48,), which a plain ViT"),
        (encoder() | tensors({"norm_pre.weight": (WIDTH,)}), "got norm_pre.weight (48,), which a plain ViT"),
        (encoder(depth=1), "does not fit 12 of 30 backbone tensors, first blocks.1.norm1.weight: got nothing"),
        (without(encoder(), "norm.weight"), "does not fit 1 of 30 backbone tensors, first norm.weight"),
        (encoder(positions=196), "got pos_embed (1, 196, 48); expected 1 and a square number of positions"),
        (encoder(positions=198), "got pos_embed (1, 198, 48)"),
        ({"pos_embed": torch.zeros(3), "patch_embed.proj.weight": torch.zeros(48, 3, 16, 16)}, "got pos_embed (3,)"),
        (without(encoder(), "pos_embed"), "without pos_embed and patch_embed.proj.weight; expected a ViT-B/16"),
        ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, "got 1 tensors without pos_embed"),
        ({"net": {"backbone.conv_1.block.conv.weight": torch.zeros(16, 3, 3, 3)}}, "'init.pth' miss "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_file_that_is_no_start_is_one_sentence(
    tree: dict[str, Any], sentence: str, file: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError) as refused:
        start_model("ostrack-256", file(tree), options=SMALL)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_none_is_the_models_own_start_and_seeded() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    start = start_model("sightline-nano")
    assert torch.equal(torch.rand(3), expected)  # whoever else draws numbers is not disturbed
    again, other = start_model("sightline-nano", "none"), start_model("sightline-nano", seed=1)
    assert all(torch.equal(value, state_of(again)[name]) for name, value in state_of(start).items())
    assert not torch.equal(state_of(start)["score_head.0.weight"], state_of(other)["score_head.0.weight"])
    assert start.title == "its own initialisation"
    assert start.notes == ("initialised: all 270 tensors, seed 0",)


@pytest.mark.parametrize("direction", ["larger", "smaller", "same"])
def test_an_ostrack_of_any_size_starts_another(direction: str, file: Callable[..., Path]) -> None:
    small, large = ({"template_px": 64, "search_px": 128}, {"template_px": 96, "search_px": 192})
    old, new = {"larger": (small, large), "smaller": (large, small), "same": (small, small)}[direction]
    given = fill(empty_model("ostrack-256", SMALL | old)).state_dict()
    start = start_model("ostrack-256", file({"net": given, "epoch": 300}), options=SMALL | new)
    found = state_of(start)
    for name, value in given.items():
        if name.endswith(("pos_embed_z", "pos_embed_x")):
            side = new["template_px" if name.endswith("z") else "search_px"] // 16
            value = value if direction == "same" else resized(value, side)
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=name)
    sides = {"larger": "4 x 4 to 6 x 6", "smaller": "6 x 6 to 4 x 4"}
    notes = "\n".join(start.notes)
    assert "the head among them" in notes
    assert (
        (f"resized: backbone.pos_embed_z from {sides[direction]}" in notes)
        if direction != "same"
        else ("resized" not in notes)
    )
    assert start.title == "the tracker 'init.pth'"


def behind(name: str) -> Tensors:
    """What the official files hold behind the last stage that the tracker runs."""
    if name == "mvt":
        return tensors({"layer_5.0.block.exp_1x1.block.conv.weight": (512, 128, 1, 1), "classifier.fc.bias": (1000,)})
    return tensors({"_blocks.11._expand_conv.weight": (672, 112, 1, 1), "_conv_head.weight": (1280, 320, 1, 1)})


@pytest.mark.parametrize(("name", "title"), [("mvt", "MobileViT-S"), ("sightline-nano", "EfficientNet-Lite0")])
def test_the_convolutional_backbones_start_from_their_own_files(
    name: str, title: str, file: Callable[..., Path]
) -> None:
    given = fill(empty_model(name).backbone).state_dict()  # type: ignore[arg-type]
    start = start_model(name, file(given | behind(name)), seed=5)
    own = state_of(start_model(name, seed=5))
    for key, value in state_of(start).items():
        inner = key.removeprefix("backbone.")
        assert torch.equal(value, given[inner] if key != inner else own[key]), key
    assert start.title == title
    assert start.notes[0] == f"taken: {len(given)} tensors of the backbone"
    assert start.notes[1].startswith("ignored: what lies behind stride 16 (")

    first = next(iter(given))
    cases = {
        f"got nothing for {first}": {key: value for key, value in given.items() if key != first},
        f"got (7,) for {first}": {**given, first: torch.zeros(7)},
        "got (3,) for fc.weight; expected nothing": {**given, "fc.weight": torch.zeros(3)},
    }
    for sentence, tree in cases.items():
        with pytest.raises(CheckpointError) as refused:
            start_model(name, file(tree))
        assert sentence in str(refused.value) and title in str(refused.value)


def test_a_tracker_of_its_own_kind_starts_a_tracker_and_another_does_not(tmp_path: Path) -> None:
    model, _ = build_model("sightline-nano", None)
    bundled = model.state_dict()
    torch.save(bundled, tmp_path / "nano.pth")
    assert all(
        torch.equal(v, bundled[k]) for k, v in state_of(start_model("sightline-nano", tmp_path / "nano.pth")).items()
    )
    with pytest.raises(CheckpointError, match="'nano.pth' miss .* Give the official weights of mvt"):
        start_model("mvt", tmp_path / "nano.pth")


# OneTrack-M: a ViT of its own sizes, or the convolutions of another network

MANY = {"width": WIDTH, "depth": 2, "heads": 3, "clip_length": 2, "head_hidden": 8}
ROWS = ("backbone.frame_embed",)  # of the window, which no ViT has


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vit_of_every_layout_starts_onetrack_m(layout: str, file: Callable[..., Path]) -> None:
    tree, side, before, title, ignored = LAYOUTS[layout]
    given = tree.get("model", tree)
    start = start_model("onetrack-m-b16", file(tree), seed=3, options=MANY)
    own, found = state_of(start_model("onetrack-m-b16", seed=3, options=MANY)), state_of(start)
    assert title.replace("ViT-B/16", f"ViT of width {WIDTH}, patches of 16 px") in start.title
    for name, value in own.items():
        inner = name.removeprefix("backbone.")
        if name == "backbone.pos_embed":
            torch.testing.assert_close(found[name], resized(given["pos_embed"][:, before:], 14), atol=1e-6, rtol=0)
        else:
            assert torch.equal(found[name], value if inner == name or name in ROWS else given[inner]), name
    assert start.pretrained == {name for name in own if name.startswith("backbone.")} - set(ROWS)
    notes = "\n".join(start.notes)
    assert f"taken: {len(start.pretrained)} tensors of the backbone" in notes
    assert ("resized: pos_embed from 24 x 24 to 14 x 14" in notes) == (side == 24) == ("resized" in notes)
    assert f"ignored: cls_token{', ' if ignored else ''}{ignored}" in notes
    assert "initialised: displacement_head, heat_head, size_head, seed 3" in notes


def test_patches_of_32_px_have_their_own_file(file: Callable[..., Path]) -> None:
    large = encoder(positions=1 + 49, patch=32)
    found = state_of(start_model("onetrack-m-b32", file(large), options=MANY))
    assert torch.equal(found["backbone.pos_embed"], large["pos_embed"][:, 1:])
    with pytest.raises(CheckpointError, match=r"weights 'init.pth': vit initialisation does not fit .*patch_embed"):
        start_model("onetrack-m-b32", file(encoder()), options=MANY)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "mobilevit"])
def test_convolutions_start_onetrack_m_from_their_own_file_and_from_another_trackers(
    backbone: str, file: Callable[..., Path]
) -> None:
    of, title = ("mvt", "MobileViT-S") if backbone == "mobilevit" else ("sightline-nano", "EfficientNet-Lite0")
    options = MANY | {"backbone": backbone, "image_px": 64, "cells_per_token": 4}
    inner = fill(empty_model(of).backbone).state_dict()  # type: ignore[arg-type]
    whole = {f"backbone.{name}": value for name, value in inner.items()} | head(7, name="box_head")
    for tree, told in ((inner | behind(of), title), (whole, f"{title} in the tracker 'init.pth'")):
        start = start_model("onetrack-m-b16", file(tree), options=options)
        found = state_of(start)
        assert start.title == told and start.notes[0] == f"taken: {len(inner)} tensors of the backbone"
        assert all(torch.equal(found[f"backbone.stages.{name}"], value) for name, value in inner.items())
        assert start.pretrained == {f"backbone.stages.{name}" for name in inner}
    with pytest.raises(CheckpointError, match="got cls_token"):
        start_model("onetrack-m-b16", file(encoder()), options=options)


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ({"blocks.0.ls1.gamma": (WIDTH,)}, "got blocks.0.ls1.gamma (48,), which vit does not have here"),
        ({"blocks.2.norm1.weight": (WIDTH,)}, "got blocks.2.norm1.weight (48,), which vit does not have here"),
        ({"backbone.pos_embed_x": (1, 64, WIDTH)}, "got pos_embed_x (1, 64, 48), which vit does not have here"),
    ],
)
def test_another_kind_of_vit_starts_no_onetrack_m(
    added: dict[str, tuple[int, ...]], sentence: str, file: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError) as refused:
        start_model("onetrack-m-b16", file(encoder() | tensors(added)), options=MANY)
    assert sentence in str(refused.value) and "'init.pth'" in str(refused.value)


def test_a_converted_start_is_the_initialisation_and_trained_weights_are_not(
    file: Callable[..., Path], tmp_path: Path
) -> None:
    """So that a training gives what was pre-trained its own rate, whichever of the two it is given."""
    path, out = file(encoder()), tmp_path / "start.safetensors"
    start = start_model("onetrack-m-b16", path, seed=7, options=MANY)
    content = {name: value.numpy() for name, value in start.model.state_dict().items()}
    for header, pretrained in (
        ({START: start.title}, start.pretrained),
        ({START: OWN}, frozenset()),  # of --init none
        ({}, frozenset()),
    ):
        write_safetensors(out, content, header)
        again = start_model("onetrack-m-b16", out, options=MANY)
        assert again.pretrained == pretrained and again.title == "the tracker 'start.safetensors'"
        assert all(torch.equal(value, state_of(start)[name]) for name, value in state_of(again).items())


# The verb


def test_convert_writes_a_start(tmp_path: Path, file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    given = fill(empty_model("mvt").backbone).state_dict()  # type: ignore[arg-type]
    path, out = file(given), tmp_path / "start.safetensors"
    assert main(["convert", "--init", str(path), "--model", "mvt", "-o", str(out), "--seed", "7"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{out}: mvt, to be trained, from MobileViT-S"
    assert told[-1] == "  initialised: box_head, feature_fusor, neck, seed 7"
    written = read_weights(out)
    expected = state_of(start_model("mvt", path, seed=7))
    assert written.tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(written.tensors[name], value.numpy(), err_msg=name)
    about = {key.removeprefix("sightline."): value for key, value in written.metadata.items()}
    assert (about["model"], about["start"], about["seed"]) == ("mvt", "MobileViT-S", "7")
    assert about["source_name"] == "init.pth" and len(about["source_sha256"]) == 64
    build_model("mvt", out)  # it is a whole file of this model

    assert main(["convert", "--init", "none", "--model", "sightline-nano", "-o", str(out)]) == 0
    assert read_weights(out).metadata["sightline.start"] == "its own initialisation"
    assert "source_name" not in str(read_weights(out).metadata)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "convert: got no file; expected one of the two"),
        (["init.pth", "--init", "none"], "convert: got a file and --init; expected one of the two"),
        (["--init", "none"], "Name it with --model."),
        (["--init", "missing.pth", "--model", "mvt"], "missing.pth"),
        (["--init", "none", "--model", "mtv"], "Did you mean 'mvt'?"),
        (["--init", "none", "--model", "vittrack"], "got a model that is an ONNX file alone"),
        (["--init", "init.pth", "--model", "mvt"], "as MobileViT-S has it"),
        (["init.pth"], "sightline convert --init init.pth --model NAME -o START.safetensors"),
    ],
)
def test_convert_refuses_what_is_no_start(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": tensors({"pos_embed": (1, 197, 768), "blocks.11.attn.qkv.weight": (2304, 768)})}, "init.pth")
    assert main(["convert", *arguments, "-o", "out.safetensors"]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1 and not told.out
    assert not Path("out.safetensors").exists()


@pytest.mark.slow
def test_a_vit_of_full_size_starts_ostrack_384(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "mae_pretrain_vit_base.pth", tmp_path / "start.safetensors"
    shapes = {name: tuple(value.shape) for name, value in encoder(width=8, depth=12).items()}
    wide = {8: 768, 24: 2304, 32: 3072}
    full = {name: tuple(wide.get(size, size) for size in shape) for name, shape in shapes.items()}
    full["pos_embed"] = (1, 197, 768)
    full["patch_embed.proj.weight"] = (768, 3, 16, 16)
    given = {name: torch.rand(shape) for name, shape in full.items()}
    torch.save({"model": given}, path)
    assert main(["convert", "--init", str(path), "--model", "ostrack-384", "-o", str(out)]) == 0
    assert "resized: pos_embed from 14 x 14 to 12 x 12" in capsys.readouterr().out
    written = read_weights(out).tensors
    assert sum(value.size for name, value in written.items() if "running" not in name) > 92_825_733
    np.testing.assert_array_equal(written["backbone.blocks.11.mlp.fc2.weight"], given["blocks.11.mlp.fc2.weight"])
    expected = resized(given["pos_embed"][:, 1:], 24).numpy()
    np.testing.assert_allclose(written["backbone.pos_embed_x"], expected, atol=1e-6)
