// SPDX-License-Identifier: Apache-2.0
//
// The error table is a promise to callers: each code has a hint that says what to do next, and
// docs/errors.md is what the table says. UPDATE=1 rewrites the document.

import { equal, match, ok } from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { renderErrors } from "../../scripts/render-errors.ts";
import { REPOSITORY } from "../../scripts/source-files.ts";
import { ERRORS, type ErrorCode } from "../../src/base/errors.ts";

const codes = Object.keys(ERRORS) as ErrorCode[];

test("every error code has a hint: lower-case, without a final period", () => {
  for (const code of codes) {
    match(code, /^[A-Z][A-Z_]*$/);
    ok(ERRORS[code].hint.length > 10, `${code} has no hint`);
    match(ERRORS[code].hint, /^[^A-Z].*[^.]$/, code);
  }
});

test("docs/errors.md is what the table says", () => {
  const path = join(REPOSITORY, "docs/errors.md");
  const wanted = renderErrors();
  if (process.env.UPDATE === "1") writeFileSync(path, wanted);
  equal(readFileSync(path, "utf8"), wanted, "docs/errors.md is stale: run npm test with UPDATE=1");
});
