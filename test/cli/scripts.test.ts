// SPDX-License-Identifier: Apache-2.0
//
// Every script of this folder prints what it says (run.ts has the notation; UPDATE=1 rewrites them).

import { equal, ok } from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runScript, Unsuitable } from "./run.ts";

const scripts = readdirSync(import.meta.dirname).filter((name) => name.endsWith(".txt"));

test("there are scripts", () => ok(scripts.length > 0));

for (const name of scripts) {
  test(`${name.replace(/\.txt$/, "")} prints what its script says`, async (context) => {
    const isUpdating = process.env.UPDATE === "1";
    try {
      const { expected, actual } = await runScript(join(import.meta.dirname, name), isUpdating);
      equal(actual, expected);
    } catch (error) {
      if (!(error instanceof Unsuitable)) throw error;
      context.skip(error.message);
    }
  });
}
