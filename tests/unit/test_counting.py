"""The costs that the papers state, counted on the meta device: shapes only, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.models.counting import count_gmac
from sightline.models.mvt import MVT, MVT_256, MVTConfig
from sightline.models.ostrack import OSTRACK_256, OSTRACK_256_CE, OSTRACK_384, OSTRACK_384_CE, OSTrack, OSTrackConfig

pytestmark = pytest.mark.torch


def images(config: OSTrackConfig | MVTConfig) -> tuple[Tensor, Tensor]:
    template_px, search_px = config.template_px, config.search_px
    return (
        torch.zeros(1, 3, template_px, template_px, device="meta"),
        torch.zeros(1, 3, search_px, search_px, device="meta"),
    )


def on_meta(model: Callable[..., nn.Module], config: OSTrackConfig | MVTConfig) -> nn.Module:
    with torch.device("meta"):
        return model(config).eval()


# OSTrack's Table 3 by thop's rule, and the same passes by every product.
@pytest.mark.parametrize(
    ("config", "every_product", "thop"),
    [
        (OSTRACK_256, 30.91, 29.02),
        (OSTRACK_256_CE, 22.64, 21.50),
        (OSTRACK_384, 74.86, 65.30),
        (OSTRACK_384_CE, 54.09, 48.31),
    ],
    ids=["256", "256-ce", "384", "384-ce"],
)
def test_ostrack_table_3(config: OSTrackConfig, every_product: float, thop: float) -> None:
    model = on_meta(OSTrack, config)
    assert count_gmac(model, *images(config)) == pytest.approx(every_product, abs=0.01)
    assert count_gmac(model, *images(config), attention=False) == pytest.approx(thop, abs=0.01)


def test_ostrack_table_3_would_notice_another_keep_ratio() -> None:
    config = replace(OSTRACK_256_CE, ce_keep_ratios=0.71)
    assert abs(count_gmac(on_meta(OSTrack, config), *images(config)) - 22.64) > 0.05


def test_rows_of_an_attention_count_once() -> None:
    """One template row or all 64: the paper's attention matrix has them all anyway."""
    every_row = replace(OSTRACK_256_CE, ce_template_tokens="all")
    one, all_of_them = (count_gmac(on_meta(OSTrack, c), *images(c)) for c in (OSTRACK_256_CE, every_row))
    assert one == all_of_them


def test_mvt_with_the_template_stem_kept_and_without() -> None:
    model = on_meta(MVT, MVT_256)
    template, search = images(MVT_256)
    assert count_gmac(model, template, search) == pytest.approx(3.102, abs=0.001)
    assert isinstance(model, MVT)
    features = model.encode(template)
    assert count_gmac(lambda image: model.track(image, **features), search) == pytest.approx(2.987, abs=0.001)


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [(OSTrack, OSTRACK_256, 92_518_533), (OSTrack, OSTRACK_384_CE, 92_825_733), (MVT, MVT_256, 5_480_405)],
    ids=["ostrack-256", "ostrack-384-ce", "mvt"],
)
def test_parameters(model: Callable[..., nn.Module], config: OSTrackConfig | MVTConfig, expected: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(model, config).parameters()) == expected


@pytest.mark.parametrize(
    "product", [torch.matmul, torch.mm, lambda a, b: a @ b, lambda a, b: torch.bmm(a[None], b[None])]
)
def test_matrix_products_by_hand(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    left, right = torch.ones(2, 3), torch.ones(3, 4)
    assert count_gmac(product, left, right) == pytest.approx(2 * 3 * 4e-9)
    assert count_gmac(product, left, right, attention=False) == 0


def test_layers_by_hand() -> None:
    linear, grouped = nn.Linear(6, 5), nn.Conv2d(4, 8, 3, padding=1, groups=2)
    for attention in (True, False):
        assert count_gmac(linear, torch.ones(2, 6), attention=attention) == pytest.approx(2 * 6 * 5e-9)
        image = torch.ones(1, 4, 7, 7)
        assert count_gmac(grouped, image, attention=attention) == pytest.approx(8 * 49 * 2 * 9e-9)


def test_attention_by_hand() -> None:
    """Two queries over seven keys of width 8 and values of width 3."""
    query, key, value = torch.ones(1, 2, 8), torch.ones(1, 7, 8), torch.ones(1, 7, 3)
    assert count_gmac(F.scaled_dot_product_attention, query, key, value) == pytest.approx(2 * 7 * (8 + 3) * 1e-9)
    assert count_gmac(F.scaled_dot_product_attention, query, key, value, attention=False) == 0


def test_only_rows_over_the_same_keys_are_free() -> None:
    query, key = torch.ones(1, 2, 8), torch.ones(1, 7, 8)

    def rows_and_attention(keys: Tensor) -> Tensor:
        _ = query[:, :1] @ keys.transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, key)

    attention = 2 * 7 * (8 + 8) * 1e-9
    assert count_gmac(rows_and_attention, key) == pytest.approx(attention)
    assert count_gmac(rows_and_attention, key.clone()) == pytest.approx(attention + 7 * 8e-9)
