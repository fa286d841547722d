"""Measurements of a model on this machine, without a server: `octavo bench throughput` and `latency`."""
