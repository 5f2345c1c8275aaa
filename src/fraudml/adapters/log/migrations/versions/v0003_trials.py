"""How a decision took part in an experiment, and what other models said about it.

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

Arrival = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """A column that may be null, and a table."""
    op.add_column("decisions", sa.Column("trial", sa.Text))
    op.create_table(
        "shadow_scores",
        sa.Column("arrival", Arrival, primary_key=True, autoincrement=False),
        sa.Column("model_version", sa.Text, primary_key=True),
        sa.Column("score", sa.Double),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("model_us", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("shadow_scores")
    op.drop_column("decisions", "trial")
