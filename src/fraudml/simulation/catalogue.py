"""The simulated world's constants: places, merchant categories, hours of business, mail providers.

All arrays are indexed by the small integer codes that the simulation works with; names appear only when a
day is turned into a table. Numbers are rough figures from public payment statistics, good enough that
tables look like a payment company's; nothing depends on their exact values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fraudml.simulation.rows import FloatArray, IntArray


class City(NamedTuple):
    """A place with merchants: weights for how many people live there and how many travel there."""

    country: str
    latitude: float
    longitude: float
    utc_offset: int
    residents: float
    visitors: float


# The first ones are used first by small simulations, so homes and travel destinations alternate.
CITIES = (
    City("DE", 52.52, 13.40, 1, 10, 4),
    City("FR", 48.86, 2.35, 1, 10, 8),
    City("US", 40.71, -74.01, -5, 0, 5),
    City("ES", 40.42, -3.70, 1, 7, 5),
    City("IT", 41.90, 12.50, 1, 6, 7),
    City("TR", 41.01, 28.98, 3, 0, 5),
    City("NL", 52.37, 4.90, 1, 5, 5),
    City("GB", 51.51, -0.13, 0, 3, 8),
    City("PL", 52.23, 21.01, 1, 4, 2),
    City("BE", 50.85, 4.35, 1, 4, 2),
    City("TH", 13.76, 100.50, 7, 0, 3),
    City("DE", 48.14, 11.58, 1, 6, 3),
    City("PT", 38.72, -9.14, 0, 3, 5),
    City("AT", 48.21, 16.37, 1, 4, 4),
    City("ES", 41.39, 2.17, 1, 5, 6),
    City("GR", 37.98, 23.73, 2, 0, 5),
    City("FR", 45.76, 4.84, 1, 4, 2),
    City("DE", 53.55, 9.99, 1, 5, 2),
    City("IT", 45.46, 9.19, 1, 5, 3),
    City("AE", 25.20, 55.27, 4, 0, 2),
    City("IE", 53.35, -6.26, 0, 3, 2),
    City("CZ", 50.08, 14.44, 1, 2, 4),
    City("CH", 47.38, 8.54, 1, 1, 3),
    City("BR", -23.55, -46.63, -3, 0, 1),
    City("MA", 31.63, -7.99, 1, 0, 2),
    City("JP", 35.68, 139.69, 9, 0, 1),
    City("MX", 19.43, -99.13, -6, 0, 1),
    City("HK", 22.32, 114.17, 8, 0, 1),
)
COUNTRIES = tuple(sorted({city.country for city in CITIES} | {"RO", "UA", "VN", "NG", "ID", "CA", "SE"}))
CITY_COUNTRY: IntArray = np.array([COUNTRIES.index(city.country) for city in CITIES], dtype=np.int8)

# Channels and what the reader saw. Codes are positions.
CHANNELS = ("pos", "atm", "online")
POS, ATM, ONLINE = 0, 1, 2
ENTRY_MODES = ("chip", "contactless", "magstripe", "wallet", "keyed", "card_on_file")
CHIP, CONTACTLESS, MAGSTRIPE, WALLET, KEYED, CARD_ON_FILE = range(6)
CONTACTLESS_LIMIT_MINOR = 50_00

PROFILES = ("shops", "evening", "anytime", "online")


class Category(NamedTuple):
    """What merchants sell; ``median`` in currency units, ``sigma`` of its log, ease of ``resale`` 0 to 1."""

    name: str
    channel: int
    median: float
    sigma: float
    profile: str
    share: float
    resale: float


CATEGORIES = (
    Category("grocery", POS, 26, 0.70, "shops", 10, 0.2),
    Category("fuel", POS, 46, 0.40, "anytime", 4, 0.5),
    Category("restaurant", POS, 22, 0.60, "evening", 8, 0.0),
    Category("pharmacy", POS, 15, 0.60, "shops", 3, 0.1),
    Category("clothing", POS, 46, 0.70, "shops", 4, 0.5),
    Category("electronics", POS, 95, 0.90, "shops", 2, 1.0),
    Category("transport", POS, 7, 0.90, "anytime", 4, 0.0),
    Category("hotel", POS, 130, 0.60, "evening", 1, 0.1),
    Category("jewelry", POS, 120, 0.80, "shops", 1, 1.0),
    Category("home_garden", POS, 52, 0.80, "shops", 2, 0.4),
    Category("bars_leisure", POS, 18, 0.60, "evening", 4, 0.0),
    Category("cash", ATM, 80, 0.60, "anytime", 1, 1.0),
    Category("marketplace", ONLINE, 30, 0.90, "online", 6, 0.6),
    Category("electronics", ONLINE, 90, 0.90, "online", 2, 1.0),
    Category("clothing", ONLINE, 52, 0.60, "online", 4, 0.4),
    Category("gaming", ONLINE, 11, 0.80, "evening", 3, 0.5),
    Category("streaming", ONLINE, 10, 0.30, "anytime", 2, 0.0),
    Category("travel", ONLINE, 160, 0.80, "online", 1, 0.6),
    Category("gift_cards", ONLINE, 35, 0.60, "online", 1, 1.0),
    Category("food_delivery", ONLINE, 22, 0.40, "evening", 4, 0.0),
    Category("donations", ONLINE, 12, 0.70, "anytime", 1, 0.0),
    Category("tickets", ONLINE, 42, 0.60, "online", 1, 0.6),
)
RESALE: FloatArray = np.array([category.resale for category in CATEGORIES])
PROFILE_OF: IntArray = np.array([PROFILES.index(category.profile) for category in CATEGORIES], dtype=np.int8)

EMAIL_DOMAINS = (
    "gmail.com",
    "outlook.com",
    "yahoo.com",
    "icloud.com",
    "gmx.net",
    "orange.fr",
    "proton.me",
    "company.example",
    "family.example",
    "inbox.example",
    "fastmail.example",
    "onetime.example",
)
EMAIL_WEIGHTS = np.array([34, 18, 12, 10, 7, 4, 3, 5, 2, 2, 2, 1], dtype=np.float64)
# What fraudsters register: free, quick, hard to trace, but ordinary customers use all of them too.
EMAIL_OF_FRAUDSTERS = np.array([30, 20, 12, 2, 3, 0, 12, 0, 0, 8, 6, 7], dtype=np.float64)

# Share of a day's purchases by local hour, and one set of shop hours for weekends: later and shorter.
_HOURS = {
    "shops": (0, 0, 0, 0, 0, 0, 1, 3, 6, 8, 10, 11, 11, 9, 9, 9, 10, 11, 10, 6, 3, 1, 0.3, 0.1),
    "evening": (3, 1.5, 0.8, 0.4, 0.2, 0.3, 0.6, 1.5, 2, 2, 3, 5, 9, 8, 4, 3, 4, 6, 10, 12, 11, 9, 7, 5),
    "anytime": (1, 0.6, 0.4, 0.4, 0.6, 1.5, 4, 7, 8, 6, 5, 5, 6, 6, 5, 6, 7, 8, 7, 5, 4, 3, 2.5, 1.8),
    "online": (2, 1, 0.5, 0.4, 0.4, 0.6, 1.5, 3, 4, 5, 6, 6, 6.5, 6, 5, 5, 5, 6, 7, 8, 9, 9, 7, 4),
}
QUANTILES = 1024


def _hour_quantiles(weekend: bool) -> FloatArray:
    """Local time of day in milliseconds at each of QUANTILES + 1 equal steps of probability, by profile."""
    table = np.empty((len(PROFILES), QUANTILES + 1))
    edges_ms = np.arange(25) * 3_600_000.0
    for row, profile in enumerate(PROFILES):
        weights = np.array(_HOURS[profile]) + 0.01
        if weekend:
            weights = np.roll(weights, 1)  # everything an hour later
        cumulative = np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
        table[row] = np.interp(np.linspace(0, 1, QUANTILES + 1), cumulative, edges_ms)
    return table


TIME_OF_DAY = {False: _hour_quantiles(weekend=False), True: _hour_quantiles(weekend=True)}
