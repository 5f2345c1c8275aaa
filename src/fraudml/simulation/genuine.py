"""Genuine purchases of one day, with the habits that make honest customers look suspicious at times.

Trips abroad, shopping days, big purchases, new and shared devices, address-hiding proxies, several orders
within minutes and ticket sales where a crowd pays small amounts to one merchant: each of them looks like
one of the fraud patterns from some side.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from fraudml.simulation import catalogue as world
from fraudml.simulation.config import SimulationConfig
from fraudml.simulation.population import Population, stray_devices
from fraudml.simulation.rhythm import day_factors, is_weekend, midnight_ms, time_of_day
from fraudml.simulation.rows import (
    DAY_MS,
    GENUINE,
    MISSING,
    FloatArray,
    IntArray,
    Rows,
    group_of,
    make_rows,
    running_total,
)

SHOPPING_DAY, SHOPPING_FACTOR = 0.006, 5.0
FOLLOW_UP, FOLLOW_UP_MEAN = 0.05, 2.0  # share of online orders followed by more within minutes, and how many
CROWD = 0.003  # share of transactions that come from a ticket sale or a collection for charity
_MEDIAN = np.log([category.median for category in world.CATEGORIES])
_SIGMA = np.array([category.sigma for category in world.CATEGORIES])


class GenuineTraffic:
    """Makes the genuine transactions of any day of a configuration, each day independent of the others."""

    def __init__(self, config: SimulationConfig, population: Population) -> None:
        self._config = config
        self._population = population
        self._factors = day_factors(config.start, config.days)
        online = float(population.customers.online_share @ population.customers.activity) / config.customers
        extra = 1 + SHOPPING_DAY * (SHOPPING_FACTOR - 1)
        extra *= 1 + online * FOLLOW_UP * FOLLOW_UP_MEAN
        extra *= 1 / (1 - CROWD)
        self._base_rate = config.transactions_per_customer_per_day / extra

    def on(self, day: int, rng: np.random.Generator) -> Rows:
        """The genuine transactions of the day with this number (0 is the first), in no order."""
        customers = self._population.customers
        date = self._config.start + timedelta(days=day)
        shopping = rng.random(self._config.customers) < SHOPPING_DAY
        rate = self._base_rate * self._factors[day] * customers.activity
        count = rng.poisson(np.where(shopping, rate * SHOPPING_FACTOR, rate))
        customer = group_of(count)
        rows = self._purchases(rng, customer, day, is_weekend(date), shopping[customer])
        parts = [rows, self._follow_ups(rng, rows), self._crowd(rng, len(rows), day, is_weekend(date))]
        result = Rows.concat(parts)
        result.time_ms += midnight_ms(date)
        return result

    def _purchases(
        self, rng: np.random.Generator, customer: IntArray, day: int, weekend: bool, shopping: np.ndarray
    ) -> Rows:
        customers, merchants = self._population.customers, self._population.merchants
        city = customers.whereabouts(day)[customer]
        channel = self._channels(rng, customer)
        merchant = self._merchants(rng, customer, city, channel)
        category = merchants.category[merchant]
        online = channel == world.ONLINE
        entry_mode = _entry_modes(rng, channel)
        lift = np.where(shopping, 0.35, 0.0) + customers.spend_level[customer]
        amount = purchase_amounts(rng, self._population, merchant, lift, big=0.008)
        amount = np.where(channel == world.ATM, np.maximum(amount // 10_00, 1) * 10_00, amount)
        too_much = (entry_mode == world.CONTACTLESS) & (amount > world.CONTACTLESS_LIMIT_MINOR)
        return make_rows(
            time_ms=time_of_day(rng, world.PROFILE_OF[category], city, weekend),
            customer=customer,
            merchant=merchant,
            terminal=merchants.pick_terminal(rng, merchant),
            device=self._devices(rng, customer, online | (entry_mode == world.WALLET), day),
            ip_country=_addresses(rng, world.CITY_COUNTRY[city], online),
            channel=channel,
            entry_mode=np.where(too_much, world.CHIP, entry_mode),
            amount_minor=amount,
            email=given_email(rng, customers.email[customer], online),
            pattern=GENUINE,
        )

    def _channels(self, rng: np.random.Generator, customer: IntArray) -> IntArray:
        cash = np.where(rng.random(len(customer)) < 0.06, world.ATM, world.POS)
        online = rng.random(len(customer)) < self._population.customers.online_share[customer]
        return np.where(online, world.ONLINE, cash)

    def _merchants(self, rng: np.random.Generator, customer: IntArray, city: IntArray, channel: IntArray) -> IntArray:
        """Mostly the customer's usual shops; away from home or on a whim, any popular one of the place."""
        customers, merchants = self._population.customers, self._population.merchants
        habit = (rng.random(len(customer)) < 0.7) & (channel != world.ATM)
        habit &= (channel == world.ONLINE) | (city == customers.city[customer])
        which = rng.random(len(customer)) ** 1.7
        merchant = np.empty(len(customer), dtype=np.int64)
        whim = np.flatnonzero(~habit)
        merchant[whim] = merchants.pick(rng, merchants.segment(channel[whim], city[whim]))
        near = np.flatnonzero(habit & (channel == world.POS))
        width = customers.shop_habits.shape[1]
        merchant[near] = customers.shop_habits[customer[near], (which[near] * width).astype(np.int64)]
        web = np.flatnonzero(habit & (channel == world.ONLINE))
        width = customers.online_habits.shape[1]
        merchant[web] = customers.online_habits[customer[web], (which[web] * width).astype(np.int64)]
        return merchant

    def _devices(self, rng: np.random.Generator, customer: IntArray, has: np.ndarray, day: int) -> IntArray:
        device = self._population.customers.device(rng, customer, day)
        stray = np.flatnonzero(rng.random(len(customer)) < 0.02)
        device[stray] = stray_devices(rng, len(stray))
        return np.where(has, device, MISSING)

    def _follow_ups(self, rng: np.random.Generator, rows: Rows) -> Rows:
        """More orders of the same customer at the same online merchant within minutes."""
        chosen = np.flatnonzero((rows.channel == world.ONLINE) & (rng.random(len(rows)) < FOLLOW_UP))
        sizes = rng.geometric(1 / FOLLOW_UP_MEAN, len(chosen))
        more = rows.take(np.repeat(chosen, sizes))
        gaps = rng.exponential(150_000, len(more)) + 5_000
        since = running_total(gaps, sizes) + np.repeat(rng.exponential(150_000, len(chosen)) + 5_000, sizes)
        more.time_ms = np.minimum(more.time_ms + since.astype(np.int64), DAY_MS - 1)
        more.amount_minor = np.maximum((more.amount_minor * rng.lognormal(-0.2, 0.6, len(more))).astype(np.int64), 50)
        return more

    def _crowd(self, rng: np.random.Generator, traffic: int, day: int, weekend: bool) -> Rows:
        """Many customers pay one online merchant within minutes: a ticket sale, a collection for charity."""
        customers, merchants = self._population.customers, self._population.merchants
        mean_size = min(40.0, 5 + traffic / 300)
        sizes = 2 + rng.poisson(mean_size - 2, rng.poisson(CROWD * traffic / (1 - CROWD) / mean_size))
        event = group_of(sizes)
        segment = merchants.segment(world.ONLINE, np.zeros(len(sizes), dtype=np.int64))
        merchant = merchants.pick(rng, segment)
        customer = rng.integers(0, self._config.customers, len(event))
        begin = time_of_day(rng, world.PROFILE_OF[merchants.category[merchant]], merchants.city[merchant], weekend)
        time = begin[event] + rng.exponential(240_000, len(event)).astype(np.int64)
        price = rng.lognormal(1.9, 0.7, len(sizes))[event] * rng.choice([1.0, 1.0, 2.0, 3.0], len(event))
        everywhere = np.ones(len(event), dtype=bool)
        return make_rows(
            time_ms=np.minimum(time, DAY_MS - 1),
            customer=customer,
            merchant=merchant[event],
            terminal=merchants.pick_terminal(rng, merchant[event]),
            device=self._devices(rng, customer, everywhere, day),
            ip_country=_addresses(rng, world.CITY_COUNTRY[customers.city[customer]], everywhere),
            channel=world.ONLINE,
            entry_mode=_entry_modes(rng, np.full(len(event), world.ONLINE)),
            amount_minor=np.maximum((price * 100).astype(np.int64), 50),
            email=given_email(rng, customers.email[customer], everywhere),
            pattern=GENUINE,
        )


def purchase_amounts(
    rng: np.random.Generator, population: Population, merchant: IntArray, lift: FloatArray, big: float = 0.0
) -> IntArray:
    """Minor units of purchases at these merchants.

    ``lift`` is added to the logarithm; ``big`` is the share of exceptionally large purchases.
    """
    category = population.merchants.category[merchant]
    log = _MEDIAN[category] + population.merchants.price_level[merchant] + lift
    log += _SIGMA[category] * rng.standard_normal(len(merchant))
    large = np.flatnonzero(rng.random(len(merchant)) < big)
    log[large] += 1.6 + 0.5 * rng.standard_normal(len(large))
    minor = np.exp(np.clip(log, -0.7, 9.9)) * 100
    round_price = rng.random(len(merchant)) < 0.25
    return np.where(round_price, np.maximum(np.round(minor / 100), 1) * 100, np.ceil(minor)).astype(np.int64)


def given_email(rng: np.random.Generator, email: IntArray, online: np.ndarray) -> IntArray:
    """The mail domain that came with the order: only online, and not every shop asks for it."""
    return np.where(online & (rng.random(len(email)) < 0.85), email, MISSING)


def _addresses(rng: np.random.Generator, country: IntArray, online: np.ndarray) -> IntArray:
    """The country of the internet address: where the customer is, or where a proxy stands."""
    proxy = rng.random(len(country)) < 0.04
    anywhere = rng.integers(0, len(world.COUNTRIES), len(country))
    return np.where(online, np.where(proxy, anywhere, country), MISSING)


def _entry_modes(rng: np.random.Generator, channel: IntArray) -> IntArray:
    """How the card was read, by channel."""
    drawn = rng.random(len(channel))
    shop = np.searchsorted([0.27, 0.84, 0.88], drawn)  # chip, contactless, magstripe, wallet by position
    web = np.where(drawn < 0.45, world.KEYED, world.CARD_ON_FILE)
    cash = np.where(drawn < 0.92, world.CHIP, world.MAGSTRIPE)
    return np.where(channel == world.ONLINE, web, np.where(channel == world.ATM, cash, shop))
