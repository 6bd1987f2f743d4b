// SPDX-License-Identifier: Apache-2.0
//
// The control door over a Unix socket: real answers keep the contract, requests that don't are refused
// with an error of ours, and nobody can make it grow or hang.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type SmallDaemon, smallDaemon } from "../../test/cli/small-daemon.ts";
import { violations } from "../../test/conformance/json-schema.ts";
import { openApiDocument } from "../api/openapi.ts";
import { OPERATION_NAMES, OPERATIONS, requestFor } from "../api/operations.ts";
import { SCHEMAS, type SchemaName } from "../api/schemas.ts";
import type { OperationName, OperationTypes } from "../api/types.ts";
import { AssertionError } from "../base/assert.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { type HttpListener, listenHttp } from "../host/node/http-listener.ts";
import { type ControlDoor, createControlDoor } from "./control-door.ts";
import { POOL_METRICS, REDUCTION_METRICS, SCHEDULE_METRICS, VOLUME_METRICS } from "./metrics.ts";

const directory = mkdtempSync(join(tmpdir(), "varve-http-"));
const socketPath = join(directory, "control.sock");
const document = openApiDocument("1.2.3");
const daemon: SmallDaemon = smallDaemon();
const bugs: unknown[] = [];
let door: ControlDoor;
let listener: HttpListener;
let token: string | undefined;

before(async () => {
  door = await createControlDoor({
    operations: daemon.operations,
    events: daemon.events,
    diffs: daemon.diffs,
    version: "1.2.3",
    logger: daemon.logger,
    onBug: (error) => bugs.push(error),
  });
  listener = await listenHttp({ path: socketPath }, (incoming, response) =>
    door.handle(incoming, response, { token }),
  );
});

after(async () => {
  await door.close();
  await listener.close(100);
  rmSync(directory, { recursive: true });
});

interface Answer {
  status: number;
  text: string;
  json: Record<string, unknown>;
}

function ask(
  method: string,
  path: string,
  { body, headers = {} }: { body?: unknown; headers?: Record<string, string> } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const text = typeof body === "string" ? body : body === undefined ? "" : JSON.stringify(body);
    const type = body === undefined ? {} : { "content-type": "application/json" };
    const outgoing = request(
      { socketPath, method, path, headers: { ...type, ...headers } },
      (response) => {
        let received = "";
        response.setEncoding("utf8").on("data", (chunk: string) => {
          received += chunk;
        });
        response.on("end", () => {
          const isJson = String(response.headers["content-type"]).startsWith("application/json");
          const json = isJson ? (JSON.parse(received) as Record<string, unknown>) : {};
          resolve({ status: response.statusCode ?? 0, text: received, json });
        });
      },
    );
    outgoing.on("error", reject);
    outgoing.end(text);
  });
}

const SCHEDULE = { name: "s", volumes: ["twice"], target: "/b", everyMs: 60_000 };

function call<N extends OperationName>(
  name: N,
  input: OperationTypes[N]["input"],
): Promise<Answer> {
  const { method, path, body } = requestFor(name, input);
  return ask(method, path, body === undefined ? {} : { body });
}

function keeps(schema: SchemaName, value: unknown): void {
  deepEqual(violations(SCHEMAS[schema], value, document), []);
}

test("every operation's real answer keeps the contract", async () => {
  const open = async () => daemon.attach("db", { address: "unix:0", unixUid: 0 });
  const inputs: { [name in OperationName]: () => Promise<Answer> } = {
    createVolume: () => call("createVolume", { name: "db", sizeBytes: 1 << 20 }),
    getPool: () => call("getPool", {}),
    setPool: () =>
      call("setPool", {
        logLevel: "debug",
        poolSizeBytes: 1 << 30,
        retention: { everyWriteMs: null },
      }),
    getStatistics: () => call("getStatistics", {}),
    startRetentionPreview: () => call("startRetentionPreview", { retention: { hourlyMs: 1 } }),
    getRetentionPreview: () => call("getRetentionPreview", {}),
    startGc: () => call("startGc", {}),
    getGc: () => call("getGc", {}),
    startScrub: () => call("startScrub", {}),
    stopScrub: () => call("stopScrub", {}),
    getScrub: () => call("getScrub", {}),
    getHealth: () => call("getHealth", {}),
    listVolumes: () => call("listVolumes", { removed: "true" }),
    getVolume: async () => {
      const opened = await open();
      const answer = await call("getVolume", { volume: "db" });
      opened.close();
      return answer;
    },
    setVolume: () => call("setVolume", { volume: "db", description: "x", isDeduplicated: false }),
    resizeVolume: () => call("resizeVolume", { volume: "db", sizeBytes: 2 << 20 }),
    renameVolume: () => call("renameVolume", { volume: "db", to: "db2" }),
    cloneVolume: () => call("cloneVolume", { volume: "db2", moment: "-10m", to: "db3" }),
    rewindVolume: () => call("rewindVolume", { volume: "db2", moment: "-10m", force: true }),
    markVolume: () =>
      call("markVolume", { volume: "db2", extents: [{ offsetBytes: 0, lengthBytes: 4096 }] }),
    undoVolume: () => call("undoVolume", { volume: "db2" }),
    getHistory: () => call("getHistory", { volume: "db2", from: "1h", stepMs: "60000" }),
    getChanges: () =>
      call("getChanges", { volume: "db2", offset: "0", length: "4096", from: "1h", limit: "10" }),
    resolveMoment: () => call("resolveMoment", { volume: "db2", moment: "-10m" }),
    createSchedule: () => {
      daemon.runner.onStart = (run) => run.fail();
      return call("createSchedule", {
        name: "hourly",
        volumes: ["db2"],
        target: "/srv/backup",
        everyMs: 3_600_000,
        keep: { last: 3, withinMs: 7 },
        keyFile: "/etc/key",
        limitBytesPerSecond: 1 << 20,
      });
    },
    listSchedules: () => call("listSchedules", {}),
    setSchedule: () => call("setSchedule", { schedule: "hourly", isPaused: true }),
    runSchedule: () => {
      daemon.runner.onStart = (run) => run.done();
      return call("runSchedule", { schedule: "hourly" });
    },
    removeSchedule: async () => {
      keeps("VolumeDetails", (await call("getVolume", { volume: "db2" })).json);
      keeps("Statistics", (await call("getStatistics", {})).json);
      return call("removeSchedule", { schedule: "hourly" });
    },
    takeSnapshot: () =>
      call("takeSnapshot", {
        targets: [{ volume: "db2", name: "v1" }],
        at: "#7",
        keepMs: 1000,
        isProtected: true,
        description: "x",
      }),
    listSnapshots: () => call("listSnapshots", { volume: "db2" }),
    setSnapshot: () =>
      call("setSnapshot", { volume: "db2", snapshot: "v1", keepMs: null, isProtected: false }),
    renameSnapshot: () => call("renameSnapshot", { volume: "db2", snapshot: "v1", to: "v2" }),
    removeSnapshot: () => call("removeSnapshot", { volume: "db2", snapshot: "v1" }),
    removeVolume: () => call("removeVolume", { volume: "db2" }),
    listClients: () => call("listClients", {}),
    flush: () => call("flush", {}),
    checkpoint: () => call("checkpoint", {}),
    shutdown: () => call("shutdown", {}),
  };
  deepEqual(Object.keys(inputs).sort(), [...OPERATION_NAMES].sort());
  for (const [name, run] of Object.entries(inputs)) {
    const { status, json } = await run();
    const row = OPERATIONS[name as OperationName];
    equal(status, row.status, `${name}: ${JSON.stringify(json)}`);
    keeps(row.answer, json);
  }
});

test("errors have the table's status and the whole error as their body", async () => {
  const missing = await call("getVolume", { volume: "nothere" });
  equal(missing.status, 404);
  keeps("ErrorBody", missing.json);
  equal((missing.json.error as { code: string }).code, "VOLUME_NOT_FOUND");
  await call("createVolume", { name: "twice", sizeBytes: 1 << 20 });
  equal((await call("createVolume", { name: "twice", sizeBytes: 1 << 20 })).status, 409);
});

test("a request that isn't in the contract is refused with USAGE or a code of its own", async () => {
  const cases: [method: string, path: string, body: unknown, status: number, code: string][] = [
    ["GET", "/v1/nothing", undefined, 404, "USAGE"],
    ["PUT", "/v1/volumes", undefined, 404, "USAGE"],
    ["POST", "/v1/volumes", undefined, 400, "USAGE"],
    ["POST", "/v1/volumes", "{", 400, "USAGE"],
    ["POST", "/v1/volumes", [], 400, "USAGE"],
    ["POST", "/v1/volumes", { name: "x" }, 400, "USAGE"],
    ["POST", "/v1/volumes", { name: "x", sizeBytes: "1048576" }, 400, "USAGE"],
    ["POST", "/v1/volumes", { name: "x", sizeBytes: 1 << 20, colour: "red" }, 400, "USAGE"],
    ["POST", "/v1/volumes", { name: "a/b", sizeBytes: 1 << 20 }, 400, "NAME_INVALID"],
    ["POST", "/v1/volumes", { name: "x", sizeBytes: 7 }, 400, "SIZE_INVALID"],
    ["POST", "/v1/volumes", { name: "x", sizeBytes: 2 ** 63 }, 400, "SIZE_INVALID"],
    ["GET", "/v1/volumes?removed=maybe", undefined, 400, "USAGE"],
    ["GET", "/v1/volumes?size=1", undefined, 400, "USAGE"],
    ["GET", `/v1/volumes/${"a".repeat(300)}`, undefined, 400, "USAGE"],
    ["GET", "/v1/volumes/%zz", undefined, 400, "USAGE"],
    ["PATCH", "/v1/pool", { poolSizeBytes: 1 << 20 }, 400, "SIZE_INVALID"],
    ["PATCH", "/v1/pool", { poolSizeBytes: -1 }, 400, "SIZE_INVALID"],
    ["PATCH", "/v1/pool", { poolSizeBytes: "1G" }, 400, "USAGE"],
    ["PATCH", "/v1/pool", { retention: {} }, 400, "USAGE"],
    ["PATCH", "/v1/pool", { retention: { everyWriteMs: -1 } }, 400, "USAGE"],
    ["PATCH", "/v1/pool", { retention: { everyWriteMs: 1e300 } }, 400, "USAGE"],
    ["PATCH", "/v1/pool", { retention: null }, 400, "USAGE"],
    ["PATCH", "/v1/pool", { retention: { dailyMs: "7d" } }, 400, "USAGE"],
    ["PATCH", "/v1/pool", { whenFull: "panic" }, 400, "USAGE"],
    ["POST", "/v1/snapshots", { targets: [] }, 400, "USAGE"],
    ["POST", "/v1/snapshots", { targets: [{ volume: "db" }] }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, everyMs: 59_999 }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, everyMs: 1e12 }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, target: "backup" }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, target: "/a\nb" }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, volumes: [] }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, volumes: ["twice", "twice"] }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, volumes: ["none"] }, 404, "VOLUME_NOT_FOUND"],
    ["POST", "/v1/schedules", { ...SCHEDULE, name: "now" }, 400, "NAME_INVALID"],
    ["POST", "/v1/schedules", { ...SCHEDULE, keep: { last: "3" } }, 400, "USAGE"],
    ["POST", "/v1/schedules", { ...SCHEDULE, keyFile: "/k", passphraseFile: "/p" }, 400, "USAGE"],
    ["PATCH", "/v1/schedules/none", { isPaused: true }, 404, "SCHEDULE_NOT_FOUND"],
    ["POST", "/v1/schedules/none/run", undefined, 404, "SCHEDULE_NOT_FOUND"],
    ["DELETE", "/v1/schedules/none", undefined, 404, "SCHEDULE_NOT_FOUND"],
    ["GET", "/v1/volumes/db/moment?moment=12:00", undefined, 400, "MOMENT_INVALID"],
    ["DELETE", "/v1/volumes/none/snapshots/v1", undefined, 404, "MOMENT_NOT_FOUND"],
    ["PATCH", "/v1/volumes/twice", { isCompressed: "off" }, 400, "USAGE"],
    ["PATCH", "/v1/volumes/twice", { description: "x".repeat(201) }, 400, "USAGE"],
    [
      "POST",
      "/v1/volumes",
      { name: "x", sizeBytes: 1 << 20, x: "x".repeat(100_000) },
      400,
      "USAGE",
    ],
  ];
  for (const [method, path, body, status, code] of cases) {
    const answer = await ask(method, path, { body });
    const what = `${method} ${path.slice(0, 60)} ${JSON.stringify(body)?.slice(0, 80)}: ${answer.text}`;
    equal(answer.status, status, what);
    equal((answer.json.error as { code: string }).code, code, what);
    keeps("ErrorBody", answer.json);
  }
  deepEqual(bugs, []);
});

test("with a token, nothing is answered without it", async () => {
  token = "0123456789abcdef";
  try {
    for (const header of [
      undefined,
      "Bearer",
      "Bearer wrong",
      "Basic 0123456789abcdef",
      `Bearer ${token}x`,
    ]) {
      const headers = header === undefined ? {} : { authorization: header };
      const answer = await ask("GET", "/v1/pool", { headers });
      equal(answer.status, 403, String(header));
      equal((answer.json.error as { code: string }).code, "ACCESS_DENIED");
    }
    equal((await ask("GET", "/nowhere")).status, 403);
    const headers = { authorization: `Bearer ${token}` };
    equal((await ask("GET", "/v1/pool", { headers })).status, 200);
  } finally {
    token = undefined;
  }
});

test("a stopped pool answers health with 503 and says so", async () => {
  daemon.pool.stopCause = new StorageError("DISK_IO", "log: write failed: EIO");
  try {
    const { status, json } = await call("getHealth", {});
    equal(status, 503);
    keeps("Health", json);
    equal(json.status, "failing");
    deepEqual(json.reasons, ["log: write failed: EIO"]);
    const pool = await call("getPool", {});
    keeps("Pool", pool.json);
    equal((pool.json.problem as { code: string }).code, "DISK_IO");
  } finally {
    daemon.pool.stopCause = undefined;
  }
});

test("a pool that has met damage answers health as degraded, with the reason and the next command", async () => {
  daemon.pool.damage = { damagedBlockCount: 911, damagedPageCount: 1, failedRequestCount: 0 };
  try {
    const { status, json } = await call("getHealth", {});
    equal(status, 200);
    keeps("Health", json);
    equal(json.status, "degraded");
    const pool = await call("getPool", {});
    keeps("Pool", pool.json);
    deepEqual(pool.json.warnings, json.reasons);
    match(String(json.reasons), /^911 damaged blocks, 1 damaged index page since .*varve check/);
    const { text } = await ask("GET", "/metrics");
    match(text, /^varve_damaged_blocks_total 911$/m);
  } finally {
    daemon.pool.damage = { damagedBlockCount: 0, damagedPageCount: 0, failedRequestCount: 0 };
  }
  const { json } = await call("getHealth", {});
  deepEqual([json.status, json.reasons], ["ok", []]);
});

test("a broken invariant in an operation is reported as a bug, and answered", async () => {
  daemon.pool.beforeChange = () => Promise.reject(new AssertionError("the sky is blue"));
  try {
    const { status, json } = await call("flush", {});
    equal(status, 500);
    equal((json.error as { code: string }).code, "INTERNAL");
    equal(bugs.length, 1);
  } finally {
    daemon.pool.beforeChange = () => Promise.resolve();
    bugs.length = 0;
  }
});

test("events come first from the past, then as they happen", async () => {
  daemon.events.add("info", "test.one", { n: 1 });
  const past = await ask("GET", "/v1/events");
  const lines = past.text.trim().split("\n");
  for (const line of lines) keeps("Event", JSON.parse(line));
  match(lines.at(-1) ?? "", /test\.one/);
  const received: string[] = [];
  await new Promise<void>((resolve, reject) => {
    const outgoing = request({ socketPath, path: "/v1/events?follow=true" }, (response) => {
      response.setEncoding("utf8").on("data", (chunk: string) => {
        received.push(chunk);
        if (received.join("").includes("test.two")) outgoing.destroy();
        else if (received.join("").includes("test.one")) daemon.events.add("warn", "test.two");
      });
      response.once("close", resolve);
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
  ok(received.join("").includes("test.two"));
});

test("who wants only the events to come gets no other", async () => {
  daemon.events.add("info", "test.before");
  equal((await ask("GET", "/v1/events?recent=false")).text, "");
  const received = await new Promise<string>((resolve, reject) => {
    const path = "/v1/events?follow=true&recent=false";
    const outgoing = request({ socketPath, path }, (response) => {
      daemon.events.add("info", "test.after");
      response.setEncoding("utf8").once("data", (chunk: string) => {
        outgoing.destroy();
        resolve(chunk);
      });
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
  match(received, /^{[^\n]*"test\.after"[^\n]*}\n$/);
});

test("a client that doesn't read its events is cut off", async () => {
  const stuck = request({ socketPath, path: "/v1/events?follow=true" });
  stuck.end();
  const response = await new Promise<IncomingMessage>((resolve) => stuck.once("response", resolve));
  const closed = new Promise<void>((resolve) => response.once("close", resolve));
  response.on("error", () => {});
  const text = "x".repeat(10_000);
  const countSent = 2000;
  for (let i = 0; i < countSent; i += 1) {
    daemon.events.add("info", "test.flood", { text });
    if (i % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  let countBytes = 0;
  response.on("data", (chunk: Buffer) => {
    countBytes += chunk.length;
  });
  await closed;
  equal(response.complete, false);
  ok(countBytes < (countSent * text.length) / 2, `${countBytes} bytes came through`);
});

test("a difference comes as lines that keep the contract, and a wrong question as an error", async () => {
  await daemon.pool.createVolume("disk", 1 << 30);
  const { lsn } = await daemon.past.resolve("disk", { kind: "now" });
  daemon.past.headLsn += 9000;
  const { status, text } = await ask("GET", `/v1/diff?from=disk%40%23${lsn}&to=disk&offset=4096`);
  equal(status, 200);
  ok(text.endsWith("\n"));
  const lines = text.trim().split("\n");
  keeps("DiffHead", JSON.parse(lines[0] ?? ""));
  keeps("DiffEnd", JSON.parse(lines.at(-1) ?? ""));
  const told: number[] = [];
  for (const line of lines.slice(1, -1)) {
    const { kind, extents } = JSON.parse(line);
    keeps("DiffExtents", { kind, extents });
    told.push(...extents);
  }
  equal(told.length, 2 * JSON.parse(lines.at(-1) ?? "").extentCount);
  deepEqual(told.slice(0, 4), [4096, 4096, 4096 + 8192, 4096]);
  for (const [path, wanted] of [
    ["/v1/diff?from=disk", 400],
    ["/v1/diff?from=none&to=disk", 404],
    ["/v1/diff?from=disk%40last%20week&to=disk", 400],
    ["/v1/diff?from=disk&to=disk&offset=-1", 400],
    ["/v1/diff?from=disk&to=disk&step=1", 400],
  ] as const)
    equal((await ask("GET", path)).status, wanted, path);
});

test("a difference that fails on the way ends with the error as a line", async () => {
  const diff = daemon.past.diff;
  daemon.past.diff = async (_from, _to, _range, visitor) => {
    await visitor.room?.();
    throw new StorageError("DISK_IO", "index: not read: EIO");
  };
  try {
    const { status, text } = await ask("GET", "/v1/diff?from=disk&to=disk");
    equal(status, 200);
    keeps("ErrorBody", JSON.parse(text.trim().split("\n").at(-1) ?? ""));
    match(text, /"DISK_IO"/);
  } finally {
    daemon.past.diff = diff;
  }
});

test("so many differences at once, and no more", async () => {
  const diff = daemon.past.diff;
  const gate = Promise.withResolvers<void>();
  let countUnderWay = 0;
  daemon.past.diff = async (...asked) => {
    countUnderWay += 1;
    await gate.promise;
    return await diff.apply(daemon.past, asked);
  };
  try {
    const path = "/v1/diff?from=disk&to=disk";
    const answers = Array.from({ length: 4 }, () => ask("GET", path));
    while (countUnderWay < 4) await new Promise((resolve) => setTimeout(resolve, 5));
    const { status, json } = await ask("GET", path);
    equal(status, 503);
    equal((json.error as { code: string }).code, "BUSY");
    gate.resolve();
    for (const answer of await Promise.all(answers)) equal(answer.status, 200);
    equal((await ask("GET", path)).status, 200);
  } finally {
    daemon.past.diff = diff;
  }
});

test("a difference goes out no faster than it is read, and ends when its reader goes", async () => {
  const diff = daemon.past.diff;
  let toldCount = 0;
  const ended = Promise.withResolvers<void>();
  daemon.past.diff = async (from, to, _range, visitor) => {
    const summary = await diff.call(
      daemon.past,
      from,
      to,
      { offsetBytes: 0, lengthBytes: 0 },
      visitor,
    );
    while (visitor.extent(toldCount * 8192, 4096, "data")) {
      toldCount += 1;
      await visitor.room?.();
    }
    ended.resolve();
    return { ...summary, nextOffsetBytes: 1 };
  };
  try {
    const outgoing = request({ socketPath, path: "/v1/diff?from=disk&to=disk" }, (response) => {
      response.pause();
    });
    outgoing.on("error", () => undefined).end();
    let before = -1;
    while (toldCount !== before || toldCount < 1000) {
      before = toldCount;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    ok(toldCount < 1e6, `${toldCount} extents wait for a reader`);
    outgoing.destroy();
    await ended.promise;
  } finally {
    daemon.past.diff = diff;
  }
});

test("metrics name every counter once, in Prometheus's spelling", async () => {
  const rows = [...POOL_METRICS, ...REDUCTION_METRICS, ...VOLUME_METRICS, ...SCHEDULE_METRICS];
  const names = rows.map(({ name }) => name);
  for (const name of names) match(name, /^varve(_[a-z]+)+$/);
  const { text, status } = await ask("GET", "/metrics");
  equal(status, 200);
  for (const name of names) {
    const type = name.endsWith("_total") ? "counter" : "gauge";
    ok(text.includes(`# TYPE ${name} ${type}\n`), name);
  }
  match(text, /^varve_volume_write_bytes_total\{volume="twice"\} 4$/m);
  match(text, /^varve_pool_state\{state="open"\} 1$/m);
  match(text, /^varve_dedup_saved_bytes 12288$/m);
  match(text, /^varve_dedup_hits_total 22$/m);
  match(text, /^varve_census_age_seconds \d+/m);
  match(text, /^varve_volume_unique_bytes\{volume="twice"\} 1024$/m);
  const again = await ask("GET", "/metrics");
  match(again.text, /^varve_batches_total 3$/m);
});

test("metrics tell the last backup of each schedule, and what failed", async () => {
  daemon.runner.onStart = (run) => run.done();
  await call("createSchedule", { ...SCHEDULE, name: "hourly" });
  daemon.runner.onStart = (run) => run.fail("target: gone");
  await call("createSchedule", { ...SCHEDULE, name: "daily", target: "/c" });
  await new Promise((resolve) => setImmediate(resolve));
  const { text } = await ask("GET", "/metrics");
  const labels = String.raw`\{schedule="hourly",target="/b"\}`;
  const [, endedAt] =
    new RegExp(`^varve_backup_last_success_timestamp_seconds${labels} ([0-9.]+)$`, "m").exec(
      text,
    ) ?? [];
  ok(Math.abs(Number(endedAt) - Date.now() / 1000) < 60, text);
  match(text, new RegExp(`^varve_backup_sent_bytes${labels} 2000$`, "m"));
  match(text, new RegExp(`^varve_backup_failures_total${labels} 0$`, "m"));
  match(text, /^varve_backup_failures_total\{schedule="daily",target="\/c"\} 1$/m);
  ok(!text.includes('varve_backup_duration_seconds{schedule="daily"'), "there is none");
  const health = await call("getHealth", {});
  deepEqual(
    [health.json.status, health.json.reasons],
    ["degraded", ['the last backup of schedule "daily" failed: target: gone']],
  );
  const twice = await call("createSchedule", { ...SCHEDULE, name: "daily" });
  equal((twice.json.error as { code: string }).code, "SCHEDULE_EXISTS");
  for (const schedule of ["hourly", "daily"]) await call("removeSchedule", { schedule });
});

test("the description is served as it is", async () => {
  const { json } = await ask("GET", "/openapi.json");
  deepEqual(json, JSON.parse(JSON.stringify(document)));
});

test("the socket is its owner's alone, a dead one is replaced, a living one and other files are not", async () => {
  equal(statSync(socketPath).mode & 0o777, 0o600);
  const taken = await listenHttp({ path: socketPath }, () => {}).catch((error: unknown) => error);
  ok(hasCode(taken, "LISTEN_FAILED"));
  match(String(taken), /another process answers/);
  const plain = join(directory, "plain");
  writeFileSync(plain, "precious");
  const refused = await listenHttp({ path: plain }, () => {}).catch((error: unknown) => error);
  ok(hasCode(refused, "LISTEN_FAILED"));
  const long = join(directory, "x".repeat(120));
  const tooLong = await listenHttp({ path: long }, () => {}).catch((error: unknown) => error);
  match(String(tooLong), /107 are possible/);
});
