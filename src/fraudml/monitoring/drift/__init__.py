"""Drift: whether data and scores are still distributed as they were."""
