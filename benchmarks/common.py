"""What all benchmarks share: the data, the machine, tables, memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fraudml import project
from fraudml.settings import Settings

ROOT = Path(__file__).parents[1]
HANDBOOK = Path(os.environ.get("FRAUDML_HANDBOOK", ROOT.parent / "shared/data/handbook/transactions.parquet"))
LABEL_DELAY = "7d"
# A child starts with the peak memory of the process that forked it, so a small one stands in between: run a command,
# write its seconds and its peak in KiB to a file.
_LAUNCH = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[2:])
seconds = time.perf_counter() - started
with open(sys.argv[1], "w") as report:
    report.write(f"{seconds} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")
sys.exit(code)
"""


def handbook() -> Path:
    """The Handbook's transactions, or an explanation of how to get them."""
    if not HANDBOOK.exists():
        sys.exit(
            "The benchmarks need the transactions of the Fraud Detection Handbook as one Parquet file; "
            "set FRAUDML_HANDBOOK to its path (see benchmarks/README.md)."
        )
    return HANDBOOK


def machine() -> str:
    """Processor, cores, memory, Python: what a figure was measured on."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{model}, {cores} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def command(*arguments: str, home: Path) -> tuple[float, float, str]:
    """Run a fraudml command as its users do: (seconds, peak memory in GiB, standard output)."""
    report = home / "command.txt"
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCH, str(report), sys.executable, "-m", "fraudml", *arguments],
        cwd=home,
        env={**os.environ, "FRAUDML_HOME": str(home / ".fraudml")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, peak = (float(figure) for figure in report.read_text().split())
    return seconds, peak / 2**20, done.stdout


def peak_memory() -> float:
    """The largest resident size of this process so far, in GiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**20


def workspace() -> tempfile.TemporaryDirectory[str]:
    """A directory for one benchmark, removed afterwards."""
    return tempfile.TemporaryDirectory(prefix="fraudml-bench-")


def handbook_project(home: Path) -> project.Project:
    """The project that ``fraudml init`` makes of the Handbook's file, with its label delay of a week."""
    command(
        "init",
        str(handbook()),
        "--yes",
        "--label-delay",
        LABEL_DELAY,
        "--output",
        str(home / "fraudml.yaml"),
        home=home,
    )
    return project.read(home / "fraudml.yaml")


def settings(home: Path) -> Settings:
    """Settings for one benchmark's directory."""
    return Settings(home=home / ".fraudml", project=home / "fraudml.yaml")
