"""Figures per hour for dashboards, and the amount beside each decision.

The views read the tables; TimescaleDB replaces them by views of the same columns over continuous aggregates. Those see
one table only, hence the amount beside the decision; it may be null, so that a process of the release before goes on.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

HOUR = "to_timestamp((d.event_time_us / 3600000000 * 3600)::double precision)"
LATENCY = "(d.timings ->> 'state_us')::bigint + (d.timings ->> 'model_us')::bigint"
HOURLY_DECISIONS = f"""
CREATE VIEW hourly_decisions AS
SELECT {HOUR} AS hour, d.model_version, d.arm,
    count(*) AS decisions,
    count(*) FILTER (WHERE d.action = 'approve') AS approved,
    count(*) FILTER (WHERE d.action = 'review') AS reviewed,
    count(*) FILTER (WHERE d.action = 'decline') AS declined,
    count(*) FILTER (WHERE d.degraded <> '[]') AS degraded,
    coalesce(sum(t.amount_minor), 0) AS amount_minor,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY {LATENCY}) AS latency_p50_us,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY {LATENCY}) AS latency_p95_us,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY {LATENCY}) AS latency_p99_us
FROM decisions AS d JOIN transactions AS t USING (event_time_us, transaction_id)
GROUP BY 1, 2, 3
"""  # noqa: S608 - our own names
HOURLY_FRAUD = f"""
CREATE VIEW hourly_fraud AS
SELECT {HOUR} AS hour, d.model_version, d.arm,
    count(*) AS labelled,
    count(*) FILTER (WHERE l.is_fraud) AS frauds,
    count(*) FILTER (WHERE l.is_fraud AND d.action = 'approve') AS approved_frauds,
    coalesce(sum(t.amount_minor) FILTER (WHERE l.is_fraud), 0) AS fraud_amount_minor
FROM (SELECT DISTINCT ON (transaction_id) transaction_id, is_fraud FROM labels ORDER BY transaction_id, nth DESC) AS l
JOIN transaction_ids AS i USING (transaction_id)
JOIN transactions AS t ON t.event_time_us = i.event_time_us AND t.transaction_id = i.transaction_id
JOIN decisions AS d ON d.event_time_us = i.event_time_us AND d.transaction_id = i.transaction_id
GROUP BY 1, 2, 3
"""  # noqa: S608 - our own names


def upgrade() -> None:
    """A column that may be null and has no default: the table is not written again, the lock is short."""
    op.add_column("decisions", sa.Column("amount_minor", sa.BigInteger))
    op.execute(HOURLY_DECISIONS)
    op.execute(HOURLY_FRAUD)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP VIEW hourly_fraud")
    op.execute("DROP VIEW hourly_decisions")
    op.drop_column("decisions", "amount_minor")
