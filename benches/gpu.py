"""octavo on this machine's GPU, beside the GPU's ceilings, torch's attention and Transformers.

python benches/gpu.py --json FILE          all of it, in some minutes; `make check-gpu` runs it after the tests
python benches/gpu.py --only attention
"""

import sys

from _report import arguments, publish
from octavo.backends.cuda.driver import open_driver
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
    import _gpu_attention
    import _gpu_serving

    figures: dict[str, float] = {}
    if options.only in (None, "attention"):
        shape = _gpu_attention.Shape()
        figures |= _gpu_attention.ceilings(driver.device)
        for batch, length in ((64, 2048), (128, 2048), (64, 8192), (256, 1024)):
            figures |= _gpu_attention.decode(driver, shape, batch, length)
        for batch, length in ((1, 8192), (8, 1024), (4, 2048)):
            figures |= _gpu_attention.prefill(driver, shape, batch, length)
        for name in [name for name in figures if name.endswith("gb_per_s") and name != "copy_gb_per_s"]:
            figures[name.replace("gb_per_s", "percent_of_copy")] = 100 * figures[name] / figures["copy_gb_per_s"]
        for name in [name for name in figures if name.startswith("prefill") and name.endswith("tflop_per_s")]:
            share = 100 * figures[name] / figures["matmul_tflop_per_s"]
            figures[name.replace("tflop_per_s", "percent_of_matmul")] = share
    if options.only in (None, "steps"):
        for label, eager in (("eager", True), ("graph", False)):
            engine = _gpu_serving.Engine(_gpu_serving.LLAMA_8B, enforce_eager=eager)
            figures |= _gpu_serving.decode_steps(engine, BATCHES, 512, label)
            engine.close()
    if options.only in (None, "serving"):
        engine = _gpu_serving.Engine(_gpu_serving.LLAMA_8B, max_num_seqs=512)
        figures |= _gpu_serving.throughput(engine, 1000, 512, 128)
        engine.close()
        figures |= _gpu_serving.transformers(_gpu_serving.LLAMA_8B, 512, 128, 32)
        ratio = figures["output_tokens_per_s"] / figures["transformers_one_by_one_tokens_per_s"]
        figures["ratio_to_transformers_one_by_one"] = ratio
    publish("gpu", figures, options.json, gpu={"name": driver.name, "architecture": driver.architecture})
    return 0


if __name__ == "__main__":
    sys.exit(main())
