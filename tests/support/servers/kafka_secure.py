"""TLS and logins in front of the tests' broker, which has neither without a database.

Clients come by TLS, with a certificate of their own where that is asked for, and log in by SCRAM (RFC 5802). Of who
asks for more before than the broker's versions the connection is closed; what is asked afterwards is passed on.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.servers.kafka import KafkaServer
from tests.support.servers.process import LOOPBACK

API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
MECHANISM = "SCRAM-SHA-512"
ITERATIONS = 4_096
FAILED = 58  # SASL_AUTHENTICATION_FAILED
Logins = dict[str, str]


class Files(NamedTuple):
    """PEM files: whom to trust, and one that this authority vouches for, with its key."""

    ca: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Files:
    """An authority of our own, and a certificate for this machine."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("tests", LOOPBACK)]
    made = []
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        builder = (
            x509.CertificateBuilder(names[0], name, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), False)
        )
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = Files(folder / "ca.pem", folder / "own.pem", folder / "own.key")
    files.ca.write_bytes(made[0])
    files.certificate.write_bytes(made[1])
    files.key.write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, *plain))
    return files


class SecureKafka:
    """A broker that is reached by TLS only. ``logins``: passwords by name, if one is asked for; ``mutual``: clients
    show certificates, too."""

    def __init__(self, files: Files, logins: Logins | None = None, *, mutual: bool = False) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.certificate, files.key)
        self._context.load_verify_locations(files.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
        self._logins = logins
        self._listener = socket.create_server((LOOPBACK, 0))
        self._open: list[socket.socket] = []
        self.servers = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._broker = KafkaServer(advertised=self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End both, with all connections."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._broker.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), self._context.wrap_socket(client, server_side=True) as secure:
            self._open.append(secure)
            with socket.create_connection((LOOPBACK, self._broker.port)) as broker:
                login = None if self._logins is None else Scram(self._logins)
                while True:
                    request = _frame(secure)
                    kind, version, number = struct.unpack_from("!hhi", request)
                    if login is not None and kind == HANDSHAKE:
                        name = MECHANISM.encode()
                        answer = struct.pack("!hih", 0, 1, len(name)) + name
                    elif login is not None and kind == AUTHENTICATE:
                        answer = login.answer(_token(request)) + (bytes(8) if version else b"")
                    elif login is None or login.done or kind == API_VERSIONS:
                        broker.sendall(struct.pack("!i", len(request)) + request)
                        answer, number = (told := _frame(broker))[4:], struct.unpack_from("!i", told)[0]
                    else:
                        return
                    secure.sendall(struct.pack("!ii", len(answer) + 4, number) + answer)


class Scram:
    """The server's side of one login."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._messages: list[bytes] = []
        self._salted = b""
        self.done = False

    def answer(self, token: bytes) -> bytes:
        """What SaslAuthenticate answers to a client's message."""
        if not self._messages:
            bare = token.partition(b",,")[2]
            fields = dict(part.split(b"=", 1) for part in bare.split(b","))
            salt, password = os.urandom(16), self._logins.get(fields[b"n"].decode(), "nobody's")
            self._salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
            nonce = fields[b"r"] + base64.b64encode(os.urandom(12))
            first = b"r=%s,s=%s,i=%d" % (nonce, base64.b64encode(salt), ITERATIONS)
            self._messages = [bare, first]
            return _told(first)
        without, _, proof = token.rpartition(b",p=")
        whole = b",".join([*self._messages, without])
        client = _keyed(self._salted, b"Client Key")
        expected = bytes(a ^ b for a, b in zip(client, _keyed(hashlib.sha512(client).digest(), whole), strict=True))
        self.done = hmac.compare_digest(expected, base64.b64decode(proof))
        if not self.done:
            return struct.pack("!hhi", FAILED, -1, 0)
        return _told(b"v=" + base64.b64encode(_keyed(_keyed(self._salted, b"Server Key"), whole)))


@contextmanager
def secure_kafka(files: Files, logins: Logins | None = None, *, mutual: bool = False) -> Iterator[str]:
    """The address of one."""
    made = SecureKafka(files, logins, mutual=mutual)
    try:
        yield made.servers
    finally:
        made.close()


def _frame(source: socket.socket) -> bytes:
    return _exactly(source, struct.unpack("!i", _exactly(source, 4))[0])


def _exactly(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (more := source.recv(size - len(data))):
            raise EOFError
        data += more
    return bytes(data)


def _token(request: bytes) -> bytes:
    """The bytes behind the header of a request, which ends with the client's name."""
    (length,) = struct.unpack_from("!h", request, 8)
    return request[10 + max(length, 0) + 4 :]


def _told(message: bytes) -> bytes:
    return struct.pack("!hhi", 0, -1, len(message)) + message


def _keyed(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha512")
