"""The decision log and the API keys in PostgreSQL: tiers 2 to 4.

Read in this order: :mod:`tables` (what is stored), :mod:`keys` (ids as keys), :mod:`cells` and :mod:`statements` (how
decisions get there), :mod:`session` and :mod:`line` (a connection that never hangs and is replaced when it broke),
:mod:`claim` (who may write), :mod:`hot` (the calls of every batch), :mod:`log`. :mod:`upgrade` brings a database to
these tables.
"""

from fraudml.adapters.log.postgres.log import PostgresDecisionLog

__all__ = ["PostgresDecisionLog"]
