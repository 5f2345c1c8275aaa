"""Benchmarks: figures with their machine, beside a baseline where there is one. Nothing fails on a slow machine."""
