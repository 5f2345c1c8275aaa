"""Prediction caches."""
