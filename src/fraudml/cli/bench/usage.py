"""What a server uses while it is loaded: processor time and memory, from /proc where there is one."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

EVERY_S = 0.5
# Looking for child processes reads all of /proc, which takes milliseconds from the load: only the first times, and
# now and then.
EARLY, FAMILY_EVERY = 3, 20
PSS_EVERY = 2  # and the system walks through a process's memory for it, which takes milliseconds, too
MIB = 2**20
PSS, RSS = "PSS", "sum of RSS"
_PROC = Path("/proc")
_STEAL = 8  # its place in a core's line of /proc/stat
_PSS_LINE = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)


class Usage(msgspec.Struct, frozen=True):
    """A server's use between two moments, its child processes included; ``cpu_percent`` is of one core.

    ``first_third_mib`` and ``last_third_mib`` are means: where they are equal, memory does not grow. ``memory`` says
    what was measured: :data:`PSS` shares out the pages that several processes use, :data:`RSS` counts them for each.
    ``stolen_percent``: how long the server's cores were ready to work, on average, while the host of this virtual
    machine gave them to others; no server can answer then.
    """

    cpu_percent: float
    stolen_percent: float
    start_mib: float
    end_mib: float
    peak_mib: float
    first_third_mib: float
    last_third_mib: float
    memory: str


class Sampler:
    """Watches a process and its children."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._moments: list[float] = []
        self._cpu_s: list[float] = []
        self._stolen_s: list[float] = []
        self._memory: list[int] = []
        self._kind = RSS if _pss(pid) is None else PSS

    def between(self, begin: float, end: float) -> Usage | None:
        """The use between two times of ``time.perf_counter``, once stopped; ``None`` where it is not known."""
        moments, memory = np.array(self._moments), np.array(self._memory) / MIB
        if len(moments) < 2:
            return None
        # From the last sample before to the first one after: on a busy machine there may be none between.
        first = max(int(np.searchsorted(moments, begin, "right")) - 1, 0)
        last = int(np.searchsorted(moments, end, "left"))
        cpu = np.interp([begin, end], moments, self._cpu_s)
        stolen = np.interp([begin, end], moments, self._stolen_s)
        used = memory[first : last + 1]
        third = -(-len(used) // 3)
        return Usage(
            cpu_percent=float(cpu[1] - cpu[0]) / (end - begin) * 100,
            stolen_percent=float(stolen[1] - stolen[0]) / (end - begin) * 100,
            start_mib=float(used[0]),
            end_mib=float(used[-1]),
            peak_mib=float(used.max()),
            first_third_mib=float(used[:third].mean()),
            last_third_mib=float(used[-third:].mean()),
            memory=self._kind,
        )

    def run(self) -> None:
        """Take samples until told to stop, and a last one then."""
        family: set[int] = set()
        cores = {f"cpu{core}" for core in _cores(self._pid)}
        memory, stopped, last = 0, False, False
        while not last:
            last = stopped
            if len(self._moments) < EARLY or len(self._moments) % FAMILY_EVERY == 0:
                family = _family(self._pid)
            used = [found for found in map(_stat, family) if found is not None]
            if self._kind == RSS:
                memory = _rss(used)
            elif len(self._moments) % PSS_EVERY == 0:
                memory = sum(_pss(each) or 0 for each in family)
            if used:
                self._moments.append(time.perf_counter())
                self._cpu_s.append(sum(each.ticks for each in used) / os.sysconf("SC_CLK_TCK"))
                self._stolen_s.append(_stolen_s(cores))
                self._memory.append(memory)
            stopped = self._stop.wait(EVERY_S)

    def stop(self) -> None:
        """Make :meth:`run` return."""
        self._stop.set()


@contextmanager
def watched(pid: int | None) -> Iterator[Sampler | None]:
    """A sampler of this process that runs inside the block; none without a process, or without /proc."""
    if pid is None or _stat(pid) is None:
        yield None
        return
    sampler = Sampler(pid)
    thread = threading.Thread(target=sampler.run, name="usage", daemon=True)
    thread.start()
    try:
        yield sampler
    finally:
        sampler.stop()
        thread.join()


class _Stat(NamedTuple):
    parent: int
    ticks: int
    pages: int


def _stat(pid: int) -> _Stat | None:
    """What the system says of a process, if it is there."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return _Stat(int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21]))


def _cores(pid: int) -> set[int]:
    """The cores on which a process may run."""
    try:
        return os.sched_getaffinity(pid)
    except (AttributeError, OSError):  # another system, or the process is gone
        return set(range(os.cpu_count() or 1))


def _stolen_s(cores: set[str]) -> float:
    """For how long the host has let these cores (cpu0, ...) wait, on average, since it started them."""
    try:
        lines = (_PROC / "stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    ticks = [int(fields[_STEAL]) for line in lines if len(fields := line.split()) > _STEAL and fields[0] in cores]
    return sum(ticks) / max(len(ticks), 1) / os.sysconf("SC_CLK_TCK")


def _rss(used: list[_Stat]) -> int:
    return sum(each.pages for each in used) * os.sysconf("SC_PAGE_SIZE")


def _pss(pid: int) -> int | None:
    """A process's part of the memory that it uses, in bytes; ``None`` where the system does not tell."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return None
    found = _PSS_LINE.search(text)
    return int(found[1]) * 1_024 if found else None


def _family(pid: int) -> set[int]:
    """A process and its descendants."""
    everyone = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]
    parents = {each: found.parent for each in everyone if (found := _stat(each)) is not None}
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return family
