"""Convolutions for a CPU, composed of what XLA compiles well there."""
