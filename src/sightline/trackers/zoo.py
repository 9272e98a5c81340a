"""The one table of all models: name -> entry. A new model is a row here; no logic is edited.

Paths in `model` and `preset` are resolved late, so that reading the table never loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sightline.trackers.template_search import TemplateSearchConfig

UNIT_MEAN = (0.0, 0.0, 0.0)
UNIT_STD = (1.0, 1.0, 1.0)
NANO_MEAN = (127 / 255,) * 3
NANO_STD = (128 / 255,) * 3

TRACKING_DATA = "LaSOT, GOT-10k, COCO, TrackingNet"


@dataclass(frozen=True)
class Entry:
    """One model. `model` and `preset` are `module:name` of the torch network and its config; `options` are fields of
    that config which may be chosen at run time, with any weights of this model. `published` are figures of its paper,
    by benchmark; `licence` the terms of the weights."""

    title: str
    model: str
    preset: str
    tracker: TemplateSearchConfig
    page: str
    licence: str
    trained_on: str
    official_file: str = ""
    bundled: str = ""
    options: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def notice(self) -> str:
        """The rights in the weights, as an exported file carries them."""
        return f"terms: {self.licence}; trained on {self.trained_on}"


OSTRACK_256 = TemplateSearchConfig(template_px=128, search_px=256)
OSTRACK_384 = TemplateSearchConfig(template_px=192, search_px=384, search_factor=5.0)
ELIMINATION = ("ce_layers", "ce_keep_ratios", "ce_template_tokens")


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
        official_file=f"{stem}/OSTrack_ep{epochs:04d}.pth.tar",
        options=ELIMINATION,
        published=MappingProxyType(dict(published)),
    )


ZOO: Mapping[str, Entry] = MappingProxyType(
    {
        "sightline-nano": Entry(
            title="sightline-nano, 1.6 M parameters, for one or two CPU cores",
            model="sightline.models.nano:Nano",
            preset="sightline.models.nano:NANO",
            tracker=TemplateSearchConfig(
                template_px=96, search_px=192, mean=NANO_MEAN, std=NANO_STD, crop="exact", map_back="exact"
            ),
            page="docs/models/nano.md",
            licence="some of the data is for research only, see WEIGHTS.md",
            trained_on="parts of OTB-100, VOT, UAV123, TinyTLP, DAVIS, COCO, Tiny ImageNet, FOD-A and others",
            bundled="sightline-nano",
        ),
        "ostrack-256": _ostrack(256, ce=False, published={"LaSOT AUC": 68.7, "TrackingNet AUC": 82.9}),
        "ostrack-256-ce": _ostrack(256, ce=True, published={"LaSOT AUC": 69.1, "TrackingNet AUC": 83.1}),
        "ostrack-256-ce-got10k": _ostrack(256, ce=True, got10k=True, published={"GOT-10k AO": 71.0}),
        "ostrack-384": _ostrack(384, ce=False, published={"LaSOT AUC": 71.0, "TrackingNet AUC": 83.5}),
        "ostrack-384-ce": _ostrack(384, ce=True, published={"LaSOT AUC": 71.1, "TrackingNet AUC": 83.9}),
        "ostrack-384-ce-got10k": _ostrack(384, ce=True, got10k=True, published={"GOT-10k AO": 73.7}),
        "mvt": Entry(
            title="MVT, Mobile Vision Transformer tracker",
            model="sightline.models.mvt:MVT",
            preset="sightline.models.mvt:MVT_256",
            tracker=TemplateSearchConfig(template_px=128, search_px=256, mean=UNIT_MEAN, std=UNIT_STD),
            page="docs/models/mvt.md",
            licence="none stated; starts from Apple's MobileViT-S",
            trained_on="GOT-10k",
            official_file="mobilevit_256_128x1_got10k_ep100_cosine_annealing/MobileViT_Track_ep0100.pth.tar",
            options=("fusion",),
            published=MappingProxyType({"LaSOT AUC": 55.3, "TrackingNet AUC": 74.8, "GOT-10k AO": 63.3}),
        ),
    }
)
