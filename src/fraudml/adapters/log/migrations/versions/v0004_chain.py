"""A chain of hashes over what is appended from now on.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from alembic import op

from fraudml.decisions.chain import start

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LAST = "SELECT max(arrival) FROM (SELECT arrival FROM transactions UNION ALL SELECT arrival FROM labels) AS everything"


def upgrade() -> None:
    """Make the table; in a log that has rows its first link says up to where there is no chain."""
    op.create_table(
        "chain",
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
    last = op.get_bind().exec_driver_sql(LAST).scalar()
    if last is not None:
        table = sa.table("chain", *map(sa.column, msgspec.structs.asdict(start(0))))
        op.bulk_insert(table, [msgspec.structs.asdict(start(last))])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("chain")
