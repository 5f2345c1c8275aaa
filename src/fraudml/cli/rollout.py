"""``fraudml rollout``: change the model under live traffic, by share, and undo it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output, rollout_report
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.cli.origin import operator
from fraudml.errors import ConfigError
from fraudml.events.units import parse_share
from fraudml.models import lifecycle, rollout
from fraudml.models.registry import CHALLENGER
from fraudml.models.rollout import Exploration, Mode, Plan, Rollout
from fraudml.models.rollout_guardrails import Guardrails
from fraudml.settings import settings

if TYPE_CHECKING:
    from fraudml.project import Project
    from fraudml.settings import Settings

app = typer.Typer(help="Try a model on a share of live traffic, judge it, promote it or undo it.", no_args_is_help=True)
DEFAULT_SHARE = {Mode.canary: "5%", Mode.ab: "50%", Mode.shadow: "100%"}

Share = Annotated[list[str] | None, typer.Option("--share", help="Share of all entities, as 5% or 0.05.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="rollout")


@app.command("start")
def start(
    challenger: Annotated[
        list[str] | None, typer.Option(help="Version or alias; may be repeated; default: the alias challenger.")
    ] = None,
    share: Share = None,
    mode: Annotated[Mode, typer.Option(help="What challengers do with their share.")] = Mode.canary,
    entity: Annotated[
        str | None, typer.Option(help="The entity that stays in its arm; default: the schema's first; '' for none.")
    ] = None,
    guardrail: Annotated[
        list[str] | None, typer.Option(help="A limit, as max_psi=0.5; may be repeated; 'none' switches all off.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Let challengers decide on a share of live traffic, or score beside the champion (shadow).

    Each challenger is loaded and tested here before anything is changed. Running services follow within seconds.
    """
    declared, current = read_project(project_file)
    registry = wiring.registry(current)
    versions = [registry.resolve(name).version for name in challenger or [CHALLENGER]]
    shares = _shares(share or [DEFAULT_SHARE[mode]], versions)
    plan = Plan(mode, shares, chosen_entity(entity, declared), _guardrails(guardrail))
    try_out(current, declared, versions)
    why = reason or f"{mode} of version {', '.join(map(str, versions))}"
    _tell(lifecycle.start(registry, plan, why, operator()), as_json)


app.command("status")(rollout_report.status)


@app.command("set")
def change(
    share: Share = None,
    challenger: Annotated[
        list[str] | None, typer.Option(help="Whose share; may be left out when there is one challenger.")
    ] = None,
    explore: Annotated[
        str | None, typer.Option(help="Share of would-be declines to let through, at most 5%; 0 for none.")
    ] = None,
    explore_most: Annotated[
        float | None, typer.Option(help="Largest amount to let through, in whole currency units.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Change shares, or let a few would-be declines through so that they get an honest label."""
    declared, current = read_project(project_file)
    registry = wiring.registry(current)
    if not share and explore is None:
        raise ConfigError("say what to change: --share 20%, or --explore 1%")
    changes: dict[str, Any] = {}
    told = []
    if share:
        running = rollout.running(lifecycle.current(registry))
        named = [registry.resolve(name).version for name in challenger or []]
        changes["shares"] = _shares(share, named or [each.version for each in running.challengers])
        told.append(f"share {', '.join(share)}")
    if explore is not None:
        changes["exploration"] = _exploration(explore, explore_most, declared)
        told.append(f"explore {explore}")
    _tell(lifecycle.adjust(registry, reason or ", ".join(told), operator(), **changes), as_json)


@app.command("promote")
def promote(
    reason: Reason,
    version: Annotated[int | None, typer.Argument(help="The challenger; may be left out when there is one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a challenger the champion; the rollout ends."""
    registry = wiring.registry(settings())
    running = rollout.running(lifecycle.current(registry))
    versions = [each.version for each in running.challengers]
    if version is None and len(versions) > 1:
        raise ConfigError(f"name the challenger to promote: {', '.join(map(str, versions))}")
    target = versions[0] if version is None else version
    if target not in versions:
        raise ConfigError(f"version {target} is no challenger of the rollout that is under way")
    _tell(lifecycle.promote(registry, target, reason, operator()), as_json)


@app.command("abort")
def abort(reason: Reason, as_json: AsJson = False) -> None:
    """End the rollout; the champion decides on everything again."""
    _tell(lifecycle.abort(wiring.registry(settings()), reason, operator()), as_json)


@app.command("history")
def history(as_json: AsJson = False) -> None:
    """Every change of what serves: who, when, what and why."""
    import msgspec

    revisions = wiring.registry(settings()).rollouts()
    if as_json:
        output.result(msgspec.to_builtins(revisions))
        return
    rows = [
        [str(each.revision), each.change.at, each.change.by, each.change.kind, words(each), each.change.reason]
        for each in revisions
    ]
    output.table(["revision", "at", "by", "change", "what serves from then on", "reason"], rows)


app.command("report")(rollout_report.report)


def words(document: Rollout) -> str:
    """What a document says serves.

    >>> words(lifecycle.alone(3))
    'version 3'
    """
    said = f"version {document.champion}"
    if document.experiment is not None:
        others = ", ".join(f"{each.version} ({each.share:.4g})" for each in document.experiment.challengers)
        said += f"; {document.experiment.mode}: {others}"
    if document.exploration is not None:
        said += f"; explores {document.exploration.share:.2%} of declines"
    return said


def _tell(document: Rollout, as_json: bool) -> None:
    import msgspec

    if as_json:
        output.result(msgspec.to_builtins(document))
        return
    output.remarks.print(f"Revision {document.revision}: {words(document)}", markup=False)


def _shares(given: list[str], versions: list[int]) -> dict[int, float]:
    """A share for each version: its own, or the same for all."""
    shares = [parse_share(text) for text in given]
    if len(shares) == 1:
        shares *= len(versions)
    if len(shares) != len(versions):
        raise ConfigError(f"{len(versions)} challengers need one --share, or one each, not {len(shares)}")
    if len(set(versions)) < len(versions):
        raise ConfigError("a challenger is named twice")
    return dict(zip(versions, shares, strict=True))


def chosen_entity(given: str | None, declared: Project) -> str | None:
    """The entity that stays in its arm: the one given, else the schema's first; None for the transaction itself."""
    names = declared.schema.entity_names
    if given is None:
        return names[0] if names else None
    if given and given not in names:
        raise ConfigError(f"the schema has no entity {given!r}; it has: {', '.join(names) or 'none'}")
    return given or None


def _guardrails(given: list[str] | None) -> Guardrails | None:
    """The default limits with some changed, or none."""
    import msgspec

    if given == ["none"]:
        return None
    pairs = [text.partition("=")[::2] for text in given or []]
    try:
        return msgspec.convert({name.strip(): value for name, value in pairs}, Guardrails, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Guardrails.__struct_fields__)
        raise ConfigError(f"--guardrail takes LIMIT=VALUE ({error}); the limits are: {known}") from None


def _exploration(share: str, most: float | None, declared: Project) -> Exploration | None:
    if parse_share(share) == 0:
        return None
    if most is not None and not math.isfinite(most):
        raise ConfigError(f"the largest explored amount must be a number, not {most:g}")
    decimals = declared.schema.amount.decimals if declared.schema.amount else 0
    return Exploration(parse_share(share), None if most is None else round(most * 10**decimals)).check()


def try_out(current: Settings, declared: Project, versions: list[int]) -> None:
    """Load what is to serve as a service would; raises BundleError with what is missing."""
    source = wiring.model_source(current, declared.feature_set)
    for version in versions:
        source.load(version)
