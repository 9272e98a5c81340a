"""The one table of all models: name -> entry. A new model is a row here; no logic is edited.

Paths in `model` and `preset` are resolved late, so that reading the table never loads torch. What the torch network
knows as well (sizes, defaults, counts) is compared with it in tests/contracts/test_zoo.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from sightline.errors import UnknownModel
from sightline.trackers.gtr import GTR_MOT, GTR_TAO, GTRConfig, GTRTracker, as_in_paper
from sightline.trackers.onetrack_m import OneTrackMConfig, OneTrackMTracker
from sightline.trackers.opencv import OPENCV
from sightline.trackers.spmtrack import SPMTrackConfig, SPMTrackTracker
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker

BoxTrackerConfig = TemplateSearchConfig | SPMTrackConfig
MultiObjectConfig = GTRConfig | OneTrackMConfig
TrackerConfig = BoxTrackerConfig | MultiObjectConfig
# The loop of each config: called with a session, the config and a name it gives a tracker that starts on a box,
TRACKERS: Mapping[type, type] = MappingProxyType(
    {TemplateSearchConfig: TemplateSearchTracker, SPMTrackConfig: SPMTrackTracker}
)
# or, with the names of its classes besides, one that finds its targets by itself.
MULTI_OBJECT: Mapping[type, type] = MappingProxyType({GTRConfig: GTRTracker, OneTrackMConfig: OneTrackMTracker})
PERSON = ("person",)

UNIT_MEAN = (0.0, 0.0, 0.0)
UNIT_STD = (1.0, 1.0, 1.0)
NANO_MEAN = (127 / 255,) * 3
NANO_STD = (128 / 255,) * 3

TRACKING_DATA = "LaSOT, GOT-10k, COCO, TrackingNet"
NOT_PUBLISHED = "model.bin (B's alone is published)"


def fixed(**values: Any) -> Mapping[str, Any]:
    """A mapping that nobody changes."""
    return MappingProxyType(values)


@dataclass(frozen=True)
class Option:
    """A field of a network's config that may be chosen with any weights: its type, its value in the preset, and what it
    means."""

    kind: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Entry:
    """One model.

    model, preset: `module:name` of the torch network and of its config; empty for a model that is an ONNX file alone.
    sidecar: file in the package's `weights` that says how to run such a file.
    fused: `module:function` from the network to a faster copy of it, for inference and export alone; may be empty.
    join: `module:function` from a file of what was trained and the tensors of a backbone to all tensors; empty where
    one file holds everything. backbone_page, backbone_file: where that backbone is published, and under which name.
    options: fields of the network's config which may be chosen at run time, with any weights of this model.
    classes: of a multi-object model the names of what it finds, or `module:function` that gives them.
    variants: other values of the loop's constants than the official ones, by name, each a function from the official
    config; `variant=paper` chooses one.
    unused: what the names of tensors end in that official files hold beside those of the network, for training alone.
    licence, trained_on: the terms of the weights, and their data. official_page, official_file: where the authors
    publish them, and under which name; `bundled` names those inside the package.
    parameters: how many numbers are learnt, by part of the network: the first word of their names.
    gmac: billions of multiply-accumulates on every frame, for one target, every product counted; gmac_template: those
    of one template, which OSTrack's loop runs once for each target and SPMTrack's, within gmac, on every frame. Of a
    multi-object model: GTR's first detector on a frame of 1920 x 1080, and a frame's tokens and one window.
    published: figures of the paper, percent; measured: figures of the weights at hand here, fractions of 1.
    """

    title: str
    tracker: TrackerConfig
    page: str
    licence: str
    trained_on: str
    official_page: str
    parameters: Mapping[str, int]
    gmac: float
    gmac_template: float
    model: str = ""
    preset: str = ""
    sidecar: str = ""
    fused: str = ""
    join: str = ""
    backbone_page: str = ""
    backbone_file: str = ""
    official_file: str = ""
    bundled: str = ""
    options: Mapping[str, Option] = field(default_factory=fixed)
    classes: tuple[str, ...] | str = ()
    variants: Mapping[str, Callable[[Any], Any]] = field(default_factory=fixed)
    unused: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=fixed)
    measured: Mapping[str, float] = field(default_factory=fixed)

    @property
    def is_multi_object(self) -> bool:
        """Whether it finds its targets by itself; else each is started on a box."""
        return type(self.tracker) in MULTI_OBJECT

    @property
    def notice(self) -> str:
        """The rights in the weights, as an exported file carries them."""
        return f"terms: {self.licence}; trained on {self.trained_on}"

    @property
    def num_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def size_mb(self) -> float:
        """Of the parameters in float32, in millions of bytes."""
        return 4e-6 * self.num_parameters


OSTRACK_256 = TemplateSearchConfig(template_px=128, search_px=256)
OSTRACK_384 = TemplateSearchConfig(template_px=192, search_px=384, search_factor=5.0)
GMAC = {(256, False): 30.874, (256, True): 22.602, (384, False): 74.774, (384, True): 54.000}  # side, elimination


def _elimination(layers: tuple[int, ...]) -> Mapping[str, Option]:
    return fixed(
        ce_layers=Option(
            tuple[int, ...], layers, "blocks, counted from 0, that eliminate candidates; none: no elimination"
        ),
        ce_keep_ratios=Option(
            float | tuple[float, ...],
            0.7,
            "share of the living search tokens that each of them keeps: one, or one each",
        ),
        ce_template_tokens=Option(
            Literal["centre", "2x2", "box", "all"], "centre", "template tokens whose attention ranks the candidates"
        ),
    )


def _ostrack(side: int, *, ce: bool, got10k: bool = False, published: Mapping[str, float]) -> Entry:
    """One of the six released OSTrack files; names follow the official configuration files."""
    epochs = 100 if got10k else 300
    stem = f"vitb_{side}_mae_{'ce_' if ce else ''}32x4_{'got10k_' if got10k else ''}ep{epochs}"
    return Entry(
        title=f"OSTrack-{side}{', candidate elimination' if ce else ''}{', GOT-10k only' if got10k else ''}",
        model="sightline.models.ostrack:OSTrack",
        preset=f"sightline.models.ostrack:OSTRACK_{side}{'_CE' if ce else ''}",
        tracker=OSTRACK_256 if side == 256 else OSTRACK_384,
        page="docs/models/ostrack.md",
        licence="code MIT; starts from MAE weights, CC BY-NC 4.0",
        trained_on="GOT-10k" if got10k else TRACKING_DATA,
        official_page="https://github.com/botaoye/OSTrack",
        official_file=f"{stem}/OSTrack_ep{epochs:04d}.pth.tar",
        parameters=fixed(backbone=86_044_416 if side == 256 else 86_351_616, box_head=6_474_117),
        gmac=GMAC[side, ce],
        gmac_template=0.038 if side == 256 else 0.085,
        options=_elimination((3, 6, 9) if ce else ()),
        published=published,
    )


def _spmtrack(
    size: str,
    *,
    blocks: int,
    width: int,
    gmac: float,
    tracker: SPMTrackConfig | None = None,
    **about: Any,
) -> Entry:
    """SPMTrack; all but the blocks follows from the width and the sides of the crops."""
    tracker = tracker or SPMTrackConfig()
    patch_numbers = 3 * tracker.stride**2
    return Entry(
        model="sightline.models.spmtrack:SPMTrack",
        preset=f"sightline.models.spmtrack:SPMTRACK_{size.upper()}",
        fused="sightline.models.spmtrack:fused",
        join="sightline.checkpoints.spmtrack:joined",
        tracker=tracker,
        page="docs/models/spmtrack.md",
        parameters=fixed(
            pos_embed=tracker.grid**2 * width,
            track_query=width,
            query_embed=width,
            token_type_embed=3 * width,
            patch_embed=(patch_numbers + 1) * width,
            blocks=blocks,
            norm=2 * width,
            head=2 * 2 * (width + 1) * width + 5 * (width + 1),
        ),
        gmac=gmac,
        gmac_template=round(patch_numbers * width * (tracker.template_px // tracker.stride) ** 2 / 1e9, 3),
        options=fixed(
            compression=Option(
                Literal["shared", "per_expert"],
                "shared",
                "one compress matrix for all routed experts of a layer, or one for each; as the weights were trained",
            )
        ),
        **about,
    )


def _official_spmtrack(size: str, file: str, published: Mapping[str, float], **sizes: Any) -> Entry:
    """SPMTrack with DINOv2 of one of the three published sizes."""
    return _spmtrack(
        size,
        title=f"SPMTrack-{size.upper()}, a mixture of experts beside DINOv2",
        licence="not stated; starts from DINOv2's",
        trained_on=TRACKING_DATA,
        official_page="https://github.com/WenRuiCai/SPMTrack",
        official_file=file,
        backbone_page="https://github.com/facebookresearch/dinov2",
        backbone_file=f"dinov2_vit{size}14_pretrain.pth",
        published=published,
        **sizes,
    )


def _onetrack_m(size: str, title: str, tracker: OneTrackMConfig, parameters: tuple[int, ...], **about: Any) -> Entry:
    """OneTrack-M in one of its sizes; nobody has published weights of it."""
    parts = ("backbone", "heat_head", "size_head", "displacement_head")
    return Entry(
        title=f"OneTrack-M, a reconstruction: {title}",
        model="sightline.models.onetrack_m:OneTrackM",
        preset=f"sightline.models.onetrack_m:ONETRACK_M_{size.upper()}",
        tracker=tracker,
        page="docs/models/onetrack_m.md",
        parameters=MappingProxyType(dict(zip(parts, parameters, strict=True))),
        gmac_template=0.0,
        classes=PERSON,
        options=fixed(
            every_frame=Option(
                bool, False, "maps of all frames of a window, which mode=clip needs, not of the newest alone"
            )
        ),
        official_page="",
        **about,
    )


FEDERATED = ("freq_weight", "fed_loss_cls_weights")
MOT17_HALF = MappingProxyType({"MOT17 half MOTA": 71.3, "MOT17 half IDF1": 75.9, "MOT17 half HOTA": 63.0})
MOT17_TEST = MappingProxyType({"MOT17 MOTA": 75.3, "MOT17 IDF1": 71.5, "MOT17 HOTA": 59.1})


def _gtr(size: str, file: str, data: str, published: Mapping[str, float]) -> Entry:
    """GTR as released for MOT17, twice: one network, trained on more or less."""
    return Entry(
        title=f"GTR with DLA-34, BiFPN and CenterNet: people, trained on {data}",
        model="sightline.models.gtr:GTR",
        preset=f"sightline.models.gtr:GTR_{size}",
        tracker=GTR_MOT,
        page="docs/models/gtr.md",
        licence="code Apache-2.0; terms of the weights not stated",
        trained_on=data,
        official_page="https://github.com/xingyizhou/GTR",
        official_file=file,
        parameters=fixed(backbone=21_158_249, proposal_generator=969_637, roi_heads=21_673_984),
        gmac=148.984,
        gmac_template=0.0,
        classes=PERSON,
        variants=fixed(paper=as_in_paper),
        published=published,
    )


def _figures(lasot: float, got10k: float, trackingnet: float) -> Mapping[str, float]:
    return MappingProxyType({"LaSOT AUC": lasot, "TrackingNet AUC": trackingnet, "GOT-10k AO": got10k})


ZOO: Mapping[str, Entry] = MappingProxyType(
    {
        "sightline-nano": Entry(
            title="sightline-nano, made here for one or two CPU cores",
            model="sightline.models.nano:Nano",
            preset="sightline.models.nano:NANO",
            tracker=TemplateSearchConfig(
                template_px=96,
                search_px=192,
                mean=NANO_MEAN,
                std=NANO_STD,
                crop="exact",
                map_back="exact",
                tracked_from=0.28,
            ),
            page="docs/models/nano.md",
            licence="some of the data is for research only, see WEIGHTS.md",
            trained_on="parts of OTB-100, VOT, UAV123, TinyTLP, DAVIS, COCO, Tiny ImageNet, FOD-A and others",
            official_page="",
            bundled="sightline-nano",
            parameters=fixed(
                backbone=700_768,
                project=14_464,
                template_position=4_608,
                search_position=18_432,
                layers=397_440,
                norm=256,
                correlation=4_160,
                score_head=221_569,
                box_head=221_764,
            ),
            gmac=0.342,
            gmac_template=0.045,
            measured=MappingProxyType({"validation AUC": 0.697}),
        ),
        "ostrack-256": _ostrack(
            256, ce=False, published=MappingProxyType({"LaSOT AUC": 68.7, "TrackingNet AUC": 82.9})
        ),
        "ostrack-256-ce": _ostrack(
            256, ce=True, published=MappingProxyType({"LaSOT AUC": 69.1, "TrackingNet AUC": 83.1})
        ),
        "ostrack-256-ce-got10k": _ostrack(256, ce=True, got10k=True, published=MappingProxyType({"GOT-10k AO": 71.0})),
        "ostrack-384": _ostrack(
            384, ce=False, published=MappingProxyType({"LaSOT AUC": 71.0, "TrackingNet AUC": 83.5})
        ),
        "ostrack-384-ce": _ostrack(
            384, ce=True, published=MappingProxyType({"LaSOT AUC": 71.1, "TrackingNet AUC": 83.9})
        ),
        "ostrack-384-ce-got10k": _ostrack(384, ce=True, got10k=True, published=MappingProxyType({"GOT-10k AO": 73.7})),
        "ostrack-tiny": Entry(
            title="OSTrack with ViT-Ti/16, candidate elimination, for experiments: train it on a CPU",
            model="sightline.models.ostrack:OSTrack",
            preset="sightline.models.ostrack:OSTRACK_TINY",
            tracker=TemplateSearchConfig(template_px=96, search_px=192),
            page="docs/models/ostrack.md",
            licence="that of your data",
            trained_on="nothing yet: sightline train ostrack-tiny:full",
            official_page="",
            parameters=fixed(backbone=5_558_976, box_head=2_492_805),
            gmac=1.161,
            gmac_template=0.005,
            options=_elimination((3, 6, 9)),
        ),
        "mvt": Entry(
            title="MVT, Mobile Vision Transformer tracker",
            model="sightline.models.mvt:MVT",
            preset="sightline.models.mvt:MVT_256",
            tracker=TemplateSearchConfig(template_px=128, search_px=256, mean=UNIT_MEAN, std=UNIT_STD),
            page="docs/models/mvt.md",
            licence="none stated; starts from Apple's MobileViT-S",
            trained_on="GOT-10k",
            official_page="https://github.com/goutamyg/MVT",
            official_file="mobilevit_256_128x1_got10k_ep100_cosine_annealing/MobileViT_Track_ep0100.pth.tar",
            parameters=fixed(backbone=2_519_760, neck=512, feature_fusor=24_960, box_head=2_935_173),
            gmac=2.987,
            gmac_template=0.115,
            options=fixed(
                fusion=Option(
                    bool, True, "relate template and search region inside the backbone, not only in the correlation"
                )
            ),
            published=MappingProxyType({"LaSOT AUC": 55.3, "TrackingNet AUC": 74.8, "GOT-10k AO": 63.3}),
        ),
        "spmtrack-b": _official_spmtrack(
            "b", "model.bin", _figures(74.9, 76.5, 86.1), blocks=111_946_752, width=768, gmac=181.700
        ),
        "spmtrack-l": _official_spmtrack(
            "l", NOT_PUBLISHED, _figures(76.8, 80.0, 86.9), blocks=374_022_144, width=1024, gmac=581.714
        ),
        "spmtrack-g": _official_spmtrack(
            "g", NOT_PUBLISHED, _figures(77.4, 81.0, 87.3), blocks=1_328_025_600, width=1536, gmac=1970.549
        ),
        "spmtrack-tiny": _spmtrack(
            "tiny",
            title="SPMTrack with half a ViT-Ti/14, for experiments: train it on a CPU",
            tracker=SPMTrackConfig(template_px=98, search_px=196),
            licence="that of your data",
            trained_on="nothing yet: sightline train spmtrack-tiny:full",
            official_page="",
            blocks=3_542_400,
            width=192,
            gmac=1.553,
        ),
        "gtr-mot": _gtr("MOT", "GTR_MOT_FPN.pth", "MOT17 (first halves) and CrowdHuman", MOT17_HALF),
        "gtr-mot-full": _gtr("MOT", "GTR_MOTFull_FPN.pth", "MOT17 and CrowdHuman", MOT17_TEST),
        "gtr-tao": Entry(
            title="GTR with Res2Net-101, FPN and the CenterNet2 cascade: the 1203 classes of LVIS",
            model="sightline.models.gtr:GTR",
            preset="sightline.models.gtr:GTR_TAO",
            tracker=GTR_TAO,
            page="docs/models/gtr.md",
            licence="code Apache-2.0; terms of the weights not stated",
            trained_on="LVIS v1 and COCO, still images alone",
            official_page="https://github.com/xingyizhou/GTR",
            official_file="GTR_TAO_DR2101.pth",
            parameters=fixed(backbone=49_125_068, proposal_generator=2_436_133, roi_heads=76_090_920),
            gmac=239.245,
            gmac_template=0.0,
            classes="sightline.datasets.lvis:class_names",
            variants=fixed(paper=as_in_paper),
            unused=FEDERATED,
            published=MappingProxyType({"TAO mAP50": 22.5, "TAO HOTA": 45.8}),
        ),
        "gtr-tiny": Entry(
            title="GTR with an eighth of the width, for experiments: train it on a CPU",
            model="sightline.models.gtr:GTR",
            preset="sightline.models.gtr:GTR_TINY",
            tracker=replace(GTR_MOT, side_px=512, object_from=0.4),
            page="docs/models/gtr.md",
            licence="that of your data",
            trained_on="nothing yet: sightline train gtr-tiny:full",
            official_page="",
            parameters=fixed(backbone=456_347, proposal_generator=166_693, roi_heads=254_848),
            gmac=1.481,
            gmac_template=0.0,
            classes=PERSON,
            variants=fixed(paper=as_in_paper),
        ),
        "onetrack-m-b16": _onetrack_m(
            "b16",
            "ViT-B/16",
            OneTrackMConfig(),
            (85_800_960, 1_820_100, 1_870_472, 1_870_472),
            gmac=102.143,
            licence="that of your data",
            trained_on="nothing yet: sightline train onetrack-m-b16:full",
        ),
        "onetrack-m-b32": _onetrack_m(
            "b32",
            "ViT-B/32",
            OneTrackMConfig(),
            (87_457_536, 1_971_216, 2_172_704, 2_172_704),
            gmac=22.34,
            licence="that of your data",
            trained_on="nothing yet: sightline train onetrack-m-b32:full",
        ),
        "onetrack-m-l16": _onetrack_m(
            "l16",
            "ViT-L/16",
            OneTrackMConfig(),
            (303_304_704, 2_409_924, 2_460_296, 2_460_296),
            gmac=344.746,
            licence="that of your data",
            trained_on="nothing yet: sightline train onetrack-m-l16:full",
        ),
        "onetrack-m-tiny": _onetrack_m(
            "tiny",
            "EfficientNet-Lite0's stages and three joint blocks, for people on one or two CPU cores",
            OneTrackMConfig(
                image_px=256,
                grid=64,
                clip_length=2,
                mean=NANO_MEAN,
                std=NANO_STD,
                detected_from=0.3,  # these four were chosen on generator seeds of their own
                match_iou=0.2,
                started_from=0.4,
                motion="velocity",
                displacement_scale=(0.0355, 0.036),
            ),
            (1_343_328, 74_832, 77_952, 75_872),
            gmac=0.883,
            licence="some of the data is for research only, see WEIGHTS.md",
            trained_on="a generator with cut-outs of COCO, MOT17 and others, stills of COCO and MOT17",
            bundled="onetrack-m-tiny",
            measured=MappingProxyType({"generator HOTA": 0.595}),
        ),
        "vittrack": Entry(
            title="VitTrack of the OpenCV zoo, an ONNX file of 0.8 MB",
            sidecar="vittrack.toml",
            tracker=OSTRACK_256,
            page="docs/models/onnx.md",
            licence="Apache-2.0",
            trained_on="not stated",
            official_page="https://github.com/opencv/opencv_zoo/tree/main/models/object_tracking_vittrack",
            official_file="vitTracker.onnx",
            parameters=fixed(
                patch_embed=13_860, pos_embed_z=3_072, pos_embed_x=12_288, blocks=84_816, norm=96, box_head=59_821
            ),
            gmac=0.085,  # the template's stem included: one graph takes both images
            gmac_template=0.0,
            published=MappingProxyType({"LaSOT AUC": 48.6}),
            measured=MappingProxyType({"validation AUC": 0.711}),
        ),
    }
)


def entry_of(name: str) -> Entry:
    """The row of that name; else `UnknownModel`, which names the nearest one, OpenCV's trackers included."""
    if name in OPENCV:
        raise UnknownModel(
            f"model: got {name!r}, a tracker of OpenCV's own; expected one with a network of ours: {', '.join(ZOO)}. "
            f"Only 'sightline track' and 'sightline models {name}' know it."
        )
    if name not in ZOO:
        known = (*ZOO, *OPENCV)
        advice = nearest(name, known) or " Run: sightline models"
        raise UnknownModel(f"model: got {name!r}; expected one of {', '.join(known)}.{advice}")
    return ZOO[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    names = list(known)
    sought = name.lower()
    close = difflib.get_close_matches(sought, names, n=1) or [known for known in names if sought and sought in known]
    return f" Did you mean {close[0]!r}?" if close else ""
