"""From a training result to the page: the figures in the words and units that the template prints."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraudml.features.words import Describer, duration_words
from fraudml.pages import page
from fraudml.training.report import plots

if TYPE_CHECKING:
    from fraudml.training.train import Candidate, Result

TOP_FEATURES = 25


def write(result: Result, directory: Path) -> Path:
    """Write ``report-<UTC time>.html``, and the same as ``report.html``; returns the path of the former."""
    return page.write(render(result), directory, "report")


def render(result: Result) -> str:
    """The report as one HTML text that needs nothing else: styles and plots are inside."""
    currency = result.feature_set.schema.currency
    return page.render(
        "fraudml.training.report",
        "report.html.j2",
        currency,
        best=result.candidates[0],
        candidates=result.candidates,
        costs=result.costs,
        options=result.options,
        parts=_parts(result),
        facts=_facts(result),
        features=_features(result, result.candidates[0]),
        plots=plots.draw(result, result.testing, currency),
    )


def _parts(result: Result) -> list[dict[str, Any]]:
    """The periods of the split in time order, with what each is for."""
    overview = result.overview
    described = (
        ("train", overview.train, "fits the models"),
        ("validation", overview.valid, "stops early, calibrates, sets thresholds, chooses the family"),
        ("test, held back", overview.test, "gives the figures of this report and decides nothing"),
    )
    return [
        {"name": name, "use": use, **asdict(period), "fraud_share": period.frauds / period.rows}
        for name, period, use in described
    ]


def _facts(result: Result) -> dict[str, str]:
    """The data and the run in a few lines."""
    overview, whole = result.overview, result.overview.whole
    schema = result.feature_set.schema
    labels = schema.label
    delay = "-" if labels is None else duration_words(labels.delay)
    if labels is not None and labels.known_at is not None:
        delay = f"from column {labels.known_at.column!r}; where empty, {delay}"
    day = "%Y-%m-%d"
    first, last = (datetime.fromtimestamp(us / 1e6, UTC) for us in (whole.since_us, whole.until_us))
    return {
        "Period": f"{first:{day}} to {last:{day}}",
        "Transactions": f"{whole.rows:,}",
        "Frauds": f"{whole.frauds:,} ({whole.frauds / max(1, whole.rows - overview.unlabelled):.2%} of the labelled)",
        "Unlabelled": f"{overview.unlabelled:,}",
        "Label delay": delay,
        "Left out of the measurement": (
            f"{overview.waiting:,} transactions whose labels were not all known when the test began"
        ),
        "Model inputs": f"{len(result.feature_set.inputs):,}",
        "FeatureSet fingerprint": result.feature_set.fingerprint,
        "Data hash": overview.data_hash,
        "Seed": str(result.options.seed),
    }


def _features(result: Result, candidate: Candidate) -> list[dict[str, Any]]:
    """The most important features of a model, with their share and what they are in words."""
    describer = Describer(result.feature_set)
    words = {feature.name: describer.name(feature) for feature in result.feature_set.inputs}
    shares = list(candidate.model.importance().items())[:TOP_FEATURES]  # largest first
    largest = max((share for _, share in shares), default=0.0) or 1.0
    return [
        {"name": name, "words": words[name], "share": share, "bar": 100 * share / largest}
        for name, share in shares
        if share > 0
    ]
