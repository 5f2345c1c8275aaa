"""The training report: one self-contained HTML file."""

from fraudml.training.report.page import write

__all__ = ["write"]
