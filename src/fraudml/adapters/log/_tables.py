"""The tables of the decision log, for every database. Changes go through ``migrations/`` (a test compares both).

Entities and attributes are JSON objects by name, without the missing ones: a column added to the schema later
leaves old rows readable, and a query can look inside.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# The place among decisions and label reports; SQLite needs INTEGER to make it the table's own order.
Arrival = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

transactions = sa.Table(
    "transactions",
    metadata,
    sa.Column("arrival", Arrival, primary_key=True, autoincrement=False),
    sa.Column("transaction_id", sa.Text, nullable=False, unique=True),
    sa.Column("event_time_us", sa.BigInteger, nullable=False),
    sa.Column("amount_minor", sa.BigInteger),
    sa.Column("entities", sa.Text, nullable=False),
    sa.Column("attributes", sa.Text, nullable=False),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("arrival", Arrival, sa.ForeignKey("transactions.arrival"), primary_key=True, autoincrement=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("degraded", sa.Text, nullable=False),
    sa.Column("decided_at_us", sa.BigInteger, nullable=False),
    sa.Column("timings", sa.Text, nullable=False),
    sa.Column("trial", sa.Text),  # JSON; null for most
    sa.Column("source", sa.Text),  # the message that it answers: topic/partition/offset; null for those of the API
    sa.Column("entered_us", sa.BigInteger),  # since when state had it, where its decision was made again
)

# What models that decide nothing said about decisions. They need not be there: theirs may wait in a journal.
shadow_scores = sa.Table(
    "shadow_scores",
    metadata,
    sa.Column("arrival", Arrival, primary_key=True, autoincrement=False),
    sa.Column("model_version", sa.Text, primary_key=True),
    sa.Column("score", sa.Double),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("model_us", sa.BigInteger, nullable=False),
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("arrival", Arrival, primary_key=True, autoincrement=False),
    sa.Column("transaction_id", sa.Text, sa.ForeignKey("transactions.transaction_id"), nullable=False),
    # 1 for the first report about a transaction, 2 for the next: two writers cannot add the same one
    sa.Column("nth", sa.Integer, nullable=False),
    sa.Column("is_fraud", sa.Boolean, nullable=False),
    sa.Column("known_at_us", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("transaction_id", "nth"),
)

# One row for each commit of each process that appends; see decisions/chain.py.
chain = sa.Table(
    "chain",
    metadata,
    sa.Column("writer", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("members", sa.LargeBinary),
    sqlite_with_rowid=False,  # one tree, so one page less for each commit to write
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
