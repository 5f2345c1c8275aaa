"""Benchmarks: figures beside a named baseline measured in the same run. Not tests: nothing fails on a slow machine."""
