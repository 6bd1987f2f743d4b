// SPDX-License-Identifier: Apache-2.0
//
// Every source file says its license in one line and then, in 2 to 20 lines, what it is and why it
// exists: 2 because a small file well described should not be padded. Tests may be shorter: their titles
// are the text.

import { deepEqual } from "node:assert/strict";
import { test } from "node:test";
import { isTest, sourceFiles } from "../../scripts/source-files.ts";

const LICENSE_LINE = "// SPDX-License-Identifier: Apache-2.0";

const files = sourceFiles().map((file) => ({
  path: file.path,
  lines: file.text.split("\n").filter((line, index) => index > 0 || !line.startsWith("#!")),
}));

test("every source file begins with the license line, once", () => {
  const broken = files
    .filter(
      ({ lines }) =>
        lines[0] !== LICENSE_LINE || lines.filter((line) => line === LICENSE_LINE).length !== 1,
    )
    .map(({ path }) => `${path}: line 1 must be "${LICENSE_LINE}"`);
  deepEqual(broken, []);
});

test("every source file opens with a comment that says what it is and why", () => {
  const broken = files.flatMap(({ path, lines }) => {
    const end = lines.findIndex((line, index) => index > 0 && !line.startsWith("//"));
    const comment = lines.slice(1, end === -1 ? lines.length : end).filter((line) => line !== "//");
    const least = isTest(path) ? 1 : 2;
    if (comment.length >= least && comment.length <= 20) return [];
    return [`${path}: the header has ${comment.length} lines; ${least} to 20 are wanted`];
  });
  deepEqual(broken, []);
});
