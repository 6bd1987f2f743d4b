// SPDX-License-Identifier: Apache-2.0
//
// Assertions are always on and can be told from every other error.

import { equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { AssertionError, assert, must, unreachable } from "./assert.ts";

test("a broken invariant throws its sentence", () => {
  assert(true, "never seen");
  throws(() => assert(false, "lsn rises"), { name: "AssertionError", message: "lsn rises" });
});

test("must hands on every value but undefined and null", () => {
  for (const value of [0, "", false, Number.NaN]) equal(must(value, "there"), value);
  throws(() => must(undefined, "there"), AssertionError);
  throws(() => must(null, "there"), AssertionError);
});

test("an unreachable value is named", () => {
  throws(() => unreachable("surprise" as never), /surprise/);
});
