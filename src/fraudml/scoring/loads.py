"""Calls of a registry that may hang, and the models that such calls bring."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from fraudml.decisions.model import Model
from fraudml.errors import RegistryError

T = TypeVar("T")


class Call(Generic[T]):
    """A call that has begun, in a thread of its own that dies with the process."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._began_s = time.monotonic()
        self._future: Future[T] = Future()

        def run() -> None:
            try:
                self._future.set_result(call())
            except BaseException as error:  # raised again by result()
                self._future.set_exception(error)

        # not an executor: the interpreter would wait for its threads before it ends
        threading.Thread(target=run, name="model-refresh-call", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether it has a result, or has failed."""
        return self._future.done()

    def wait(self, patience_s: float, deadline_s: float) -> bool:
        """Whether it ends within ``patience_s``; RegistryError where ``deadline_s`` after its beginning comes first."""
        left_s = self._began_s + deadline_s - time.monotonic()
        wait([self._future], max(0.0, min(patience_s, left_s)))
        if not self.ended and left_s <= patience_s:
            raise RegistryError(f"the model registry did not answer within {deadline_s:g} s")
        return self.ended

    def result(self) -> T:
        """What it gave, or its error; only after it has ended."""
        return self._future.result(0)


class Loads:
    """Models on their way, each version by itself: one that hangs holds up no other, and is not begun twice.

    For one thread. ``load`` gives the model of a version and may raise anything.
    """

    def __init__(self, load: Callable[[int], Model], deadline_s: float) -> None:
        self._load = load
        self._deadline_s = deadline_s
        self._begun: dict[int, Call[Model]] = {}

    def model(self, version: int, patience_s: float) -> Model | None:
        """The model of a version, or ``None`` when it is still on its way after ``patience_s``.

        Raises RegistryError when its deadline has passed, and what ``load`` raises; then the next call begins anew.
        """
        if version not in self._begun:
            self._begun[version] = Call(lambda: self._load(version))
        call = self._begun[version]
        if not call.wait(patience_s, self._deadline_s):
            return None
        try:
            return call.result()
        except BaseException:
            del self._begun[version]
            raise

    def keep(self, versions: Collection[int]) -> None:
        """Drop what has come of other versions; what is still on its way is dropped when it is here."""
        self._begun = {v: call for v, call in self._begun.items() if v in versions or not call.ended}
