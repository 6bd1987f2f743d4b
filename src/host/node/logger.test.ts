// SPDX-License-Identifier: Apache-2.0
//
// What a line of the log looks like: one JSON object, level as a word, time, event, fields, errors with
// their code.

import { deepEqual, equal, match } from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../../base/errors.ts";
import { loggerTo } from "./logger.ts";

function capture(level: "debug" | "info" | "warn" | "error") {
  const lines: Record<string, unknown>[] = [];
  const logger = loggerTo({ write: (line) => void lines.push(JSON.parse(line)) }, level);
  return { lines, logger };
}

test("an event is one line of JSON with level, time, event and fields", () => {
  const { lines, logger } = capture("info");
  logger.log("warn", "nbd.client-refused", { address: "127.0.0.1:5", count: 3 });
  const [line] = lines;
  match(String(line?.time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  deepEqual(
    { ...line, time: "" },
    { level: "warn", time: "", event: "nbd.client-refused", address: "127.0.0.1:5", count: 3 },
  );
});

test("events below the level are dropped", () => {
  const { lines, logger } = capture("warn");
  logger.log("info", "a.event");
  logger.log("debug", "b.event");
  logger.log("error", "c.event");
  deepEqual(
    lines.map((line) => line.event),
    ["c.event"],
  );
});

test("an error shows its code, its data and its cause", () => {
  const { lines, logger } = capture("info");
  const cause = new Error("because");
  const error = new StorageError("DISK_IO", '"a": read failed', { data: { errno: "EIO" }, cause });
  logger.log("error", "pool.stopped", { error });
  const shown = lines[0]?.error as Record<string, unknown>;
  equal(shown.code, "DISK_IO");
  deepEqual(shown.data, { errno: "EIO" });
  equal((shown.cause as Record<string, unknown>).message, "because");
});

test("a line can't be forged by what a peer sends", () => {
  const { lines, logger } = capture("info");
  logger.log("info", "nbd.export-missing", { name: 'x"}\n{"level":"error' });
  equal(lines.length, 1);
  equal(lines[0]?.name, 'x"}\n{"level":"error');
});
