// SPDX-License-Identifier: Apache-2.0
//
// The compiled kernel in the repository is what its source compiles to.

import { equal } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { kernelPath, renderKernel } from "../../scripts/build-kernel.ts";

test("src/reduce/kernel-code.ts is what the kernel's source compiles to", () => {
  const isCurrent = readFileSync(kernelPath(), "utf8") === renderKernel();
  equal(isCurrent, true, 'src/reduce/kernel-code.ts is stale: run "npm run kernel"');
});
