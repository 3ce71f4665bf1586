"""The benchmark compares two ways of computing the same thing."""

from pathlib import Path

import torch

from training.bench_train import OriginalAttention, bench_loader, default_mesh, demo_shards
from training.datasets.augment import DEFAULT
from training.datasets.mixture import Mixture, Source
from training.transformer import SelfAttention


def test_the_originals_attention_is_ours() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(32, 4, 0.1).eval()
    tokens = torch.randn(3, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(OriginalAttention(ours).eval()(tokens), ours(tokens), atol=1e-6, rtol=1e-5)


def test_the_loader_waits_for_its_own_work_alone(tmp_path: Path) -> None:
    mesh = default_mesh()
    mixture = Mixture([Source(demo_shards(tmp_path, mesh, count=8))], mesh, DEFAULT, "smooth", 128)
    seen = []
    row = bench_loader(mixture, 4, lambda batch: seen.append(batch.image.shape), steps=3, workers=0)
    assert seen == [(4, 128, 128, 3)] * 4
    assert row["share_waiting"] > 0.9, "a step that does nothing waits nearly always"
