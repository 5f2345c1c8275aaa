"""What mistakes cost: the ``costs`` section of ``fraudml.yaml``."""

from __future__ import annotations

import msgspec

from fraudml.errors import ConfigError


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money per outcome, in whole currency units (not minor ones); thresholds minimise their sum per day.

    - an approved fraud loses ``fraud_loss_share`` of its amount and ``chargeback_fee``;
    - a declined genuine transaction loses ``margin_share`` of its amount and ``goodwill`` (an annoyed customer);
    - a review costs ``review_cost`` and finds ``review_finds`` of the frauds it sees; at most
      ``reviews_per_day`` are possible.

    Where the data has no amount, every transaction counts as ``amount_without_column``.
    """

    fraud_loss_share: float = 1.0
    chargeback_fee: float = 15.0
    margin_share: float = 0.05
    goodwill: float = 5.0
    review_cost: float = 3.0
    review_finds: float = 0.9
    reviews_per_day: float = 100.0
    amount_without_column: float = 100.0

    def check(self) -> Costs:
        """Return self, or raise ConfigError naming what cannot be."""
        for name in self.__struct_fields__:
            if getattr(self, name) < 0:
                raise ConfigError(f"costs.{name} must not be negative")
        if self.review_finds > 1:
            raise ConfigError("costs.review_finds is a share: between 0 and 1")
        return self
