"""``fraudml models gc``: delete versions that nothing refers to."""

from __future__ import annotations

from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile, read_project


def collect(
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest versions stay in any case.")] = 10,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it they are only listed.")] = False,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete versions that no rollout, no decision and no alias refers to; without --yes only list them."""
    from fraudml.models.garbage import unreferenced

    declared, current = read_project(project_file)
    registry = wiring.registry(current)
    log = wiring.decision_log(current, declared.schema)
    try:
        decided = log.model_versions()
    finally:
        log.close()
    # the log first: what serves later than this is in the history that is read after it
    found = unreferenced(registry.versions(), registry.rollouts(), decided, keep)
    for version in found if yes else ():
        registry.delete(version.version)
    if as_json:
        output.result({"deleted": yes, "versions": [version.version for version in found]})
        return
    if not found:
        output.remarks.print("Nothing to delete: every version is referred to, or among the newest.")
        return
    output.table(["version", "family", "created"], [[str(v.version), v.family, v.created_at] for v in found])
    output.remarks.print("Deleted." if yes else "Nothing was deleted; do it with: fraudml models gc --yes")
