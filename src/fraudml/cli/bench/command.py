"""``fraudml bench serve``: how many transactions a server takes, and how long they take."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.errors import ConfigError, FraudmlError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fraudml.cli.bench.child import Places
    from fraudml.cli.bench.load import Plan
    from fraudml.cli.bench.requests import Requests
    from fraudml.cli.bench.results import Figures
    from fraudml.cli.bench.server import Target

MOST_PER_S = 20_000  # transactions that a closed loop prepares for each second
DRAIN_S, BATCH_DRAIN_S = 10.0, 60.0  # given to what is under way at the end
RESULTS, PLOT, FLAME = "serve.json", "serve.png", "serve.svg"

app = typer.Typer(help="Measure a server under load.", no_args_is_help=True)


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="bench")


@app.callback()
def group() -> None:
    """Measure a server under load."""


@app.command("serve")
def serve(
    connections: Annotated[list[int], typer.Option(min=1, max=4096, help="Connections (may be repeated).")] = [16],  # noqa: B006
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Requests a second of an open loop; without it the loop is closed.")
    ] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random arrivals; else evenly spaced ones.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before that; they do not count.")] = 2.0,
    batch: Annotated[int, typer.Option(min=0, help="Transactions a batch request; 0: one request each.")] = 0,
    entities: Annotated[int, typer.Option(min=1, help="Keys of each entity.")] = 10_000,
    skew: Annotated[float, typer.Option(min=0, help="The r-th most frequent key comes 1 / r^skew as often.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same transactions but for ids and times.")] = 7,
    url: Annotated[str | None, typer.Option(help="A running service, such as http://127.0.0.1:8000.")] = None,
    key: Annotated[str | None, typer.Option(help="An API key with the scope score, for --url.")] = None,
    model: Annotated[str, typer.Option(help="Alias or version of the model to serve.")] = "champion",
    history: Annotated[
        list[str] | None, typer.Option(help="History that features start from (may be repeated); default: none.")
    ] = None,
    pin: Annotated[bool, typer.Option(help="Server on one core, load on the others, where there are two.")] = True,
    profile: Annotated[bool, typer.Option("--profile", help="Write a flame graph of the server.")] = False,
    directory: Annotated[Path, typer.Option("--output", "-o", help="Directory for results and plots.")] = Path("bench"),
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Load a real server over TCP and print throughput, latency, errors, CPU and memory.

    By default it starts a service of its own, on a copy of the champion and with a home that is removed afterwards:
    nothing of the project changes. With --url it loads a running one, which records every transaction that is sent.
    """
    from fraudml.cli.bench import child, results, server, traffic
    from fraudml.cli.bench.load import Plan
    from fraudml.cli.demo import processes
    from fraudml.monitoring import profile as profiling

    declared, current = read_project(project_file)
    if profile:
        profiling.tool()
        if url is not None:
            raise ConfigError("--profile needs a service of its own; leave out --url")
    _check(connections, rate, batch, poisson, current.max_batch)
    place = child.places(pin=pin)
    exact = place.load is not None  # an open loop that waits actively needs a core for it
    if url is not None:
        place = child.Places()
    target = server.given(url, key) if url is not None else None
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(processes.ended_by_signals())
        steps = stack.enter_context(output.steps(quiet=as_json))
        if target is None:
            with steps.step("Start a service on a copy of the model", unit="steps"):
                own = server.own(current, declared, project_file or current.project, model, history or [], place.server)
                target = stack.enter_context(own)
        stack.enter_context(child.on(place.load))
        loads: list[tuple[Figures, NDArray[np.float64]]] = []
        for count in connections:
            plan = Plan(
                target.host,
                target.port,
                count,
                seconds,
                warmup,
                rate,
                poisson,
                seed,
                drain_s=BATCH_DRAIN_S if batch else DRAIN_S,
                spin=exact,
            )
            bodies = round(plan.whole_s * (rate * max(batch, 1) if rate else MOST_PER_S))
            made = traffic.requests(
                declared.schema, target.key, entities=entities, skew=skew, seed=seed, bodies=bodies, batch=batch
            )
            name = f"Open loop, {rate:,g}/s" if rate else f"Closed loop, {count} connections"
            with steps.step(name, unit="requests") as progress:
                picture = directory / FLAME if profile and not loads else None
                loads.append(measure(target, plan, made, place, progress, picture))
    found = [load for load, _ in loads]
    document = _document(found, target, place, entities=entities, skew=skew, seed=seed, poisson=poisson)
    if profile:
        document["profile"] = str(directory / FLAME)
    document["plot"] = str(directory / PLOT)
    results.plot(loads, directory / PLOT)
    _write(document, directory / RESULTS)
    if as_json:
        output.result(document)
    else:
        results.show(found)
        output.remarks.print(f"Written to {directory}: {', '.join(sorted(_names(profile)))}")
    _refuse_silence(found)


def measure(
    target: Target,
    plan: Plan,
    requests: Requests,
    place: Places,
    progress: Any = None,
    flame_graph: Path | None = None,
) -> tuple[Figures, NDArray[np.float64]]:
    """Load a server once: figures, and the latencies (seconds) that they are made of."""
    from fraudml.cli.bench import driver, flame, latency, results, usage

    with ExitStack() as stack:
        if flame_graph is not None and target.pid is not None:
            stack.enter_context(flame.recording(target.pid, flame_graph, plan.whole_s, place.load))
        sampler = stack.enter_context(usage.watched(target.pid))
        recorded = driver.drive(plan, requests, place.load, progress)
    found = results.figures(plan, recorded, requests.batch, sampler, profiled=flame_graph is not None)
    return found, latency.latencies(plan, recorded)


def _check(connections: list[int], rate: float | None, batch: int, poisson: bool, max_batch: int) -> None:
    if rate is not None and len(connections) > 1:
        raise ConfigError("an open loop opens the connections it needs; give --connections once, or leave out --rate")
    if poisson and rate is None:
        raise ConfigError("--poisson is about the arrivals of an open loop; add --rate")
    if batch > max_batch:
        raise ConfigError(f"--batch {batch} is more than the service takes at once ({max_batch}, FRAUDML_MAX_BATCH)")


def _document(loads: list[Figures], target: Target, place: Places, **settings: Any) -> dict[str, Any]:
    from fraudml import __version__

    return {
        "fraudml": __version__,
        "url": f"http://{target.host}:{target.port}",
        "own_service": target.pid is not None,
        "model_version": target.model_version,
        "pinned": {"server": sorted(place.server or ()), "load": sorted(place.load or ())},
        **settings,
        "loads": loads,
    }


def _write(document: dict[str, Any], path: Path) -> None:
    import msgspec

    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _names(profile: bool) -> set[str]:
    return {RESULTS, PLOT} | ({FLAME} if profile else set())


def _refuse_silence(loads: list[Figures]) -> None:
    """A load without one good answer measured nothing."""
    for load in loads:
        if not load.throughput_per_s:
            kind = next(iter(load.errors), "no answer in time; choose more --seconds")
            raise FraudmlError(f"no request was answered well: {kind} {load.samples.get(kind, '')}".rstrip())
