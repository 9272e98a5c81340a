"""Every data set that can be read, as one table: `DATASETS`; and `open_dataset`.

for clip in open_dataset("lasot", "test"):
    run(clip.frames, clip.xywh[0])
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar, overload

from sightline.datasets import images, multi, single
from sightline.datasets.clips import Listing, own_clips, split_names
from sightline.datasets.davis import davis
from sightline.datasets.images import Annotated
from sightline.datasets.root import bare, dataset_folder
from sightline.datasets.vot import vot
from sightline.errors import DatasetError

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """What is known of a data set.

    kind: what it is a sequence of: "sot" `Clip`, "mot" `MotSequence`, "images" `Still`.
    layout: reads its folder.
    splits: split -> number of sequences (of images for "images"; of videos for DAVIS, which may have several targets),
    None where it has no fixed number. The first is the one meant where none is named. parts: pieces of these splits.
    folders: what its folder may be called under a data root, besides its name.
    page, licence: its home, and the licence of the annotation as its authors state it; "" where they do not.
    protocol: how it is scored: a row of `evaluation.protocols` (sot), of `MOT_RULES` or "kitti", "tao" (mot), "coco" or
    "lvis" (images).
    attributes: names of its sequence attributes, in the order of its files.
    absent: how its boxes say that there is no target, besides the flags of a file: rows of nan, boxes of zeros.
    result_prefix: what pytracking puts before the sequence in the names of result files.
    """

    title: str
    kind: Literal["sot", "mot", "images"]
    layout: Callable[[Path, str], Listing[Any] | Annotated]
    splits: Mapping[str, int | None]
    page: str
    protocol: str
    parts: Mapping[str, int | None] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    licence: str = ""
    attributes: tuple[str, ...] = ()
    absent: tuple[Literal["nan", "zero"], ...] = ()
    result_prefix: str = ""

    @property
    def counts(self) -> dict[str, int | None]:
        """The number of sequences of every split and part."""
        return {**self.splits, **self.parts}


MOT_PAGE, MOT_LICENCE = "https://motchallenge.net", "CC BY-NC-SA 3.0"

DATASETS: Mapping[str, Row] = MappingProxyType(
    {
        # One target
        "lasot": Row(
            "LaSOT",
            "sot",
            single.lasot,
            {"test": 280, "train": 1120},
            "http://vision.cs.stonybrook.edu/~lasot/",
            "lasot",
            folders=("LaSOTBenchmark", "LaSOTTesting"),
            attributes=single.LASOT_ATTRIBUTES,
        ),
        "lasot_ext": Row(
            "LaSOT extension",
            "sot",
            single.lasot_ext,
            {"test": 150},
            "http://vision.cs.stonybrook.edu/~lasot/",
            "lasot",
            folders=("LaSOTExtensionSubset", "LaSOT_extension_subset"),
            attributes=single.LASOT_ATTRIBUTES,
        ),
        "got10k": Row(
            "GOT-10k",
            "sot",
            single.got10k,
            {"val": 180, "test": 180, "train": 9335},
            "http://got-10k.aitestunion.com",
            "got10k",
            parts={"vot-train": 7086, "vot-val": 1249, "paper-train": 8335, "train-full": 9335},
            folders=("GOT-10k", "full_data"),
            licence="CC BY-NC-SA 4.0",
        ),
        "trackingnet": Row(
            "TrackingNet",
            "sot",
            single.trackingnet,
            {"test": 511, "train": 30132},
            "https://tracking-net.org",
            "trackingnet",
        ),
        "nfs30": Row(
            "Need for Speed, 30 frames per second",
            "sot",
            single.nfs,
            {"test": 100},
            "http://ci2cv.net/nfs/index.html",
            "ostrack",
            folders=("NfS", "nfs240"),
            result_prefix="nfs_",
        ),
        "uav123": Row(
            "UAV123",
            "sot",
            single.uav123,
            {"test": 123},
            "https://cemse.kaust.edu.sa/ivul/uav123",
            "ostrack",
            folders=("UAV",),
            attributes=single.UAV123_ATTRIBUTES,
            absent=("nan",),
            result_prefix="uav_",
        ),
        "otb100": Row(
            "OTB-100",
            "sot",
            single.otb,
            {"test": 100},
            "http://cvlab.hanyang.ac.kr/tracker_benchmark/",
            "lasot",
            folders=("OTB", "OTB2015"),
            attributes=single.OTB_ATTRIBUTES,
        ),
        "tnl2k": Row(
            "TNL2K",
            "sot",
            single.tnl2k,
            {"test": 700, "train": 1300},
            "https://sites.google.com/view/langtrackbenchmark/",
            "lasot",
            attributes=single.TNL2K_ATTRIBUTES,
            absent=("zero",),
        ),
        "vot": Row(
            "VOT, any year",
            "sot",
            vot,
            {"all": None},
            "https://www.votchallenge.net",
            "plain",
            absent=("nan", "zero"),
        ),
        "davis2017": Row(
            "DAVIS 2017",
            "sot",
            davis,
            {"val": 30, "train": 60},
            "https://davischallenge.org",
            "plain",
            folders=("DAVIS",),
            licence="CC BY-NC",
        ),
        "folder": Row(
            "your own: folders of frames, each with a text file",
            "sot",
            own_clips,
            {"all": None},
            "",
            "plain",
        ),
        # Many targets
        "mot15": Row(
            "MOT15",
            "mot",
            partial(multi.motchallenge, benchmark="MOT15"),
            {"train": 11, "test": 11},
            MOT_PAGE,
            "MOT15",
            parts={"half-train": 11, "half-val": 11},
            folders=("2DMOT2015",),
            licence=MOT_LICENCE,
        ),
        "mot16": Row(
            "MOT16",
            "mot",
            partial(multi.motchallenge, benchmark="MOT16"),
            {"train": 7, "test": 7},
            MOT_PAGE,
            "MOT16",
            parts={"half-train": 7, "half-val": 7},
            licence=MOT_LICENCE,
        ),
        "mot17": Row(
            "MOT17",
            "mot",
            partial(multi.motchallenge, benchmark="MOT17"),
            {"train": 21, "test": 21},
            MOT_PAGE,
            "MOT17",
            parts={"half-train": 7, "half-val": 7},
            licence=MOT_LICENCE,
        ),
        "mot20": Row(
            "MOT20",
            "mot",
            partial(multi.motchallenge, benchmark="MOT20"),
            {"train": 4, "test": 4},
            MOT_PAGE,
            "MOT20",
            parts={"half-train": 4, "half-val": 4},
            licence=MOT_LICENCE,
        ),
        "dancetrack": Row(
            "DanceTrack",
            "mot",
            multi.dancetrack,
            {"val": 25, "train": 40, "test": 35},
            "https://dancetrack.github.io",
            "DanceTrack",
            licence="CC BY 4.0",
        ),
        "kitti": Row(
            "KITTI tracking",
            "mot",
            multi.kitti,
            {"train": 21, "test": 29},
            "https://www.cvlibs.net/datasets/kitti/eval_tracking.php",
            "kitti",
            folders=("KITTI_tracking",),
            licence="CC BY-NC-SA 3.0",
        ),
        "tao": Row("TAO", "mot", images.tao, {"val": 988, "train": 500}, "https://taodataset.org", "tao"),
        "coco_vid": Row(
            "ImageNet VID, and other videos in COCO-VID's JSON",
            "mot",
            images.coco_vid,
            {"val": 555, "train": 3862},
            "https://image-net.org/challenges/LSVRC/2015/",
            "coco",
            folders=("ILSVRC", "ILSVRC2015", "ImageNetVID"),
        ),
        "mot": Row("your own, laid out like MOTChallenge's", "mot", multi.own_sequences, {"all": None}, "", "none"),
        # Images
        "coco": Row(
            "COCO 2017",
            "images",
            images.coco,
            {"val": 5000, "train": 118287},
            "https://cocodataset.org",
            "coco",
            folders=("COCO2017", "mscoco"),
            licence="CC BY 4.0",
        ),
        "lvis": Row(
            "LVIS v1",
            "images",
            images.lvis,
            {"val": 19809, "train": 100170},
            "https://www.lvisdataset.org",
            "lvis",
            folders=("coco", "COCO2017", "mscoco"),
        ),
        "crowdhuman": Row(
            "CrowdHuman",
            "images",
            images.crowdhuman,
            {"val": 4370, "train": 15000},
            "https://www.crowdhuman.org",
            "coco",
        ),
        "images": Row(
            "your own: images beside annotations.json, as COCO's",
            "images",
            images.own_images,
            {"all": None},
            "",
            "coco",
        ),
    }
)


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[T], Generic[T]):
    """A split of a data set: items by position or by name, each read when it is asked for; a slice is a smaller one.

    `names` are those of the benchmark, also where a copy lacks some: asking for such a one raises `DatasetError`.
    `annotated` is what the one annotation file says, of the sets that have one (COCO, LVIS, CrowdHuman, TAO,
    COCO-VID), for evaluation; None for the others.
    """

    name: str
    split: str
    folder: Path
    row: Row
    listing: Listing[T] = field(repr=False)
    annotated: Annotated | None = field(default=None, repr=False)

    @property
    def names(self) -> Sequence[str]:
        return self.listing.names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, key: int | str) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Dataset[T]: ...
    def __getitem__(self, key: int | str | slice) -> T | Dataset[T]:
        if isinstance(key, slice):
            return self.only(self.names[key])
        if isinstance(key, int):
            return self.listing.read(self.names[key])
        if key not in self.names:
            close = difflib.get_close_matches(key, self.names, n=1)
            advice = f"Did you mean {close[0]!r}?" if close else f"Run: sightline data check {self.name}"
            raise DatasetError(
                f"{self.name} {self.split}: got {key!r}; expected one of its {len(self)} names. {advice}"
            )
        return self.listing.read(key)

    def only(self, names: Sequence[str]) -> Dataset[T]:
        """The items of these names, in this order."""
        return replace(self, listing=self.listing._replace(names=names))

    def missing(self) -> list[str]:
        """Names of which nothing is there."""
        return [name for name in self.names if not self.listing.place(name).exists()]


def chosen_split(name: str, split: str = "", root: str | Path | None = None) -> str:
    """The split of a data set that is meant, the first where none is named; `DatasetError` for one that it has not.

    Of `folder` its `split.json` under the root says which there are, besides "all".
    """
    counts = DATASETS[name].counts
    if name == "folder" and split not in ("", "all"):
        home = folder_of(name, root)
        named = split_names(home)
        if split not in named:
            known = ", ".join(["all", *named])
            advice = "Choose one" if named else f"Name others in {home / 'split.json'}"
            raise DatasetError(f"split of {name}: got {split!r}; expected one of {known}. {advice}.")
    elif split and split not in counts:
        raise DatasetError(f"split of {name}: got {split!r}; expected one of {', '.join(counts)}. Choose one.")
    return split or next(iter(counts))


def folder_of(name: str, root: str | Path | None = None) -> Path:
    """The folder of a data set, as `dataset_folder` finds it; a person's own data are the root."""
    row = DATASETS[name]
    return dataset_folder(name, (name, *row.folders) if row.page else (), root, DATASETS)


class NothingThere(DatasetError):
    """Of a split nothing is where it should be; other `DatasetError`s are of something that is there."""


def dataset_row(name: str) -> tuple[str, Row]:
    """The name and the row of a data set, called in any case and with any signs: GOT-10k is got10k."""
    called = {bare(known): known for known in DATASETS}
    if bare(name) not in called:
        close = difflib.get_close_matches(bare(name), called, n=1)
        advice = f"Did you mean {called[close[0]]!r}?" if close else "Run: sightline data"
        raise DatasetError(f"data set: got {name!r}; expected one of {', '.join(DATASETS)}. {advice}")
    known = called[bare(name)]
    return known, DATASETS[known]


def open_dataset(name: str, split: str = "", root: str | Path | None = None) -> Dataset[Any]:
    """A split of a data set of `DATASETS`, by default its first, in place.

    `root` holds the data sets, or is the one; without it `SIGHTLINE_DATA` or the config file says (`root.py`). Items
    are `Clip`, `MotSequence` or `Still` by the row's kind. Opening lists folders and reads lists, of sets with one
    annotation file that file, of DAVIS the first masks. Raises `DatasetError` for another name or split and for lists
    and files that are damaged, `NothingThere` where nothing of the split is found.
    """
    known, row = dataset_row(name)
    split = chosen_split(known, split, root)
    folder = folder_of(known, root)
    try:
        found = row.layout(folder, split)
    except DatasetError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise NothingThere(f"{known} {split}: {error}") from error
        raise
    if isinstance(found, Annotated):
        listing: Listing[Any] = (images.videos if row.kind == "mot" else images.stills)(found)
        return Dataset(known, split, folder, row, listing, found)
    if not any(found.place(name).exists() for name in found.names):
        example = f"such as {found.place(found.names[0])}" if found.names else "in its layout"
        expected = f"{row.counts.get(split) or 'some'} sequences, {example}"
        raise NothingThere(f"{known} {split}: got nothing of it in {folder}; expected {expected}. Check the folder.")
    return Dataset(known, split, folder, row, found)
