"""From codes to an Arrow table with the columns of a payment company's transaction history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.simulation import catalogue as world
from fraudml.simulation.campaigns import Pattern
from fraudml.simulation.config import SimulationConfig
from fraudml.simulation.population import Population
from fraudml.simulation.rows import IntArray, Rows

TIME = pa.timestamp("ms", tz="UTC")
MONEY = pa.decimal128(12, 2)
_FIELDS = (
    ("transaction_id", pa.string()),
    ("event_time", TIME),
    ("customer_id", pa.string()),
    ("merchant_id", pa.string()),
    ("terminal_id", pa.string()),
    ("device_id", pa.string()),
    ("card_country", pa.string()),
    ("merchant_country", pa.string()),
    ("ip_country", pa.string()),
    ("merchant_category", pa.string()),
    ("channel", pa.string()),
    ("entry_mode", pa.string()),
    ("amount", MONEY),
    ("currency", pa.string()),
    ("customer_lat", pa.float64()),
    ("customer_lon", pa.float64()),
    ("merchant_lat", pa.float64()),
    ("merchant_lon", pa.float64()),
    ("email_domain", pa.string()),
    ("is_fraud", pa.int8()),
    ("reported_at", TIME),
)


def schema(config: SimulationConfig) -> pa.Schema:
    """The columns in order; ``fraud_pattern`` comes last, if the configuration includes the truth."""
    columns = _FIELDS + ((("fraud_pattern", pa.string()),) if config.include_truth else ())
    return pa.schema(columns)


class TableMaker:
    """Turns one day's rows into a table in event-time order."""

    def __init__(self, config: SimulationConfig, population: Population, patterns: Sequence[Pattern]) -> None:
        self._config = config
        self._merchants = population.merchants
        self._schema = schema(config)
        self._names = [pattern.name for pattern in patterns]
        customers, merchants = population.customers, population.merchants
        rng = np.random.default_rng([config.seed, 1])
        # Numbers are shuffled: they would otherwise follow the city, as the rows of the population do.
        self._customer_names = _numbered("C", rng.permutation(config.customers), 7)
        self._merchant_names = _numbered("M", rng.permutation(config.merchants), 6)
        self._terminal_names = _numbered("T", rng.permutation(int(merchants.terminals.sum())), 6)
        self._places = {
            "customer_lat": np.round(customers.latitude, 4),
            "customer_lon": np.round(customers.longitude, 4),
            "merchant_lat": np.round(merchants.latitude, 4),
            "merchant_lon": np.round(merchants.longitude, 4),
        }
        self._card_country = world.CITY_COUNTRY[customers.city]
        self._merchant_country = world.CITY_COUNTRY[merchants.city]

    def table(self, rows: Rows, reported_at_ms: IntArray, first_id: int) -> pa.Table:
        """One day; ``reported_at_ms`` in the order of ``rows``, identifiers starting with ``first_id``."""
        order = _time_order(rows.time_ms)
        rows, reported = rows.take(order), reported_at_ms[order]
        columns = self._identifiers(rows, first_id) | self._attributes(rows)
        columns["is_fraud"] = pa.array((rows.pattern >= 0).astype(np.int8))
        columns["reported_at"] = pa.array(reported).cast(TIME)
        if self._config.include_truth:
            columns["fraud_pattern"] = _coded(self._names, rows.pattern)
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)

    def _identifiers(self, rows: Rows, first_id: int) -> dict[str, pa.Array]:
        return {
            "transaction_id": _numbered("TX", np.arange(first_id, first_id + len(rows)), 9),
            "event_time": pa.array(rows.time_ms).cast(TIME),
            "customer_id": self._customer_names.take(pa.array(rows.customer)),
            "merchant_id": self._merchant_names.take(pa.array(rows.merchant)),
            "terminal_id": self._terminal_names.take(pa.array(rows.terminal)),
            "device_id": _device_names(rows.device),
        }

    def _attributes(self, rows: Rows) -> dict[str, pa.Array]:
        merchants = self._merchants
        categories = [category.name for category in world.CATEGORIES]
        return {
            "card_country": _coded(world.COUNTRIES, self._card_country[rows.customer]),
            "merchant_country": _coded(world.COUNTRIES, self._merchant_country[rows.merchant]),
            "ip_country": _coded(world.COUNTRIES, rows.ip_country),
            "merchant_category": _coded(categories, merchants.category[rows.merchant]),
            "channel": _coded(world.CHANNELS, rows.channel),
            "entry_mode": _coded(world.ENTRY_MODES, rows.entry_mode),
            "amount": _money(rows.amount_minor),
            "currency": _coded([self._config.currency], np.zeros(len(rows), dtype=np.int8)),
            "email_domain": _coded(world.EMAIL_DOMAINS, rows.email),
        } | {
            name: pa.array(place[rows.customer if name.startswith("customer") else rows.merchant])
            for name, place in self._places.items()
        }


def _time_order(time_ms: IntArray) -> IntArray:
    """What ``argsort(kind="stable")`` gives, for times of one day: sorting plain numbers is much faster."""
    if not len(time_ms):
        return np.empty(0, dtype=np.int64)
    position_bits = 32
    keys = (time_ms - time_ms.min()) << position_bits | np.arange(len(time_ms))
    return np.sort(keys) & ((1 << position_bits) - 1)


def _coded(names: Sequence[str], codes: IntArray) -> pa.Array:
    """The names of codes; null for negative codes."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _numbered(prefix: str, numbers: IntArray, digits: int) -> pa.Array:
    """Texts such as ``C0000042``."""
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, text, "")


def _device_names(device: IntArray) -> pa.Array:
    """Device numbers, scrambled so that the number does not tell own devices from strange ones.

    Multiplying by an odd constant modulo 2**32 (Knuth's multiplicative hashing) maps no two to the same.
    """
    scrambled = (device.astype(np.uint64) * np.uint64(2_654_435_761)) & np.uint64(0xFFFF_FFFF)
    return pc.if_else(pa.array(device >= 0), _numbered("D", scrambled.astype(np.int64), 10), pa.scalar(None))


def _money(minor: npt.NDArray[np.integer]) -> pa.Array:
    """Decimals with two digits from non-negative minor units, without going through floats or texts."""
    words = np.zeros((len(minor), 2), dtype="<i8")  # a decimal128 is one little-endian 128-bit integer
    words[:, 0] = minor
    return pa.Array.from_buffers(MONEY, len(minor), [None, pa.py_buffer(words)])
