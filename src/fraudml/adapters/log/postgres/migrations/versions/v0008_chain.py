"""A chain of hashes over what is appended from now on.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from alembic import op

from fraudml.decisions.chain import start

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SAME_RIGHTS = """
DO $$ DECLARE given record; BEGIN
    FOR given IN SELECT privilege_type AS may, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS who
        FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = 'decisions'::regclass AND grantee <> relowner
        AND privilege_type IN ('SELECT', 'INSERT')
    LOOP EXECUTE format('GRANT %s ON chain TO %s', given.may, given.who); END LOOP;
END $$
"""
LAST = (
    "SELECT max(arrival) FROM (SELECT arrival FROM transaction_ids UNION ALL SELECT arrival FROM labels) AS everything"
)


def upgrade() -> None:
    """Make the table; in a log that has rows its first link says up to where there is no chain."""
    op.create_table(
        "chain",
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
    last = op.get_bind().exec_driver_sql(LAST).scalar()
    if last is not None:
        table = sa.table("chain", *map(sa.column, msgspec.structs.asdict(start(0))))
        op.bulk_insert(table, [msgspec.structs.asdict(start(last))])
    op.execute(SAME_RIGHTS)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("chain")
