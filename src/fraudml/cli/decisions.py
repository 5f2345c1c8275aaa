"""``fraudml decisions``: whether the log is as it was written, and whether its decisions can be made again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, moment_us, read_project
from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.decisions.log import DecisionLog
    from fraudml.decisions.record import Decision
    from fraudml.models.explain import Explanation
    from fraudml.operations.replay import Replayed, Report
    from fraudml.operations.verify import Verified, WriterHead

app = typer.Typer(help="Verify the decision log, replay decisions.", no_args_is_help=True)
SHOWN = 20
REASONS = 5
AT_ONCE = 1_000


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="decisions")


@app.command("verify")
def verify(
    expect: Annotated[
        str | None,
        typer.Option(help="What --json printed earlier, a file or - for standard input: its heads must fit."),
    ] = None,
    removed_before: Annotated[
        str | None,
        typer.Option(help="Rows about transactions before may be gone; default: as FRAUDML_RETAIN_DAYS says."),
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the hash chains over decisions and labels, and name what was altered, removed or added.

    Exit code 1 when anything is wrong. A service may go on writing.
    """
    import msgspec

    from fraudml.operations import verify as checking

    declared, current = read_project(project_file)
    expected = _heads(expect) if expect else ()
    fixed_us = moment_us(removed_before) if removed_before else None
    with (
        closing(wiring.decision_log(current, declared.schema)) as log,
        output.steps(quiet=as_json) as steps,
        steps.step("Verify decisions") as decisions,
        steps.step("Verify labels") as labels,
    ):
        found = checking.verify(
            log,
            removed_before_us=lambda: wiring.removed_before_us(current) if fixed_us is None else fixed_us,
            expected=expected,
            progress={"decisions": decisions, "labels": labels},
        )
    if as_json:
        output.result(msgspec.to_builtins(found))
    else:
        _show_verified(found)
    if found.wrong:
        raise typer.Exit(1)


@app.command("replay")
def replay(
    transaction_id: Annotated[
        str | None, typer.Argument(help="One transaction, with the reasons for its score.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From this time on, or for this long: 2026-01-31T00:00Z, 24h.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to this time, or until so long ago.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more decisions than that.")] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Recompute scores and actions from logged vectors and the models that decided, and compare all of their bits.

    Exit code 1 when anything differs.
    """
    import msgspec

    from fraudml.operations.replay import Replayer

    if (transaction_id is None) == (since is None):
        raise ConfigError("name one transaction, or say --since TIME or --since 24h")
    declared, current = read_project(project_file)
    replayer = Replayer(wiring.pinned(current))
    with closing(wiring.decision_log(current, declared.schema)) as log:
        if transaction_id is not None:
            decision = log.decision(transaction_id)
            (one,) = replayer.replay([decision])
            explanation = replayer.explain(decision)
            if as_json:
                output.result(msgspec.to_builtins(one) | {"explanation": msgspec.to_builtins(explanation)})
            else:
                _show_one(one, explanation)
            if not (one.identical or one.problem):
                raise typer.Exit(1)
            return
        chosen = _between(log, moment_us(since or ""), moment_us(until) if until else None, limit)
        with output.steps(quiet=as_json) as steps, steps.step("Replay", unit="decisions") as progress:
            report = replayer.run(chosen, progress)
    if as_json:
        output.result(msgspec.to_builtins(report))
    else:
        _show_report(report)
    if report.differing:
        raise typer.Exit(1)


def _between(log: DecisionLog, since_us: int, until_us: int | None, limit: int | None) -> Iterator[Sequence[Decision]]:
    """Decisions by arrival, which is close to the time."""
    left = sys.maxsize if limit is None else limit
    for batch in log.decisions(batch_size=min(AT_ONCE, left), after=since_us - 1):
        wanted = [each for each in batch if until_us is None or each.arrival < until_us][:left]
        left -= len(wanted)
        if wanted:
            yield wanted
        if len(wanted) < len(batch) or not left:
            return


def _heads(place: str) -> Sequence[WriterHead]:
    from fraudml.operations.verify import noted_heads

    return noted_heads(sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes(), place)


def _show_verified(found: Verified) -> None:
    output.results.print(
        f"{found.decisions:,} decisions and {found.labels:,} label reports of {found.links:,} commits confirmed; "
        f"{found.wrong:,} wrong"
    )
    notes = {"from before there was a chain": found.unchained, "removed by retention": found.removed}
    for words, count in notes.items():
        if count:
            output.results.print(f"  {count:,} more {words}")
    for problem in found.problems[:SHOWN]:
        named = f" ({problem.transaction_id})" if problem.transaction_id else ""
        output.results.print(f"  {problem.wrong}: {problem.what} {problem.place}{named}", markup=False)
    rows = [[str(head.writer), str(head.seq), head.digest] for head in found.heads]
    if rows:
        output.table(["writer", "commits", "head"], rows)


def _show_one(one: Replayed, explanation: Explanation | None) -> None:
    output.results.print(f"{one.transaction_id}: {_judged(one)}", markup=False)
    for reason in explanation.reasons[:REASONS] if explanation else ():
        output.results.print(f"  {reason.contribution:+.3f}  {reason.text}", markup=False)


def _judged(one: Replayed) -> str:
    if one.problem:
        return f"cannot be replayed: {one.problem}"
    if one.identical:
        how = " of quantised inputs" if one.inputs == "quantised" else ""
        return f"identical: score {one.score}{how}, {one.action.value}, by version {one.model_version}"
    return (
        f"differs: logged {one.score} and {one.action.value}, recomputed {one.score_again} and "
        f"{one.action_again.value if one.action_again else None}, by version {one.model_version}"
    )


def _show_report(report: Report) -> None:
    output.results.print(
        f"{report.decisions:,} decisions: {report.identical:,} identical, {report.differing:,} differ, "
        f"{report.unreplayable:,} cannot be replayed"
    )
    for version, counts in sorted(report.versions.items()):
        quantised = f" ({counts.quantised:,} of quantised inputs)" if counts.quantised else ""
        output.results.print(
            f"  version {version}: {counts.identical:,} identical{quantised}, {counts.differing:,} differ"
        )
        if counts.problem:
            output.results.print(f"    {counts.unreplayable:,} cannot be replayed: {counts.problem}", markup=False)
    for example in report.examples[:SHOWN]:
        output.results.print(f"  {example.transaction_id}: {_judged(example)}", markup=False)
