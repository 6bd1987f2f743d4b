// SPDX-License-Identifier: Apache-2.0
//
// The pool in the simulator: thousands of crashes by chance, on a disk that works, that fails, that forgets
// and that is too small. A seed that ever found a mistake stays here by name. More seeds: npm run sim.

import { equal, ok } from "node:assert/strict";
import { type TestContext, test } from "node:test";
import {
  describeFailure,
  type LifeResult,
  runLife,
  TROUBLES,
  type Trouble,
} from "../../src/sim/life.ts";
import type { PoolDriver } from "../../src/sim/pool-under-test.ts";
import { collectingDriver, poolDriver } from "./pool-driver.ts";
import { pump } from "./pump.ts";

/** Simulated crashes in one run of all tests, at least so many in total and so many a second. */
const CRASHES_MIN = 10_000;
const CRASHES_PER_SECOND_MIN = 50;

async function live(
  seed: number,
  options: {
    readonly trouble: Trouble;
    readonly driver?: PoolDriver;
    readonly areOverlapsSent?: boolean;
  },
): Promise<LifeResult> {
  const { trouble, driver = poolDriver(), areOverlapsSent } = options;
  const profile = areOverlapsSent === undefined ? {} : { areOverlapsSent };
  const result = await runLife({ seed, driver, pump, cycleCount: 20, trouble, profile });
  if (result.failure !== undefined) throw new Error(describeFailure(seed, result.failure));
  return result;
}

for (const trouble of TROUBLES) {
  test(`crashes by chance, trouble ${trouble}`, async (context: TestContext) => {
    const started = process.cpuUsage();
    let crashCount = 0;
    let requestCount = 0;
    let seed = 1;
    for (; crashCount < CRASHES_MIN / TROUBLES.length; seed++) {
      const result = await live(seed, { trouble });
      crashCount += result.crashCount;
      requestCount += result.requestCount;
    }
    const { user, system } = process.cpuUsage(started);
    const perSecond = Math.round((crashCount * 1e6) / (user + system));
    context.diagnostic(
      `seeds 1 to ${seed - 1}: ${crashCount} crashes, ${requestCount} requests, ${perSecond} crashes per CPU second`,
    );
    ok(perSecond >= CRASHES_PER_SECOND_MIN, `${perSecond} crashes per CPU second`);
  });
}

for (const trouble of TROUBLES) {
  test(`crashes by chance while garbage is collected, trouble ${trouble}`, async () => {
    for (let seed = 1; seed <= 30; seed++)
      await live(seed, { trouble, driver: collectingDriver() });
  });
}

for (const [history, everyWriteMicros] of [
  ["half a second of history", 500_000],
  ["all of history", null],
] as const) {
  test(`crashes by chance while garbage is collected, with ${history}`, async () => {
    for (let seed = 1; seed <= 24; seed++) {
      const trouble = TROUBLES[seed % TROUBLES.length] as Trouble;
      await live(seed, { trouble, driver: collectingDriver({}, everyWriteMicros) });
    }
  });
}

/** Each found a mistake of garbage collection, or of what reads after it. */
const COLLECTING_SEEDS: readonly { seed: number; trouble: Trouble; claim: string }[] = [
  { seed: 14, trouble: "none", claim: "one collection at a time drops a segment" },
  {
    seed: 242,
    trouble: "none",
    claim: "a segment may get blocks of a dropped one, with whole batches in them",
  },
  { seed: 48, trouble: "faults", claim: "a read that lies can't shorten the list of live frames" },
  { seed: 422, trouble: "faults", claim: "a frame that moves alone keeps off the waiting group" },
  {
    seed: 251,
    trouble: "sync",
    claim: "a batch of an earlier life that continues the chain is a ghost",
  },
  {
    seed: 8,
    trouble: "full",
    claim: "a full pool without garbage refuses, and goes round no more",
  },
];

for (const { seed, trouble, claim } of COLLECTING_SEEDS) {
  test(`collecting, seed ${seed}, trouble ${trouble}: ${claim}`, async () => {
    await live(seed, { trouble, driver: collectingDriver() });
  });
}

test("seed 291401124, a window: the clock steps back behind what a collection went by", async () => {
  await live(291401124, { trouble: "none", driver: collectingDriver({}, 500_000) });
});

for (const ack of ["memory", "durable"] as const) {
  test(`crashes by chance, ack ${ack}`, async () => {
    for (let seed = 1; seed <= 12; seed++) {
      await live(seed, { trouble: "none", driver: poolDriver({ ack }) });
    }
  });
}

test("a pool with large segments, rare checkpoints and its usual memory passes too", async () => {
  const driver = poolDriver({
    segmentBytes: 1 << 20,
    checkpointChanges: 4096,
    memoryBytes: 256 << 20,
  });
  for (let seed = 1; seed <= 6; seed++) await live(seed, { trouble: "none", driver });
});

/** Each found a mistake once: of the pool, or of the model beside it. */
const NAMED_SEEDS: readonly { seed: number; trouble: Trouble; claim: string }[] = [
  {
    seed: 20014,
    trouble: "sync",
    claim: "a write that fails uncovers the one below it, made durable while the read waited",
  },
];

for (const { seed, trouble, claim } of NAMED_SEEDS) {
  test(`seed ${seed}, trouble ${trouble}: ${claim}`, async () => {
    await live(seed, { trouble });
  });
}

test("one seed is one life of the pool: the same digest twice", async () => {
  for (const trouble of TROUBLES) {
    const first = await live(3, { trouble });
    const second = await live(3, { trouble });
    equal(first.digest, second.digest);
    equal(first.stepCount, second.stepCount);
  }
});
