"""``fraudml bench``: load on a real server over TCP, with figures that hide nothing."""

from fraudml.cli.bench.command import add

__all__ = ["add"]
