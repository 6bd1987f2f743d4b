// SPDX-License-Identifier: Apache-2.0
//
// Whatever a crash leaves of a pool with clones, rewinds, names and windows that come and go is sound by the offline
// check: its bases, its lists and every frame that a promised moment shows.

import { deepEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { checkPool } from "../../src/pool/pool-check.ts";
import { runHistoryLife } from "../../src/sim/history-life.ts";
import type { HistoryDriver } from "../../src/sim/history-under-test.ts";
import { describeFailure } from "../../src/sim/life.ts";
import { historyDriver } from "./history-driver.ts";
import { pump } from "./pump.ts";

const SEEDS = [1, 2, 3, 4];

test("a crash leaves a sound history", async () => {
  let checkCount = 0;
  for (const seed of SEEDS) {
    const inner = historyDriver();
    const problems: string[] = [];
    const driver: HistoryDriver = {
      ...inner,
      start: async (host) => {
        const { root, log, zstd } = host;
        const isPool = (await root.list()).includes("pool.json");
        if (isPool && (await log.list()).some((name) => name.endsWith(".seg"))) {
          const report = await checkPool({ root, log, zstd, memoryBytes: 24 << 20 });
          problems.push(...report.findings.map(({ message }) => message));
          ok(report.counted !== undefined);
          checkCount += 1;
        }
        return await inner.start(host);
      },
    };
    const { failure } = await runHistoryLife({ seed, driver, pump, cycleCount: 8 });
    if (failure !== undefined) throw new Error(describeFailure(seed, failure));
    deepEqual(problems, [], `seed ${seed}`);
  }
  ok(checkCount > 20, `${checkCount} checks`);
});
