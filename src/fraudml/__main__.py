"""``python -m fraudml``: the same as the ``fraudml`` command."""

from fraudml.cli.main import run

run()
