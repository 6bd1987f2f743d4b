// SPDX-License-Identifier: Apache-2.0
//
// Which names are allowed, what the refusal says, and which name was probably meant.

import { equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "./errors.ts";
import { checkName, isName, nearest } from "./names.ts";

test("a name is letters, digits, underscores, dots and dashes after a letter", () => {
  for (const name of ["db", "a", "Db-1_x.y", "a".repeat(63), "nowhere"])
    equal(isName(name), true, name);
});

test("a name that looks like a path, a moment or an option is refused, and the message says why", () => {
  const cases: [string, RegExp][] = [
    ["", /it is empty/],
    ["now", /word of its own/],
    ["lsn", /word of its own/],
    ["1db", /begin with a letter/],
    ["-db", /begin with a letter/],
    ["a..b", /holds '\.\.'/],
    ["a/b", /holds "\/"/],
    ["db@v1", /holds "@"/],
    ["a\n", /holds "\\n"/],
    ["a".repeat(64), /64 characters, 63 are allowed/],
  ];
  for (const [name, expected] of cases) {
    throws(
      () => checkName("volume", name),
      (error) => hasCode(error, "NAME_INVALID") && expected.test(error.message),
      name,
    );
  }
});

test("the nearest name is at most two mistakes away", () => {
  equal(nearest("lsit", ["list", "log"]), "list");
  equal(nearest("creat", ["create", "check"]), "create");
  equal(nearest("reszie", ["resize", "remove"]), "resize");
  equal(nearest("zzz", ["list", "log"]), undefined);
});
