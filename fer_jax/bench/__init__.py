"""Benchmarks against PyTorch: contenders in processes of their own, taking turns."""
