"""What the columns of an unknown file look like: the facts that ``fraudml init`` guesses a schema from."""

from __future__ import annotations

import msgspec


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One column, from a sample. Shares are of the non-missing values; ``filled`` is of all rows.

    ``distinct`` counts distinct values of the sample, ``all_distinct`` (approximately) of the whole file.
    ``top`` are the most frequent values, at most 200, with their number of rows in the sample.
    """

    name: str
    sql_type: str
    rows: int
    filled: float
    distinct: int
    all_distinct: int
    numbers: float = 0.0
    whole: float = 0.0
    booleans: float = 0.0
    naive_times: float = 0.0
    zoned_times: float = 0.0
    dates: float = 0.0  # of the times, those without a time of day
    cards: float = 0.0
    rising: float = 0.0  # of the pairs of neighbouring rows, those in ascending order
    minimum: float | None = None
    maximum: float | None = None
    earliest: str = ""  # the smallest and the largest as text: of ISO times, the first and the last
    latest: str = ""
    decimals: int = 0  # most digits behind the point in 99 % of the numbers
    length: float = 0.0  # mean length of the text
    top: tuple[tuple[str, int], ...] = ()

    @property
    def times(self) -> float:
        """Share of ISO date-times, with or without a zone."""
        return self.naive_times + self.zoned_times

    @property
    def values(self) -> int:
        """Number of non-missing values in the sample."""
        return round(self.rows * self.filled)

    @property
    def unique(self) -> bool:
        """True when no value of the sample repeats and none is missing."""
        return self.rows > 1 and self.distinct == self.rows and self.filled == 1.0

    @property
    def examples(self) -> list[str]:
        """A few values."""
        return [value for value, _ in self.top[:3]]


class TableProfile(msgspec.Struct, frozen=True):
    """The columns of files in order; ``sampled`` of their ``rows`` rows were looked at.

    ``sources``: the files, as they were named.
    """

    sources: tuple[str, ...]
    rows: int
    sampled: int
    columns: tuple[ColumnProfile, ...]

    @property
    def source(self) -> str:
        """The files in words."""
        more = len(self.sources) - 1
        return self.sources[0] + (f" and {more} more file{'s' * (more > 1)}" if more else "")

    def __getitem__(self, name: str) -> ColumnProfile:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)
