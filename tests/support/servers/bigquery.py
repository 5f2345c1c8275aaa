"""An emulator of BigQuery for tests: the part of its HTTP API that fraudml uses, over DuckDB.

The client library is the real one, and SQLGlot translates the statements. So this shows that requests, types and
results fit together, and what the statements mean; it cannot show that BigQuery takes them, nor how it plans, locks
and fails.
"""

# ruff: noqa: S608 - the names are those of the tests

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from sqlglot import exp

from tests.support.servers.process import LOOPBACK

API = "/bigquery/v2/projects"
TYPES = {pa.string(): "STRING", pa.int64(): "INTEGER", pa.int32(): "INTEGER", pa.float64(): "FLOAT"}
TYPES |= {pa.bool_(): "BOOLEAN"}
Json = dict[str, Any]
Answer = tuple[int, Json, Json]  # status, document, headers
Refusal = tuple[int, str, str]  # status, reason, message


class Refused(Exception):
    """What is answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


class BigQueryServer:
    """An emulator in a thread; one project with one data set. ``refuse``: statements with this text fail once."""

    def __init__(self, project: str = "acme-risk", dataset: str = "fraud") -> None:
        self.project, self.dataset = project, dataset
        self.refuse: tuple[str, Refusal] | None = None
        self.statements: list[str] = []
        self._db = duckdb.connect()
        self._db.execute(f'ATTACH \':memory:\' AS "{project}"; CREATE SCHEMA "{project}"."{dataset}"')
        self._lock = threading.RLock()
        self._jobs: dict[str, Json] = {}
        self._results: dict[str, pa.Table | None] = {}
        self._uploads: dict[str, tuple[Json, io.BytesIO]] = {}
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="bigquery emulator", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What fraudml's settings call it."""
        port = self._server.server_port
        return f"bigquery://{self.project}/{self.dataset}?api_endpoint=http://{LOOPBACK}:{port}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query in DuckDB's SQL, with tables as ``table_of`` calls them."""
        with self._lock:
            return self._db.execute(query).fetchall()

    def table_of(self, name: str) -> str:
        """A table's name in DuckDB's SQL."""
        return f'"{self.project}"."{self.dataset}"."{name}"'

    def empty(self) -> None:
        """Drop all tables."""
        with self._lock:
            for (name,) in self.rows("SELECT table_name FROM duckdb_tables()"):
                self._db.execute(f"DROP TABLE {self.table_of(name)}")

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._db.close()

    def answer(
        self, method: str, path: str, words: dict[str, str], headers: Any, body: bytes
    ) -> tuple[int, Json, Json]:
        """Status, document and headers for a request."""
        with self._lock:
            if path.startswith("/upload"):
                return self._upload(method, path, words, headers, body)
            found = re.fullmatch(rf"{API}/[^/]+/(jobs|queries|datasets)(?:/(.*))?", path)
            assert found, path
            match found[1], method:
                case "jobs", "POST":
                    return 200, self._query(json.loads(body)), {}
                case "jobs", _:
                    return 200, self._jobs[found[2]], {}
                case "queries", _:
                    return 200, self._page(found[2], words), {}
                case _:
                    self._db.execute(f"DROP TABLE IF EXISTS {self.table_of(found[2].split('/')[-1])}")
                    return 204, {}, {}

    def _upload(self, method: str, path: str, words: dict[str, str], headers: Any, body: bytes) -> Answer:
        """A load job: first its description, then the file in pieces."""
        if method == "POST":
            key = uuid4().hex
            self._uploads[key] = json.loads(body), io.BytesIO()
            place = f"http://{headers['Host']}{path}?uploadType=resumable&upload_id={key}"
            return 200, {}, {"Location": place}
        job, file = self._uploads[words["upload_id"]]
        file.write(body)
        if headers["Content-Range"].endswith("/*"):
            return 308, {}, {"Range": f"bytes=0-{file.tell() - 1}"}
        settings = job["configuration"]["load"]
        self._refuse_if(f"LOAD {settings['destinationTable']['tableId']}")
        loaded = pq.read_table(file)
        columns = ", ".join(f'"{name}"' for name in loaded.column_names)
        name = self.table_of(settings["destinationTable"]["tableId"])
        if settings.get("writeDisposition") == "WRITE_TRUNCATE":
            self._db.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM loaded")
        else:
            self._db.execute(f"INSERT INTO {name} ({columns}) SELECT * FROM loaded")
        return 200, self._done(job, None), {}

    def _query(self, job: Json) -> Json:
        text = job["configuration"]["query"]["query"]
        result: pa.Table | None = None
        try:
            for each in text.split(";\n"):  # of a script
                self.statements.append(each)
                self._refuse_if(each)
                result = self._run(each)
        except (duckdb.Error, Refused) as error:
            self._roll_back()  # as BigQuery does with the transaction of a script that fails
            if isinstance(error, Refused):
                raise
            missing = isinstance(error, duckdb.CatalogException)
            raise Refused(404 if missing else 400, "notFound" if missing else "invalidQuery", str(error)) from error
        return self._done(job, result)

    def _run(self, text: str) -> pa.Table | None:
        """One statement; the result of a SELECT."""
        if asserted := re.fullmatch(r"ASSERT (.*) AS '(.*)'", text, re.DOTALL):
            (held,) = self.rows(sqlglot.transpile(f"SELECT {asserted[1]}", read="bigquery", write="duckdb")[0])
            if not held[0]:
                raise Refused(400, "invalidQuery", asserted[2])
            return None
        statement = sqlglot.parse_one(text, read="bigquery")
        for kind in statement.find_all(exp.DataType):
            if kind.this == exp.DataType.Type.BIGDECIMAL:
                kind.replace(exp.DataType.build("HUGEINT", dialect="duckdb"))
        translated = statement.sql("duckdb", unsupported_level=sqlglot.ErrorLevel.IGNORE)
        if isinstance(statement, exp.Select):
            return self._db.sql(translated).to_arrow_table()
        self._db.execute(translated)
        return None

    def _roll_back(self) -> None:
        with contextlib.suppress(duckdb.TransactionException):
            self._db.execute("ROLLBACK")

    def _refuse_if(self, statement: str) -> None:
        if self.refuse is not None and self.refuse[0] in statement:
            refusal, self.refuse = self.refuse[1], None
            raise Refused(*refusal)

    def _done(self, job: Json, result: pa.Table | None) -> Json:
        name = job["jobReference"]["jobId"]
        job["status"] = {"state": "DONE"}
        job["statistics"] = {"query": {"statementType": "SELECT" if result is not None else "SCRIPT"}}
        if result is not None:
            job["statistics"]["query"]["schema"] = {"fields": _fields(result.schema)}
        self._jobs[name], self._results[name] = job, result
        return job

    def _page(self, name: str, words: dict[str, str]) -> Json:
        result = self._results[name]
        document: Json = {"jobComplete": True, "jobReference": self._jobs[name]["jobReference"], "totalRows": "0"}
        if result is None:
            return document
        document |= {"schema": {"fields": _fields(result.schema)}, "totalRows": str(result.num_rows)}
        first, most = int(words.get("pageToken", 0)), int(words.get("maxResults", 100_000))
        if most:
            rows = result.slice(first, most).to_pylist()
            document["rows"] = [{"f": [{"v": _value(value)} for value in row.values()]} for row in rows]
            if first + most < result.num_rows:
                document["pageToken"] = str(first + most)
        return document


def _fields(schema: pa.Schema) -> list[Json]:
    return [{"name": field.name, "type": _type(field.type), "mode": "NULLABLE"} for field in schema]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "DATETIME"
    return "DATE" if pa.types.is_date(kind) else TYPES.get(kind, "NUMERIC")


def _value(value: Any) -> str | None:
    if isinstance(value, datetime):
        return str(round(value.timestamp() * 1_000_000)) if value.tzinfo else value.isoformat()
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _handler(server: BigQueryServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else an answer's body waits 40 ms until its headers are acknowledged

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            words = {name: values[0] for name, values in parse_qs(parts.query).items()}
            try:
                status, document, headers = server.answer(self.command, parts.path, words, self.headers, body)
            except Refused as error:
                told = {"message": str(error), "reason": error.reason}
                status, headers = error.status, {}
                document = {"error": {"code": status, "message": str(error), "errors": [told]}}
            said = b"" if status == 204 else json.dumps(document).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Type": "application/json", "Content-Length": len(said)}).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the names that the base class calls

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Quiet."""

    return Handler
