// SPDX-License-Identifier: Apache-2.0
//
// Whatever a crash leaves is sound by the offline check, wherever garbage collection was; and a scrub that runs all the
// time, crash after crash, finds nothing wrong. Two independent judges of the same files, on a disk that works.

import { deepEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../src/base/errors.ts";
import type { Pool } from "../../src/pool/pool.ts";
import { checkPool } from "../../src/pool/pool-check.ts";
import { describeFailure, runLife } from "../../src/sim/life.ts";
import type { StoreHost } from "../../src/sim/machine.ts";
import type { PoolDriver } from "../../src/sim/pool-under-test.ts";
import { collectingDriver, poolDriver } from "./pool-driver.ts";
import { pump } from "./pump.ts";

const SEEDS = [1, 2, 3, 4];
const DAMAGE = ["scrub.problem", "log.frame-damaged", "index.page-damaged"];

interface Judged {
  readonly driver: PoolDriver;
  checkCount: number;
  scrubCount: number;
  readonly problems: string[];
}

/** Checks what the life before left, then scrubs for as long as the next one lasts. */
function judged(inner: PoolDriver): Judged {
  const judge: Judged = {
    checkCount: 0,
    scrubCount: 0,
    problems: [],
    driver: {
      ...inner,
      start: async (host) => {
        await check(host, judge);
        const store = (await inner.start(host)) as Awaited<ReturnType<typeof inner.start>> & {
          readonly pool: Pool;
        };
        const { pool } = store;
        pool.onEvent(({ event, fields }) => {
          if (DAMAGE.includes(event)) judge.problems.push(`${event} ${JSON.stringify(fields)}`);
          if (event !== "scrub.ended" || fields.isComplete !== true) return;
          judge.scrubCount += 1;
          host.clock.after(1, () => {
            try {
              pool.startScrub();
            } catch (error) {
              // It is being closed, or has stopped.
              if (!hasCode(error, "POOL_STOPPED")) throw error;
            }
          });
        });
        pool.startScrub();
        return store;
      },
    },
  };
  return judge;
}

async function check({ root, log, zstd }: StoreHost, judge: Judged): Promise<void> {
  const isPool = (await root.list()).includes("pool.json");
  if (!isPool || !(await log.list()).some((name) => name.endsWith(".seg"))) return;
  const report = await checkPool({ root, log, zstd, memoryBytes: 24 << 20 });
  judge.checkCount += 1;
  for (const { message } of report.findings) judge.problems.push(message);
}

for (const [name, driver] of [
  ["nothing is collected", poolDriver()],
  ["garbage is collected", collectingDriver()],
  ["garbage is collected, with half a second of history", collectingDriver({}, 500_000)],
  ["segments are compacted, with all of history", collectingDriver({}, null)],
] as const) {
  test(`a crash leaves a sound pool: ${name}`, async () => {
    let checkCount = 0;
    let scrubCount = 0;
    for (const seed of SEEDS) {
      const judge = judged(driver);
      const options = { seed, driver: judge.driver, pump, cycleCount: 20 } as const;
      const result = await runLife({ ...options, trouble: "none", profile: {} });
      if (result.failure !== undefined) throw new Error(describeFailure(seed, result.failure));
      deepEqual(judge.problems, [], `seed ${seed}`);
      checkCount += judge.checkCount;
      scrubCount += judge.scrubCount;
    }
    ok(checkCount > 50 && scrubCount > 10, `${checkCount} checks, ${scrubCount} scrubs`);
  });
}
