"""Servers that score for us."""
