"""Numbers as positions among their quantiles, the input of the deep family's embeddings.

Method: the piecewise linear encoding of Gorishniy, Rubachev, Babenko, *On Embeddings for Numerical Features in Tabular
Deep Learning*, NeurIPS 2022. Between two neighbouring edges a value is where it lies between them, from 0 to 1; each
bin below it is 1, each above it 0. Every input is thus bounded, whatever a transaction claims to be worth.

A column of few distinct values has an edge at each of them. A linear layer over these bins can give each value its own
vector, so for a category's codes it is an embedding table, written as the differences of its rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fraudml.training.families import base

SMALLEST_BIN = np.float32(1e-30)  # far from where float32 loses its digits


class Encoding(NamedTuple):
    """Bins of ``k`` columns, ``t`` of each, float32; a column that needs fewer has bins that are always 0.

    ``lower`` and ``width``: ``[k, t]``; ``fill``: ``[k]``, the median, which stands in for a missing value;
    ``flagged``: ``[k]``, 1 where training saw missing values, which then have an input of their own.
    """

    lower: base.Matrix
    width: base.Matrix
    fill: base.Matrix
    flagged: base.Matrix

    @classmethod
    def of(cls, X: base.Matrix, bins: int) -> Encoding:
        """At most ``bins`` bins for each column of ``X``, float32 ``[n, k]``.

        >>> encoding = Encoding.of(np.array([[0], [0], [2], [3]], np.float32), bins=3)
        >>> encoding.lower.tolist(), encoding.width[:, :2].tolist(), encoding.fill.tolist()
        ([[0.0, 2.0, 1.59...e+26]], [[2.0, 1.0]], [0.0])
        """
        k = X.shape[1]
        lower = np.full((k, bins), 16 * base.HUGE, np.float32)  # out of every value's reach
        width = np.ones((k, bins), np.float32)
        fill = np.zeros(k, np.float32)
        for column in range(k):
            values = X[~np.isnan(X[:, column]), column]
            if len(values) == 0:
                continue
            fill[column] = np.quantile(values, 0.5, method="lower")
            edges = _edges(values, bins)
            lower[column, : len(edges) - 1] = edges[:-1]
            width[column, : len(edges) - 1] = np.diff(edges)
        return cls(lower, width, fill, np.asarray(np.isnan(X).any(axis=0), np.float32))


def _edges(values: base.Matrix, bins: int) -> base.Matrix:
    """Distinct values if they are few, else quantiles; at most ``bins + 1``, ascending, not too close for float32."""
    edges: base.Matrix = np.unique(values)
    if len(edges) > bins + 1:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1), method="nearest"))
    gaps = np.diff(edges)
    apart = gaps > np.maximum(SMALLEST_BIN, 1e-5 * np.abs(edges[1:]))
    kept: base.Matrix = edges[np.concatenate([[True], apart])]
    return kept
