// SPDX-License-Identifier: Apache-2.0
//
// The tour that the README sends newcomers on ends well, and every claim in it is true.

import { equal, match } from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "./command.ts";
import { requires } from "./requires.ts";

const skip = requires("mke2fs -V", "e2fsck -V", "debugfs -V");

test("the tour brings files back from before an accident, and all that was flushed after a crash", {
  skip,
}, async () => {
  const tour = join(import.meta.dirname, "../../scripts/tour.ts");
  const { stdout, stderr } = await run(process.execPath, [tour]);
  match(stdout, /^Everything is there: now, and as it was\.$/m);
  equal(stdout.includes("NOT SO"), false);
  equal(stderr, "");
});
