"""Masked vertex modelling hides as many tokens as the paper's rule says, no more, and of both kinds."""

import torch

from training.masking import MASKED_VALUE, mask_tokens, sample_token_mask

JOINTS, VERTICES, RATIO, BATCH = 14, 431, 0.3, 4000


def hidden_counts(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = 1 - mask.squeeze(2)
    return hidden[:, :JOINTS].sum(dim=1), hidden[:, JOINTS:].sum(dim=1)


def sample() -> torch.Tensor:
    return sample_token_mask(BATCH, JOINTS, VERTICES, RATIO, generator=torch.Generator().manual_seed(0))


def test_counts_are_bounded_and_uniform() -> None:
    mask = sample()
    assert mask.shape == (BATCH, JOINTS + VERTICES, 1)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    joints, vertices = hidden_counts(mask)
    # int(p * 0.3 * 14) for p in [0, 1) is 0 to 4, int(p * 0.3 * 431) is 0 to 129.
    assert (joints.min(), joints.max()) == (0, 4)
    assert vertices.min() == 0
    assert 126 <= vertices.max() <= 129
    # Uniform on [0, 129]: mean 64.2, standard deviation 37.3, here within three standard errors.
    assert abs(vertices.mean() - 64.2) < 1.8
    assert abs(vertices.std() - 37.3) < 1.0
    # 0 to 3 each 1 / 4.2, 4 the remaining 0.2 / 4.2.
    assert abs((joints == 4).float().mean() - 0.2 / 4.2) < 0.012


def test_joints_and_vertices_are_independent_and_every_token_takes_its_turn() -> None:
    mask = sample()
    joints, vertices = hidden_counts(mask)
    assert abs(torch.corrcoef(torch.stack([joints, vertices]))[0, 1]) < 0.06
    share = (1 - mask.squeeze(2)).mean(dim=0)
    assert share[:JOINTS].std() / share[:JOINTS].mean() < 0.15
    assert share[JOINTS:].min() > 0.1
    assert share[JOINTS:].max() < 0.2


def test_ratio_zero_hides_nothing() -> None:
    assert torch.all(sample_token_mask(50, 21, 195, 0.0) == 1)


def test_hidden_tokens_become_the_constant() -> None:
    tokens = torch.randn(1, 3, 5)
    masked = mask_tokens(tokens, torch.tensor([[[1.0], [0.0], [1.0]]]))
    torch.testing.assert_close(masked[:, [0, 2]], tokens[:, [0, 2]])
    assert torch.all(masked[:, 1] == MASKED_VALUE)
