"""When an API key ends by itself.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that may be null and has no default: the keys that are there do not end."""
    op.add_column("api_keys", sa.Column("expires_at_us", sa.BigInteger))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("api_keys", "expires_at_us")
