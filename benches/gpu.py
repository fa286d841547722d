"""octavo on this machine's GPU, beside the GPU's ceilings, torch's attention and Transformers.

python benches/gpu.py --json FILE          all of it, in some minutes; `make check-gpu` runs it after the tests
python benches/gpu.py --only attention
"""

import sys

from _report import arguments, publish
from octavo.backends.cuda.driver import Driver, open_driver
from octavo.errors import OctavoError

BATCHES = [1, 8, 32, 64, 128, 256]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=["attention", "steps", "serving"])
    options = parser.parse_args()
    try:
        driver = open_driver()
    except OctavoError as error:
        sys.exit(f"gpu.py: {error}")
    parts = {"attention": attention, "steps": steps, "serving": serving}
    figures: dict[str, float] = {}
    for name, part in parts.items():
        if options.only in (None, name):
            print(f"-- {name}")
            figures |= part(driver)
            # After each part: if the time ends in a later one, this is kept.
            publish("gpu", figures, options.json, gpu={"name": driver.name, "architecture": driver.architecture})
    return 0


def attention(driver: Driver) -> dict[str, float]:
    """The kernels beside the GPU's ceilings and torch's attention."""
    import _gpu_attention as measure

    shape = measure.Shape()
    figures = measure.ceilings(driver.device)
    for batch, length in ((64, 2048), (128, 2048), (64, 8192), (256, 1024)):
        figures |= measure.decode(driver, shape, batch, length)
    for batch, length in ((1, 8192), (8, 1024), (4, 2048)):
        figures |= measure.prefill(driver, shape, batch, length)
    shares = {}
    for name, figure in figures.items():
        if name.startswith("decode") and name.endswith("gb_per_s"):
            shares[name.replace("gb_per_s", "percent_of_copy")] = 100 * figure / figures["copy_gb_per_s"]
        if name.startswith("prefill") and name.endswith("tflop_per_s"):
            shares[name.replace("tflop_per_s", "percent_of_matmul")] = 100 * figure / figures["matmul_tflop_per_s"]
    return figures | shares


def steps(driver: Driver) -> dict[str, float]:
    """Decoding steps by batch size, with graphs and without."""
    import _gpu_serving as measure

    figures: dict[str, float] = {}
    for label, eager in (("eager", True), ("graph", False)):
        engine = measure.Engine(measure.LLAMA_8B, enforce_eager=eager)
        figures |= measure.decode_steps(engine, BATCHES, 512, label)
        engine.close()
    return figures


def serving(driver: Driver) -> dict[str, float]:
    """Many requests at once, beside Transformers' generate."""
    import _gpu_serving as measure

    engine = measure.Engine(measure.LLAMA_8B, max_num_seqs=512)
    figures = measure.throughput(engine, 1000, 512, 128)
    engine.close()
    figures |= measure.transformers(measure.LLAMA_8B, 512, 128, 32)
    ratio = figures["output_tokens_per_s"] / figures["transformers_one_by_one_tokens_per_s"]
    return figures | {"ratio_to_transformers_one_by_one": ratio}


if __name__ == "__main__":
    sys.exit(main())
