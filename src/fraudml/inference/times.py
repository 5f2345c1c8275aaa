"""Which column is the event's time, how it is written, and what the other times are."""

from __future__ import annotations

from datetime import datetime

from fraudml.events.profile import ColumnProfile
from fraudml.events.schema import TimeColumn, TimeFormat
from fraudml.inference import words

INVENTED_START = "2020-01-01"
_EPOCHS = (
    (TimeFormat.epoch_s, 8e8, 4.2e9, 1.0),
    (TimeFormat.epoch_ms, 8e11, 4.2e12, 1e-3),
    (TimeFormat.epoch_us, 8e14, 4.2e15, 1e-6),
)
_UNIT_S = {TimeFormat.seconds_from: 1.0, TimeFormat.hours_from: 3_600.0, TimeFormat.days_from: 86_400.0}


def read(column: ColumnProfile) -> tuple[TimeColumn, str] | None:
    """How a column is a time, and why one thinks so; ``None`` when it is none."""
    name = set(words.parts(column.name))
    if column.times > 0.98:
        zone = "UTC" if column.naive_times > 0 else None
        said = "holds ISO date-times" if column.dates < 1 else "holds ISO dates"
        if zone:
            said += " without a zone; UTC is assumed"
        return TimeColumn(column.name, timezone=zone), said
    if column.numbers < 0.98 or column.minimum is None or column.maximum is None or column.minimum < 0:
        return None
    named = bool(name & words.TIME)
    for time_format, low, high, _ in _EPOCHS:
        if (
            low <= column.minimum
            and column.maximum <= high
            and (named or column.rising > 0.999)
            and not column.cards > 0.5
        ):
            return TimeColumn(column.name, time_format), f"holds the numbers that {time_format} times are"
    if not named or column.distinct < 3 or column.maximum > 8e8:
        return None
    time_format, unit = _unit(name)
    return (
        TimeColumn(column.name, time_format, start=INVENTED_START),
        f"counts {unit} from an unknown start; {INVENTED_START} is invented",
    )


def _unit(name: set[str]) -> tuple[TimeFormat, str]:
    if name & {"step", "hour", "hours"}:
        return TimeFormat.hours_from, "hours"
    if name & {"month", "months"}:
        return TimeFormat.days_from, "months (read as days: the order counts)"
    if name & {"day", "days", "date"}:
        return TimeFormat.days_from, "days"
    return TimeFormat.seconds_from, "seconds"


def score(column: ColumnProfile, time: TimeColumn) -> float:
    """How likely a time column is the event's own: finer is better, then the name, then the order of the file."""
    name = set(words.parts(column.name))
    if name & (words.BIRTH | words.REPORT | words.EARLIER) or column.filled < 0.9:
        return 0.0
    if time.format is TimeFormat.iso:
        points = 60.0 if column.dates > 0.99 else 100.0
    elif time.format.needs_start:
        points = {TimeFormat.seconds_from: 50.0, TimeFormat.hours_from: 40.0}.get(time.format, 30.0)
        points -= 30.0 * (column.rising < 0.9 and not name & {"step", "month", "dt", "time"})
    else:
        points = 80.0
    return points + 10 * bool(name & words.TRANSACTION) + 10 * column.rising


def span_s(column: ColumnProfile, time: TimeColumn) -> float:
    """Seconds between the first and the last time of the sample."""
    if time.format is TimeFormat.iso:
        try:
            moments = [datetime.fromisoformat(text.replace(" UTC", "")) for text in (column.earliest, column.latest)]
            return (moments[1] - moments[0]).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    spread = (column.maximum or 0.0) - (column.minimum or 0.0)
    scale = _UNIT_S.get(time.format) or next(scale for f, _, _, scale in _EPOCHS if f is time.format)
    return spread * scale
