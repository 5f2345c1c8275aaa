"""An index on the time of ids, for retention.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEX = "transaction_ids_event_time_brin"


def upgrade() -> None:
    """Made while decisions go on; an attempt that failed leaves an invalid one."""
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.create_index(
            INDEX, "transaction_ids", ["event_time_us"], postgresql_using="brin", postgresql_concurrently=True
        )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(INDEX, "transaction_ids")
