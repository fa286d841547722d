"""The CUDA backend. Imported only where a GPU is used, or its kernels are compiled.

gpu          which GPUs there are, without touching them
installation  whether driver, PyTorch and CuPy fit together
driver       all that needs a GPU, as a protocol, and the real one
kernels      the kernels that a model needs, loaded
arena        the step's columns on the GPU
penalties    which tokens each row has had
ops, cache   the decoder's operations, the KV cache and its attention
self_check   a second's work for `octavo doctor`
nvrtc        NVIDIA's run-time compiler, through ctypes: no driver, no GPU
elf          reads what a cubin says of its kernels
compile      a file of cuda/ to a cubin, cached; registers, spills and shared memory of its kernels
variants     which kernels octavo compiles, with which macros, for which GPUs
arguments    the structures that kernels take, as ctypes
int4         weights of AWQ and GPTQ checkpoints, repacked for gemm_w4a16.cu
"""
