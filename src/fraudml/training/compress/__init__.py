"""Smaller models: trees pruned to a score tolerance, weights in fewer bits, fewer features; measured on history."""
