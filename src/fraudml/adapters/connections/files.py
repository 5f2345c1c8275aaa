"""Files below a URL, by fsspec: a directory of this machine, or a prefix of an object store."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from fraudml.decisions.servers import ServerFacts, Trial
from fraudml.errors import ConfigError, FraudmlError, MissingExtra, StoreError, WarehouseError

COMMON = ("file", "memory", "s3", "gs", "abfs")  # known to be files also where fsspec is not installed
FORMS = "file:///data/lake or s3://bucket/lake"
SCRATCH = "_fraudml/scratch"
HINTS = {
    errno.ENOSPC: "free space there, and run it again",
    errno.EDQUOT: "free space there or raise the quota, and run it again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and run it again",
    errno.EACCES: "let this user read, write and delete there",
    errno.EPERM: "let this user read, write and delete there",
    errno.EROFS: "it can only be read: name another place in {}",
    errno.ENOENT: "check the place in {}",
    errno.ENOTDIR: "check the place in {}: a part of its path is a file",
}
OTHERWISE = "check {}, the credentials and the network, and run it again"


def facts(url: str, setting: str) -> ServerFacts:
    """What ``fraudml doctor`` says of such a place; raises ``WarehouseError`` when fraudml could not write there."""
    opened = open_files(url, setting)
    started = time.perf_counter()
    with opened.failures(WarehouseError, "being tried"):
        opened.check()
    took_ms = (time.perf_counter() - started) * 1e3
    return ServerFacts(
        place=opened.place, product="fsspec", version=version("fsspec"), latency_ms=took_ms, trials=(Trial("write"),)
    )


def is_files(url: str) -> bool:
    """Whether a URL names files, as far as that can be told without the driver.

    >>> is_files("s3://bucket/prefix"), is_files("postgresql://host/db"), is_files("lake")
    (True, False, False)
    """
    scheme, separator, _ = url.partition(":")
    if not separator:
        return False
    with suppress(ImportError):
        import fsspec

        return scheme in COMMON or scheme in fsspec.available_protocols()
    return scheme in COMMON


def open_files(url: str, setting: str) -> Files:
    """The files below a URL; raises ``ConfigError`` when it is none or its driver is missing, and ``MissingExtra``.

    ``setting``: where the URL is from. What a driver is to be told besides is in the environment: credentials as its
    own clients find them, and ``FSSPEC_S3_ENDPOINT_URL`` and its like.
    """
    try:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem
    except ImportError:
        raise MissingExtra("lake") from None
    scheme = url.partition(":")[0]
    try:
        # no cached instance and no cached listing: another process may have written meanwhile
        system, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise ConfigError(f"{setting} starts with {scheme}:, {_missing_driver(scheme, error)}") from None
    except Exception as error:  # its text may repeat the URL
        raise ConfigError(f"{setting} names no place for files ({type(error).__name__}); write {FORMS}") from error
    if not root.strip("/"):
        raise ConfigError(f"{setting} names no directory or prefix below which files could be; write {FORMS}")
    return (LocalFiles if isinstance(system, LocalFileSystem) else Files)(system, root, setting)


class Files:
    """Those below one place. Names are relative to it, with ``/``.

    Methods raise errors of the system and of the driver, which :meth:`failures` translates. What is written is there
    whole or not at all, as object stores have it: see docs/howto/keep-history-as-parquet.md on other stores.
    """

    def __init__(self, system: Any, root: str, setting: str) -> None:
        self._system = system
        self._root = root.rstrip("/")
        self._setting = setting
        self._scratch: Path | None = None
        self.place: str = system.unstrip_protocol(self._root)

    def below(self, folder: str) -> list[str]:
        """The names of all files below a folder; one that is not there has none."""
        self._system.invalidate_cache()
        return [self._name(path) for path in self._system.find(self._path(folder))]

    def inside(self, folder: str) -> list[str]:
        """The names of the files in a folder, not below it."""
        self._system.invalidate_cache()
        try:
            return [self._name(path) for path in self._system.ls(self._path(folder), detail=False)]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        """All of a file."""
        return bytes(self._system.cat_file(self._path(name)))

    def open(self, name: str) -> IO[bytes]:
        """A file to read from anywhere; raises ``FileNotFoundError``."""
        opened: IO[bytes] = self._system.open(self._path(name), "rb")
        return opened

    def create(self, name: str, data: bytes) -> None:
        """Make a file that is not there; raises ``FileExistsError``, and of several processes only one makes it."""
        self._system.pipe_file(self._path(name), data, mode="create")

    def put(self, made: Path, name: str) -> None:
        """Move a file of :meth:`scratch` to its place."""
        self._system.put_file(str(made), self._path(name))
        made.unlink()

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there do not matter."""
        if not names:
            return
        try:
            self._system.rm([self._path(name) for name in names])  # by hundreds, where the store can
        except FileNotFoundError:
            for name in names:
                with suppress(FileNotFoundError):
                    self._system.rm_file(self._path(name))

    def scratch(self) -> Path:
        """A folder of this machine in which files are made."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="fraudml-"))
        return self._scratch

    def begin(self) -> None:
        """Remove what a process has left here that was killed. Object stores have no folders to be made."""

    def check(self) -> None:
        """Raise what stands against writing there."""
        name = f"{SCRATCH}/{uuid4().hex}"
        self.create(name, b"of fraudml doctor")
        self.remove([name])

    def close(self) -> None:
        """Remove the folder of :meth:`scratch`."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    @contextmanager
    def failures(self, kind: type[StoreError], doing: str) -> Iterator[None]:
        """Errors become ``kind``, with what can be done about them; drivers raise whatever they like."""
        try:
            yield
        except FraudmlError:
            raise
        except Exception as error:
            number = error.errno if isinstance(error, OSError) else None
            said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            hint = HINTS.get(number or 0, OTHERWISE).format(self._setting)
            raise kind(f"{self.place} failed while {doing}: {' '.join(said.split())}; {hint}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.lstrip("/").removeprefix(self._root.lstrip("/") + "/")


class LocalFiles(Files):
    """Those of a directory: here a file comes to its place by a rename, and survives a power cut."""

    def below(self, folder: str) -> list[str]:
        """A folder that cannot be read is an error, not an empty one."""

        def refused(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        return [
            self._name((Path(where) / name).as_posix())
            for where, _, names in os.walk(self._path(folder), onerror=refused)
            for name in names
        ]

    def create(self, name: str, data: bytes) -> None:
        """A link to a whole file: it fails where the name is taken, which a rename does not."""
        target, made = Path(self._path(name)), self.scratch() / uuid4().hex
        _folder(target.parent)
        made.write_bytes(data)
        _sync(made)
        try:
            os.link(made, target)
        finally:
            made.unlink()
        _sync(target.parent)

    def put(self, made: Path, name: str) -> None:
        """A rename."""
        target = Path(self._path(name))
        _folder(target.parent)
        _sync(made)
        made.replace(target)
        _sync(target.parent)

    def remove(self, names: Sequence[str]) -> None:
        """One by one."""
        for name in names:
            Path(self._path(name)).unlink(missing_ok=True)

    def scratch(self) -> Path:
        """On the same disk: a rename does not copy."""
        folder = Path(self._path(SCRATCH))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def check(self) -> None:
        """A folder that is not there yet is not made."""
        there = next(path for path in (Path(self._root), *Path(self._root).parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.R_OK | os.W_OK | os.X_OK)):
            number = errno.EACCES if there.is_dir() else errno.ENOTDIR
            raise OSError(number, os.strerror(number))

    def begin(self) -> None:
        """Empty the folder of :meth:`scratch`."""
        for left in self.scratch().iterdir():
            left.unlink(missing_ok=True)


def _folder(path: Path) -> None:
    """Make a folder, durably."""
    if not path.is_dir():
        _folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing_driver(scheme: str, error: ImportError) -> str:
    from fsspec.registry import known_implementations

    package = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
    if package in ("", "fsspec"):  # a driver of fsspec's own says itself what it lacks
        return f"which lacks a package: {' '.join(str(error).split())}"
    return f"which needs a driver; install it with: pip install {package}"
