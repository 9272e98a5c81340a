"""Official weights by name: which file is this, and does it hold every tensor of a model, in its shape?

Our networks carry the official key names, so no tensor is renamed. What differs between files is the container, and
what goes wrong is that the right kind of file is given to the wrong model; the sentences here say which one it fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError

Shape = tuple[int, ...]
COUNTER = ".num_batches_tracked"  # of BatchNorm, unused in inference; absent from files older than torch 0.4


@dataclass(frozen=True)
class Signature:
    """What tells an official file from every other: a few of its tensors, by name and shape.

    model: the zoo's name to load it by; empty for a file that only starts a training, which `init_with` reads, and for
    the frozen part of the model `backbone_of`.
    """

    title: str
    marks: Mapping[str, Shape]
    model: str = ""
    init_with: str = ""
    backbone_of: str = ""
    note: str = ""

    @property
    def advice(self) -> str:
        if self.backbone_of:
            return f'Pass it with --backbone, beside the weights of "{self.backbone_of}".'
        return f'Load "{self.model}".' if self.model else f"Start a training from it with {self.init_with}."


# SPMTrack's size: blocks, width, rank, and positions in the file of its backbone.
SPMTRACK = {"b": (12, 768, 64, 1370), "l": (24, 1024, 64, 1370), "g": (40, 1536, 64, 1370), "tiny": (6, 192, 16, 65)}
ANY_ELIMINATION = "loads with candidate elimination on or off"
SIGNATURES = (
    Signature(
        title="an OSTrack-256 file",
        marks={"backbone.pos_embed_x": (1, 256, 768), "box_head.conv1_ctr.0.weight": (256, 768, 3, 3)},
        model="ostrack-256-ce",
        note=ANY_ELIMINATION,
    ),
    Signature(
        title="an OSTrack-384 file",
        marks={"backbone.pos_embed_x": (1, 576, 768), "box_head.conv1_ctr.0.weight": (256, 768, 3, 3)},
        model="ostrack-384-ce",
        note=ANY_ELIMINATION,
    ),
    Signature(
        title="an MVT file",
        marks={"feature_fusor.adj_layer.weight": (256, 64, 1, 1)},
        model="mvt",
    ),
    Signature(
        title="a GTR file of MOT17",
        marks={"roi_heads.asso_head.fc1.weight": (1024, 7840)},
        model="gtr-mot",
        note="or gtr-mot-full, whose tensors are of the same shapes: name that with --model",
    ),
    Signature(
        title="a GTR file of TAO",
        marks={"roi_heads.asso_head.fc1.weight": (1024, 12544), "roi_heads.box_predictor.2.cls_score.bias": (1204,)},
        model="gtr-tao",
    ),
    Signature(
        title="MAE's ViT-B/16, an initialisation",
        marks={"pos_embed": (1, 197, 768), "blocks.11.attn.qkv.weight": (2304, 768)},
        init_with="sightline.models.ostrack.init_from_vit",
    ),
    Signature(
        title="Apple's MobileViT-S, an initialisation",
        marks={"conv_1.block.conv.weight": (16, 3, 3, 3), "layer_4.0.block.exp_1x1.block.conv.weight": (384, 96, 1, 1)},
        init_with="sightline.models.mvt.init_from_mobilevit",
    ),
    *(
        Signature(
            title=f"an SPMTrack-{size} file",
            marks={
                "track_query": (1, width),
                f"blocks.{blocks - 1}.attn.qkv.q.tmoe.routed_experts.0": (width, rank),
            },
            model=f"spmtrack-{size}",
        )
        for size, (blocks, width, rank, _) in SPMTRACK.items()
    ),
    *(
        Signature(
            title="a DINOv2 file",
            marks={"pos_embed": (1, positions, width), f"blocks.{blocks - 1}.ls1.gamma": (width,)},
            backbone_of=f"spmtrack-{size}",
        )
        for size, (blocks, width, _, positions) in SPMTRACK.items()
    ),
)


def tensors_of(
    tree: Mapping[Any, Any], container_keys: Sequence[str] = ("net", "model", "state_dict")
) -> dict[str, NDArray[Any]]:
    """The weights in a file's dictionary: under the first of `container_keys` that holds a dictionary, or flat.

    `net` is OSTrack's and MVT's, `model` MAE's and detectron2's; Apple's MobileViT is flat. The prefix `module.` of
    parallel training is taken off if every name has it. Raises `CheckpointError` if anything but arrays by name is
    found there.
    """
    inner = next((tree[key] for key in container_keys if isinstance(tree.get(key), Mapping)), tree)
    other = [name for name, value in inner.items() if not (isinstance(name, str) and isinstance(value, np.ndarray))]
    if other or not inner:
        got = f"{other[0]!r:.60} as {inner[other[0]]!s:.60}" if other else "no tensors"
        raise CheckpointError(
            f"got {got}; expected tensors by name, at the top or under {', '.join(container_keys)}. "
            "Save the model's state_dict()."
        )
    if all(name.startswith("module.") for name in inner):
        return {name.removeprefix("module."): value for name, value in inner.items()}
    return dict(inner)


def recognise(tensors: Mapping[str, NDArray[Any]], hints: Iterable[Signature] = SIGNATURES) -> Signature | None:
    """The first signature all of whose marks are among `tensors`, each in its shape."""
    for signature in hints:
        if all(name in tensors and tensors[name].shape == shape for name, shape in signature.marks.items()):
            return signature
    return None


def check_against(
    tensors: Mapping[str, NDArray[Any]],
    expected: Mapping[str, Shape],
    *,
    source: str,
    model: str,
    hints: Iterable[Signature] = SIGNATURES,
    told: str = "",
) -> None:
    """Every expected tensor is there in its shape, and no other; only BatchNorm's counters may be absent.

    `source` and `model` name the file and the model in the sentence of the `CheckpointError`, which also says which
    model of `hints` the file looks like. told: the model that the file itself names, if any.
    """
    absent = [name for name in expected if name not in tensors and not name.endswith(COUNTER)]
    misshapen = [name for name, shape in expected.items() if name in tensors and tensors[name].shape != shape]
    unknown = [name for name in tensors if name not in expected]
    faults = []
    if absent:
        faults.append(f"miss {len(absent)} of {len(expected)} tensors, first {absent[0]} {expected[absent[0]]}")
    if misshapen:
        first = misshapen[0]
        faults.append(
            f"have {len(misshapen)} of {len(expected)} tensors in another shape, first {first}: "
            f"got {tensors[first].shape}, expected {expected[first]}"
        )
    if unknown:
        faults.append(
            f"hold {_plural(len(unknown), 'tensor')} unknown to {model}, first {unknown[0]} {tensors[unknown[0]].shape}"
        )
    if not faults:
        return
    likely = recognise(tensors, hints)
    if told and told != model:
        verdict = f"this file is of {told}. Name that model, or give the weights of {model}."
    elif likely is None:
        verdict = f"this looks like no file that Sightline knows. Give the official weights of {model}."
    elif all(expected.get(name) == shape for name, shape in likely.marks.items()):
        verdict = f"this looks like {likely.title} that was cut or changed. Download the official one again."
    else:
        verdict = f"this looks like {likely.title}. {likely.advice}"
    raise CheckpointError(f"weights {source!r} {' and '.join(faults)}: {verdict}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
