// SPDX-License-Identifier: Apache-2.0
//
// Files of pre-shared keys: what psktool writes is read, and a wrong line is named without its key.

import { deepEqual, equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../base/errors.ts";
import { parsePskFile } from "./psk-file.ts";

const KEY = "00112233445566778899aabbccddeeff";

test("identities and keys are read, comments and empty lines are not", () => {
  const keys = parsePskFile(`# made today\n\nalice:${KEY}\nbob@host:1:${KEY.toUpperCase()}00\r\n`);
  deepEqual([...keys.keys()], ["alice", "bob@host:1"]);
  equal(Buffer.from(keys.get("alice") ?? []).toString("hex"), KEY);
  equal(keys.get("bob@host:1")?.length, 17);
});

test("a wrong line is named, and its key is not told", () => {
  for (const [line, why] of [
    [`alice${KEY}`, /identity:hexkey/],
    [`:${KEY}`, /identity:hexkey/],
    [`alice:${KEY}g0`, /hexadecimal/],
    [`alice:${KEY}0`, /hexadecimal/],
    ["alice:0011", /2 bytes, 16 are wanted/],
    [`bob:${KEY}`, /"bob" is there twice/],
  ] as const) {
    throws(
      () => parsePskFile(`bob:${KEY}\n${line}`),
      (error) =>
        hasCode(error, "CONFIG_INVALID") &&
        error.message.includes("line 2") &&
        why.test(error.message) &&
        !error.message.includes(KEY),
      line,
    );
  }
});
