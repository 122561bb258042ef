"""Benchmarks beside PyTorch: contenders are processes that take turns."""
