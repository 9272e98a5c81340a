"""A torch model behind the seam: arrays in, arrays out, one sentence for arrays that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.errors import ProtocolError
from sightline.models.blocks import Maps
from sightline.models.session import TorchSession
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker

pytestmark = pytest.mark.torch


class Toy(nn.Module):
    """Correlates the template's mean colour with cells of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.drop = nn.Dropout(0.5)

    def encode(self, template: Tensor) -> dict[str, Tensor]:
        return {"colour": self.drop(template.mean(dim=(2, 3)) * self.weight)}

    def track(self, search: Tensor, *, colour: Tensor) -> Maps:
        cells = nn.functional.avg_pool2d(search, 16)
        score = torch.sigmoid(torch.einsum("bchw,bc->bhw", cells, colour))[:, None]
        return Maps(score, score.expand(-1, 2, -1, -1) * 0.25, score.expand(-1, 2, -1, -1))


class Masked(Toy):
    takes_template_mask = True


TEMPLATE, SEARCH = (np.random.default_rng(0).random((2, 3, side, side), dtype=np.float32) for side in (32, 64))


def test_inputs() -> None:
    assert TorchSession(Toy()).inputs("encode") == ("template",)
    assert TorchSession(Masked()).inputs("encode") == ("template", "template_mask")
    assert TorchSession(Toy()).inputs("track") == ("search",)


def test_runs_both_graphs_in_eval_mode() -> None:
    model = Toy().train()
    session = TorchSession(model)
    features = session.run("encode", {"template": TEMPLATE})
    maps = session.run("track", {"search": SEARCH, **features})
    assert not model.training
    assert np.allclose(features["colour"], TEMPLATE.mean(axis=(2, 3)) * (1, 2, 3), atol=1e-6)
    assert {name: value.shape for name, value in maps.items()} == {
        "score_map": (2, 1, 4, 4), "size_map": (2, 2, 4, 4), "offset_map": (2, 2, 4, 4),
    }  # fmt: skip
    assert {value.dtype for value in (*features.values(), *maps.values())} == {np.dtype(np.float32)}


def test_arrays_are_not_shared_with_the_caller() -> None:
    class Echo(Toy):
        def encode(self, template: Tensor) -> dict[str, Tensor]:
            return {"template": template}

    given = TEMPLATE.copy()
    given.flags.writeable = False  # as the features of a state are
    answer = TorchSession(Echo()).run("encode", {"template": given})["template"]
    assert np.array_equal(answer, given)
    assert not np.shares_memory(answer, given)


@pytest.mark.parametrize("graph", ["decode", "forward", "", "train"])
def test_unknown_graphs_are_refused(graph) -> None:
    for call in (lambda session: session.run(graph, {}), lambda session: session.inputs(graph)):
        with pytest.raises(ProtocolError, match=rf"session: got graph '{graph}'; expected 'encode' or 'track'"):
            call(TorchSession(Toy()))


@pytest.mark.parametrize(
    ("graph", "arrays"),
    [
        ("encode", {}),
        ("encode", {"template": TEMPLATE, "mask": TEMPLATE}),
        ("encode", {"template": TEMPLATE[..., 0]}),
        ("track", {"search": SEARCH}),
        ("track", {"search": SEARCH, "colour": np.zeros((2, 4), np.float32)}),
        ("track", {"search": SEARCH, "colour": np.zeros((3, 3), np.float32)}),
        ("track", {"search": SEARCH.astype(np.float64), "colour": np.zeros((2, 3), np.float32)}),
    ],
    ids=["missing", "unknown", "flat", "no features", "width", "count", "float64"],
)
def test_arrays_that_do_not_fit_are_refused(graph, arrays) -> None:
    with pytest.raises(ProtocolError, match=rf"graph '{graph}' of Toy: got \{{.*\}}; expected its own arrays"):
        TorchSession(Toy()).run(graph, arrays)


def test_a_tracker_runs_on_it() -> None:
    config = TemplateSearchConfig(template_px=32, search_px=64)
    tracker = TemplateSearchTracker(TorchSession(Toy()), config)
    frame = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    state = tracker.init(frame, xywh=(30, 30, 20, 25))
    one = tracker.update(frame, state)
    for other in tracker.update_many(frame, [state, state]):
        assert other.xywh == pytest.approx(one.xywh, abs=1e-4)
        assert other.score == pytest.approx(one.score, abs=1e-6)
