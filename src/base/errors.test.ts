// SPDX-License-Identifier: Apache-2.0
//
// How an error is spelled at each door, and what it carries.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { ERRORS, type ErrorCode, hasCode, NBD_ERROR, StorageError, spell } from "./errors.ts";

const codes = Object.keys(ERRORS) as ErrorCode[];

test("every code has an NBD error, an HTTP status and an exit code that say failure", () => {
  const onTheWire: readonly number[] = Object.values(NBD_ERROR);
  for (const code of codes) {
    ok(onTheWire.includes(spell(code, "nbd")), code);
    ok(spell(code, "http") >= 400 && spell(code, "http") < 600, code);
    ok(spell(code, "exit") > 0 && spell(code, "exit") < 128, code);
  }
});

test("a full disk is ENOSPC at the NBD door, a damaged block EIO, a bug exit code 70", () => {
  equal(spell("DISK_FULL", "nbd"), NBD_ERROR.ENOSPC);
  equal(spell("POOL_FULL", "nbd"), NBD_ERROR.ENOSPC);
  equal(spell("FRAME_CORRUPT", "nbd"), NBD_ERROR.EIO);
  equal(spell("INTERNAL", "exit"), 70);
  equal(spell("VOLUME_NOT_FOUND", "http"), 404);
  equal(spell("VOLUME_NOT_FOUND", "exit"), 10);
});

test("a code can be spelled otherwise than its kind", () => {
  equal(spell("ACCESS_DENIED", "http"), 403);
  equal(spell("ACCESS_DENIED", "exit"), 11);
  equal(spell("DISK_IO", "exit"), 1);
});

test("an error carries its table's hint unless the thrower knows better", () => {
  equal(new StorageError("BUSY", "door: refused: 64 of 64").hint, ERRORS.BUSY.hint);
  equal(new StorageError("BUSY", "door: refused", { hint: "come back" }).hint, "come back");
});

test("an error as JSON has code, kind, message, hint and data, and no cause or stack", () => {
  const cause = new Error("secret path");
  const error = new StorageError("POOL_FULL", "pool: refused: full", { data: { used: 4 }, cause });
  equal(error.cause, cause);
  deepEqual(JSON.parse(JSON.stringify(error)), {
    code: "POOL_FULL",
    kind: "full",
    message: "pool: refused: full",
    hint: ERRORS.POOL_FULL.hint,
    data: { used: 4 },
  });
});

test("only an error of ours matches a code", () => {
  const impostor = Object.assign(new Error("x"), { code: "BUSY" });
  equal(hasCode(impostor, "BUSY"), false);
  equal(hasCode(undefined, "BUSY"), false);
  equal(hasCode(new StorageError("BUSY", "x"), "BUSY"), true);
  equal(hasCode(new StorageError("BUSY", "x"), "USAGE"), false);
});
