"""The fraud patterns. Each is one decorated function; adding a pattern is adding a function.

A function gets a Stage and returns the transactions of ``stage.campaigns`` campaigns that begin on that day
and last at most LONGEST_CAMPAIGN_DAYS. Work on all campaigns at once: ``group_of(sizes)`` names the
campaign of each transaction. ``_rows`` fills in what the pattern does not care about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fraudml.simulation import catalogue as world
from fraudml.simulation.campaigns import Stage, pattern
from fraudml.simulation.genuine import given_email, purchase_amounts
from fraudml.simulation.population import stray_devices
from fraudml.simulation.rhythm import time_of_day
from fraudml.simulation.rows import (
    DAY_MS,
    MISSING,
    FloatArray,
    IntArray,
    Rows,
    group_of,
    make_rows,
    running_total,
)

MINUTE_MS, HOUR_MS = 60_000, 3_600_000


@pattern(share=0.24, size=44, found_by_customer=0.25)
def card_testing(stage: Stage) -> Rows:
    """Lists of stolen card numbers are tried out, one small payment each, within minutes at one web shop.

    The fraudster wants to know which cards still work; a few that do are used days later for something
    expensive. Early campaigns run fast from one or two machines and charge next to nothing. Later ones
    are slower, charge nearly what others pay there, and spread over many devices and addresses.
    """
    rng, later = stage.rng, stage.progress
    merchants = stage.population.merchants
    sizes = rng.integers(15, 61, stage.campaigns)
    campaign = group_of(sizes)
    merchant = merchants.pick(rng, _web(stage, len(sizes)))[campaign]
    customer = _anyone(stage, len(campaign))
    pace_ms = rng.uniform(6, 30 + 60 * later, len(sizes))[campaign] * 1000
    since = running_total(rng.exponential(1.0, len(campaign)) * pace_ms, sizes)
    start = rng.integers(0, DAY_MS, len(sizes))[campaign]
    pools = 1 + rng.poisson(0.5 + 4 * later, len(sizes))
    device = _shared_devices(rng, pools, campaign)
    country = _address(rng, stage, customer, campaign, hidden=0.3 + 0.3 * later)
    tests = _rows(
        stage,
        time_ms=start + since.astype(np.int64),
        customer=customer,
        merchant=merchant,
        device=device,
        ip_country=country,
        amount_minor=np.ceil(100 * np.exp(rng.normal(0.2 + 1.2 * later, 0.5, len(campaign)))),
        email=_drop_address(rng, stage, customer, 0.6),
    )
    good = np.flatnonzero(rng.random(len(campaign)) < 0.18)
    shop = merchants.pick_for_resale(rng, _web(stage, len(good)))
    cash_out = _rows(
        stage,
        time_ms=(start + since.astype(np.int64))[good] + rng.integers(2 * HOUR_MS, 96 * HOUR_MS, len(good)),
        customer=customer[good],
        merchant=shop,
        device=np.where(rng.random(len(good)) < 0.5, device[good], stray_devices(rng, len(good))),
        ip_country=country[good],
        amount_minor=_amounts(stage, customer[good], shop, 0.7),
        email=_drop_address(rng, stage, customer[good], 0.6),
    )
    return Rows.concat([tests, cash_out])


@pattern(share=0.26, size=8, found_by_customer=0.7)
def stolen_card_spree(stage: Stage) -> Rows:
    """A stolen card is used up within hours, before its owner misses it.

    The thief stays in the owner's city, taps below the contactless limit, and buys what is easy to sell;
    web shops and cash machines follow. Over time sprees move from shops to the web and into amounts
    nearer to the owner's own. An honest shopping day looks much the same.
    """
    rng, later = stage.rng, stage.progress
    customers, merchants = stage.population.customers, stage.population.merchants
    sizes = rng.integers(4, 13, stage.campaigns)
    victim = _anyone(stage, len(sizes))
    customer = np.repeat(victim, sizes)
    city = customers.city[customer]
    pace_ms = np.repeat(rng.uniform(4, 32, len(sizes)), sizes) * MINUTE_MS
    since = running_total(rng.exponential(1.0, len(customer)) * pace_ms, sizes).astype(np.int64)
    shops_open = np.full(len(sizes), world.PROFILES.index("anytime"))
    start = np.repeat(time_of_day(rng, shops_open, customers.city[victim], weekend=False), sizes)
    web = 0.2 + 0.3 * later
    channel = np.searchsorted([0.92 - web, 1 - web], rng.random(len(customer)))
    merchant = merchants.pick_for_resale(rng, merchants.segment(channel, city))
    amount = _amounts(stage, customer, merchant, 1.0 - 0.3 * later)
    amount = np.where(channel == world.ATM, np.maximum(np.round(amount / 50_00), 1) * 50_00, amount)
    drawn = np.searchsorted([0.15, 0.8, 1.0], rng.random(len(customer)))  # mostly contactless: no PIN needed
    taps = (channel == world.POS) & (drawn == world.CONTACTLESS)
    under_limit = rng.integers(world.CONTACTLESS_LIMIT_MINOR // 3, world.CONTACTLESS_LIMIT_MINOR, len(customer))
    online = channel == world.ONLINE
    return _rows(
        stage,
        time_ms=start + since,
        customer=customer,
        merchant=merchant,
        device=np.where(online, np.repeat(stray_devices(rng, len(sizes)), sizes), MISSING),
        ip_country=np.where(online, _home_country(stage, customer), MISSING),
        channel=channel,
        entry_mode=np.where(online, world.KEYED, np.where(channel == world.ATM, world.CHIP, drawn)),
        amount_minor=np.where(taps, np.minimum(amount, under_limit), amount),
        email=np.where(online, _drop_address(rng, stage, customer, 0.6), MISSING),
    )


@pattern(share=0.2, size=55, found_by_customer=0.45)
def compromised_terminal(stage: Stage) -> Rows:
    """A terminal was tampered with: for weeks, cards copied there are charged there again.

    Amount, hour and shop look as they always did; only the terminal's recent history of reported frauds
    gives it away. New terminals are hit all the time, and later campaigns are shorter and charge more.
    """
    rng, later = stage.rng, stage.progress
    customers, merchants = stage.population.customers, stage.population.merchants
    sizes = 20 + rng.poisson(35, stage.campaigns)
    campaign = group_of(sizes)
    home = customers.city[_anyone(stage, len(sizes))]
    merchant = _quieter(stage, merchants.segment(world.POS, home))
    terminal = merchants.pick_terminal(rng, merchant)
    low, high = customers.city_start[home], customers.city_start[home + 1]
    customer = (low[campaign] + rng.random(len(campaign)) * (high - low)[campaign]).astype(np.int64)
    lasts = rng.integers(8, 22 - int(6 * later), len(sizes))
    day = (rng.random(len(campaign)) * lasts[campaign]).astype(np.int64)
    profile = world.PROFILE_OF[merchants.category[merchant]]
    amount = _amounts(stage, customer, merchant[campaign], 0.25 + 0.4 * later)
    entry_mode = np.searchsorted([0.2, 0.65, 1.0], rng.random(len(campaign)))
    too_much = (entry_mode == world.CONTACTLESS) & (amount > world.CONTACTLESS_LIMIT_MINOR)
    return _rows(
        stage,
        time_ms=day * DAY_MS + time_of_day(rng, profile[campaign], home[campaign], weekend=False),
        customer=customer,
        merchant=merchant[campaign],
        terminal=terminal[campaign],
        device=MISSING,
        ip_country=MISSING,
        channel=world.POS,
        entry_mode=np.where(too_much, world.CHIP, entry_mode),
        amount_minor=amount,
        email=MISSING,
    )


@pattern(share=0.3, size=18, found_by_customer=0.6, begins=0.55)
def account_takeover(stage: Stage) -> Rows:
    """Stolen passwords open customers' accounts, where the card is already on file.

    One device empties several accounts over two days, at shops where the victim has bought before or
    where goods are easy to sell; some attackers change the mail address first. The pattern appears only in
    the later part of the period: a model trained before has never seen it.
    """
    rng = stage.rng
    customers, merchants = stage.population.customers, stage.population.merchants
    accounts = rng.integers(2, 8, stage.campaigns)
    attack = group_of(accounts)
    victim = _anyone(stage, len(attack))
    sizes = rng.integers(2, 7, len(victim))
    account = group_of(sizes)
    customer, campaign = victim[account], attack[account]
    begin = rng.integers(0, DAY_MS, stage.campaigns)[attack] + rng.integers(0, 40 * HOUR_MS, len(victim))
    since = running_total(rng.exponential(14 * MINUTE_MS, len(account)), sizes).astype(np.int64)
    familiar = customers.online_habits[customer, rng.integers(0, customers.online_habits.shape[1], len(customer))]
    new = merchants.pick_for_resale(rng, _web(stage, len(customer)))
    merchant = np.where(rng.random(len(customer)) < 0.5, familiar, new)
    device = stray_devices(rng, stage.campaigns)[campaign]
    changed = (rng.random(len(victim)) < 0.35)[account]
    return _rows(
        stage,
        time_ms=begin[account] + since,
        customer=customer,
        merchant=merchant,
        device=device,
        ip_country=_address(rng, stage, customer, campaign, hidden=0.45),
        entry_mode=world.CARD_ON_FILE,
        amount_minor=_amounts(stage, customer, merchant, 1.2),
        email=_drop_address(rng, stage, customer, np.where(changed, 1.0, 0.0)),
    )


@pattern(share=0.18, size=95, found_by_customer=0.15)
def collusive_merchant(stage: Stage) -> Rows:
    """A merchant is in on it: invented sales on bought card numbers, more every week until it vanishes.

    Mostly small merchants. Amounts cluster around a few prices, cards come from people who never bought
    there, and charges arrive around the clock. Customers notice late, so labels come by chargeback.
    """
    rng, later = stage.rng, stage.progress
    sizes = 50 + rng.poisson(45, stage.campaigns)
    campaign = group_of(sizes)
    merchant = _quieter(stage, _web(stage, len(sizes)))[campaign]
    customer = _anyone(stage, len(campaign))
    lasts_ms = rng.uniform(7, 17, len(sizes))[campaign] * DAY_MS
    price = rng.uniform(15, 60 + 60 * later, len(sizes))[campaign] * rng.choice([1, 1, 2, 3], len(campaign))
    jitter = rng.normal(1, 0.06, len(campaign))
    own = rng.random(len(campaign)) < 0.4
    device = stage.population.customers.device(rng, customer, stage.day)
    return _rows(
        stage,
        time_ms=(lasts_ms * np.sqrt(rng.random(len(campaign)))).astype(np.int64),
        customer=customer,
        merchant=merchant,
        device=np.where(own, device, stray_devices(rng, len(campaign))),
        ip_country=_address(rng, stage, customer, campaign, hidden=0.75),
        amount_minor=np.maximum(np.round(price * jitter * 100), 100),
        email=_drop_address(rng, stage, customer, 0.3),
    )


def _rows(stage: Stage, **columns: npt.NDArray[Any] | int) -> Rows:
    """Rows of an online order with typed-in card data, unless ``columns`` say otherwise.

    ``time_ms`` counts from the midnight on which the campaigns began.
    """
    merchant = np.asarray(columns["merchant"])
    columns["time_ms"] = np.asarray(columns["time_ms"]) + stage.midnight_ms
    columns.setdefault("terminal", stage.population.merchants.pick_terminal(stage.rng, merchant))
    columns.setdefault("channel", world.ONLINE)
    columns.setdefault("entry_mode", world.KEYED)
    return make_rows(**columns, pattern=MISSING)


def _anyone(stage: Stage, count: int) -> IntArray:
    return stage.rng.integers(0, len(stage.population.customers.city), count)


def _web(stage: Stage, count: int) -> IntArray:
    return np.full(count, 2 * stage.population.merchants.cities)


def _quieter(stage: Stage, segment: IntArray) -> IntArray:
    """Of two merchants of the segment, chosen whatever their popularity, the one with less business."""
    merchants, rng = stage.population.merchants, stage.rng
    low, width = merchants.segment_start[segment], np.diff(merchants.segment_start)[segment]
    first, second = low + (rng.random((2, len(segment))) * width).astype(np.int64)
    business = np.diff(merchants.cumulative)
    quieter: IntArray = np.where(business[second] < business[first], second, first)
    return quieter


def _home_country(stage: Stage, customer: IntArray) -> IntArray:
    country: IntArray = world.CITY_COUNTRY[stage.population.customers.city[customer]]
    return country


def _address(rng: np.random.Generator, stage: Stage, customer: IntArray, campaign: IntArray, hidden: float) -> IntArray:
    """The campaign's own country, or with probability ``hidden`` a proxy in the card's country."""
    own = rng.integers(0, len(world.COUNTRIES), campaign.max(initial=-1) + 1)[campaign]
    return np.where(rng.random(len(customer)) < hidden, _home_country(stage, customer), own)


def _shared_devices(rng: np.random.Generator, pools: IntArray, campaign: IntArray) -> IntArray:
    """For each row one of the devices of its campaign, which has ``pools[campaign]`` of them."""
    devices = stray_devices(rng, int(pools.sum()))
    first = np.cumsum(pools) - pools
    chosen: IntArray = devices[first[campaign] + (rng.random(len(campaign)) * pools[campaign]).astype(np.int64)]
    return chosen


def _drop_address(rng: np.random.Generator, stage: Stage, customer: IntArray, share: float | FloatArray) -> IntArray:
    """A mail address set up for the fraud, with probability ``share``; else the customer's."""
    weights = world.EMAIL_OF_FRAUDSTERS / world.EMAIL_OF_FRAUDSTERS.sum()
    drop = rng.choice(len(weights), len(customer), p=weights)
    email = np.where(rng.random(len(customer)) < share, drop, stage.population.customers.email[customer])
    return given_email(rng, email, np.ones(len(customer), dtype=bool))


def _amounts(stage: Stage, customer: IntArray, merchant: IntArray, lift: float) -> IntArray:
    """What the customer would pay there, times e**lift."""
    own = stage.population.customers.spend_level[customer]
    return purchase_amounts(stage.rng, stage.population, merchant, own + lift)
