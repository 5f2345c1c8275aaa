"""The words that column names are made of, and what they hint at."""

from __future__ import annotations

import re

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

TRANSACTION = frozenset({"transaction", "trans", "txn", "tx", "event", "payment", "order", "purchase", "trx", "auth"})
IDENTIFIER = frozenset({"id", "ids", "no", "num", "nr", "number", "uuid", "guid", "ref", "reference", "key"})
TIME = frozenset(
    {"time", "date", "datetime", "timestamp", "ts", "dt", "unix", "epoch", "created", "at", "when", "seconds"}
    | {"step", "hour", "hours", "day", "days", "month", "ms", "millis", "micros", "sec", "minute", "datum", "zeit"}
)
BIRTH = frozenset({"dob", "birth", "birthday", "birthdate", "born"})
REPORT = frozenset({"reported", "report", "chargeback", "dispute", "disputed", "confirmed", "known", "investigated"})
EARLIER = frozenset({"opened", "registered", "registration", "signup", "joined", "since", "first", "issued", "expiry"})
AMOUNT = {"amount": 4, "amt": 4, "betrag": 4, "montant": 4, "importe": 4, "price": 2, "value": 2, "total": 2, "sum": 2}
NOT_AMOUNT = frozenset({"balance", "old", "new", "avg", "mean", "max", "min", "limit", "count", "age", "orig", "dest"})
LABEL = {"class": 2, "label": 2, "target": 2, "chargeback": 2, "fraudulent": 4, "fraud": 4, "isfraud": 4, "y": 1}
LATITUDE = frozenset({"lat", "latitude"})
LONGITUDE = frozenset({"long", "lon", "lng", "longitude"})
MERCHANT_SIDE = frozenset({"merch", "merchant", "store", "shop", "terminal", "seller", "pos"})
PERSONAL = frozenset({"first", "last", "firstname", "lastname", "surname", "forename", "street", "address", "ssn"}) | {
    "fullname",
    "phone",
    "passport",
}
INDEX = frozenset({"unnamed", "index", "row", "rownum", "rowid", "column"})
CODES = frozenset({"code", "mcc", "zip", "postal", "postcode", "type", "category", "cat", "cd", "bin", "region"})
QUANTITY = frozenset({"count", "score", "rate", "share", "pop", "age", "days", "months", "distance"})
DESCRIBES = CODES | {"name", "domain", "country", "city", "state", "age", "count", "score", "risk", "pop", "months"}
# What a column counts per: (entity's name, words), the most telling first.
ENTITIES: tuple[tuple[str, frozenset[str]], ...] = (
    ("customer", frozenset({"customer", "cust", "client", "user", "member", "buyer", "shopper", "kunde"})),
    ("card", frozenset({"card", "cc", "pan", "creditcard"})),
    ("account", frozenset({"account", "acct", "iban", "acc"})),
    ("sender", frozenset({"orig", "sender", "payer", "source", "from", "originator"})),
    ("merchant", frozenset({"merchant", "merch", "shop", "store", "seller", "vendor", "payee"})),
    ("terminal", frozenset({"terminal", "pos", "atm"})),
    ("recipient", frozenset({"dest", "recipient", "receiver", "beneficiary", "destination", "to"})),
    ("device", frozenset({"device", "fingerprint", "imei", "browser"})),
    ("ip", frozenset({"ip", "ipaddress"})),
    ("email", frozenset({"email", "mail"})),
)


def parts(name: str) -> list[str]:
    """The words of a column name, in lower case.

    >>> parts("TX_DATETIME"), parts("nameOrig"), parts("isFraud"), parts("card1")
    (['tx', 'datetime'], ['name', 'orig'], ['is', 'fraud'], ['card', '1'])
    """
    return [part.lower() for part in _PART.findall(name)]


def slug(name: str) -> str:
    """A plain name: letters, digits and ``_``.

    >>> slug("Zip code (home)"), slug("3ds")
    ('zip_code_home', '_3ds')
    """
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "column"
    return (f"_{plain}" if plain[0].isdigit() else plain).lower()
