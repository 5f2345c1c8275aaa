"""How far the replicas of a PostgreSQL database are behind."""

from __future__ import annotations

import math

import psycopg

from fraudml.adapters.connections import postgres
from fraudml.errors import ConfigError, DecisionLogError

# A replica that lags and has not said for a while how far it is lags at least for that while.
_ATTACHED = """
SELECT coalesce(nullif(application_name, ''), client_addr::text, pid::text), state,
       CASE WHEN replay_lsn >= pg_current_wal_lsn() THEN 0
            ELSE extract(epoch FROM greatest(replay_lag, clock_timestamp() - reply_time)) END
FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'
"""
_DETACHED = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active"


def replicas(url: str, timeout_s: float) -> dict[str, float]:
    """Seconds by the name of each replica, its ``application_name``; infinite for a slot that nobody reads from.

    On a replica itself there are none. Raises ``DecisionLogError`` when the server does not answer, ``ConfigError``
    when the role may not know.
    """
    words = postgres.parameters(url, "FRAUDML_DATABASE_URL")
    limits = f"-c statement_timeout={int(timeout_s * 1e3)}"
    words |= {"connect_timeout": str(max(int(timeout_s), 2)), "application_name": "fraudml monitor", "options": limits}
    try:
        with psycopg.connect(autocommit=True, **words) as connection:  # type: ignore[arg-type]
            if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
                return {}
            attached = connection.execute(_ATTACHED).fetchall()
            detached = connection.execute(_DETACHED).fetchall()
    except psycopg.Error as error:
        raise DecisionLogError(f"the database does not say how far its replicas are: {type(error).__name__}") from error
    if any(state is None for _, state, _ in attached):
        raise ConfigError("this role may not know how far replicas are behind: GRANT pg_monitor TO it")
    lags = {str(name): float(lag or 0.0) for name, _, lag in attached}
    return lags | {str(name): math.inf for (name,) in detached}
