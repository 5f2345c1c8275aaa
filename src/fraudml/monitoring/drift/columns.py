"""One feature, now and in its reference: how far apart, whether by more than chance, and in what way."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.drift.index import Values, counts_of, edges_of, noise_of, psi_of_counts

PSI = 0.1  # from which on a change matters
LARGE_PSI = 0.25
MISSING = 0.05  # a change of the share of missing values that matters
NEW = 0.01  # a share of new categories that matters
TOP = 20  # categories that are told apart in bins and plots
RENAMED = 0.3  # two shares that differ by less than this part of the larger one are about the same
LARGEST_TOLD = 5
JUMP = 5.0  # a median so many times its reference is told: a unit may have changed


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """A feature in the current period against the reference.

    ``psi``: population stability index, missing values in a bin of their own. ``p``: of a two-sample test
    (Kolmogorov-Smirnov, or chi-squared of categories) and ``p_missing`` of the missing shares, both adjusted for all
    tests of the report; ``None`` where there is nothing to test. ``new``: values that the reference does not have, the
    largest with their share, and ``new_share`` of all of them; ``vanished`` the other way round; ``renamed``: pairs
    that look like one value. ``bins``: names, and the shares ``before`` and ``now``. ``noise``, ``new_noise``: what
    ``psi`` and ``new_share`` hardly exceed without any change. ``why``: in words what has drifted; empty where nothing
    has.
    """

    name: str
    kind: str
    psi: float
    noise: float
    p: float | None
    p_missing: float | None
    missing_before: float
    missing_now: float
    median_before: float | None = None
    median_now: float | None = None
    new: dict[str, float] = {}
    new_share: float = 0.0
    new_noise: float = 0.0
    vanished: dict[str, float] = {}
    renamed: list[tuple[str, str]] = []
    bins: list[str] = []
    before: list[float] = []
    now: list[float] = []
    why: list[str] = []

    @property
    def drifted(self) -> bool:
        """Whether it has, by more than chance and enough to matter."""
        return bool(self.why)

    @property
    def missing_change(self) -> float:
        """The share of missing values less the reference's."""
        return self.missing_now - self.missing_before

    @property
    def new_excess(self) -> float:
        """The share of values that the reference does not have, beyond what rare ones explain. That of a single one is
        not explained so."""
        return max(0.0, self.new_share - self.new_noise, *self.new.values())


def numeric(name: str, before: Values, now: Values) -> FeatureDrift:
    """Of numbers, float64 ``[n]`` and ``[m]``, NaN for missing; ``p`` is not adjusted yet."""
    from scipy import stats

    there = [values[~np.isnan(values)] for values in (before, now)]
    # what was always missing has one bin, so all that is there now is new
    edges = edges_of(there[0]) if len(there[0]) else np.array([], np.float64)
    counts = [counts_of(values, edges) for values in (before, now)]
    p = None
    if all(len(values) for values in there):
        p = float(stats.ks_2samp(*there, method="asymp").pvalue)
    medians = [float(np.median(values)) if len(values) else None for values in there]
    return FeatureDrift(
        name=name,
        kind="number",
        psi=psi_of_counts(*counts),
        noise=noise_of(*counts),
        p=p,
        p_missing=_proportions(*(np.array([each[-1], each[:-1].sum()]) for each in counts)),
        missing_before=_share(counts[0]),
        missing_now=_share(counts[1]),
        median_before=medians[0],
        median_now=medians[1],
        bins=[*_names(edges), "missing"],
        before=_shares(counts[0]),
        now=_shares(counts[1]),
    )


def categorical(name: str, before: list[str | None], now: list[str | None]) -> FeatureDrift:
    """Of categories, ``None`` for missing; ``p`` is not adjusted yet."""
    counted = [Counter(values) for values in (before, now)]
    missing = [each.pop(None, 0) for each in counted]
    sizes = [sum(each.values()) for each in counted]
    named = sorted({*counted[0], *counted[1]}, key=lambda value: (-(counted[0][value] + counted[1][value]), str(value)))
    top, rest = named[:TOP], named[TOP:]
    counts = [
        np.array([*(each[value] for value in top), sum(each[value] for value in rest), gone], np.int64)
        for each, gone in zip(counted, missing, strict=True)
    ]
    new, vanished = _unseen(counted[1], counted[0]), _unseen(*counted)
    return FeatureDrift(
        name=name,
        kind="category",
        psi=psi_of_counts(*counts),
        noise=noise_of(*counts),
        p=_proportions(counts[0][:-1], counts[1][:-1]) if all(sizes) else None,
        p_missing=_proportions(*(np.array([gone, size]) for gone, size in zip(missing, sizes, strict=True))),
        missing_before=missing[0] / max(missing[0] + sizes[0], 1),
        missing_now=missing[1] / max(missing[1] + sizes[1], 1),
        new=dict(_largest(new, TOP)),
        new_share=sum(new.values()),
        new_noise=_noise_of_new(counted[0], sizes[1]),
        vanished=dict(_largest(vanished, TOP)),
        renamed=_renamed(new, vanished),
        bins=[*(str(value) for value in top), "other", "missing"],
        before=_shares(counts[0]),
        now=_shares(counts[1]),
    )


def judged(found: FeatureDrift, p: float | None, p_missing: float | None, alpha: float) -> FeatureDrift:
    """The same with adjusted p-values and a verdict."""
    why = []
    change = found.missing_change
    if p_missing is not None and p_missing < alpha and abs(change) >= MISSING:
        why.append(f"missing in {found.missing_now:.1%} of decisions, before in {found.missing_before:.1%}")
    if p is not None and p < alpha and found.psi >= PSI + found.noise:
        size = "largely" if found.psi >= LARGE_PSI + found.noise else "moderately"
        why.append(f"{size} otherwise distributed (index {found.psi:.2f}){_jump(found)}")
    if found.new_excess >= NEW:
        told = ", ".join(f"{value!r} ({share:.1%})" for value, share in _largest(found.new))
        why.append(f"new values: {told}")
    if found.renamed and why:
        why.append("looks renamed: " + ", ".join(f"{old!r} to {new!r}" for old, new in found.renamed))
    return msgspec.structs.replace(found, p=p, p_missing=p_missing, why=why)


def _jump(found: FeatureDrift) -> str:
    """A median that is many times its reference: a unit may have changed."""
    before, now = found.median_before, found.median_now
    if not before or not now or before * now < 0 or 1 / JUMP < now / before < JUMP:
        return ""
    return f"; its median is {now:,.4g}, before {before:,.4g}: {now / before:,.3g} times, as if a unit had changed"


def _renamed(new: dict[str, float], vanished: dict[str, float]) -> list[tuple[str, str]]:
    """Pairs of a vanished and a new value with about the same share, the largest first."""
    pairs = []
    left = dict(_largest(new))
    for old, share in _largest(vanished):
        near = min(left, key=lambda value: abs(left[value] - share), default=None)
        if near is not None and share >= NEW / 2 and abs(left[near] - share) <= RENAMED * max(share, left[near]):
            pairs.append((old, near))
            del left[near]
    return pairs


def _largest(shares: dict[str, float], most: int = LARGEST_TOLD) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda each: -each[1])[:most]


def _unseen(here: Counter[str | None], there: Counter[str | None]) -> dict[str, float]:
    """Values that are not there, with their share here; none where there is nothing at all."""
    size = here.total()
    return {str(value): count / size for value, count in here.items() if not there[value]} if there else {}


def _noise_of_new(before: Counter[str | None], size_now: int) -> float:
    """What the share of new values hardly exceeds without any change. Of many merchants some are always new: as many
    as the reference saw once (Good 1953), give or take three standard deviations."""
    once, size = sum(count == 1 for count in before.values()), before.total()
    if not size or not size_now:
        return 0.0
    share = once / size
    return share + 3 * math.sqrt(share / size + share / size_now)


def _proportions(before: NDArray[np.int64], now: NDArray[np.int64]) -> float | None:
    """The p-value of a chi-squared test that two rows of counts have the same shares; columns too rare for it are
    taken together. ``None`` where there is nothing to test."""
    from scipy import stats

    table = np.array([before, now])
    table = table[:, table.sum(axis=0) > 0]
    if not table.sum(axis=1).all() or table.shape[1] < 2:
        return None
    expected = table.sum(axis=0) * (table.sum(axis=1).min() / table.sum())
    rare = expected < 5
    if rare.any() and not rare.all():
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    if table.shape[1] < 2:
        return None
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def _share(counts: NDArray[np.int64]) -> float:
    return float(counts[-1] / max(counts.sum(), 1))


def _shares(counts: NDArray[np.int64]) -> list[float]:
    return [float(share) for share in counts / max(counts.sum(), 1)]


def _names(edges: Values) -> list[str]:
    """Of the bins between some ends."""
    if not len(edges):
        return ["any"]
    told = [f"{end:.3g}" for end in edges]
    return [f"below {told[0]}", *(f"{low} to {high}" for low, high in pairwise(told)), f"above {told[-1]}"]
