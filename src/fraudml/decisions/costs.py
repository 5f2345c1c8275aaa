"""What mistakes cost: the ``costs`` section of ``fraudml.yaml``."""

from __future__ import annotations

import math

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

    def as_yaml(self) -> str:
        """The block of a project file, each value with its meaning."""
        meanings = {
            "fraud_loss_share": "of an approved fraud's amount that is lost",
            "chargeback_fee": "per approved fraud, in whole currency units",
            "margin_share": "of a declined genuine amount that would have been earned",
            "goodwill": "per declined genuine transaction: the annoyed customer",
            "review_cost": "per review",
            "review_finds": "of the frauds that a review sees",
            "reviews_per_day": "that the team can do; thresholds respect it",
            "amount_without_column": "what a transaction counts as where there is no amount",
        }
        lines = [f"  {name}: {getattr(self, name):g}  # {meaning}" for name, meaning in meanings.items()]
        return "\n".join(["# What mistakes cost; thresholds and the report's money follow from it.", "costs:", *lines])

    def check(self) -> Costs:
        """Return self, or raise ConfigError naming what cannot be."""
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"costs.{name} must be a number that is not negative")
        if self.review_finds > 1:
            raise ConfigError("costs.review_finds is a share: between 0 and 1")
        return self
