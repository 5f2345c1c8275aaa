"""``fraudml keys``: API keys of the service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project
from fraudml.decisions.keys import Scope, new_key
from fraudml.events.units import parse_duration

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


def add(parent: typer.Typer) -> None:
    """Register the group of commands."""
    parent.add_typer(app, name="keys")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="A name to recognise the key by.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do (may be repeated).")] = [Scope.score],  # noqa: B006
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, such as 90d; default: until it is revoked.")
    ] = None,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it once; only its hash is stored."""
    declared, current = read_project(project_file)
    token, key = new_key(name, scope, None if expires is None else parse_duration(expires))
    with wiring.keys(current, declared.schema) as store:
        store.add(key)
    if as_json:
        document = {"name": key.name, "key": token, "scopes": key.scopes, "expires": _when(key.expires_at_us)}
        output.result(document)
        return
    until = "" if key.expires_at_us is None else f", until {_when(key.expires_at_us)}"
    output.remarks.print(f"Key {key.name!r} may: {', '.join(key.scopes)}{until}. It is shown only now:")
    typer.echo(token)


@app.command("list")
def list_keys(project_file: ProjectFile = None, as_json: AsJson = False) -> None:
    """List the keys, revoked ones too; never the keys themselves."""
    declared, current = read_project(project_file)
    with wiring.keys(current, declared.schema) as store:
        found = store.all()
    if as_json:
        output.result(
            [
                {
                    "name": key.name,
                    "scopes": key.scopes,
                    "created": _when(key.created_at_us),
                    "revoked": _when(key.revoked_at_us),
                    "expires": _when(key.expires_at_us),
                }
                for key in found
            ]
        )
        return
    rows = [
        [k.name, ", ".join(k.scopes), *(_when(t) or "" for t in (k.created_at_us, k.revoked_at_us, k.expires_at_us))]
        for k in found
    ]
    output.table(["name", "scopes", "created", "revoked", "expires"], rows)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    project_file: ProjectFile = None,
) -> None:
    """Revoke a key; running services refuse it within seconds."""
    declared, current = read_project(project_file)
    with wiring.keys(current, declared.schema) as store:
        store.revoke(name)
    output.remarks.print(f"Key {name!r} is revoked.")


def _when(moment_us: int | None) -> str | None:
    if moment_us is None:
        return None
    return datetime.fromtimestamp(moment_us / 1_000_000, UTC).isoformat(timespec="seconds")
