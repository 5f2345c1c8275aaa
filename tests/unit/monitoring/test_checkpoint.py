"""Evidence goes on from what was kept as if it had never been stopped, and is counted again where that cannot be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.decisions.costs import Costs
from fraudml.models.rollout import Challenger, Experiment, Mode
from fraudml.models.rollout_guardrails import Guardrails
from fraudml.monitoring.rollouts import checkpoint as keeping
from fraudml.monitoring.rollouts.checkpoint import FORMAT, Checkpoint
from fraudml.monitoring.rollouts.evidence import CLOCKS_US, Currency, Evidence, Span
from fraudml.monitoring.rollouts.kept import decode, encode
from tests.support.rollouts import World, labelled, record_batch, simulate

CURRENCY = Currency(Costs(), 2)
N = 1_500
STEP = 100  # between the arrival numbers of decisions
END = 10 * N * STEP
LOOSE = Guardrails()
# Everything is breached, now or later, and what costs are compared with matters.
STRICT = Guardrails(alpha=0.5, max_psi=0.01, max_decline_shift=1e-3, max_extra_cost_per_1000=20.0, min_costly=10)


class FakeLog:
    """A log that is read in batches of a given size, whatever was asked for."""

    def __init__(self, decisions: pa.RecordBatch, labels: pa.RecordBatch, batch: int = 5_000) -> None:
        self._rows = {False: (decisions, "arrival"), True: (labels, "label_arrival")}
        self.batch = batch
        self.read = 0

    def outcomes(self, after: int = 0, batch_size: int = 0, *, labelled: bool = False) -> Iterator[pa.RecordBatch]:
        rows, column = self._rows[labelled]
        start = int(rows.column(column).to_numpy().searchsorted(after, side="right"))
        for first in range(start, rows.num_rows, self.batch):
            self.read += 1
            yield rows.slice(first, self.batch)

    def last_arrival(self, *, labels: bool = True) -> int:
        return max(int(rows.column(column)[-1].as_py()) for rows, column in self._rows.values())


def history() -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Two challengers, failures, slow calls, a share that changes; labels come soon, late and twice."""
    rng = np.random.default_rng(7)
    rows = simulate(N, 5, World(share=0.5, per_entity=4))
    worse = rows.challenger & (rows.key % 2 == 1)
    rows = replace(
        rows,
        arrival=STEP * np.arange(1, N + 1),
        score=np.where(worse, np.minimum(1.0, rows.score + 0.2), rows.score),
        level=np.where(worse & ~rows.explored & (rng.random(N) < 0.4), 1, rows.level).astype(np.int8),
        failed=rows.challenger & (rng.random(N) < 0.02),
        model_us=rows.model_us + np.where(rng.random(N) < 0.1, 60_000, 0),
        share=np.where(np.arange(N) < N // 2, 0.3, np.where(rows.challenger, 0.13, 0.7)),
        revision=np.where(np.arange(N) < N // 2, 1, 2),
        fraud=(rng.random(N) < np.where(rows.challenger, 0.7, 0.03)).astype(np.float64),
    )
    arms = np.where(rows.challenger, np.where(rows.key % 2 == 0, "challenger-7", "challenger-8"), "champion")
    known = np.concatenate([np.flatnonzero(labelled(rows)), np.arange(0, N, 40)])
    gap = known + rng.integers(0, 300, len(known))  # the decision after which the report comes
    order = np.argsort(gap, kind="stable")
    known, gap = known[order], gap[order]
    arrival = STEP * (gap + 1) + 1 + np.arange(len(gap)) - np.searchsorted(gap, gap)  # no number is there twice
    labels = record_batch(rows.take(known), labels=True)
    return _with(record_batch(rows), arm=arms), _with(labels, arm=arms[known], label_arrival=arrival)


def _with(batch: pa.RecordBatch, **columns: Any) -> pa.RecordBatch:
    for name, values in columns.items():
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, batch.schema.field(name), pa.array(values, batch.schema.field(name).type))
    return batch


DECISIONS, LABELS = history()


def span(guardrails: Guardrails = STRICT, salt: str = "s", mode: Mode = Mode.canary) -> Span:
    arms = (Challenger(7, ((0, 250_000),)), Challenger(8, ((250_000, 500_000),)))
    return Span(Experiment(mode, arms, "customer", salt, CLOCKS_US, guardrails))


def fed(evidence: Evidence, log: FakeLog, until: int = END, most: int = 10**9) -> Evidence:
    for number, _ in enumerate(evidence.advance(log, until), 1):  # type: ignore[arg-type]
        if number >= most:
            break
    return evidence


def resumed(kept: Checkpoint, of: Span, log: FakeLog) -> Evidence:
    return kept.resume(of, CURRENCY, log)  # type: ignore[arg-type]


WHOLE = {limits: fed(Evidence(span(limits), CURRENCY), FakeLog(DECISIONS, LABELS)) for limits in (LOOSE, STRICT)}


def test_the_history_has_what_can_go_wrong() -> None:
    breached = {status.name for guard in WHOLE[STRICT].guards.values() for status in guard.status() if status.breached}
    assert breached >= {"errors", "scores", "review_rate", "cost"}
    assert encode(WHOLE[LOOSE].kept()) != encode(WHOLE[STRICT].kept())


@settings(max_examples=30)
@given(
    looks=st.lists(st.tuples(st.integers(0, (N + 400) * STEP), st.integers(1, 4)), max_size=6),
    batch=st.sampled_from([40, 333, 5_000]),
    stops=st.sets(st.integers(0, 5), min_size=1),
    limits=st.sampled_from([LOOSE, STRICT]),
)
def test_a_restart_at_any_point_changes_no_bit(
    tmp_path_factory: pytest.TempPathFactory,
    looks: list[tuple[int, int]],
    batch: int,
    stops: set[int],
    limits: Guardrails,
) -> None:
    """Looks go to any point and end after any batch; after some of them the process is another one."""
    file = Checkpoint(tmp_path_factory.mktemp("home") / "guards")
    log = FakeLog(DECISIONS, LABELS, batch)
    evidence = Evidence(span(limits), CURRENCY)
    for number, (until, most) in enumerate([*sorted(looks), (END // 2, 40)]):
        fed(evidence, log, until, most)
        if number in stops:
            file.save(evidence)
            before, evidence = evidence, resumed(file, span(limits), log)
            assert evidence is not before
            assert encode(evidence.kept()) == encode(before.kept())
            assert evidence.reached == before.reached
    fed(evidence, log)
    whole = WHOLE[limits]
    assert evidence.breach() == whole.breach()
    assert {version: guard.status() for version, guard in evidence.guards.items()} == {
        version: guard.status() for version, guard in whole.guards.items()
    }
    assert encode(evidence.kept()) == encode(whole.kept())


def test_alpha_that_was_spent_stays_spent(tmp_path: Path) -> None:
    log = FakeLog(DECISIONS, LABELS)
    evidence = fed(Evidence(span(LOOSE), CURRENCY), log)
    looks = evidence.guards[7].kept()["_scores"]["_looks"]
    assert looks["_taken"] > 3
    Checkpoint(tmp_path / "guards").save(evidence)
    again = resumed(Checkpoint(tmp_path / "guards"), span(LOOSE), log)
    assert again.guards[7].kept()["_scores"]["_looks"] == looks


def test_only_what_is_new_is_read_after_a_restart(tmp_path: Path) -> None:
    log = FakeLog(DECISIONS, LABELS, 100)
    Checkpoint(tmp_path / "guards").save(fed(Evidence(span(), CURRENCY), log))
    read = log.read
    fed(resumed(Checkpoint(tmp_path / "guards"), span(), log), log)
    assert log.read == read


def test_a_file_of_a_large_experiment_is_small(tmp_path: Path) -> None:
    file = tmp_path / "guards"
    Checkpoint(file).save(WHOLE[LOOSE])
    assert file.stat().st_size < 2 * 70_000
    assert [each.name for each in tmp_path.iterdir()] == ["guards"], "no draft is left"


def unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(change(file.read_bytes()))

    return write


def rewritten(**changes: Any) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        body = encode(decode(file.read_bytes()[16:]) | changes)
        file.write_bytes(keeping._digest(body) + body)

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged(lambda data: data[:-1]), "damaged"),
        (damaged(lambda data: data[:5_000] + bytes([data[5_000] ^ 1]) + data[5_001:]), "damaged"),
        (damaged(lambda data: b""), "counted again"),
        (rewritten(format=FORMAT + 1), f"format {FORMAT + 1}"),
        (rewritten(state={"_after": 1}), "counted again"),
        (rewritten(state=[]), "counted again"),
        (rewritten(identity="?"), "another experiment"),
        (unreadable, "counted again"),
    ],
)
def test_a_file_that_cannot_be_gone_on_from_is_ignored(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log, file = FakeLog(DECISIONS, LABELS), tmp_path / "guards"
    Checkpoint(file).save(fed(Evidence(span(), CURRENCY), log, N * STEP // 2))
    spoil(file)
    evidence = resumed(Checkpoint(file), span(), log)
    (record,) = caplog.records
    assert said in record.getMessage()
    assert encode(evidence.kept()) == encode(Evidence(span(), CURRENCY).kept())


@pytest.mark.parametrize(
    "other", [span(salt="other"), span(LOOSE), span(mode=Mode.ab), Span(msgspec.structs.replace(span()[0], since_us=5))]
)
def test_another_experiment_begins_at_its_beginning(other: Span, tmp_path: Path) -> None:
    log = FakeLog(DECISIONS, LABELS)
    Checkpoint(tmp_path / "guards").save(fed(Evidence(span(), CURRENCY), log))
    assert resumed(Checkpoint(tmp_path / "guards"), other, log).reached == other.after


def test_other_shares_are_the_same_experiment_and_other_costs_are_not(tmp_path: Path) -> None:
    log = FakeLog(DECISIONS, LABELS)
    evidence = fed(Evidence(span(), CURRENCY), log)
    kept = Checkpoint(tmp_path / "guards")
    kept.save(evidence)
    larger = (Challenger(8, ((250_000, 900_000),)), Challenger(7, ()))
    resized = Span(msgspec.structs.replace(span().experiment, challengers=larger))
    assert resumed(kept, resized, log).breach() == evidence.breach()
    dear = Currency(Costs(goodwill=50), 2)
    assert kept.resume(span(), dear, log).breach() is None  # type: ignore[arg-type]


def test_a_log_that_lacks_what_was_counted_is_counted_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such as one that was restored from a backup."""
    kept = Checkpoint(tmp_path / "guards")
    kept.save(fed(Evidence(span(), CURRENCY), FakeLog(DECISIONS, LABELS)))
    restored = FakeLog(DECISIONS.slice(0, 500), LABELS.slice(0, 100))
    assert resumed(kept, span(), restored).reached == span().after
    assert "not in this log" in caplog.text


def test_a_disk_that_takes_nothing_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").write_text("no directory")
    kept = Checkpoint(tmp_path / "home" / "guards")
    for _ in range(3):
        kept.save(WHOLE[LOOSE])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "what was judged cannot be kept for a restart, which would count it again"
    ]


def test_the_format_has_a_number() -> None:
    """Change what is kept, or what it means, and raise FORMAT, too: otherwise a restart would mix two statistics."""

    def shape(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return f"{value.dtype}{list(value.shape)}"
        if isinstance(value, dict):
            return {name: shape(each) for name, each in value.items()}
        return type(value).__name__

    looks = {"size": "int", "_taken": "int"}
    calls = {
        "breach": "NoneType",
        "_rates": {
            "_absolute": "float64[6]",
            "_relative": "float64[4]",
            "_good": "float64[2]",
            "_open": "float64[4]",
            "_open_rows": "int64[2]",
            "rows": "int64[2]",
            "calls": "float64[2]",
            "bad": "float64[2]",
        },
        "_evidence": "float",
    }

    def mix(categories: int) -> dict[str, str]:
        return {"_sums": f"float64[2, 256, {categories}]", "_squares": "float64[2]", "rows": "int64[2]"}

    assert (FORMAT, shape(Evidence(span(), CURRENCY).kept()["guards"]["7"])) == (
        1,
        {
            "_errors": calls,
            "_latency": calls,
            "_scores": {
                "breach": "NoneType",
                "_looks": looks,
                "_mix": mix(10),
                "_edges": "NoneType",
                "_waiting": "list",
                "_evidence": "float",
            },
            "_actions": {
                "breach": "NoneType",
                "_looks": looks,
                "_mix": mix(3),
                "_evidence": {"decline": "float", "review": "float"},
            },
            "_cost": {
                "breach": "NoneType",
                "_looks": looks,
                "_amounts": "float64[0]",
                "_cap": "NoneType",
                "_waiting": "list",
                "_transactions": "float64[2]",
                "_sums": "float64[2, 256]",
                "_largest": "float64[2]",
                "_costly": "int",
                "_evidence": "float",
            },
        },
    )
