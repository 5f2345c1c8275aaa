"""Runs a load in a process of its own: its event loop shares nothing with what measures or shows it.

The files between the two are MessagePack. The child says on standard output how far it is.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from fraudml.cli.bench.child import Cores, running
from fraudml.cli.bench.load import ClosedLoad, Load, OpenLoad, Plan
from fraudml.cli.bench.record import Recorded, Recorder
from fraudml.cli.bench.requests import Feed, Requests
from fraudml.errors import FraudmlError
from fraudml.events.source import Progress

TELL_S = 0.25
_PLAN, _REQUESTS, _RESULT = "plan", "requests", "result"


def drive(plan: Plan, requests: Requests, cores: Cores = None, progress: Progress | None = None) -> Recorded:
    """Load a server as planned; raises FraudmlError when it cannot be reached."""
    with tempfile.TemporaryDirectory(prefix="fraudml-load-") as place:
        directory = Path(place)
        (directory / _PLAN).write_bytes(msgspec.msgpack.encode(plan))
        (directory / _REQUESTS).write_bytes(msgspec.msgpack.encode(requests))
        command = [sys.executable, "-m", "fraudml.cli.bench.driver", place]
        with running(command, cores, stdout=subprocess.PIPE) as process:
            said = _follow(process, plan, progress)
            code = process.wait()
        if code:
            raise FraudmlError(said or f"the load on {plan.host}:{plan.port} ended with exit code {code}")
        return msgspec.msgpack.decode((directory / _RESULT).read_bytes(), type=Recorded)


def _follow(process: subprocess.Popen[bytes], plan: Plan, progress: Progress | None) -> str:
    """Report how many requests were answered of how many (an estimate for a closed loop); returns an error's line."""
    last = ""
    for line in process.stdout or ():
        last = line.decode(errors="replace").strip()
        seconds, _, count = last.partition(" ")
        if progress is not None and count.isdecimal():
            share = min(float(seconds) / plan.whole_s, 1.0)
            whole = round(plan.whole_s * plan.rate) if plan.rate else round(int(count) / max(share, 0.01))
            progress(int(count), max(whole, int(count)))
    return last


def main(directory: Path) -> None:
    """The child's part."""
    plan = msgspec.msgpack.decode((directory / _PLAN).read_bytes(), type=Plan)
    requests = msgspec.msgpack.decode((directory / _REQUESTS).read_bytes(), type=Requests)
    try:
        found = run(plan, requests, tell=True)
    except OSError as error:
        reason = error.strerror or error
        sys.exit(_say(f"cannot connect to {plan.host}:{plan.port}: {reason}; is the service running there?"))
    (directory / _RESULT).write_bytes(msgspec.msgpack.encode(found))


def run(plan: Plan, requests: Requests, *, tell: bool = False) -> Recorded:
    """Load a server from this process, under uvloop where it is installed; raises OSError when it cannot be reached."""
    record = Recorder(requests.expected, batch=requests.batch > 0)
    feed = Feed(requests, f"{plan.host}:{plan.port}")
    kind = OpenLoad if plan.rate else ClosedLoad
    gc.collect()
    gc.freeze()  # a collection that walks through all bodies is a stall of ours that would be taken for the server's
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            load, cpu_s, seconds = runner.run(_run(kind, plan, feed, record, tell))
    finally:
        gc.enable()
        gc.unfreeze()
    return Recorded(
        zero=load.zero,
        started=record.started.tobytes(),
        latency=record.latency.tobytes(),
        status=record.status.tobytes(),
        errors=dict(record.errors),
        samples=record.samples,
        degraded=record.degraded,
        failed_items=record.failed_items,
        most_connections=load.most_connections,
        most_waiting=load.most_waiting,
        cpu_s=cpu_s,
        seconds=seconds,
    )


async def _run(kind: type[Load], plan: Plan, feed: Feed, record: Recorder, tell: bool) -> tuple[Load, float, float]:
    load = kind(plan, feed, record)  # inside the loop: it has an event of it
    telling = asyncio.create_task(_tell(record)) if tell else None
    cpu, wall = time.process_time(), time.perf_counter()
    await load.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if telling is not None:
        telling.cancel()
    return load, cpu, wall


async def _tell(record: Recorder) -> None:
    began = time.perf_counter()
    while True:
        await asyncio.sleep(TELL_S)
        _say(f"{time.perf_counter() - began:.2f} {len(record.status)}")


def _say(text: str) -> int:
    print(text, flush=True)  # noqa: T201 - this is how the child talks to its parent
    return 1


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return factory


if __name__ == "__main__":
    main(Path(sys.argv[1]))
