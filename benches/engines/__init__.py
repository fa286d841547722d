"""The engines that `peers.py` compares, and what it asks of them.

home        where the peers are installed: outside the repository
install     `make peers`: sets them up
workloads   W1 to W7: how many requests of what length, and what is timed
contenders  an engine with the format of its weights, and the workloads that each runs
worker      an engine in a Python process of its own; run_NAME.py is what runs there
llamacpp    llama.cpp's own benchmark programs
servers     engines behind HTTP, and their processes
rounds      the interleaved measurement, medians and ratios
start       start to first answer, and memory
limits      what the machine itself can do
"""
