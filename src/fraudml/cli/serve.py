"""``fraudml serve``: the scoring API."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import ProjectFile, read_project, rejects_path, tell_rejects
from fraudml.decisions.keys import Scope, new_key
from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.service.state import ServiceState

FIRST_KEY = "first"


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("serve")(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind to; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 lets the system choose; default: 8000.")] = None,
    model: Annotated[str, typer.Option(help="Alias or version of the model.")] = "champion",
    history: Annotated[
        list[str] | None,
        typer.Option(help="History that features start from; default: the project's source; '' for none."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Only 1: for more start the command several times, over PostgreSQL and Redis.")
    ] = 1,
    project_file: ProjectFile = None,
) -> None:
    """Serve the champion over HTTP; features continue from history and from the decision log.

    Every decision is committed to the log before it is answered. The first start on a loopback address makes an
    API key and prints a curl command to paste.
    """
    if workers > 1:
        raise ConfigError(
            "fraudml serve is one process, which decides thousands a second. For more start it several times, each on "
            "its own --port or machine, with the same FRAUDML_DATABASE_URL=postgresql://... and FRAUDML_REDIS_URL"
        )
    declared, current = read_project(project_file)
    registry = wiring.registry_apart(current)
    registry.start()  # its process imports MLflow while this one imports what follows
    from fraudml.scoring import logs
    from fraudml.service.app import create_app
    from fraudml.service.auth import is_loopback
    from fraudml.service.server import BACKLOG, bind, server
    from fraudml.service.state import build_state

    changes = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    current = current.model_copy(update=changes)
    logs.configure(current.log_level)
    # what fails at once fails before minutes are spent on state
    with bind(current.host, current.port) as bound:
        with wiring.keys(current, declared.schema) as keys:
            if not is_loopback(current.host) and not keys.all():
                raise ConfigError("there is no API key yet; make one first: fraudml keys create NAME --scope score")
        past = wiring.history(current, declared, history, rejects_path(current, "serve"))
        with output.steps() as steps, steps.step("Load the model and rebuild features", unit="events") as progress:
            state = build_state(current, declared, model, registry, past.read, progress)
        tell_rejects(past.rejects())
        bound.listen(BACKLOG)  # from here on a client may come
        address = f"http://{_in_url(current.host)}:{bound.getsockname()[1]}"
        _tell(state, address, _first_key(state))
        server(create_app(state)).run(sockets=[bound])


def _first_key(state: ServiceState) -> str | None:
    """Where no key exists yet: a key for everything but administration."""
    store = state.log.keys
    if store.all():
        return None
    token, key = new_key(FIRST_KEY, [Scope.score, Scope.label, Scope.read])
    store.add(key)
    return token


def _tell(state: ServiceState, address: str, key: str | None) -> None:
    output.results.print(f"Model version {state.scorer.model.version} serves on {address} (docs: {address}/docs)")
    if key is None:
        return
    output.results.print("The first API key, shown only now; more with: fraudml keys create")
    output.results.print(f"  {key}", soft_wrap=True)
    output.results.print("Try it:")
    output.results.print(curl(address, key, dict(state.example)), soft_wrap=True, markup=False)


def curl(address: str, key: str, body: dict[str, Any]) -> str:
    """A ready-to-paste command that scores ``body``.

    >>> print(curl("http://127.0.0.1:8000", "fml_x", {"id": "1"}))
    curl -s http://127.0.0.1:8000/v1/predict -H 'Authorization: Bearer fml_x' -d '{"id":"1"}'
    """
    import msgspec

    data = shlex.quote(msgspec.json.encode(body).decode())
    return f"curl -s {address}/v1/predict -H 'Authorization: Bearer {key}' -d {data}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
