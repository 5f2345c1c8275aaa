"""fraudml: from a CSV of transactions to a fraud-scoring service, with one declaration of features."""

__version__ = "0.1.0"

__all__ = ["__version__"]
