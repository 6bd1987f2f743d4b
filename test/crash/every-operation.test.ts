// SPDX-License-Identifier: Apache-2.0
//
// The pool, stepped through: scripts in which the machine is cut, or one disk operation fails, at the first
// operation, the second, and so on until a script completes; and the crashes that logs are known to get
// wrong, by name. One of them: npm run sim -- --scenario="a torn checkpoint slot".

import { test } from "node:test";
import { poolDriver } from "../sim/pool-driver.ts";
import { SCENARIOS } from "../sim/scenarios.ts";

for (const { name, run } of SCENARIOS) {
  test(`the pool survives: ${name}`, async (context) => {
    context.diagnostic(await run({ driver: poolDriver(), seed: 1 }));
  });
}
