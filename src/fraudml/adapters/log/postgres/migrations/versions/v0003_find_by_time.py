"""An index on the time of transactions, and the time of older label reports.

Both take long where there is much data, and hold up nobody: they are done outside of a transaction. An attempt that
failed in the middle is done again, so each part begins with what the one before may have left.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX = "transactions_event_time_brin"
AT_ONCE = 5_000
FILL = sa.text(
    "WITH batch AS (SELECT arrival FROM labels WHERE arrival > :after ORDER BY arrival LIMIT :at_once), "
    "filled AS (UPDATE labels SET event_time_us = i.event_time_us FROM batch, transaction_ids AS i "
    "WHERE labels.arrival = batch.arrival AND i.transaction_id = labels.transaction_id "
    "AND labels.event_time_us IS NULL) SELECT max(arrival) FROM batch"
)


def upgrade() -> None:
    """Make the index and fill the column, a few thousand rows at a time."""
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # an attempt that failed leaves an invalid one
        op.create_index(INDEX, "transactions", ["event_time"], postgresql_using="brin", postgresql_concurrently=True)
        after = 0
        while after is not None:
            after = op.get_bind().execute(FILL, {"after": after, "at_once": AT_ONCE}).scalar_one()


def downgrade() -> None:
    """Drop the index; the column is the revision's before."""
    op.drop_index(INDEX, "transactions")
