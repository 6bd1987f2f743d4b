// SPDX-License-Identifier: Apache-2.0
//
// The oracle can fail: a store that keeps every promise passes all lives and all scenarios, and each of its
// relatives that break one promise is caught. Without this nobody could trust a green run of the pool.

import { equal, match, notEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { describeFailure, runLife, TROUBLES, type Trouble } from "../../src/sim/life.ts";
import { pump } from "./pump.ts";
import { FAULTS, type Fault, referenceDriver } from "./reference-store.ts";
import { SCENARIOS } from "./scenarios.ts";

const LIVES = 40;

test("one seed is one life: the same digest twice, another one for another seed", async () => {
  const options = { driver: referenceDriver(), pump, cycleCount: 10 };
  for (const trouble of TROUBLES) {
    const first = await runLife({ ...options, seed: 7, trouble });
    const second = await runLife({ ...options, seed: 7, trouble });
    const other = await runLife({ ...options, seed: 8, trouble });
    equal(first.digest, second.digest);
    equal(first.stepCount, second.stepCount);
    notEqual(first.digest, other.digest);
  }
});

for (const trouble of TROUBLES) {
  for (const ack of ["written", "memory", "durable"] as const) {
    test(`the reference store passes, trouble ${trouble}, ack ${ack}`, async () => {
      for (let seed = 1; seed <= LIVES / 2; seed++) {
        const driver = referenceDriver(undefined, ack);
        const result = await runLife({ seed, driver, pump, cycleCount: 15, trouble });
        if (result.failure !== undefined) throw new Error(describeFailure(seed, result.failure));
      }
    });
  }
}

/** What it takes to show a fault, where it isn't a disk that works. */
const NEEDS: { readonly [fault in Fault]?: Trouble } = {
  "trusts a datasync after one that failed": "sync",
  "shows only what was durable once a datasync has failed": "sync",
};

for (const fault of FAULTS) {
  test(`a store that ${fault} is caught`, async () => {
    const driver = referenceDriver(fault);
    for (let seed = 1; seed <= LIVES; seed++) {
      const trouble = NEEDS[fault] ?? "none";
      const { failure } = await runLife({ seed, driver, pump, cycleCount: 25, trouble });
      if (failure === undefined) continue;
      ok(failure.trace.length > 0);
      match(describeFailure(seed, failure), new RegExp(`^seed ${seed}: `));
      return;
    }
    throw new Error(`not caught in ${LIVES} lives`);
  });
}

for (const { name, run } of SCENARIOS) {
  test(`the reference store passes: ${name}`, async () => {
    await run({ driver: referenceDriver(), seed: 1 });
  });
}
