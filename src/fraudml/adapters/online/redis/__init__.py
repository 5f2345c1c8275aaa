"""The online store in Redis (or Valkey): state that outlives a process and that any number of processes share.

Redis holds events, replicas compute: docs/concepts/online-state-in-redis.md says why. Read in this order: :mod:`lanes`
(what is held of a FeatureSet, byte by byte), :mod:`records` (from transactions to these bytes), ``lanes.lua`` (how
they are added), :mod:`groups`, :mod:`sight`, :mod:`windows` and :mod:`last` (how features are read from them),
:mod:`tiles` and :mod:`tidy` (how lanes stay short), :mod:`epoch` (whether state is complete), :mod:`link` (the
network), :mod:`load` (bulk), :mod:`store`.
"""

from fraudml.adapters.online.redis.store import RedisOnlineStore

__all__ = ["RedisOnlineStore"]
