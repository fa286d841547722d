"""The engines that `peers.py` compares, and what it asks of them.

home        where the peers are installed: outside the repository
install     `make peers`: sets them up
workloads   W1 to W7: how many requests of what length, and what is timed
contenders  an engine with the format of its weights, and the workloads that each runs
interfaces  how an engine can be measured: its Python API, its server, its own benchmark program
worker      a Python API in a process of its own; child and run_NAME are what runs there
servers     engines behind HTTP
llamacpp    llama.cpp's programs and their flags
processes   starting, stopping, ending and weighing the processes
rounds      the interleaved measurement
figures     medians and ratios
start       start to first answer, and memory
limits      what the machine itself can do
"""
