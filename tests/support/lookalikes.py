"""Files with the columns of well-known public fraud data, at any size, with real signal in them.

The labels follow several columns at once, some of them only together, missing values and, where there are keys, what
the same card or device did before. A tenth or so of the frauds look like anybody's transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

Columns = dict[str, Any]
Floats = NDArray[np.float64]
START = np.datetime64("2019-01-01T00:00:00", "s")
DAY = 86_400
SYLLABLES = ("ba", "den", "hill", "ko", "lund", "mar", "ne", "ost", "ri", "stad", "ton", "ville", "wick", "zell")


def write(path: Path, columns: Columns, delimiter: str = ",") -> Path:
    """Write a CSV file; None and NaN become empty fields."""
    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter=delimiter, quoting_style="needed"))
    return path


def seconds(rng: np.random.Generator, rows: int, days: int) -> NDArray[np.int64]:
    """Sorted seconds from the start, fewer by night."""
    day = rng.integers(0, days, rows)
    hour = rng.choice(24, rows, p=np.r_[np.full(7, 1.0), np.full(17, 4.0)] / 75)
    return np.sort(day * DAY + hour * 3_600 + rng.integers(0, 3_600, rows))


def iso(second: NDArray[np.int64], *, zone: str = "", blank: bool = False) -> list[str]:
    """Times as text."""
    texts = np.datetime_as_string(START + second.astype("timedelta64[s]"))
    return [(text.replace("T", " ") if blank else text) + zone for text in texts.tolist()]


def drawn(rng: np.random.Generator, log_odds: Floats, rate: float) -> NDArray[np.bool_]:
    """Labels with these log-odds, up to the constant that makes ``rate`` of them frauds."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-log_odds - middle))).mean() < rate else (low, middle)
    return rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds - low))


def some(rng: np.random.Generator, values: Any, share: float) -> Any:
    """Values of which only a share is there."""
    there = rng.random(len(values)) < share
    if np.asarray(values).dtype.kind in "iuf":
        return np.where(there, np.asarray(values, float), np.nan)
    return np.where(there, np.asarray(values, object), None)


def money(rng: np.random.Generator, rows: int, mean: float, spread: float, decimals: int = 2) -> Floats:
    """Amounts, log-normal."""
    return np.round(rng.lognormal(mean, spread, rows), decimals)


def episodes(
    rng: np.random.Generator, second: NDArray[np.int64], key: NDArray[np.int64], rate: float, days: float
) -> NDArray[np.bool_]:
    """Rows within a key's bad days: about ``rate`` of all, each key's from a time of its own on."""
    keys = int(key.max()) + 1
    span = float(second.max()) + 1
    begins = np.where(rng.random(keys) < rate * span / (days * DAY), rng.random(keys) * span, np.inf)
    return (second >= begins[key]) & (second < begins[key] + days * DAY)


def card_components(rng: np.random.Generator, rows: int, rate: float) -> Columns:
    """Two days of cards: seconds, 28 anonymous components, amount; the components of a fraud are off."""
    components = rng.standard_normal((rows, 28)) * np.linspace(1.9, 0.4, 28)
    amount = money(rng, rows, 3, 1.2)
    is_fraud = rng.random(rows) < rate
    kind = np.where(is_fraud, rng.choice(4, rows, p=[0.45, 0.3, 0.15, 0.1]), 3)
    for pattern, moved in enumerate(((3, 9, 11, 13, 16), (1, 6, 13, 16), (3, 10, 20))):
        at = np.flatnonzero(kind == pattern)
        strength = rng.gamma(2.0, 1.1, (len(at), 1))
        components[np.ix_(at, moved)] += strength * np.where(np.arange(len(moved)) % 2, -1.3, 1.1)
    amount[kind == 2] = rng.choice([1.0, 99.99], int((kind == 2).sum()))
    return {
        "Time": seconds(rng, rows, 2).astype(float),
        **{f"V{i + 1}": components[:, i].round(6) for i in range(28)},
        "Amount": amount,
        "Class": is_fraud.astype(int),
    }


def e_commerce(rng: np.random.Generator, rows: int, rate: float) -> Columns:
    """Half a year of orders with 120 columns, most of them mostly empty, empty together in blocks."""
    second = seconds(rng, rows, 180)
    card = rng.integers(0, max(rows // 12, 50), rows)
    spree = episodes(rng, second, card, 0.03, 2)
    amount = money(rng, rows, 4, 1, 3)
    product = rng.choice(list("WCHRS"), rows, p=[0.7, 0.12, 0.06, 0.07, 0.05])
    email = rng.choice(["gmail.com", "yahoo.com", "anonymous.com", "mail.ru"], rows, p=[0.6, 0.25, 0.12, 0.03])
    counts = rng.poisson(rng.gamma(1.0, 2.0, (rows, 1)), (rows, 14)).astype(float)
    delays = rng.exponential(90.0, (rows, 15)).round()
    matches = rng.random((rows, 9)) < 0.7
    block = rng.random((rows, 4)) < [0.5, 0.3, 0.15, 0.1]
    anonymous = rng.poisson(rng.gamma(1.0, 1.0, (rows, 1)), (rows, 71)).astype(float)
    log_odds = (
        3.5 * spree
        + 1.2 * (product == "C")
        + 1.5 * ((email == "anonymous.com") & (amount > 80))
        + 0.5 * np.log1p(counts[:, 0])
        - 0.01 * delays[:, 0]
        + 1.5 * (block[:, 1] & (anonymous[:, 20] > 2))
        - 1.2 * block[:, 0]
        + 1.0 * (~matches[:, 3] & (product != "W"))
    )
    return {
        "TransactionID": 2_987_000 + np.arange(rows),
        "isFraud": drawn(rng, log_odds, rate).astype(int),
        "TransactionDT": DAY + second,
        "TransactionAmt": amount,
        "ProductCD": product,
        "card1": 1_000 + card,
        "card2": some(rng, 100 + card % 500, 0.98),
        "card3": some(rng, np.full(rows, 150), 0.99),
        "card4": np.array(["visa", "mastercard", "discover"])[card % 3],
        "card5": 100 + card % 140,
        "card6": np.array(["debit", "credit"])[card % 7 // 5],
        "addr1": some(rng, 100 + card % 440, 0.9),
        "addr2": some(rng, np.full(rows, 87), 0.9),
        "P_emaildomain": some(rng, email, 0.85),
        **{f"C{i + 1}": counts[:, i] for i in range(14)},
        **{f"D{i + 1}": some(rng, delays[:, i], 0.9 if i == 0 else 0.3) for i in range(15)},
        **{f"M{i + 1}": some(rng, np.where(matches[:, i], "T", "F"), 0.6) for i in range(9) if i != 3},
        "M4": some(rng, np.where(matches[:, 3], rng.choice(["M0", "M1"], rows), "M2"), 0.6),
        **{f"V{i + 1}": np.where(block[:, i * 4 // 71], anonymous[:, i], np.nan) for i in range(71)},
    }


def named_people(rng: np.random.Generator, rows: int, rate: float) -> Columns:
    """A year of card payments with names, jobs and coordinates; sprees of large amounts at night."""
    people = max(rows // 400, 120)
    who = rng.integers(0, people, rows)
    second = seconds(rng, rows, 400)
    spree = episodes(rng, second, who, rate, 3)
    category = rng.choice(["grocery_pos", "misc_net", "shopping_net", "gas_transport", "food_dining"], rows)
    night = second % DAY // 3_600 < 4
    usual = rng.normal(3.3, 0.4, people)[who]
    is_fraud = (spree & (rng.random(rows) < 0.8)) | (rng.random(rows) < rate / 10)
    net = np.isin(category, ["misc_net", "shopping_net"])
    amount = np.exp(usual + rng.normal(0, 0.8, rows))
    amount = np.where(is_fraud, np.where(net, rng.normal(850, 120, rows), rng.normal(280, 60, rows)), amount)
    amount = np.where(is_fraud & ~night & (rng.random(rows) < 0.4), np.exp(usual), amount)
    place = rng.uniform([30, -120], [45, -70], (people, 2)).round(4)
    number = rng.choice([4, 5], people) * 10**15 + rng.integers(0, 10**15, people)
    number[0] = 4111111111111111
    town = ["".join(rng.choice(SYLLABLES, 3)).title() for _ in range(people)]
    job = ["Nurse", "Engineer, civil", 'Surveyor "land"', "Painter", "Chief of staff", "Baker"]
    born = START.astype("datetime64[D]") - rng.integers(6_600, 30_000, people)
    return {
        "": np.arange(rows),
        "trans_date_trans_time": iso(second, blank=True),
        "cc_num": number[who],
        "merchant": [f"fraud_Shop {shop}" for shop in rng.integers(0, 150, rows)],
        "category": category,
        "amt": np.maximum(amount, 1).round(2),
        "first": rng.choice(["Ann", "Bob", "Eve", "Dan"], people)[who],
        "last": rng.choice(["Smith", "Jones", "Ruiz"], people)[who],
        "gender": rng.choice(["M", "F"], people)[who],
        "street": np.array([f"{n} Main Street" for n in rng.integers(1, 900, people)])[who],
        "city": np.array(town)[who],
        "state": rng.choice(["NY", "CA", "TX"], people)[who],
        "zip": rng.integers(10_000, 10_300, people)[who],
        "lat": place[who, 0],
        "long": place[who, 1],
        "city_pop": rng.integers(100, 10**6, people)[who],
        "job": rng.choice(job, people)[who],
        "dob": np.datetime_as_string(born)[who],
        "trans_num": [f"{a:016x}{b:016x}" for a, b in rng.integers(0, 2**62, (rows, 2)).tolist()],
        "unix_time": START.astype(int) + second,
        "merch_lat": (place[who, 0] + rng.uniform(-1, 1, rows)).round(6),
        "merch_long": (place[who, 1] + rng.uniform(-1, 1, rows)).round(6),
        "is_fraud": is_fraud.astype(int),
    }


def mobile_money(rng: np.random.Generator, rows: int, rate: float) -> Columns:
    """A month of transfers in steps of an hour; a fraud empties an account, to a recipient of a few days."""
    step = 1 + seconds(rng, rows, 30) // 3_600
    kind = rng.choice(["PAYMENT", "TRANSFER", "CASH_OUT"], rows, p=[0.5, 0.2, 0.3])
    before = np.where(rng.random(rows) < 0.3, 0.0, money(rng, rows, 9, 1.5))
    amount = money(rng, rows, 8, 1.3)
    recipient = rng.integers(0, max(rows // 20, 60), rows)
    mule = episodes(rng, step * 3_600, recipient, 0.01, 3)
    takes = kind != "PAYMENT"
    is_fraud = drawn(rng, 6.0 * (takes & mule) + 1.5 * takes + 0.5 * np.log1p(before) * takes, rate)
    amount = np.where(is_fraud & (rng.random(rows) < 0.7), np.maximum(before, 1), amount)
    dest = np.where(kind == "PAYMENT", 0.0, money(rng, rows, 9, 1.5))
    return {
        "step": step,
        "type": kind,
        "amount": amount.round(2),
        "nameOrig": [f"C{who}" for who in rng.integers(0, 10**9, rows)],
        "oldbalanceOrg": before,
        "newbalanceOrig": np.maximum(before - amount, 0).round(2),
        "nameDest": [f"M{who}" for who in recipient],
        "oldbalanceDest": dest,
        "newbalanceDest": (dest + amount * ~is_fraud).round(2),
        "isFraud": is_fraud.astype(int),
        "isFlaggedFraud": (is_fraud & (amount > 200_000)).astype(int) | (np.arange(rows) == 5),
    }


def bank_accounts(rng: np.random.Generator, rows: int, rate: float) -> Columns:
    """Applications for accounts, dated by month only; -1 for missing."""
    income = rng.random(rows).round(1)
    similarity = rng.random(rows)
    months = np.where(rng.random(rows) < 0.7, -1, rng.integers(0, 300, rows))
    age = rng.integers(1, 9, rows) * 10
    system = rng.choice(["linux", "windows", "macintosh", "other"], rows)
    free = rng.integers(0, 2, rows)
    velocity = rng.gamma(4, 1_500, rows)
    log_odds = (
        2.0 * income * (age > 40)
        - 1.5 * similarity
        + 1.2 * ((system == "windows") & (free == 1))
        + 0.8 * (months == -1)
        - 0.0002 * velocity
    )
    return {
        "fraud_bool": drawn(rng, 1.5 * log_odds, rate).astype(int),
        "income": income,
        "name_email_similarity": similarity.round(6),
        "prev_address_months_count": months,
        "customer_age": age,
        "days_since_request": rng.exponential(1, rows).round(6),
        "payment_type": rng.choice(["AA", "AB", "AC"], rows),
        "zip_count_4w": rng.integers(1, 5_000, rows),
        "velocity_6h": velocity.round(3),
        "email_is_free": free,
        "device_os": system,
        "source": np.full(rows, "INTERNET"),
        "month": np.arange(rows) * 8 // rows,
    }


def semicolons(rng: np.random.Generator, rows: int, rate: float) -> Columns:
    """Orders with yes and no, gaps, a report's date, and devices that many clients use once one is bad."""
    second = seconds(rng, rows, 120)
    client = rng.integers(0, max(rows // 16, 100), rows)
    device = client * 2 + rng.integers(0, 2, rows)
    farm = rng.random(rows) < rate * 1.5
    device = np.where(farm, rng.integers(0, 30, rows) * 50 % int(device.max()), device)
    price = money(rng, rows, 3, 1)
    is_fraud = drawn(rng, 5.0 * farm + 0.8 * np.log(price) * farm, rate)
    return {
        "Order No": [f"A-{number:06d}" for number in range(rows)],
        "Timestamp": iso(second, zone="+00:00"),
        "Client": [f"client {who}" for who in client],
        "Device ID": some(rng, [f"dev-{what}" for what in device], 0.95),
        "Price": price,
        "Weight": some(rng, rng.gamma(2, 1, rows).round(2), 0.6),
        "Note": rng.choice(np.array([None, "gift; wrapped", 'said "hi"'], object), rows),
        "Fraudulent": np.where(is_fraud, "yes", "no"),
        "chargeback_date": iso(second + 9 * DAY, zone="+00:00"),
    }


Maker = Callable[[np.random.Generator, int, float], Columns]
MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (card_components, e_commerce, named_people, mobile_money, bank_accounts, semicolons)
}


def make(name: str, path: Path, rows: int, rate: float = 0.03, seed: int = 3) -> Path:
    """Write the lookalike of this name; about ``rate`` of its rows are frauds."""
    delimiter = ";" if name == "semicolons" else ","
    return write(path, MAKERS[name](np.random.default_rng(seed), rows, rate), delimiter)
