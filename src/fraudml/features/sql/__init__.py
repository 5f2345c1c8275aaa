"""State features as one SQL query, for every engine that history may live in."""

from fraudml.features.sql.dialects import DIALECTS, Dialect
from fraudml.features.sql.query import state_features_sql

__all__ = ["DIALECTS", "Dialect", "state_features_sql"]
