"""The journal as one file: a header line, then a frame for each append.

The header holds the format and a hash of the schema's names of entities and attributes: values have no names in
frames, only places. A frame is its length and its number of decisions, the CRC-32 of these two, the CRC-32 of what
follows, and then the decisions in MessagePack.

An append that did not return leaves a file that ends inside its frame, or in zeros: after a power cut the file may be
as long as it should be, but lack data at its end. So a last frame that ends where the file ends, whose checksum is
wrong and whose last byte is a zero, which no whole frame ends in, is such an append too. They are cut off by the next
append. Anything else that is not as written is damage.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from io import FileIO
from pathlib import Path
from zlib import crc32

import msgspec

from fraudml.adapters.log._lock import FileLock
from fraudml.decisions.record import Decision
from fraudml.errors import DecisionLogError

FORMAT = b"fraudml journal 2 "  # another number is refused; the hash of the names and a line feed follow
HEADER_SIZE = len(FORMAT) + 13
_SIZES = struct.Struct("<II")  # bytes and decisions
_FRAME = struct.Struct("<IIII")  # the same with both checksums
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Decision]).decode


class FileJournal:
    """:class:`fraudml.decisions.journal.Journal` in one file, readable by its owner only, made by the first append.

    An existing file is checked and counted; ``DecisionLogError`` when it is damaged, of another format, or holds
    decisions under other ``names`` than these: those of the schema, in the order of the values. ``claim``: a lock that
    is released with it.
    """

    def __init__(self, path: Path, names: Sequence[str] = (), claim: FileLock | None = None) -> None:
        self._path = path
        self._claim = claim
        self._header = FORMAT + sha256(msgspec.json.encode(list(names))).hexdigest()[:12].encode() + b"\n"
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._count = 0
        self._end = 0  # of what is held; 0 when not even the header is there
        self._is_clean = False  # whether the file is known to end there
        with _failures("opening", path):
            if path.exists():
                self._file = self._open()
                try:
                    self._check(self._file)
                except BaseException:
                    self._file.close()
                    raise

    def append(self, decisions: Sequence[Decision]) -> None:
        """One frame, one fsync."""
        if not decisions:
            return
        payload = _encode(decisions)
        sizes = _SIZES.pack(len(payload), len(decisions))
        frame = sizes + struct.pack("<II", crc32(sizes), crc32(payload)) + payload
        with self._lock, _failures("writing to", self._path):
            file = self._file = self._file or self._create()
            try:
                if not self._is_clean:
                    self._cut(file)
                _write(file, self._end, frame)
                os.fsync(file.fileno())
            except BaseException:
                self._is_clean = False
                self._cut(file)
                raise
            self._end += len(frame)
            self._count += len(decisions)

    def read(self) -> Iterator[Decision]:
        """Frame by frame."""
        with self._lock:
            end = self._end
        with _failures("reading", self._path):
            if end == 0:
                return
            with FileIO(self._path) as file:
                for start, size, _ in self._frames(file, end):
                    file.seek(start)
                    try:
                        decisions = _decode(_read(file, size))
                    except msgspec.DecodeError as error:
                        raise DecisionLogError(
                            f"the journal {self._path} holds what this version of fraudml cannot read ({error}): "
                            "start the version that wrote it"
                        ) from error
                    yield from decisions

    def clear(self) -> None:
        """Cut the file after its header."""
        with self._lock, _failures("clearing", self._path):
            if self._file is None:
                return
            self._is_clean = False
            self._count = 0
            self._end = min(self._end, HEADER_SIZE)
            self._cut(self._file)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            if self._claim is not None:
                self._claim.release()

    def _open(self) -> FileIO:
        def private(name: str, flags: int) -> int:
            return os.open(name, flags | os.O_CREAT, 0o600)

        return FileIO(self._path, "r+", opener=private)

    def _check(self, file: FileIO) -> None:
        """Find what is held, without changing the file: another process may be appending to it."""
        header = self._found_header(file)
        if not header:
            return
        end = HEADER_SIZE
        for start, size, count in self._frames(file):
            end = start + size
            self._count += count
        if header == self._header:
            self._end = end
        elif self._count:
            raise DecisionLogError(
                f"the journal {self._path} holds decisions that were made under other names of entities or attributes: "
                "restore the declarations, start once so that the log gets the decisions, then change them; "
                "or move the file away and keep it"
            )

    def _create(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._open()
        # the names must survive a power cut like what is in the file
        _sync_folder(self._path.parent)
        _sync_folder(self._path.parent.parent)
        return file

    def _cut(self, file: FileIO) -> None:
        """Remove what is after the last frame that counts; write the header where there is none yet."""
        os.ftruncate(file.fileno(), self._end)
        if self._end == 0:
            _write(file, 0, self._header)
        os.fsync(file.fileno())
        self._end = max(self._end, HEADER_SIZE)
        self._is_clean = True

    def _found_header(self, file: FileIO) -> bytes:
        """The file's own; nothing where the first append did not get further."""
        file.seek(0)
        found = _read(file, HEADER_SIZE)
        if len(found) == HEADER_SIZE and found.startswith(FORMAT):
            return found
        if not any(found) or FORMAT.startswith(found) or found.startswith(FORMAT):
            return b""
        raise DecisionLogError(
            f"{self._path} is no journal of this version of fraudml: start the version that wrote it, "
            "or move the file away and keep it, because there may be decisions in it that the log does not have"
        )

    def _frames(self, file: FileIO, end: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Start and size in bytes, and number of decisions, of each whole frame; its checksums are right."""
        size = os.fstat(file.fileno()).st_size if end is None else end
        place = HEADER_SIZE
        while place < size:
            file.seek(place)
            head = _read(file, _FRAME.size)
            if len(head) < _FRAME.size:
                return
            length, count, head_crc, payload_crc = _FRAME.unpack(head)
            if crc32(head[: _SIZES.size]) != head_crc:
                if any(head) or not _only_zeros(file):
                    raise self._damaged(place)
                return
            start = place + _FRAME.size
            if start + length > size:
                return
            payload = _read(file, length)
            if crc32(payload) != payload_crc:
                if end is None and start + length == size and payload.endswith(b"\0"):
                    return
                raise self._damaged(place)
            yield start, length, count
            place = start + length

    def _damaged(self, place: int) -> DecisionLogError:
        return DecisionLogError(
            f"the journal {self._path} is damaged at byte {place}: restore it from a backup, or move it away and keep "
            "it, because there are decisions in it that the log does not have; then start again"
        )


def claim(path: Path, names: Sequence[str], most: int) -> tuple[FileJournal, list[FileJournal]]:
    """A journal for this process alone, and those that processes which ended have left behind.

    The first process on this machine has ``path``; the others, when a log takes several, have numbered ones beside it.
    """
    with ExitStack() as opened, _failures("claiming", path):
        found: list[FileJournal] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in range(most):
            place = path.with_stem(f"{path.stem}-{number}") if number else path
            if found and not place.exists():
                continue
            lock = FileLock(place.with_name(f"{place.name}.lock"))
            if lock.acquire():
                opened.callback(lock.release)
                found.append(FileJournal(place, names, lock))
        if not found:
            raise DecisionLogError(f"{most} processes have a journal beside {path} already; stop one of them")
        opened.pop_all()
        return found[0], found[1:]


def _read(file: FileIO, size: int) -> bytes:
    """Up to ``size`` bytes; less only at the end of the file. One call of the system may give less."""
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(file: FileIO, place: int, data: bytes) -> None:
    """All of ``data``: one call of the system may take less, on a disk that is almost full, say."""
    file.seek(place)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _only_zeros(file: FileIO) -> bool:
    """Whether nothing but zeros follows in the file."""
    while part := file.read(1_000_000):
        if any(part):
            return False
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _failures(doing: str, path: Path) -> Iterator[None]:
    """Errors of the system become DecisionLogErrors that say what was being done."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DecisionLogError(
            f"{doing} the journal {path} failed: {error}; check its folder, its permissions and the free disk space"
        ) from error
