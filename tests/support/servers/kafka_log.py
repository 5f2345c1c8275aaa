"""Which messages of a broker's log no reader of committed messages may see, by the log's own markers.

A broker tells its consumers which transactions were aborted; the one of the tests does not, though it writes the
markers that say so. So this reads the log's batches, whose headers name the producer, and the markers (the record
format is KIP-98's).
"""

from __future__ import annotations

import socket
import struct

from tests.support.servers.process import LOOPBACK

FETCH, VERSION = 1, 4
TRANSACTIONAL, CONTROL, ABORT = 16, 32, 0
BYTES = 50_000_000
WAIT_MS = 50


def uncommitted(port: int, topic: str, partition: int) -> set[int]:
    """Offsets of messages in transactions that were aborted, or have not ended."""
    open_: dict[int, set[int]] = {}
    dropped: set[int] = set()
    offset = 0
    while batches := _fetch(port, topic, partition, offset):
        place = 0
        while place + 61 <= len(batches):
            first, length = struct.unpack_from("!qi", batches, place)
            if place + 12 + length > len(batches):
                break  # cut off; the next fetch begins with it
            attributes, last = struct.unpack_from("!hi", batches, place + 21)
            (producer,) = struct.unpack_from("!q", batches, place + 43)
            if attributes & CONTROL:
                ended = open_.pop(producer, set())
                if _marker(batches, place + 61) == ABORT:
                    dropped |= ended
            elif attributes & TRANSACTIONAL:
                open_.setdefault(producer, set()).update(range(first, first + last + 1))
            offset = first + last + 1
            place += 12 + length
        if place == 0:
            break
    return dropped.union(*open_.values())


def _fetch(port: int, topic: str, partition: int, offset: int) -> bytes:
    """The batches from an offset on, as they are stored."""
    name = struct.pack("!h", len(topic)) + topic.encode()
    body = struct.pack("!iiiib", -1, WAIT_MS, 1, BYTES, 0) + struct.pack("!i", 1) + name
    body += struct.pack("!iiqi", 1, partition, offset, BYTES)
    head = struct.pack("!hhih", FETCH, VERSION, 1, 5) + b"tests"
    with socket.create_connection((LOOPBACK, port), timeout=30) as connection:
        connection.sendall(struct.pack("!i", len(head + body)) + head + body)
        (size,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
        answer = connection.recv(size, socket.MSG_WAITALL)
    if struct.unpack_from("!i", answer, 8) == (0,):  # nothing came in time
        return b""
    place = 4 + 4 + 4 + 2 + len(topic) + 4  # correlation, throttle, one topic and its name, one partition
    _, error, _, _, aborted = struct.unpack_from("!ihqqi", answer, place)
    assert error == 0, f"the broker's error {error}"
    place += 26 + 16 * max(aborted, 0)
    (size,) = struct.unpack_from("!i", answer, place)
    return answer[place + 4 : place + 4 + max(size, 0)]


def _marker(batches: bytes, place: int) -> int:
    """The type of a control record: its key is a version and that."""
    _, place = _varint(batches, place)  # length
    place += 1  # attributes
    for _ in range(3):  # time, offset, length of the key
        _, place = _varint(batches, place)
    return int(struct.unpack_from("!hh", batches, place)[1])


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return (value >> 1) ^ -(value & 1), place
