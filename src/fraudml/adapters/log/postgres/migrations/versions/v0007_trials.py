"""How a decision took part in an experiment, and what other models said about it.

Who may read or add decisions may do so with the new table: services go on with the role that they have.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SAME_RIGHTS = """
DO $$ DECLARE given record; BEGIN
    FOR given IN SELECT privilege_type AS may, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS who
        FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = 'decisions'::regclass AND grantee <> relowner
        AND privilege_type IN ('SELECT', 'INSERT')
    LOOP EXECUTE format('GRANT %s ON shadow_scores TO %s', given.may, given.who); END LOOP;
END $$
"""


def upgrade() -> None:
    """A column that may be null and has no default: the table is not written again, the lock is short."""
    op.add_column("decisions", sa.Column("trial", sa.Text))
    op.create_table(
        "shadow_scores",
        sa.Column("arrival", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model_version", sa.Text, primary_key=True),
        sa.Column("score", sa.Double),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("model_us", sa.BigInteger, nullable=False),
    )
    op.execute(SAME_RIGHTS)


def downgrade() -> None:
    """Drop them."""
    op.drop_table("shadow_scores")
    op.drop_column("decisions", "trial")
