"""A page: a template that fills the blocks of ``base.html.j2``, rendered to one text that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fraudml import __version__


def render(package: str, template: str, currency: str = "", **values: Any) -> str:
    """The page from a template beside the modules of a package; styles and plots are inside.

    ``currency``: what amounts of money are followed by. Templates get ``version`` and ``created_us`` too, and filters
    for money, times, counts and shares.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("fraudml.pages", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_filters(currency))
    now_us = int(datetime.now(UTC).timestamp() * 1e6)
    return environment.get_template(template).render(version=__version__, created_us=now_us, **values)


def write(text: str, directory: Path, name: str) -> Path:
    """Write ``<name>-<UTC time>.html``, and the same as ``<name>.html``; returns the path of the former."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}Z.html"
    for target in (path, directory / f"{name}.html"):
        target.write_text(text, encoding="utf-8")
    return path


def _filters(currency: str) -> dict[str, Callable[..., str]]:
    def money(value: float) -> str:
        digits = 0 if abs(value) >= 100 else 2
        return f"{value:,.{digits}f}{f' {currency}' if currency else ''}"

    return {
        "money": money,
        "time": lambda us: f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M} UTC",
        "day": lambda us: f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d}",
        "count": lambda value: f"{value:,.0f}",
        "share": lambda value: f"{value:.2%}",
        "rate": lambda value: f"{100 * value:.3g} %",
        "percent": lambda value: f"{value:.1%}",
        "figure": lambda value: "-" if value is None else f"{value:.4f}",
        "number": lambda value: f"{value:,.4g}",
        "threshold": lambda value: "never" if value > 1 else f"{value:.4g}",
    }
