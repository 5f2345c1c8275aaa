"""``fraudml demo``: the whole path, from simulated transactions to a scoring API, with the real commands."""

from fraudml.cli.demo.command import add

__all__ = ["add"]
