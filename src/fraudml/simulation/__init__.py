"""Simulated transactions with fraud patterns that drift."""
