"""The tables in PostgreSQL. Changes go through ``migrations/`` (a test compares both).

``transaction_ids`` is the arbiter: an id is there once, whatever its time, so the others can be cut into pieces by
event time, each with its own index. Finding out that an id is new asks this table alone, and the order of arrival is
its index. Nothing refers to the others: a foreign key would be checked for each row, and all three rows of a decision
are written by one statement.

Most of what a commit costs are its indexes. So the others have one each, and its entries begin with the time: new ones
are put at its end instead of anywhere in it.

Entities and attributes are ``json``: a query looks inside (``attributes ->> 'country'``), and a value comes back as it
was. ``jsonb`` would store numbers as decimals (-0.0 becomes 0.0), refuses text with a NUL, and takes as long to write.

Ids compare by their bytes (collation C): faster, and an index does not depend on the system's idea of an order.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

metadata = sa.MetaData()

Id = sa.Text(collation="C")
BLIND = "%online_store%"  # in `degraded` of a decision made without the online store
MOMENT = "to_timestamp((event_time_us / 1000000.0)::double precision)"

transaction_ids = sa.Table(
    "transaction_ids",
    metadata,
    sa.Column("transaction_id", Id, primary_key=True),
    sa.Column("event_time_us", sa.BigInteger, nullable=False),
    sa.Column("arrival", sa.BigInteger, nullable=False, unique=True),
    sa.Index("transaction_ids_event_time_brin", "event_time_us", postgresql_using="brin"),
)

transactions = sa.Table(
    "transactions",
    metadata,
    sa.Column("arrival", sa.BigInteger, nullable=False),
    sa.Column("event_time_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("transaction_id", Id, primary_key=True),
    sa.Column("amount_minor", sa.BigInteger),
    sa.Column("entities", JSON, nullable=False),
    sa.Column("attributes", JSON, nullable=False),
    sa.Column("original_id", sa.LargeBinary),  # UTF-8, where transaction_id is a digest of it
    sa.Column("event_time", sa.DateTime(timezone=True), sa.Computed(MOMENT, persisted=True)),
    sa.Index("transactions_event_time_brin", "event_time", postgresql_using="brin"),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("arrival", sa.BigInteger, nullable=False),
    sa.Column("event_time_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("transaction_id", Id, primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("degraded", sa.Text, nullable=False),
    sa.Column("decided_at_us", sa.BigInteger, nullable=False),
    sa.Column("timings", JSON, nullable=False),
    # of the transaction, for aggregates over this table alone; null in rows of a fraudml before revision 0005
    sa.Column("amount_minor", sa.BigInteger),
    sa.Column("trial", sa.Text),  # JSON; null for most
    sa.Column("source", sa.Text),  # the message that it answers: topic/partition/offset; null for those of the API
    sa.Column("entered_us", sa.BigInteger),  # since when state had it, where its decision was made again
    sa.Index("decisions_blind", "arrival", postgresql_where=sa.text(f"degraded LIKE '{BLIND}'")),
)

# What models that decide nothing said about decisions. They need not be there: theirs may wait in a journal.
shadow_scores = sa.Table(
    "shadow_scores",
    metadata,
    sa.Column("arrival", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("model_version", sa.Text, primary_key=True),
    sa.Column("score", sa.Double),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("model_us", sa.BigInteger, nullable=False),
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("arrival", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("transaction_id", Id, sa.ForeignKey("transaction_ids.transaction_id"), nullable=False),
    # 1 for the first report about a transaction, 2 for the next: two writers cannot add the same one
    sa.Column("nth", sa.Integer, nullable=False),
    sa.Column("is_fraud", sa.Boolean, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    # of the transaction, for joins that touch one piece of it only; null in rows of a fraudml before revision 0002
    sa.Column("event_time_us", sa.BigInteger),
    sa.UniqueConstraint("transaction_id", "nth"),
)

# The numbers of processes that append; the epoch counts who had a number. See claim.py.
writers = sa.Table(
    "writers",
    metadata,
    sa.Column("number", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),
    sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

# One row for each commit of each process that appends; see decisions/chain.py.
chain = sa.Table(
    "chain",
    metadata,
    sa.Column("writer", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("members", sa.LargeBinary),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_at_us", sa.BigInteger),
    sa.Column("expires_at_us", sa.BigInteger),
)
