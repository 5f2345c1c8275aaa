"""``python -m benchmarks [NAME ...]``: run the benchmarks (all by default) and rewrite their sections of RESULTS.md."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from importlib import import_module

from benchmarks import common

NAMES = {
    "detection": "Detection quality (Handbook)",
    "families": "Model families (Handbook), and the cascade",
    "offline": "Offline features",
    "training": "Training by defaults",
    "compress": "Compression",
    "scoring": "Scoring a file",
    "online": "In-process online store",
    "redis_store": "Online store in Redis",
    "materialize": "Loading features into Redis",
    "log": "Decision log: PostgreSQL and SQLite",
    "chain": "What the chain of hashes costs",
    "observing": "What metrics, logs and audit cost",
    "serving": "Serving",
    "backends": "Serving on PostgreSQL and Redis",
    "cache": "Prediction cache",
    "rollout": "Changing models under traffic",
    "stream": "A worker on a stream",
}
RESULTS = common.ROOT / "benchmarks" / "RESULTS.md"


def main(names: list[str]) -> None:
    """Run the named benchmarks one after the other."""
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    for name in names or NAMES:
        print(f"== {NAMES[name]}", flush=True)
        module = import_module(f"benchmarks.{name}")
        section = module.run()
        print(section, flush=True)
        if getattr(module, "PARTIAL", False):
            print("Only a part was measured: RESULTS.md stays as it is.", flush=True)
        else:
            _write(name, section)


def _write(name: str, section: str) -> None:
    text = RESULTS.read_text() if RESULTS.exists() else "# Benchmark results\n"
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, {common.machine()}"
    measured = f"Measured {stamp}, with `python -m benchmarks {name}`."
    block = f"<!-- {name} -->\n## {NAMES[name]}\n\n{section}\n\n{measured}\n<!-- /{name} -->"
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    RESULTS.write_text(text)


main(sys.argv[1:])
