"""The in-process online store: state in this process's memory, no server.

Read in this order: :mod:`fraudml.adapters.online._plan` (what a FeatureSet needs held), :mod:`arena` and :mod:`lane`
(how it is held), :mod:`table` (look-up and eviction), :mod:`windows`, :mod:`extremes` and :mod:`last` (how features are
read from it), :mod:`load` (bulk), :mod:`store`.
"""

from fraudml.adapters.online.memory.store import MemoryOnlineStore

__all__ = ["MemoryOnlineStore"]
