"""GTR's networks for tests of what follows them: the association as plainly as it is defined, and a detector that sees
what a test places. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.geometry.detections import STRIDES
from sightline.runtime.session import Arrays
from sightline.trackers.gtr import GTRConfig, size_in_network

HEADS = 8


def association_shapes(width: int, has_predictor: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for attention in ("encoder.layers.0.self_attn", "decoder.layers.0.multihead_attn"):
        shapes[f"transformer.{attention}.in_proj_weight"] = (3 * width, width)
        shapes[f"transformer.{attention}.in_proj_bias"] = (3 * width,)
        shapes[f"transformer.{attention}.out_proj.weight"] = (width, width)
        shapes[f"transformer.{attention}.out_proj.bias"] = (width,)
    linear = [f"transformer.{side}.layers.0.linear{i}" for side in ("encoder", "decoder") for i in (1, 2)]
    if has_predictor:
        linear += [f"asso_predictor.{side}.layers.{i}" for side in ("q_proj", "k_proj") for i in (0, 1)]
    for name in linear:
        shapes |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
    return shapes


class NumPyAssociation:
    """The graphs `associate` and `association` of a network whose weights are given by name."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights

    def inputs(self, graph: str) -> tuple[str, ...]:
        return {"associate": ("features", "queries"), "association": ()}[graph]

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        assert sorted(arrays) == sorted(self.inputs(graph))
        assert {value.dtype for value in arrays.values()} <= {np.dtype(np.float32)}
        if graph == "association":
            return dict(self.weights)
        features, queries = arrays["features"], arrays["queries"]
        encoder, decoder = (f"transformer.{side}.layers.0" for side in ("encoder", "decoder"))
        memory = features + self.attend(f"{encoder}.self_attn", features, features)
        memory = memory + self.mlp(f"{encoder}.linear1", f"{encoder}.linear2", memory)
        h = queries + self.attend(f"{decoder}.multihead_attn", queries, memory)
        h = h + self.mlp(f"{decoder}.linear1", f"{decoder}.linear2", h)
        if "asso_predictor.q_proj.layers.0.weight" in self.weights:
            h, memory = (
                self.mlp(f"asso_predictor.{side}.layers.0", f"asso_predictor.{side}.layers.1", x)
                for side, x in (("q_proj", h), ("k_proj", memory))
            )
        return {"logits": h @ memory.T}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def mlp(self, first: str, second: str, x: np.ndarray) -> np.ndarray:
        return self.linear(second, np.maximum(self.linear(first, x), 0))

    def attend(self, name: str, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        matrices = np.split(self.weights[f"{name}.in_proj_weight"], 3)
        biases = np.split(self.weights[f"{name}.in_proj_bias"], 3)
        q, k, v = (
            (x @ matrix.T + bias).reshape(len(x), HEADS, -1).transpose(1, 0, 2)
            for x, matrix, bias in zip((queries, keys, keys), matrices, biases, strict=True)
        )
        logits = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[2]))
        raised = np.exp(logits - logits.max(axis=2, keepdims=True))
        mixed = raised / raised.sum(axis=2, keepdims=True) @ v
        return self.linear(f"{name}.out_proj", mixed.transpose(1, 0, 2).reshape(queries.shape))


@dataclass(frozen=True)
class Placed:
    """An object on a frame: who it is, its box in pixels of the frame, and what the detector and the cascade say."""

    who: int
    xyxy: tuple[float, float, float, float]
    score: float = 0.9
    classes: tuple[float, ...] = ()


def picture(index: int, size_hw: tuple[int, int] = (90, 160)) -> np.ndarray:
    """A frame that says which one it is, by its one colour; nobody may write to it."""
    frame = np.full((*size_hw, 3), index, np.uint8)
    frame.flags.writeable = False
    return frame


class PlacedSession(NumPyAssociation):
    """Sees on frame i of a clip of `picture`s what `clip[i]` says; keeps no count of the calls.

    Objects are told apart by random embeddings of the length sqrt(likeness). `spoil` is called with the name of a
    graph and its answer, and gives the answer, or raises.
    """

    def __init__(
        self,
        clip: Sequence[Sequence[Placed]],
        config: GTRConfig,
        size_hw: tuple[int, int] = (90, 160),
        width: int = 64,
        likeness: float = 10.0,
        noise: float = 0.0,
    ) -> None:
        rng = np.random.default_rng(3)
        shapes = association_shapes(width, has_predictor=False)
        super().__init__({name: (noise * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()})
        self.clip, self.config, self.size_hw = clip, config, size_hw
        self.width, self.likeness = width, likeness
        height, width_px = size_in_network(*size_hw, config)
        self.scale = np.tile([width_px / size_hw[1], height / size_hw[0]], 2)
        self.spoil = lambda graph, answer: answer

    def inputs(self, graph: str) -> tuple[str, ...]:
        taken = {"detect": ("image",), "embed": ("p3", "boxes"), "classify": ("p3", "boxes", "size")}
        return taken[graph] if graph in taken else super().inputs(graph)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        assert sorted(arrays) == sorted(self.inputs(graph))
        assert {value.dtype for value in arrays.values()} <= {np.dtype(np.float32)}
        own = {"detect": self.detect, "embed": self.embed, "classify": self.classify}
        answer = own[graph](**arrays) if graph in own else super().run(graph, arrays)
        return self.spoil(graph, answer)

    def detect(self, image: np.ndarray) -> Arrays:
        """Every object at the cell of the finest level that is still free under its centre."""
        assert not any(side % self.config.pad_to for side in image.shape[2:])
        colour = (image[0, :, 0, 0] * self.config.std + self.config.mean) * 255
        index = round(float(colour.mean()))
        assert np.allclose(colour, index, atol=1e-3)
        sizes = [tuple(-(-side // stride) for side in image.shape[2:]) for stride in STRIDES]
        maps = {f"reg_{level}": np.zeros((1, 4, *size), np.float32) for level, size in enumerate(sizes)}
        maps |= {f"agn_{level}": np.full((1, 1, *size), -30, np.float32) for level, size in enumerate(sizes)}
        for placed in self.clip[index]:
            x1, y1, x2, y2 = placed.xyxy * self.scale
            for level, stride in enumerate(STRIDES):
                column, row = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
                if maps[f"agn_{level}"][0, 0, row, column] < -20:
                    break
            x, y = column * stride + stride // 2, row * stride + stride // 2
            maps[f"reg_{level}"][0, :, row, column] = np.array([x - x1, y - y1, x2 - x, y2 - y]) / stride
            probability = placed.score**2
            maps[f"agn_{level}"][0, 0, row, column] = np.log(probability / (1 - probability))
        return {"p3": np.full((1, 1, *sizes[0]), index, np.float32), **maps}

    def seen(self, p3: np.ndarray, boxes: np.ndarray) -> list[Placed]:
        clip = self.clip[int(p3[0, 0, 0, 0])]
        places = np.array([placed.xyxy for placed in clip]) * self.scale
        return [clip[place] for place in np.abs(places - boxes[:, None]).sum(axis=2).argmin(axis=1)]

    def embed(self, p3: np.ndarray, boxes: np.ndarray) -> Arrays:
        directions = np.stack([np.random.default_rng(one.who).normal(size=self.width) for one in self.seen(p3, boxes)])
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        return {"embeddings": np.float32(directions / lengths * np.sqrt(self.likeness))}

    def classify(self, p3: np.ndarray, boxes: np.ndarray, size: np.ndarray) -> Arrays:
        """The last class is the background; refined boxes are a pixel lower."""
        assert tuple(size) == size_in_network(*self.size_hw, self.config)
        classes = np.float32([(*one.classes, 0.3) for one in self.seen(p3, boxes)])
        return {"class_scores": classes, "boxes": boxes + np.float32([0, 1, 0, 1])}
