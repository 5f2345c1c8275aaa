"""An index of the few decisions that were made without the online store: a start gives it what it may lack.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEX = "decisions_blind"


def upgrade() -> None:
    """Made while decisions go on; an attempt that failed leaves an invalid one."""
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.create_index(
            INDEX,
            "decisions",
            ["arrival"],
            postgresql_where=sa.text("degraded LIKE '%online_store%'"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(INDEX, "decisions")
