"""What a challenger may do before it is rolled back: the ``guardrails`` of a rollout."""

from __future__ import annotations

import math

import msgspec

from fraudml.errors import ConfigError

_SHARES = ("max_error_rate", "max_slow_share", "max_decline_shift", "max_review_shift")


class Guardrails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that a challenger is tested against; a breach needs evidence that the limit *is* exceeded.

    - ``alpha``: the chance that a challenger within all limits is ever rolled back, however long the rollout runs and
      however often it is looked at;
    - ``max_error_rate``: share of the challenger's model calls that may fail;
    - ``slow_ms``, ``max_slow_share``: share of its model calls that may take longer than so long;
    - ``max_psi``: population stability index of its scores against the champion's;
    - ``max_decline_shift``, ``max_review_shift``: how far its shares of declines and reviews may be from the
      champion's, in either direction (0.02 is two points of a hundred);
    - ``max_extra_cost_per_1000``: missed fraud and false declines beyond the champion's, in whole currency units per
      1,000 transactions; 0: any that is proven is too much;
    - ``min_decisions``: of the challenger, before its scores and actions are judged; ``min_costly``: missed frauds and
      false declines of both arms, before money is.
    """

    alpha: float = 0.01
    max_error_rate: float = 0.0001
    slow_ms: float = 20.0
    max_slow_share: float = 0.05
    max_psi: float = 0.25
    max_decline_shift: float = 0.02
    max_review_shift: float = 0.05
    max_extra_cost_per_1000: float = 0.0
    min_decisions: int = 20
    min_costly: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise ConfigError(f"guardrails.alpha must be above 0 and at most 0.5, not {self.alpha}")
        for name in _SHARES:
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"guardrails.{name} is a share: above 0 and below 1")
        for name in ("slow_ms", "max_psi"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"guardrails.{name} must be a positive number")
        if not 0 <= self.max_extra_cost_per_1000 < math.inf:
            raise ConfigError("guardrails.max_extra_cost_per_1000 must be a number that is not negative")
        for name in ("min_decisions", "min_costly"):
            if getattr(self, name) < 10:
                raise ConfigError(f"guardrails.{name} must be at least 10: fewer prove nothing")
