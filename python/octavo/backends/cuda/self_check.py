"""A second's work on a GPU that shows whether kernels compile, load, launch and compute there."""

import torch

from octavo.backends.cuda.arguments import NormCall
from octavo.backends.cuda.driver import Driver
from octavo.backends.cuda.variants import norm_act

ROWS, WIDTH = 16, 1024


def self_check(driver: Driver) -> float:
    """The largest error of a norm of random rows, as a part of the number or of 1.

    CompileError or RuntimeError when it does not run.
    """
    (module,) = driver.load([norm_act("Bfloat16", "Bfloat16")])
    kernel = module.kernel("rms_norm")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((ROWS, WIDTH), generator=generator).to(driver.device, torch.bfloat16)
    weight, out = torch.ones_like(x[0]), torch.empty_like(x)
    call = NormCall(x=x.data_ptr(), weight=weight.data_ptr(), out=out.data_ptr(), x_stride=WIDTH, out_stride=WIDTH)
    call.num_rows, call.hidden_size, call.eps = ROWS, WIDTH, 1e-6
    kernel.launch(ROWS, call)
    driver.record().synchronize()
    exact = x.double() / x.double().square().mean(-1, keepdim=True).add(1e-6).sqrt()
    return float(((out.double() - exact) / exact.abs().clamp(min=1)).abs().max())
