"""Ports: the offline and the online store. Adapters live in ``adapters/offline`` and ``adapters/online``.

Both compute the *state features* of a FeatureSet (windows, label windows, ``last``), with the meaning fixed by
:mod:`fraudml.features.reference`. Attribute and derived features are evaluated by
:mod:`fraudml.features.derive` for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.events.label import Label
from fraudml.events.source import Progress
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet


class StateRead(NamedTuple):
    """What the online store answers for a batch of ``n`` transactions.

    ``values``: float64 ``[n, s]``, one column per ``FeatureSet.state_features``; NaN is null; a category read by
    ``last`` is its vocabulary code (0 unknown).
    ``late``: bool ``[n]``, true where some entity of the transaction had already seen a later event.
    ``entered_us``: int64 ``[n]``, when a shared store had got the transaction before, from a traced call whose process
    ended before anybody knew; 0 for all others, ``None`` where there are no such.
    """

    values: NDArray[np.float64]
    late: NDArray[np.bool_]
    entered_us: NDArray[np.int64] | None = None


class OfflineStore(Protocol):
    """Point-in-time features over history.

    Raises ``OfflineStoreError`` when the engine fails. Not safe for use by several threads at once.
    """

    def put(self, transactions: pa.RecordBatchReader) -> int:
        """Take in history (batches of ``events.source.arrow_schema``) and return its number of rows.

        Labels are the rows whose ``is_fraud`` is not null, at their ``known_at_us``. Call it once per store.
        """
        ...

    def put_labels(self, labels: Sequence[Label]) -> None:
        """Further label reports, for transactions put before."""
        ...

    def features(
        self,
        feature_set: FeatureSet,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        batch_size: int = 100_000,
        progress: Progress | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The transactions with ``since_us <= event_time_us < until_us``, ordered by (event_time_us,
        transaction_id), each with its state features computed over *all* history put.

        Columns: those of ``arrow_schema``, then one float64 column per state feature (a category read by ``last``
        stays text). Streams; memory does not grow with history beyond the engine's own limit.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory and temporary files."""
        ...


class OnlineStore(Protocol):
    """State from which state features are read in real time.

    Every call is atomic towards other threads. A transaction that is read never sees itself, nor any event of
    the same entity with the same time. Events may arrive out of order: a late one goes into state at its own
    time; what it reads is computed for its own time from what is still held. Raises ``OnlineStoreError`` when the
    backend fails; nothing of the batch is then applied, or where that cannot be told (``shared``) a repeat of the
    same transactions applies the rest: they are told apart by their ids.

    Of a shared store, a call that adds events raises ``StateLost`` while history is missing: the events are added, but
    nothing that is read can be trusted before history was loaded again (:meth:`lost`, :meth:`loaded`).
    """

    @property
    def shared(self) -> bool:
        """Whether state outlives this process, and other processes use it at the same time."""
        ...

    def lost(self) -> bool:
        """Whether events have to be loaded: in a new store, and in a shared one that was emptied or came back with
        older data."""
        ...

    def claim_load(self) -> bool:
        """Become the one process that loads history, until :meth:`loaded` or :meth:`give_up_load`, or until the process
        has ended or was stopped for some minutes. What an earlier claim of this process has gathered is forgotten.
        """
        ...

    def give_up_load(self) -> None:
        """Loading failed: another process may claim it, or this one anew."""
        ...

    def behind(self) -> int | None:
        """After :meth:`claim_load`: the number last confirmed of a store that came back with older data. Events with
        greater arrival numbers have to be loaded, and no others. ``None`` where all history has to be loaded.
        """
        ...

    def confirm(self, arrival: int) -> None:
        """All events with arrival numbers up to this one that have been given to the store at all are there now. A
        shared store keeps the number beside them, so it grows old with them; nothing happens while events are missing.
        """
        ...

    def loaded(self) -> None:
        """All history is loaded: from now on what is read can be trusted."""
        ...

    def set_mark(self, text: str) -> None:
        """Note how far loading has come, beside the state: an emptied store has no mark."""
        ...

    def mark(self) -> str | None:
        """The last mark; ``None`` where loading has to begin at the beginning."""
        ...

    def read_then_update(self, transactions: Sequence[Transaction], *, trace: bool = False) -> StateRead:
        """Read the features of each transaction and add it to state, one after the other in the given order.

        The caller removes repeated transaction ids before. ``trace``: should this process end now, another one will
        give the same transactions again; a shared store then says since when it had them.
        """
        ...

    def read(self, transactions: Sequence[Transaction]) -> StateRead:
        """The same values without adding the transactions."""
        ...

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> None:
        """Add reports to the label stream; visible to transactions later than ``known_at_us``.

        ``again``: most of them are there already. A shared store then also leaves out those so old that it cannot tell.
        """
        ...

    def load(self, events: pa.RecordBatch) -> None:
        """Add history in bulk (columns of ``events.source.arrow_schema``; any order; labels included).

        A shared store leaves out the events that it holds already: others may add new ones meanwhile.
        """
        ...

    def stats(self) -> dict[str, Any]:
        """At least ``entities`` (number held) and ``events`` (number held)."""
        ...
