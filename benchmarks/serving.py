"""The scoring API under load, beside what people usually put around such a model.

Each server runs on one core and the load on another, in interleaved rounds; medians count. fraudml does the whole job:
checks the API key and the fields, computes 24 window features, scores, and commits the decision before it answers. The
baselines get the finished feature vector, compute nothing and record nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import baselines, common, offline, scoring, state_size
from benchmarks.baselines import BASELINES
from fraudml import project, wiring
from fraudml.cli.bench import child, server, traffic
from fraudml.cli.bench.command import measure
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.requests import Requests
from fraudml.cli.bench.results import Figures, short
from fraudml.project import Project
from fraudml.settings import Settings
from fraudml.training import dataset

CONNECTIONS = (1, 16, 64)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
WARMUP_S = 0.5
OPEN_RATE = 1_200.0
OPEN_SECONDS = float(os.environ.get("BENCH_OPEN_SECONDS", "60"))  # 600 for a soak
BATCH = 10_000
ENTITIES = 10_000
VECTORS = 5_000
OURS = "**fraudml: features, key, idempotency, durable decision**"


@dataclass(frozen=True)
class Setup:
    """A project with a champion of 300 trees, its files for the baselines in ``models``, and real feature vectors."""

    home: Path
    models: Path
    declared: Project
    vectors: list[list[float]]
    places: child.Places

    @property
    def settings(self) -> Settings:
        """The project's settings."""
        return common.settings(self.home)

    def fraudml(self, **settings: str) -> AbstractContextManager[server.Target]:
        """A fresh ``fraudml serve``."""
        file = self.home / "fraudml.yaml"
        return server.own(self.settings, self.declared, file, "champion", [], self.places.server, **settings)

    def requests(self, target: server.Target, transactions: int, batch: int = 0) -> Requests:
        """Requests for it."""
        return traffic.requests(
            self.declared.schema, target.key, entities=ENTITIES, skew=1.0, seed=7, bodies=transactions, batch=batch
        )


def run() -> str:
    """The section of RESULTS.md."""
    for requirements in {baseline.requirements for baseline in BASELINES}:
        baselines.environment(requirements)  # installing would disturb what is measured
    with common.workspace() as place, ExitStack() as stack:
        setup = prepare(Path(place))
        stack.enter_context(child.on(setup.places.load))
        parts = [throughput(setup), open_loop(setup), durability(setup), batches(setup), state_size.run(ROUNDS)]
    return "\n\n".join(parts)


def prepare(home: Path) -> Setup:
    """Train the one model that every server serves."""
    text = offline.declaration().replace(
        "features:",
        f"  label: {{column: TX_FRAUD, delay: {common.LABEL_DELAY}}}\nfeatures:\n"
        "  - {name: amount, kind: attribute, of: amount}",
    )
    (home / "fraudml.yaml").write_text(text)
    declared = project.read(home / "fraudml.yaml")
    settings = common.settings(home)
    store = wiring.offline_store(settings)
    store.put(wiring.source(settings, declared.schema, [str(common.handbook())], home / "rejects.csv").read())
    data = dataset.build(store, declared.feature_set)
    store.close()
    model = scoring.register(home, data, declared.feature_set)
    models = home / "models"
    models.mkdir()
    shutil.copy(home / "bundle" / "model.onnx", models)
    model.booster.save_model(models / "model.json")
    (models / "names.json").write_text(json.dumps(declared.feature_set.input_names))
    picked = data.x[np.random.default_rng(0).choice(len(data), VECTORS, replace=False)]
    # JSON has no NaN, and a column of nulls is no column of numbers to pandas: the baselines need not deal with either
    vectors = np.nan_to_num(picked).astype(float).round(4).tolist()
    return Setup(home, models, declared, vectors, child.places(pin=True))


def throughput(setup: Setup) -> str:
    """Closed loops over 1, 16 and 64 connections, every server in every round."""
    found: dict[tuple[str, int], list[Figures]] = {}
    names = [OURS, *(baseline.name for baseline in BASELINES)]
    for _ in range(ROUNDS):
        for name in names:
            for connections, figures in _one_round(setup, name):
                found.setdefault((name, connections), []).append(figures)
    tables = []
    for connections in CONNECTIONS:
        first = _median(found[BASELINES[0].name, connections])
        rows = [_row(name, _median(found[name, connections]), first) for name in names]
        columns = ["server", "requests/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "errors", "CPU", "MiB"]
        tables.append(f"{connections} connection{'s' * (connections > 1)}:\n\n{common.table(columns, rows)}")
    told = f"Closed loops of {SECONDS:g} s, medians of {ROUNDS} interleaved rounds, {len(setup.vectors[0])} features."
    return "\n\n".join([f"{told} {_where(setup)}", *tables])


def _one_round(setup: Setup, name: str) -> list[tuple[int, Figures]]:
    with ExitStack() as stack:
        if name == OURS:
            target = stack.enter_context(setup.fraudml())
            requests = setup.requests(target, round(20_000 * (SECONDS + WARMUP_S)))
        else:
            baseline = next(each for each in BASELINES if each.name == name)
            requests = baseline.requests(setup.declared.feature_set.input_names, setup.vectors)
            starting = baselines.started(baseline, setup.models, requests.bodies[0], setup.places.server)
            target = stack.enter_context(starting)
        found = []
        for connections in CONNECTIONS:
            plan = Plan(target.host, target.port, connections, SECONDS, WARMUP_S)
            if name == OURS:  # new ids: a repeated one would be answered from the log
                requests = setup.requests(target, len(requests.bodies))
            figures, _ = measure(target, plan, requests, setup.places)
            print(f"{name}, {connections}: {figures.throughput_per_s:,.0f}/s {figures.errors}", flush=True)
            found.append((connections, figures))
        return found


def _row(name: str, figures: Figures, base: Figures) -> list[str]:
    times = [short(figures.latency_ms[each]) for each in ("p50", "p95", "p99", "p99.9")]
    rate, ratio = figures.throughput_per_s, figures.throughput_per_s / max(base.throughput_per_s, 1e-9)
    return [name, f"{rate:,.0f}", f"{ratio:.1f} x", *times, f"{sum(figures.errors.values()):,}", *_usage(figures)]


def _usage(figures: Figures) -> list[str]:
    used = figures.server
    return ["", ""] if used is None else [f"{used.cpu_percent:.0f} %", f"{used.peak_mib:,.0f}"]


def _median(rounds: Sequence[Figures]) -> Figures:
    """The round of median throughput, whole: figures of different rounds do not belong together."""
    return sorted(rounds, key=lambda each: each.throughput_per_s)[len(rounds) // 2]


def open_loop(setup: Setup) -> str:
    """Latency at a fixed arrival rate, from the intended send times, and whether memory stays flat."""
    with setup.fraudml() as target:
        plan = Plan(target.host, target.port, 16, OPEN_SECONDS, 2.0, rate=OPEN_RATE, poisson=True, seed=7)
        requests = setup.requests(target, round(OPEN_RATE * plan.whole_s))
        figures, _ = measure(target, plan, requests, setup.places)
    times = [short(value) for value in figures.latency_ms.values()]
    row = [f"{OPEN_RATE:,.0f}", f"{figures.throughput_per_s:,.0f}", *times, f"{sum(figures.errors.values()):,}"]
    columns = ["arrivals/s", "answers/s", *(f"{name} ms" for name in figures.latency_ms), "errors", "CPU", "MiB"]
    text = common.table(columns, [[*row, *_usage(figures)]])
    used = figures.server
    memory = (
        f" Resident memory: mean {used.first_third_mib:,.0f} MiB in the first third, {used.last_third_mib:,.0f} MiB in "
        "the last."
        if used is not None
        else ""
    )
    told = f"{_failures(figures)}{memory}"
    return f"fraudml, open loop with Poisson arrivals over {OPEN_SECONDS:,.0f} s:\n\n{text}\n\n{told}"


def _failures(figures: Figures) -> str:
    if not figures.errors:
        return "Latency counts from the intended send time; nothing failed."
    failed = ", ".join(f"{count:,} x {kind}" for kind, count in figures.errors.items())
    return f"Latency counts from the intended send time; failed: {failed}."


def durability(setup: Setup) -> str:
    """What it costs that a decision survives a power failure, not only the end of the process."""
    if "durability" not in Settings.model_fields:
        return "This version has no setting FRAUDML_DURABILITY."
    kinds, counts = ("process", "power"), (16,)
    found: dict[tuple[str, int], list[Figures]] = {}
    for _ in range(ROUNDS):
        for kind in kinds:
            with setup.fraudml(durability=kind) as target:
                for connections in counts:
                    plan = Plan(target.host, target.port, connections, SECONDS, WARMUP_S)
                    requests = setup.requests(target, round(20_000 * plan.whole_s))
                    figures, _ = measure(target, plan, requests, setup.places)
                    found.setdefault((kind, connections), []).append(figures)
    rows = [
        [
            f"`{kind}`, {connections} connections",
            *_row("", _median(found[kind, connections]), _median(found["process", connections]))[1:],
        ]
        for connections in counts
        for kind in kinds
    ]
    columns = ["durability", "requests/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "errors", "CPU", "MiB"]
    return f"What `FRAUDML_DURABILITY` costs:\n\n{common.table(columns, rows)}"


def batches(setup: Setup) -> str:
    """Transactions a second in batches of the largest size, beside single requests in the same run."""
    seconds = 5 * SECONDS  # a request takes a good part of a second
    rows: list[list[str]] = []
    single = 0.0
    with setup.fraudml() as target:
        for connections, batch in ((64, 0), (1, BATCH), (4, BATCH)):
            plan = Plan(target.host, target.port, connections, seconds, WARMUP_S, drain_s=60.0)
            figures, _ = measure(target, plan, setup.requests(target, 100_000, batch), setup.places)
            single = single or figures.transactions_per_s
            what = f"batches of {batch:,}" if batch else "one at a time"
            row = [f"{what}, {connections} connections", f"{figures.transactions_per_s:,.0f}"]
            row += [f"{figures.transactions_per_s / max(single, 1e-9):.1f} x", short(figures.latency_ms["p50"])]
            rows.append([*row, f"{sum(figures.errors.values()):,}", *_usage(figures)])
    columns = ["fraudml", "transactions/s", "ratio", "p50 ms", "errors", "CPU", "MiB"]
    return f"Batches:\n\n{common.table(columns, rows)}"


def _where(setup: Setup) -> str:
    if setup.places.server is None:
        return "Nothing was pinned: this machine has one core, or its system cannot pin."
    return "The server was pinned to one core, the load to the others."
