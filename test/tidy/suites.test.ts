// SPDX-License-Identifier: Apache-2.0
//
// A test that no suite runs looks exactly like a test that passes.

import { deepEqual } from "node:assert/strict";
import { test } from "node:test";
import { sourceFiles } from "../../scripts/source-files.ts";
import { SUITES } from "../../scripts/test.ts";

test("every test file belongs to exactly one suite of npm test", () => {
  const misplaced = sourceFiles()
    .map(({ path }) => path)
    .filter((path) => path.endsWith(".test.ts"))
    .filter((path) => {
      const folders = SUITES.flatMap((suite) => suite.folders);
      return folders.filter((folder) => path.startsWith(`${folder}/`)).length !== 1;
    });
  deepEqual(misplaced, []);
});

test("no beforeEach or afterEach stands at the top of a file that shares its process with others", () => {
  // Without isolation such a hook belongs to the process, so it runs around every other file's tests too.
  const folders = SUITES.filter((suite) => suite.isShared).flatMap((suite) => suite.folders);
  const stray = sourceFiles(folders)
    .filter(({ code }) => /^(?:before|after)Each\(/m.test(code))
    .map(({ path }) => `${path}: put its hooks and tests into describe()`);
  deepEqual(stray, []);
});
