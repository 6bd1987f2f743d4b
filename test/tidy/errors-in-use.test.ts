// SPDX-License-Identifier: Apache-2.0
//
// Nothing in the error table may be idle: each code is thrown by the product and named by a test.

import { deepEqual } from "node:assert/strict";
import { test } from "node:test";
import { isTest, sourceFiles } from "../../scripts/source-files.ts";
import { ERRORS, type ErrorCode } from "../../src/base/errors.ts";

const codes = Object.keys(ERRORS) as ErrorCode[];
const TABLE = "src/base/errors.ts";

test("every error code is thrown somewhere in the product", () => {
  deepEqual(unnamed(sourceFiles(["src"]).filter((file) => !isTest(file.path))), []);
});

test("every error code is named by a test", () => {
  const tests = sourceFiles(["src", "test"]).filter((file) => isTest(file.path));
  deepEqual(unnamed(tests.filter((file) => file.path !== "test/tidy/errors-in-use.test.ts")), []);
});

function unnamed(files: readonly { path: string; text: string }[]): string[] {
  const text = files.filter(({ path }) => path !== TABLE).map((file) => file.text);
  return codes.filter((code) => !text.some((body) => body.includes(`"${code}"`)));
}
