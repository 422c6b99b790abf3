"""Measurements of speed and memory, each beside radical.asyncflow and beside the physical limit (see README.md)."""
