"""What a table of Parquet files consists of: numbered manifests, each the whole truth, of which the last one counts.

A manifest is committed by making the file of the next number, which of several processes only one can. What is a row
of the table is in a file that the last manifest names; a file that it does not name counts for nothing.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import msgspec

from fraudml.adapters.warehouse._marked import overtaken
from fraudml.errors import WarehouseError

FORMAT = 1
FOLDER = "_fraudml"  # of the manifests: Spark leaves alone what begins so, others read below the tables
KEPT = 20  # manifests that stay, for readers that have just looked up the last one
NUMBER = re.compile(r".*/(\d{12})\.json")


class Part(msgspec.Struct, frozen=True):
    """One Parquet file: its name below the place, the arrivals it spans, its rows and bytes."""

    path: str
    first: int
    last: int
    rows: int
    bytes: int

    @property
    def day(self) -> str:
        """The folder it is in."""
        return self.path.rpartition("/")[0]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One state of a table. ``columns``: Arrow types by name; ``writer``: tells a commit from another of its number."""

    format: int = FORMAT
    version: int = 0
    writer: str = ""
    watermark: int = 0
    columns: dict[str, str] = {}
    parts: list[Part] = []


class Manifests:
    """Those of one table. ``files``: of ``adapters/connections``; what it raises is raised."""

    def __init__(self, files: Any, table: str) -> None:
        self._files = files
        self._table = table
        self._numbers: list[int] = []

    def last(self) -> Manifest:
        """The last one; one of version 0 where there is none yet."""
        found = [NUMBER.fullmatch(name) for name in self._files.inside(f"{FOLDER}/{self._table}")]
        self._numbers = sorted(int(match[1]) for match in found if match)
        if not self._numbers:
            return Manifest()
        name = self._name(self._numbers[-1])
        try:
            manifest = msgspec.json.decode(self._files.read(name), type=Manifest)
        except msgspec.DecodeError as error:
            raise WarehouseError(f"{self._files.place}/{name} is no manifest of fraudml: {error}") from error
        if manifest.format != FORMAT:
            raise WarehouseError(
                f"{self._files.place}/{name} has the format {manifest.format}, and this fraudml knows {FORMAT}: "
                "start the version that wrote it"
            )
        return manifest

    def commit(self, changed: Manifest) -> Manifest:
        """Make what was changed of the last manifest the next one. Raises ``ConflictError`` when another process has
        made one, and nothing is changed then; after any other error it may be made or not."""
        made = msgspec.structs.replace(changed, version=changed.version + 1, writer=uuid4().hex)
        name, data = self._name(made.version), msgspec.json.encode(made)
        try:
            self._files.create(name, data)
        except FileExistsError:
            if self._files.read(name) != data:  # else it is ours: the driver tried twice
                raise overtaken(self._table) from None
        return made

    def forget_old(self) -> None:
        """Remove manifests that nobody reads any more. The first stays: it keeps a second table from being begun."""
        old = [number for number in self._numbers[:-KEPT] if number > 1]
        self._files.remove([self._name(number) for number in old])
        self._numbers = self._numbers[-KEPT:]

    def check_store(self) -> None:
        """Raise ``WarehouseError`` unless the store refuses to make a file that is there."""
        first = self._name(1)
        try:
            self._files.create(first, self._files.read(first))
        except FileExistsError:
            return
        raise WarehouseError(
            f"{self._files.place} overwrites files that must not be: the store knows no conditional writes; "
            "name another place in FRAUDML_WAREHOUSE_URL"
        )

    def _name(self, number: int) -> str:
        return f"{FOLDER}/{self._table}/{number:012}.json"
