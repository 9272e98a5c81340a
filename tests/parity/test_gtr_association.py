"""GTR's association against the official network: features, transformer, probabilities, loss and its gradients.

Weights are filled by the fixtures' rule. Tolerances: features, memory, decoder and logits 5e-5, their values reaching
31; probabilities 1e-5; losses and gradients 1e-4 of themselves, and single numbers of a gradient 1e-4 of the largest.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import GeometryError, ProtocolError
from sightline.models import gtr
from sightline.models.centernet2 import CENTERNET_MOT, CENTERNET_TAO, BoxHead, CenterNet2Config, pool
from sightline.models.gtr import (
    GTR,
    GTR_MOT,
    GTR_MOT_FULL,
    GTR_TAO,
    GTR_TAO_TINY,
    GTR_TINY,
    Assignment,
    GTRConfig,
    Heads,
    assign,
    associate,
    association_loss,
    frame_log_softmax,
    times_of,
)
from sightline.models.session import TorchSession
from sightline.trackers.association import StreamingAssociation, frame_softmax
from tests.parity.gtr_fill import DATA, fill, manifest, manifest_of, noise, stored

CASES = {
    "mot": GTR_MOT,
    "tao": GTR_TAO,
    "mot_posemb": replace(GTR_MOT, position_embedding=True),
    "mot_pos_temp_emb": replace(GTR_MOT, position_embedding=True, temporal_embedding=True),
}
FEATURES = {"atol": 5e-5}
PROBABILITIES = {"atol": 1e-5}
OF_ITSELF = {"atol": 0.0, "rtol": 1e-4}
OF_THE_LOSS = ("freq_weight", "fed_loss_cls_weights")  # buffers of the cascade's training, in no network


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def heads_of(config: GTRConfig) -> Heads:
    """The association's transformer, predictor and tables with the rule's weights; nothing else of them."""
    with torch.device("meta"):
        heads = Heads(config)
    for name in ("asso_predictor", "transformer", "pos_emb", "temp_emb"):
        if hasattr(heads, name):
            fill(getattr(heads, name), f"roi_heads.{name}.")
    return heads.eval()


def of(case: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in stored(f"asso_t8_{case}").items()}


def lengths(case: str) -> list[int]:
    return stored(f"asso_t8_{case}")["n_t"].tolist()


def relate(heads: Heads, case: str, features: Tensor, queries: Tensor | None = None) -> Tensor:
    queries = features if queries is None else queries
    return heads.relate(features, queries, of(case)["boxes_norm"], times_of(lengths(case)))


def true_assignment(case: str, iou_above: float = 0.0) -> Assignment:
    want = of(case)
    truth = (want["gt_boxes"], want["gt_frame"], want["gt_instance_id"])
    return assign(want["boxes"], lengths(case), *truth, iou_above=iou_above)


def close(ours, stored, *, atol: float, rtol: float = 0.0, what: str = "") -> None:
    """`compare` for negative controls, which do not count as compared tensors."""
    np.testing.assert_allclose(ours, stored, atol=atol, rtol=rtol, err_msg=what)


# Keys


@pytest.mark.parametrize(
    ("name", "config", "num_keys", "num_parameters"),
    [
        ("GTR_MOT_FPN", GTR_MOT, 395, 43_801_870),
        ("GTR_MOTFull_FPN", GTR_MOT_FULL, 395, 43_801_870),
        ("GTR_TAO_DR2101", GTR_TAO, 1039 - 6, 127_652_121),
    ],
)
def test_keys_are_the_official_ones(name: str, config: GTRConfig, num_keys: int, num_parameters: int) -> None:
    with torch.device("meta"):
        model = GTR(config)
    official = {key: row for key, row in manifest(name).items() if not key.endswith(OF_THE_LOSS)}
    ours = manifest_of(model)
    assert ours == official
    assert list(ours) == list(official)
    assert len(ours) == num_keys
    assert sum(weight.numel() for weight in model.parameters()) == num_parameters


def test_presets_hold_the_detectors_of_the_official_files() -> None:
    for config, detector in ((GTR_MOT, CENTERNET_MOT), (GTR_TAO, CENTERNET_TAO)):
        assert {one.name: getattr(config, one.name) for one in fields(CenterNet2Config)} == {
            one.name: getattr(detector, one.name) for one in fields(CenterNet2Config)
        }


def test_the_association_names_its_weights_for_streaming() -> None:
    with torch.device("meta"):
        named = {name: GTR(config).association() for name, config in (("mot", GTR_MOT), ("tao", GTR_TAO))}
    prefixes = ("roi_heads.asso_predictor.", "roi_heads.transformer.")
    for name, official in (("mot", "GTR_MOT_FPN"), ("tao", "GTR_TAO_DR2101")):
        keys = [key.removeprefix("roi_heads.") for key in manifest(official) if key.startswith(prefixes)]
        assert list(named[name]) == keys


# Layer by layer


@torch.inference_mode()
def check_forward(compare: Callable, heads: Heads, case: str) -> None:
    want = of(case)
    features = want["feat"]
    positions = heads.positions(want["boxes_norm"], times_of(lengths(case)))
    decoded, memory = heads.transformer(features, features, positions)
    if "encoder_memory" in want:
        compare(memory, want["encoder_memory"], **FEATURES, what="memory")
        compare(decoded, want["decoder_out"], **FEATURES, what="decoder")
    logits = relate(heads, case, features)
    compare(logits, want["logits"], **FEATURES, what="logits")
    probabilities = [frame.exp()[:, :-1] for frame in frame_log_softmax(logits, lengths(case))]
    compare(torch.cat(probabilities, dim=1), want["probs"], **PROBABILITIES, what="probabilities")
    compare(frame_softmax(logits.numpy(), lengths(case)), want["probs"], **PROBABILITIES, what="NumPy's probabilities")
    start, end = sum(lengths(case)[:3]), sum(lengths(case)[:4])
    few = relate(heads, case, features, features[start:end])
    compare(few, want["logits_query_frame3"], **FEATURES, what="queries of one frame")


@pytest.mark.parametrize("case", CASES)
def test_forward(case: str, compare: Callable) -> None:
    check_forward(compare, heads_of(CASES[case]), case)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_in_double_precision(case: str, compare: Callable) -> None:
    want, heads = of(case), copy.deepcopy(heads_of(CASES[case])).double()
    boxes, times = want["boxes_norm"].double(), times_of(lengths(case)).double()
    logits = heads.relate(want["feat"].double(), want["feat"].double(), boxes, times)
    compare(logits, want["logits_f64"], atol=1e-6, what="logits")  # boxes were normalised in single precision


@pytest.mark.parametrize("case", CASES)
def test_assignment(case: str, compare: Callable) -> None:
    assignment = true_assignment(case)
    compare(assignment.targets, stored(f"asso_t8_{case}")["asso_gt"], atol=0, what="targets")
    compare(assignment.owners, stored(f"asso_t8_{case}")["match_cues"], atol=0, what="owners")


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str, background: bool, compare: Callable) -> None:
    key = f"neg_unmatched_{str(background).lower()}"
    want, figures = of(case), json.loads((DATA / f"asso_t8_{case}.json").read_text())
    heads, features = copy.deepcopy(heads_of(CASES[case])), want["feat"].clone().requires_grad_()
    logits = relate(heads, case, features)
    loss = association_loss(logits, lengths(case), true_assignment(case), background=background)
    compare(loss.item(), want[f"loss_{key}"], **OF_ITSELF, what="loss")
    compare(loss.item(), want[f"loss_f64_{key}"], **OF_ITSELF, what="loss in double precision")
    loss.backward()
    if background:
        gradient = want[f"grad_feat_{key}"]
        compare(features.grad, gradient, atol=1e-4 * float(gradient.abs().max()), what="gradient of the features")
    norms = {
        f"roi_heads.{name}": float(weight.grad.norm())
        for name, weight in heads.named_parameters()
        if weight.grad is not None
    }
    official = figures[f"grad_l2_by_param_{key}"]
    assert sorted(norms) == sorted(official)
    for name, norm in official.items():
        compare(norms[name], norm, **OF_ITSELF, what=name)


@pytest.mark.parametrize(("name", "channels"), [("mot", 160), ("tao", 256)])
@torch.inference_mode()
def test_pooled_features(name: str, channels: int, compare: Callable) -> None:
    want = stored(f"asso_pool_fc_{name}")
    p3 = noise(f"fixture/p3/{channels}", (2, channels, 20, 28)).astype(np.float32)
    compare([p3.sum(dtype=np.float64), p3.flat[0], p3.flat[-1]], want["p3_checksum"], atol=1e-6, what="input")
    boxes = torch.from_numpy(np.concatenate([want["boxes0"], want["boxes1"]]))
    index = torch.tensor([0] * len(want["boxes0"]) + [1] * len(want["boxes1"]))
    pooled = pool([torch.from_numpy(p3)], boxes, index)
    compare(pooled.mean(dim=(2, 3)), want["pooled_mean_c"], atol=1e-5, what="means")
    compare(pooled[:, :8], want["pooled_first8ch"], atol=1e-5, what="pooled")
    with torch.device("meta"):
        head = BoxHead(channels, 1024)
    features = fill(head, "roi_heads.asso_head.")(pooled)
    compare(features, want["fc_out"], **FEATURES, what="features")
    with pytest.raises(AssertionError):
        close(head(pooled.roll(1, dims=3)), want["fc_out"], **FEATURES)


# Streaming against the same official numbers; more of it is in `unit/test_association.py`


@pytest.mark.parametrize("window", [3, 8])
@pytest.mark.parametrize("case", ["mot", "tao"])
@torch.inference_mode()
def test_streaming_gives_what_the_network_gives(case: str, window: int, compare: Callable) -> None:
    heads = heads_of(CASES[case])
    model = mock.Mock(spec=GTR, roi_heads=heads)
    streaming = StreamingAssociation({name: value.numpy() for name, value in GTR.association(model).items()})
    state = streaming.empty()
    for frame in of(case)["feat"].split(lengths(case)):
        state, logits = streaming.step(state, frame.numpy(), int(len(state.counts) == window))
        plain = heads.relate(torch.from_numpy(state.features.copy()), frame).numpy()
        compare(logits, plain, atol=1e-4, what="logits")
        compare(
            frame_softmax(logits, state.counts),
            frame_softmax(plain, state.counts),
            **PROBABILITIES,
            what="probabilities",
        )


# Negative controls: one thing changed, and the comparisons above must fail


def fewer_heads(heads: Heads) -> None:
    heads.transformer.encoder.layers[0].self_attn.heads = 4


class Negated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def another_half_of_the_hidden_layer(heads: Heads) -> None:
    layer = heads.transformer.decoder.layers[0]
    layer.linear1 = nn.Sequential(layer.linear1, Negated())


def decoder_of_memory(heads: Heads) -> None:
    transformer = heads.transformer
    forward = transformer.forward

    def through_memory(objects: Tensor, queries: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _, memory = forward(objects, queries, positions)
        return transformer.decoder.layers[0](memory[: len(queries)], memory, positions), memory

    transformer.forward = through_memory


def attention_weights_exchanged(heads: Heads) -> None:
    encoder, decoder = heads.transformer.encoder.layers[0], heads.transformer.decoder.layers[0]
    encoder.self_attn, decoder.multihead_attn = decoder.multihead_attn, encoder.self_attn


def normed(heads: Heads) -> None:
    heads.transformer.encoder.layers[0].norm2 = nn.LayerNorm(1024)


def no_bias(heads: Heads) -> None:
    heads.transformer.encoder.layers[0].self_attn.in_proj_bias = nn.Parameter(torch.zeros(3072))


CHANGES = [
    fewer_heads,
    another_half_of_the_hidden_layer,
    decoder_of_memory,
    attention_weights_exchanged,
    normed,
    no_bias,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_fails(change: Callable) -> None:
    heads = copy.deepcopy(heads_of(GTR_MOT))
    change(heads)
    with pytest.raises(AssertionError, match=r"memory|decoder"):
        check_forward(close, heads, "mot")


def test_exchanged_projections_fail() -> None:
    heads = copy.deepcopy(heads_of(GTR_TAO))
    heads.asso_predictor = nn.ModuleDict({"q_proj": heads.asso_predictor.k_proj, "k_proj": heads.asso_predictor.q_proj})
    with pytest.raises(AssertionError, match="logits"):
        check_forward(close, heads, "tao")


def nearest(rows: Tensor, fractions: Tensor) -> Tensor:
    place = (fractions * len(rows)).clamp(0, len(rows) - 1).floor().long()
    return rows[place, torch.arange(rows.shape[1])]


@pytest.mark.parametrize("case", ["mot_posemb", "mot_pos_temp_emb"])
def test_another_reading_of_the_tables_fails(case: str) -> None:
    heads = heads_of(CASES[case])
    with mock.patch.object(gtr, "between", nearest), pytest.raises(AssertionError, match="logits"):
        check_forward(close, heads, case)
    with mock.patch.object(Heads, "positions", return_value=None), pytest.raises(AssertionError, match="logits"):
        check_forward(close, heads, case)


def test_another_empty_logit_fails() -> None:
    want = stored("asso_t8_mot")
    with pytest.raises(AssertionError):
        close(frame_softmax(want["logits"] + np.float32(0.01), lengths("mot")), want["probs"], **PROBABILITIES)


def test_another_denominator_or_another_assignment_fails() -> None:
    want, logits = stored("asso_t8_mot"), of("mot")["logits"]
    official, right = want["loss_neg_unmatched_true"], true_assignment("mot")
    assert float(association_loss(logits, lengths("mot"), right)) == pytest.approx(official, rel=1e-4)
    with mock.patch.object(gtr, "COUNT_EPS", 1.0):
        assert float(association_loss(logits, lengths("mot"), right)) != pytest.approx(official, rel=1e-4)
    moved = right._replace(targets=right.targets.flip(0))
    assert float(association_loss(logits, lengths("mot"), moved)) != pytest.approx(official, rel=1e-4)


# What no official number shows


@pytest.mark.parametrize("case", ["mot", "tao"])
def test_the_papers_loss_is_the_plain_sum(case: str) -> None:
    """Eqs. 3 to 5, term by term, and not the mean."""
    n_t, logits = lengths(case), of(case)["logits_f64"]
    assignment = true_assignment(case, iou_above=0.5)
    starts, total, mean = np.cumsum([0, *n_t]), 0.0, 0.0

    def minus_log_p(query: int, t: int, target: int) -> float:
        scores = np.append(logits[query, starts[t] : starts[t + 1]].numpy(), 0.0)
        return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target])

    pairs = 0
    for row in assignment.targets.tolist():
        for s, target in enumerate(row):
            if target < n_t[s]:
                total += sum(minus_log_p(starts[s] + target, t, row[t]) for t in range(len(n_t)))
                pairs += sum(row[t] < n_t[t] for t in range(len(n_t)))
    for query in np.flatnonzero(assignment.owners < 0):
        total += sum(minus_log_p(query, t, n_t[t]) for t in range(len(n_t)))
    mean = total / (pairs + 1e-4)
    ours = functools.partial(association_loss, logits, n_t, assignment)
    assert float(ours(variant="paper")) == pytest.approx(total, rel=1e-6)
    assert float(ours(variant="paper", background=False)) == pytest.approx(total, rel=1e-6)
    assert float(ours()) == pytest.approx(mean, rel=1e-6)  # nobody is chosen twice here
    assert float(ours(background=False)) < float(ours())


def test_a_detection_chosen_twice_is_owned_by_the_later() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    truth = torch.tensor([[0.0, 0, 10, 9], [0, 1, 10, 10], [0, 0, 9, 9]])
    assignment = assign(boxes, [2, 0], truth, torch.tensor([0, 0, 1]), torch.tensor([7, 3, 7]))
    assert assignment.targets.tolist() == [[0, 0], [0, 0]]  # on an empty frame the count, 0, says none
    assert assignment.owners.tolist() == [1, -1]
    logits = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    once = association_loss(logits, [2, 0], assignment, background=False)
    twice = association_loss(logits, [2, 0], assignment, variant="paper")
    p = frame_log_softmax(logits, [2, 0])[0]
    assert float(once) == pytest.approx(-float(p[0, 0]) / (1 + 1e-4))
    assert float(twice) == pytest.approx(-float(2 * p[0, 0] + p[1, 2]))


def test_the_least_overlap_is_an_argument() -> None:
    detected = torch.tensor([[0.0, 0, 10, 10], [40, 0, 50, 10]])
    truth = torch.tensor([[4.0, 0, 14, 10], [50, 0, 60, 10]])  # an IoU of 60 / 140, and a side in common
    given = (detected, [2], truth, torch.tensor([0, 0]), torch.tensor([1, 2]))
    assert assign(*given).targets.tolist() == [[0], [2]]
    assert assign(*given).owners.tolist() == [0, -1]
    assert assign(*given, iou_above=0.5).targets.tolist() == [[2], [2]]


def test_a_clip_without_identities_costs_nothing_as_released() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    nobody = assign(torch.rand(3, 4), [1, 2], torch.zeros(0, 4), torch.zeros(0, dtype=int), torch.zeros(0, dtype=int))
    loss = association_loss(logits, [1, 2], nobody)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    assert association_loss(logits, [1, 2], nobody, variant="paper").item() > 0


@torch.inference_mode()
def test_trajectories_from_one_pass(compare: Callable) -> None:
    """Sec. 4.1: for every query the likeliest object of each frame, or none, and the product of what each has."""
    model = mock.Mock(spec=GTR, roi_heads=heads_of(GTR_MOT))
    clip, n_t, probabilities = of("mot")["feat"].split(lengths("mot")), lengths("mot"), stored("asso_t8_mot")["probs"]
    every = associate(model, clip)
    starts = np.cumsum([0, *n_t])
    for t, (start, end) in enumerate(itertools.pairwise(starts)):
        of_frame = probabilities[:, start:end]
        none = 1 - of_frame.sum(axis=1)
        best = of_frame.max(axis=1, initial=0)
        compare(every.probabilities[:, t], np.maximum(best, none), **PROBABILITIES, what=f"frame {t}")
        found = every.objects[:, t].numpy()
        sure = abs(best - none) > 1e-4
        assert (found[sure] >= 0).tolist() == (best > none)[sure].tolist()
        assert all(of_frame[i, one] == pytest.approx(best[i], abs=1e-5) for i, one in enumerate(found) if one >= 0)
    assert every.objects[:, 4].tolist() == [-1] * 31 and every.probabilities[:, 4].tolist() == [1.0] * 31
    compare(every.log_probability, every.probabilities.double().log().sum(dim=1), atol=1e-4, what="log P_T")
    one_frame = associate(model, clip, query_frame=3)
    compare(one_frame.log_probability, every.log_probability[12:18], atol=1e-5, what="one frame's queries")
    assert one_frame.objects.tolist() == every.objects[12:18].tolist()
    assert (every.objects >= 0).any() and (every.objects < 0).any()


@torch.inference_mode()
def test_trajectories_of_a_clip_of_one_frame_and_of_none_at_all() -> None:
    model = mock.Mock(spec=GTR, roi_heads=heads_of(GTR_MOT))
    nothing = associate(model, [torch.zeros(0, 1024)] * 3)
    assert nothing.objects.shape == nothing.probabilities.shape == (0, 3) and nothing.log_probability.shape == (0,)
    alone = associate(model, [of("mot")["feat"][:1]], query_frame=0)
    assert alone.objects.shape == (1, 1)


ABLATIONS = {
    "dot product": {"encoder_layers": 0, "decoder_layers": 0},
    "encoder only": {"decoder_layers": 0},
    "decoder only": {"encoder_layers": 0},
    "self-attention of queries": {"decoder_self_attention": True},
    "two layers": {"encoder_layers": 2, "decoder_layers": 2},
    "norms": {"layer_norm": True},
    "places": {"position_embedding": True},
    "places and times": {"position_embedding": True, "temporal_embedding": True},
    "projections": {"projection_layers": 2},
    "all": {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "decoder_self_attention": True,
        "layer_norm": True,
        "position_embedding": True,
        "temporal_embedding": True,
        "projection_layers": 2,
    },
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_learn_and_differ(name: str) -> None:
    torch.manual_seed(0)
    config = replace(GTR_TINY, dropout=0.0, **ABLATIONS[name])
    heads = Heads(config)
    released = Heads(replace(GTR_TINY, dropout=0.0))
    common = {key: value for key, value in heads.state_dict().items() if key in released.state_dict()}
    released.load_state_dict(common, strict=False)
    features, boxes, times = torch.randn(7, 64, requires_grad=True), torch.rand(7, 4), torch.arange(7) / 7
    logits = heads.relate(features, features[2:5], boxes, times)
    assert logits.shape == (3, 7)
    assert (logits - released.relate(features, features[2:5])).abs().max() > 1e-3
    logits.square().sum().backward()
    untouched = ("asso_head.", "box_head.", "box_predictor.")
    idle = [k for k, w in heads.named_parameters() if w.grad is None and not k.startswith(untouched)]
    assert idle == []
    if name == "dot product":
        torch.testing.assert_close(logits, features[2:5] @ features.T)
    if name == "places":  # a box and a time elsewhere change what is said
        assert not torch.equal(heads.relate(features, features, boxes), heads.relate(features, features, boxes / 2))
    weights = {key: value.detach().numpy() for key, value in GTR.association(mock.Mock(roi_heads=heads)).items()}
    if name == "projections":
        assert StreamingAssociation(weights).width == 64
    else:
        with pytest.raises(ProtocolError, match="Use the plain association"):
            StreamingAssociation(weights)


def test_a_network_that_embeds_positions_asks_for_them() -> None:
    heads = Heads(replace(GTR_TINY, position_embedding=True, temporal_embedding=True))
    features = torch.randn(3, 64)
    with pytest.raises(ProtocolError, match="got no boxes; expected them"):
        heads.relate(features, features)
    with pytest.raises(ProtocolError, match="got no times; expected them"):
        heads.relate(features, features, torch.rand(3, 4))


def test_dropout_is_of_training_alone() -> None:
    heads, features = Heads(GTR_TAO_TINY), torch.randn(5, 64)
    assert not torch.equal(heads.relate(features, features), heads.relate(features, features))
    heads.eval()
    assert torch.equal(heads.relate(features, features), heads.relate(features, features))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": 3}, r"width: got 1024; expected a multiple of 4 and of the 3 heads"),
        ({"hidden": 0}, r"hidden: got 0; expected at least 1"),
        ({"decoder_layers": -1}, r"decoder_layers: got -1; expected at least 0"),
        ({"dropout": 1.0}, r"dropout=1.0; expected 0 or more, and a rate"),
        ({"temporal_embedding": True}, r"temporal_embedding: got it without position_embedding"),
        ({"channels": 33}, r"channels: got 33; expected a positive multiple of 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(GeometryError, match=sentence):
        replace(GTR_MOT, **change)


@pytest.mark.parametrize(("config", "size"), [(GTR_TINY, 128), (GTR_TAO_TINY, 64)])
def test_a_session_runs_every_graph(config: GTRConfig, size: int) -> None:
    torch.manual_seed(0)
    model = GTR(config)
    session = TorchSession(model)
    assert session.graphs == model.graphs
    assert ("classify" in session.graphs) == bool(config.num_classes)
    maps = session.run("detect", {"image": np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)})
    boxes = np.array([[4, 4, 40, 40], [10, 0, 30, 60], [0, 0, 1, 1]], np.float32)
    embeddings = session.run("embed", {"p3": maps["p3"], "boxes": boxes})["embeddings"]
    assert embeddings.shape == (3, 64)
    if config.num_classes:
        answer = session.run("classify", {"p3": maps["p3"], "boxes": boxes, "size": np.float32([size, size])})
        assert answer["class_scores"].shape == (3, 1204) and answer["boxes"].shape == (3, 4)
    logits = session.run("associate", {"features": embeddings, "queries": embeddings[1:]})["logits"]
    streaming = StreamingAssociation(session.run("association", {}))
    _, streamed = streaming.step(streaming.window(embeddings[:1], [1]), embeddings[1:])
    np.testing.assert_allclose(streamed, logits, atol=1e-5)
    assert F.relu(torch.from_numpy(logits)).isfinite().all()
