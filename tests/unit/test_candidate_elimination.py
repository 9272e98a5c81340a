"""Candidate elimination by hand: who votes, how many stay, in which order, and where they go back."""

from __future__ import annotations

import pytest
import torch

from sightline.models.ostrack import candidate_elimination, restore

TOKENS = torch.arange(5.0).repeat(2, 3, 1).transpose(1, 2)  # (2, 5, 3), token i is (i, i, i)
INDEX = torch.tensor([[10, 11, 12, 13, 14], [24, 23, 22, 21, 20]])


def attention(*rows: list[float]) -> torch.Tensor:
    """(2, 1, R, 5): one head, the second sample mirrored."""
    one = torch.tensor(rows)[None, None]
    return torch.cat([one, one.flip(-1)])


def test_the_best_ceil_of_the_share_stay_by_falling_score() -> None:
    rows = attention([0.1, 0.5, 0.2, 0.4, 0.3])
    step = candidate_elimination(rows, TOKENS, INDEX, 0.41)  # ceil(0.41 * 5) = 3
    assert step.tokens[:, :, 0].tolist() == [[1, 3, 4], [3, 1, 0]]
    assert step.kept_index.tolist() == [[11, 13, 14], [21, 23, 24]]
    assert step.removed_index.tolist() == [[12, 10], [22, 20]]
    torch.testing.assert_close(step.score, rows[:, 0, 0])


def test_score_is_the_mean_over_rows_then_heads() -> None:
    rows = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    step = candidate_elimination(rows, TOKENS, INDEX, 0.5)
    torch.testing.assert_close(step.score, rows.mean(dim=(1, 2)))
    assert not torch.allclose(step.score, rows.mean(dim=1).amax(dim=1))  # the control: another reduction differs


def test_masked_rows_do_not_vote() -> None:
    rows = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    step = candidate_elimination(rows, TOKENS, INDEX, 0.5, mask)
    torch.testing.assert_close(step.score[0], rows[0, :, [0, 2]].mean(dim=(0, 1)))
    torch.testing.assert_close(step.score[1], rows[1, :, 1].mean(dim=0))


def test_keeping_all_changes_nothing() -> None:
    step = candidate_elimination(attention([0.1, 0.5, 0.2, 0.4, 0.3]), TOKENS, INDEX, 0.81)  # ceil(4.05) = 5
    assert step.tokens is TOKENS
    assert step.kept_index is INDEX
    assert step.removed_index.shape == (2, 0)


@pytest.mark.parametrize(("grid", "counts"), [(16, [180, 126, 89]), (24, [404, 283, 199])])
def test_numbers_of_the_official_layers(grid: int, counts: list[int]) -> None:
    tokens, index = torch.rand(1, grid * grid, 2), torch.arange(grid * grid)[None]
    for count in counts:
        step = candidate_elimination(torch.rand(1, 1, 1, tokens.shape[1]), tokens, index, 0.7)
        tokens, index = step.tokens, step.kept_index
        assert tokens.shape[1] == index.shape[1] == count
    assert len(set(index[0].tolist())) == counts[-1]


def test_restored_tokens_stand_where_they_came_from() -> None:
    index = torch.arange(5).expand(2, -1)
    step = candidate_elimination(attention([0.1, 0.5, 0.2, 0.4, 0.3]), TOKENS + 1, index, 0.6)
    restored = restore(step.tokens, step.kept_index, 5)
    assert restored[:, :, 0].tolist() == [[0, 2, 0, 4, 5], [1, 2, 0, 4, 0]]
    assert torch.count_nonzero(restored.gather(1, step.removed_index[..., None].expand(-1, -1, 3))) == 0
