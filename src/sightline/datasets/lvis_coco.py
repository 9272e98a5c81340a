"""LVIS v1 and COCO 2017 as one set: the same images, with the boxes of both, as CenterNet2 and GTR are trained on them.

LVIS tells 1203 classes apart, but boxes only some objects of an image; COCO's boxes of 80 of these classes are added.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.images import Annotated, coco, lvis, stills
from sightline.datasets.stills import Still
from sightline.errors import DatasetError
from sightline.geometry.boxes import iou

__all__ = ["SAME_BOX", "image_counts", "merged", "open_lvis_coco"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SAME_BOX = 0.7  # IoU from which two boxes of a class are one

# The LVIS synset of COCO's categories 1 to 90, "-" for ids that COCO does not use. From LVIS's own list, but for COCO's
# hot dog, which is a sausage here.
COCO_SYNSETS = """
person.n.01 bicycle.n.01 car.n.01 motorcycle.n.01 airplane.n.01 bus.n.01 train.n.01 truck.n.01 boat.n.01
traffic_light.n.01 fireplug.n.01 - stop_sign.n.01 parking_meter.n.01 bench.n.01 bird.n.01 cat.n.01 dog.n.01 horse.n.01
sheep.n.01 beef.n.01 elephant.n.01 bear.n.01 zebra.n.01 giraffe.n.01 - backpack.n.01 umbrella.n.01 - - bag.n.04
necktie.n.01 bag.n.06 frisbee.n.01 ski.n.01 snowboard.n.01 ball.n.06 kite.n.03 baseball_bat.n.01 baseball_glove.n.01
skateboard.n.01 surfboard.n.01 tennis_racket.n.01 bottle.n.01 - wineglass.n.01 cup.n.01 fork.n.01 knife.n.01 spoon.n.01
bowl.n.03 banana.n.02 apple.n.01 sandwich.n.01 orange.n.01 broccoli.n.01 carrot.n.01 sausage.n.01 pizza.n.01
doughnut.n.02 cake.n.03 chair.n.01 sofa.n.01 pot.n.04 bed.n.01 - dining_table.n.01 - - toilet.n.02 -
television_receiver.n.01 laptop.n.01 mouse.n.04 remote_control.n.01 computer_keyboard.n.01 cellular_telephone.n.01
microwave.n.02 oven.n.01 toaster.n.02 sink.n.01 electric_refrigerator.n.01 - book.n.01 clock.n.01 vase.n.01
scissors.n.01 teddy.n.01 hand_blower.n.01 toothbrush.n.01
"""


def open_lvis_coco(folder: Path, split: str = "train") -> tuple[list[Still], Annotated]:
    """Both annotations of a folder in COCO's layout, `merged`, and LVIS's alone. Raises `DatasetError`.

    `annotations/lvis_v1_SPLIT.json`, `annotations/instances_train2017.json`, `train2017/`. Takes minutes.
    """
    annotated = lvis(folder, split)
    return merged(annotated, coco(folder, "train")), annotated


def merged(lvis_set: Annotated, coco_set: Annotated) -> list[Still]:
    """Every image of the first set with the boxes of both; classes have the ids of the first.

    Images are the same whose files are called alike. A box of COCO is added unless LVIS has one of the same class that
    overlaps it by `SAME_BOX` or more, unless LVIS says that there is no such object in the image, and unless LVIS has
    no box in it at all. Crowds are left out. Raises `DatasetError` where no image is in both.
    """
    truth = lvis_set.truth
    ids = {category.synset: category.id for category in truth.categories}
    of_coco = {id_: ids[synset] for id_, synset in enumerate(COCO_SYNSETS.split(), start=1) if synset in ids}
    absent = set() if truth.negative is None else set(map(tuple, truth.negative.tolist()))
    image_of = dict(zip((path.name for path in lvis_set.files), truth.image.tolist(), strict=True))
    others, own = stills(coco_set), stills(lvis_set)
    added = {Path(name).name: name for name in others.names if Path(name).name in image_of}
    if not added:
        raise DatasetError(
            f"{coco_set.path}: got no image of {lvis_set.path}; expected the same images. Name another file."
        )
    found = []
    for still in map(own.read, own.names):
        assert still.category is not None
        name = added.get(still.path.name)
        if name and len(still.xywh):
            other = others.read(name)
            assert other.category is not None
            category = np.array([of_coco.get(id_, -1) for id_ in other.category.tolist()], dtype=np.int64)
            image = image_of[still.path.name]
            may_be = np.array([id_ > 0 and (image, id_) not in absent for id_ in category.tolist()], dtype=np.bool_)
            is_new = may_be & ~_has_twin(other.xywh, category, still.xywh, still.category)
            still = Still(
                still.path,
                np.concatenate([still.xywh, other.xywh[is_new]]),
                np.concatenate([still.category, category[is_new]]),
            )
        found.append(Still(still.path, still.xywh, still.category))
    return found


def _has_twin(xywh: Floats, category: Ints, others: Floats, other_category: Ints) -> NDArray[np.bool_]:
    """Which boxes overlap one of the others of their class by `SAME_BOX` or more."""
    is_twin = (iou(xywh[:, None], others) >= SAME_BOX) & (category[:, None] == other_category)
    return np.asarray(is_twin.any(axis=1))


def image_counts(annotated: Annotated) -> dict[int, int]:
    """In how many images each category has a box, by its id; categories without any too."""
    boxes = annotated.truth.boxes
    _, first = np.unique(np.column_stack([boxes.image, boxes.category]), axis=0, return_index=True)
    counts = dict.fromkeys((category.id for category in annotated.truth.categories), 0)
    for id_, count in zip(*np.unique(boxes.category[first], return_counts=True), strict=True):
        counts[int(id_)] = int(count)
    return counts
