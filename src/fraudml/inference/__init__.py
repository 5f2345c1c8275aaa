"""Guessing what the columns of an unknown file mean: the rules behind ``fraudml init``."""
