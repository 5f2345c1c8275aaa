"""What repeats until it is asked to end: pauses after failures, signals."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from fraudml.cli.repeating import Ending, asked_to_end, repeat
from fraudml.errors import ConfigError, ConflictError, FraudmlError, WarehouseError

FAILED = WarehouseError("gone")


class Waits(Ending):
    """Notes how long it would wait; is asked to end after so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.waited: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.is_asked = len(self.waited) == self.times


def told(*errors: FraudmlError | None) -> Callable[[], None]:
    left = iter(errors)

    def do() -> None:
        if error := next(left):
            raise error

    return do


def pauses(every_s: float, *errors: FraudmlError | None) -> list[float]:
    ending = Waits(len(errors))
    repeat(told(*errors), every_s, ending)
    ending.close()
    return ending.waited


def test_pauses_grow_with_failures_and_shrink_after_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert pauses(60, *[FAILED] * 6) == [60, 120, 240, 480, 600, 600]
    assert pauses(1_000, FAILED, FAILED) == [1_000, 1_000]
    one, two, well, again = pauses(10, ConflictError("another"), FAILED, None, FAILED)
    assert (one, two, again) == (10, 20, 10)
    assert 9 < well <= 10
    assert "fraudml: gone; trying again in 20 s" in capsys.readouterr().err


def test_what_does_not_go_away_by_itself_ends_it() -> None:
    with pytest.raises(ConfigError):
        pauses(1, ConfigError("wrong"))


def test_a_signal_asks() -> None:
    before = signal.getsignal(signal.SIGTERM)
    rounds = 0

    def do() -> None:
        nonlocal rounds
        rounds += 1
        signal.raise_signal(signal.SIGTERM)

    with asked_to_end() as ending:
        repeat(do, 3_600, ending)  # it does not wait that long
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a second one ends the process
    assert rounds == 1
    assert signal.getsignal(signal.SIGTERM) is before
