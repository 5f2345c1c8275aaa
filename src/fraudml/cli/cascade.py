"""The options of ``fraudml train`` for a cascade, and a cascade's facts in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.models.cascade import Cascade

NAME = "cascade"
SHORT_NAMES = {"logistic": "logistic_regression"}


def share(text: str) -> float:
    """A share between 0 and 1, written as a number or in percent; raises ConfigError.

    >>> share("0.5%"), share("0.02")
    (0.005, 0.02)
    """
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise ConfigError(f"--recall-loss {text} is no share between 0 and 1: write 0.5% or 0.005")
    return found


Fast = Annotated[str | None, typer.Option(help="Cascade: the model for every row (default: logistic_regression).")]
Accurate = Annotated[str | None, typer.Option(help="Cascade: the model for unclear rows (default: xgboost).")]
RecallLoss = Annotated[
    str | None, typer.Option(metavar="SHARE", help="Cascade: recall that may be lost (default: 0.5%).")
]


def params(
    names: tuple[str, ...], fast: str | None, accurate: str | None, recall_loss: str | None, *, tune: bool
) -> dict[str, dict[str, Any]]:
    """What the options say, as ``Options.params``; raises ConfigError where they do not fit the families."""
    from fraudml.training import families

    parts = {"fast": fast, "accurate": accurate}
    given: dict[str, Any] = {stage: SHORT_NAMES.get(name, name) for stage, name in parts.items() if name}
    for name in given.values():
        families.get_family(name)
    if recall_loss is not None:
        given["recall_loss"] = share(recall_loss)
    if given and NAME not in names:
        raise ConfigError("--fast, --accurate and --recall-loss are for a cascade: add --family cascade")
    if tune and NAME in names:
        raise ConfigError("a cascade has no settings to search for: leave out --tune or --family cascade")
    return {NAME: given} if given else {}


def facts(cascade: Cascade) -> dict[str, str]:
    """Routing, shares and times in words."""
    times = {
        f"time per row, {each.batch} at once": f"{each.fast_us:.2f} us fast alone, {each.accurate_us:.2f} us accurate "
        f"alone, {each.cascade_us:.2f} us cascade"
        for each in cascade.times
    }
    return {
        "stages": f"{cascade.fast}; where its score is {cascade.low:.4g} to {cascade.high:.4g}, {cascade.accurate}",
        "recall that may be lost": f"{cascade.recall_loss:.2%} of {cascade.accurate}'s, "
        f"flagging {cascade.false_positive_rate:.1%} of genuine transactions",
        "answered by the fast stage": f"{cascade.fast_share_valid:.1%} of validation, "
        f"{cascade.fast_share_test:.1%} of test",
        **times,
    }
