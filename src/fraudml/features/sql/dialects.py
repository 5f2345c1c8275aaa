"""Where the engines differ. A new engine is one entry of :data:`DIALECTS`; its name is SQLGlot's."""

from __future__ import annotations

from dataclasses import dataclass

from fraudml.errors import ConfigError


@dataclass(frozen=True)
class Dialect:
    """What the generator has to know about an engine beyond SQLGlot's own translation.

    ``wide``: a type that holds integers of at least 38 digits, for sums of squares.
    ``wide_sums``: the sum of 64-bit integers has such a type by itself.
    ``moving_frames``: a RANGE frame's offset may depend on the row, as a coarse resolution needs.
    ``distinct_windows``: ``COUNT(DISTINCT x)`` works over a sliding frame.
    ``missing_apart``: each row without a key is to be a partition of its own: all of them together would be one that a
    single task computes, and it grows with the share of rows that lack the key.
    ``collation``: the collation that orders text by code point, where that is not the default.
    What an engine lacks is computed by other windows (frames.py, distinct.py), never by joining every event with those
    in its window.
    """

    name: str
    wide: str
    wide_sums: bool = False
    moving_frames: bool = False
    distinct_windows: bool = False
    missing_apart: bool = False
    collation: str | None = None


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("duckdb", "HUGEINT", wide_sums=True, moving_frames=True, distinct_windows=True),
        Dialect("postgres", "NUMERIC", wide_sums=True, collation="C"),
        Dialect("spark", "DECIMAL(38, 0)", missing_apart=True),
        Dialect("snowflake", "DECIMAL(38, 0)"),
        Dialect("bigquery", "BIGNUMERIC"),
    )
}


def find_dialect(name: str) -> Dialect:
    """The dialect of this name; raises ConfigError for one that the generator does not know.

    >>> find_dialect("postgres").wide
    'NUMERIC'
    """
    if name not in DIALECTS:
        raise ConfigError(f"no SQL dialect {name!r}; there are: {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name]
