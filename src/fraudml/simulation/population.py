"""Who pays and where: customers, their devices, habits and trips; merchants and their terminals.

The population is drawn once, before the first day, and never changes; what changes with time (a new phone,
a trip) is a function of the day. Its memory grows with customers and merchants only, never with rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fraudml.simulation import catalogue as world
from fraudml.simulation.config import SimulationConfig
from fraudml.simulation.rows import FloatArray, IntArray

SHOP_HABITS, ONLINE_HABITS = 6, 4
# Devices from here on are seen once or belong to fraudsters; below are the customers' own.
FIRST_STRAY_DEVICE = 2**31


@dataclass(frozen=True, slots=True)
class Merchants:
    """Merchants sorted by segment: shops city by city, then cash machines city by city, then online."""

    category: IntArray
    city: IntArray
    latitude: FloatArray
    longitude: FloatArray
    price_level: FloatArray  # log of the factor on the category's median amount
    first_terminal: IntArray
    terminals: IntArray
    cumulative: FloatArray  # of popularity, length merchants + 1
    segment_start: IntArray  # length segments + 1
    cities: int

    def segment(self, channel: IntArray | int, city: IntArray) -> IntArray:
        """The segment of merchants of a channel in a city; online merchants form one segment."""
        return _segment(channel, city, self.cities)

    def pick(self, rng: np.random.Generator, segment: IntArray) -> IntArray:
        """For each entry a merchant of that segment, the popular ones more often."""
        low = self.cumulative[self.segment_start[segment]]
        high = self.cumulative[self.segment_start[segment + 1]]
        drawn = np.searchsorted(self.cumulative, low + rng.random(len(segment)) * (high - low), side="right") - 1
        return np.clip(drawn, self.segment_start[segment], self.segment_start[segment + 1] - 1)

    def pick_for_resale(self, rng: np.random.Generator, segment: IntArray) -> IntArray:
        """Like ``pick``, but of two candidates the one whose goods are easier to turn into money."""
        first, second = self.pick(rng, segment), self.pick(rng, segment)
        better = world.RESALE[self.category[second]] > world.RESALE[self.category[first]]
        return np.where(better, second, first)

    def pick_terminal(self, rng: np.random.Generator, merchant: IntArray) -> IntArray:
        """For each entry one of the merchant's terminals."""
        return self.first_terminal[merchant] + (rng.random(len(merchant)) * self.terminals[merchant]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Customers:
    """Customers sorted by home city; ``city_start`` (length cities + 1) says where each city begins."""

    city: IntArray
    city_start: IntArray
    latitude: FloatArray
    longitude: FloatArray
    activity: FloatArray  # relative number of purchases, mean 1
    spend_level: FloatArray  # log of the factor on amounts
    online_share: FloatArray
    shop_habits: IntArray  # [customers, SHOP_HABITS] merchants near home
    online_habits: IntArray  # [customers, ONLINE_HABITS]
    email: IntArray
    household: IntArray  # the customer whose device the household shares
    new_phone_day: IntArray
    trip_customer: IntArray
    trip_start: IntArray
    trip_end: IntArray
    trip_city: IntArray

    def whereabouts(self, day: int) -> IntArray:
        """The city each customer is in on this day: home, or where the current trip went."""
        away = (self.trip_start <= day) & (day < self.trip_end)
        city = self.city.copy()
        city[self.trip_customer[away]] = self.trip_city[away]
        return city

    def device(self, rng: np.random.Generator, customer: IntArray, day: int) -> IntArray:
        """The device used: mostly the own phone (replaced one day), at times the family's computer."""
        own = customer.astype(np.int64) * 3 + (self.new_phone_day[customer] <= day)
        family = self.household[customer].astype(np.int64) * 3 + 2
        return np.where(rng.random(len(customer)) < 0.25, family, own)


@dataclass(frozen=True, slots=True)
class Population:
    """Everything that exists before the first transaction."""

    customers: Customers
    merchants: Merchants


def stray_devices(rng: np.random.Generator, count: int) -> IntArray:
    """Numbers of devices never seen before: a hotel's computer, a borrowed phone, a fraudster's emulator."""
    return rng.integers(FIRST_STRAY_DEVICE, 2**32, count)


def populate(config: SimulationConfig, rng: np.random.Generator) -> Population:
    """Draw the customers and merchants of a configuration."""
    cities = min(len(world.CITIES), max(2, config.merchants // 8))
    merchants = _draw_merchants(config, rng, cities)
    return Population(customers=_draw_customers(config, rng, merchants), merchants=merchants)


def _draw_merchants(config: SimulationConfig, rng: np.random.Generator, cities: int) -> Merchants:
    count = config.merchants
    atms = max(cities, count // 20)
    online = max(1, int(0.3 * (count - atms)))
    channel = np.repeat([world.POS, world.ATM, world.ONLINE], [count - atms - online, atms, online])
    appeal = np.array([place.residents + 0.15 * place.visitors for place in world.CITIES[:cities]])
    city = np.concatenate(
        [
            _spread(rng, count - atms - online, appeal),
            _spread(rng, atms, appeal),
            rng.choice(cities, online, p=appeal / appeal.sum()),
        ]
    )
    segment = _segment(channel, city, cities)
    category = np.empty(count, dtype=np.int64)
    for code in (world.POS, world.ATM, world.ONLINE):
        choices = [index for index, item in enumerate(world.CATEGORIES) if item.channel == code]
        shares = np.array([world.CATEGORIES[index].share for index in choices])
        here = channel == code
        category[here] = rng.choice(choices, here.sum(), p=shares / shares.sum())
    popularity = rng.lognormal(0, 1.1, count)
    terminals = np.where(channel == world.POS, 1 + rng.poisson(np.minimum(popularity, 8)), 1)
    places = world.CITIES[:cities]
    return Merchants(
        category=category,
        city=city,
        latitude=np.array([place.latitude for place in places])[city] + rng.normal(0, 0.06, count),
        longitude=np.array([place.longitude for place in places])[city] + rng.normal(0, 0.08, count),
        price_level=rng.normal(0, 0.25, count),
        first_terminal=np.cumsum(terminals) - terminals,
        terminals=terminals,
        cumulative=np.concatenate([[0.0], np.cumsum(popularity)]),
        segment_start=np.searchsorted(segment, np.arange(2 * cities + 2)),
        cities=cities,
    )


def _draw_customers(config: SimulationConfig, rng: np.random.Generator, merchants: Merchants) -> Customers:
    count = config.customers
    places = world.CITIES[: merchants.cities]
    residents = np.array([place.residents for place in places], dtype=np.float64)
    visitors = np.array([place.visitors for place in places], dtype=np.float64)
    city = np.sort(rng.choice(merchants.cities, count, p=residents / residents.sum()))
    activity = rng.gamma(1.5, 1 / 1.5, count) + 0.1
    alone = rng.random(count) < 0.6
    neighbour = np.maximum(np.arange(count) - rng.integers(1, 4, count), 0)
    travels = rng.poisson(rng.gamma(0.7, 1 / 0.7, count) * config.days / 100)
    trips = int(travels.sum())
    trip_start = rng.integers(-7, config.days, trips)
    return Customers(
        city=city,
        city_start=np.searchsorted(city, np.arange(merchants.cities + 1)),
        latitude=np.array([place.latitude for place in places])[city] + rng.normal(0, 0.10, count),
        longitude=np.array([place.longitude for place in places])[city] + rng.normal(0, 0.13, count),
        activity=activity / activity.mean(),
        spend_level=rng.normal(0, 0.35, count),
        online_share=rng.beta(2, 3.5, count),
        shop_habits=_habits(rng, merchants, merchants.segment(world.POS, city), SHOP_HABITS),
        online_habits=_habits(rng, merchants, merchants.segment(world.ONLINE, city), ONLINE_HABITS),
        email=rng.choice(len(world.EMAIL_DOMAINS), count, p=world.EMAIL_WEIGHTS / world.EMAIL_WEIGHTS.sum()).astype(
            np.int8
        ),
        household=np.where(alone, np.arange(count), neighbour),
        new_phone_day=rng.integers(-300, 600, count),
        trip_customer=np.repeat(np.arange(count), travels),
        trip_start=trip_start,
        trip_end=trip_start + rng.integers(2, 13, trips),
        trip_city=rng.choice(merchants.cities, trips, p=visitors / visitors.sum()),
    )


def _segment(channel: IntArray | int, city: IntArray, cities: int) -> IntArray:
    local = city + np.where(np.equal(channel, world.ATM), cities, 0)
    return np.where(np.equal(channel, world.ONLINE), 2 * cities, local)


def _spread(rng: np.random.Generator, count: int, appeal: FloatArray) -> IntArray:
    """Cities of ``count`` merchants, sorted: one in each, the rest by appeal."""
    rest = rng.choice(len(appeal), count - len(appeal), p=appeal / appeal.sum())
    return np.sort(np.concatenate([np.arange(len(appeal)), rest]))


def _habits(rng: np.random.Generator, merchants: Merchants, segment: IntArray, width: int) -> npt.NDArray[np.int32]:
    habits = np.empty((len(segment), width), dtype=np.int32)
    for column in range(width):
        habits[:, column] = merchants.pick(rng, segment)
    return habits
