"""bfloat16 changes the arithmetic and nothing else."""

from pathlib import Path

import torch

from training.precision import has_native_bfloat16, is_rounded


def test_rounding_reaches_all_but_what_speaks_in_metres(small_network) -> None:
    exact, _ = small_network("default")
    rounded, _ = small_network("default")
    rounded.rounded = True
    assert exact.state_dict().keys() == rounded.state_dict().keys()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        a, b = exact(images), rounded(images)
        tokens = torch.randn(2, 5, rounded.blocks()[-1].residual.in_features)
        assert torch.equal(exact.blocks()[-1](tokens), rounded.blocks()[-1](tokens))
    for one, other in zip(a, b, strict=True):
        if one is None:  # what this network lacks
            assert other is None
            continue
        for x, y in zip(*((part if isinstance(part, tuple) else (part,)) for part in (one, other)), strict=True):
            assert x.dtype == y.dtype == torch.float32
            torch.testing.assert_close(x, y, atol=0.15 * float(x.abs().max()), rtol=0.1)
    assert not torch.equal(a.joints, b.joints)


def test_the_last_block_is_never_rounded(small_network) -> None:
    metro, _ = small_network("default")
    metro.rounded = True
    seen = {}
    for number, block in enumerate(metro.blocks()):
        block.register_forward_hook(lambda module, inputs, output, number=number: seen.update({number: output.dtype}))
    with torch.no_grad():
        metro(torch.randn(1, 3, 64, 64))
    assert [seen[number] for number in sorted(seen)] == [torch.bfloat16] * (len(seen) - 1) + [torch.float32]


def test_native_bfloat16_is_read_off_the_processor(tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("flags : avx2 avx512f avx512_bf16 fma\n")
    assert has_native_bfloat16(cpu)
    cpu.write_text("flags : avx2 avx512f fma\n")
    assert not has_native_bfloat16(cpu)
    assert not has_native_bfloat16(tmp_path / "missing")


def test_a_precision_that_is_named_is_taken() -> None:
    assert is_rounded("bf16") and not is_rounded("fp32")
    assert is_rounded("auto") == has_native_bfloat16()
