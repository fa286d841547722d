"""What benches/gpu.py measures is attention: its steps give what torch gives without pages."""

import sys
from pathlib import Path

import pytest
import torch
from fake_driver import FakeDriver
from host import EMULATED

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))
import _gpu_attention

pytestmark = pytest.mark.skipif(not EMULATED, reason="the bench itself runs there")
SHAPE = _gpu_attention.Shape(num_heads=4, num_kv_heads=2, head_dim=64)


@pytest.mark.parametrize(("num_query", "length"), [(1, 40), (33, 33)])
def test_a_step_of_the_bench(num_query: int, length: int) -> None:
    driver = FakeDriver()
    decode, prefill, tile_rows = _gpu_attention.load(driver, SHAPE)
    step = _gpu_attention.PagedStep(driver, SHAPE, 3, num_query, length)
    kernel = decode if num_query == 1 else prefill
    kernel.launch(kernel.resident_blocks, step.call(None if num_query == 1 else tile_rows))
    query, keys, values = (each.float() for each in step.dense())
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, is_causal=num_query > 1, enable_gqa=True
    )
    ours = step.output.view(3, num_query, 4, 64).transpose(1, 2).float()
    torch.testing.assert_close(ours, expected, atol=0.02, rtol=0.02)
