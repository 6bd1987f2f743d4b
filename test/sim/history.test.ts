// SPDX-License-Identifier: Apache-2.0
//
// The pool's past in the simulator: lives of crashes, collections, retention, clones and rewinds in which any moment is
// opened and compared with a model that has every version of every block. More seeds: npm run sim -- --store=history.
//
// First the oracle must be able to fail: stores that answer a little wrong are caught within a few lives.

import { equal, notEqual } from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { runHistoryLife } from "../../src/sim/history-life.ts";
import type { HistoryUnderTest } from "../../src/sim/history-under-test.ts";
import { describeFailure, type LifeResult } from "../../src/sim/life.ts";
import { historyDriver } from "./history-driver.ts";
import { pump } from "./pump.ts";

const CYCLES = 10;
const LIVES = 150;
const LIVES_TO_CATCH = 60;

async function live(seed: number, driver = historyDriver()): Promise<LifeResult> {
  const result = await runHistoryLife({ seed, driver, pump, cycleCount: CYCLES });
  if (result.failure !== undefined) throw new Error(describeFailure(seed, result.failure));
  return result;
}

/** The store with some answers changed. */
function changed(store: HistoryUnderTest, answers: Partial<HistoryUnderTest>): HistoryUnderTest {
  return new Proxy(store, {
    get(target, key) {
      const value: unknown = Reflect.get(key in answers ? answers : target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const BROKEN: Readonly<Record<string, (store: HistoryUnderTest) => Partial<HistoryUnderTest>>> = {
  "opens the record before the one that was asked for": (store) => ({
    openView: (moment) => store.openView({ ...moment, lsn: Math.max(1, moment.lsn - 1) }),
  }),
  "opens the present when the past is asked for": (store) => ({
    openView: async (moment) => await store.openView({ ...moment, lsn: store.head.lsn }),
  }),
  "finds another record than the one that was asked for": (store) => ({
    resolve: async (volume, moment) => {
      const found = await store.resolve(volume, moment);
      return moment.kind === "time" ? { ...found, lsn: found.lsn - 1 } : found;
    },
  }),
  "leaves out a difference": (store) => ({
    diff: (from, to, tell) => {
      let count = 0;
      return store.diff(from, to, (offsetBytes, lengthBytes) => {
        count += 1;
        if (count % 3 > 0) tell(offsetBytes, lengthBytes);
      });
    },
  }),
  "tells a difference where there is none": (store) => ({
    diff: (from, to, tell) =>
      store.diff(from, to, (offsetBytes, lengthBytes) => tell(offsetBytes, lengthBytes + 4096)),
  }),
  "tells the size of today": (store) => ({
    resolve: async (volume, moment) => {
      const found = await store.resolve(volume, moment);
      const now = store.allVolumes().find(({ id }) => id === found.volumeId);
      return { ...found, sizeBytes: now?.sizeBytes ?? found.sizeBytes };
    },
  }),
  "keeps half of the window": (store) => ({
    setRetention: (volume, spans) => {
      const micros = spans?.everyWriteMicros;
      const half = typeof micros === "number" ? Math.floor(micros / 2) : 0;
      const everyWriteMicros = spans === undefined || half === 0 ? 1 : half;
      return store.setRetention(volume, spans && { ...spans, everyWriteMicros });
    },
  }),
  "loses a name": (store) => ({
    names: () => store.names().slice(1),
  }),
  "clones the present": (store) => ({
    branching: {
      ...store.branching,
      clone: (volume, moment, name) =>
        store.branching.clone(volume, moment.kind === "lsn" ? { kind: "now" } : moment, name),
    },
  }),
  "rewinds to the record before": (store) => ({
    branching: {
      ...store.branching,
      rewind: (volume, moment) =>
        store.branching.rewind(
          volume,
          moment.kind === "lsn" ? { kind: "lsn", lsn: moment.lsn - 1 } : moment,
        ),
    },
  }),
  "undoes nothing": (store) => ({
    branching: { ...store.branching, undo: async () => undefined },
  }),
};

for (const [what, answers] of Object.entries(BROKEN)) {
  test(`a store that ${what} is caught`, async (context: TestContext) => {
    const driver = historyDriver({}, (store) => changed(store, answers(store)));
    for (let seed = 1; seed <= LIVES_TO_CATCH; seed++) {
      const { failure } = await runHistoryLife({ seed, driver, pump, cycleCount: CYCLES });
      if (failure === undefined) continue;
      context.diagnostic(`seed ${seed}: ${failure.violation.check}`);
      return;
    }
    throw new Error(`not caught in ${LIVES_TO_CATCH} lives`);
  });
}

test("any moment is the disk as it was, through crashes, collections, clones and rewinds", async (context: TestContext) => {
  let crashCount = 0;
  let actionCount = 0;
  for (let seed = 1; seed <= LIVES; seed++) {
    const result = await live(seed);
    crashCount += result.crashCount;
    actionCount += result.requestCount;
  }
  context.diagnostic(`${LIVES} lives, ${crashCount} crashes, ${actionCount} things done`);
});

for (const ack of ["memory", "durable"] as const) {
  test(`any moment is the disk as it was, ack ${ack}`, async () => {
    for (let seed = 1; seed <= 15; seed++) await live(seed, historyDriver({ ack }));
  });
}

test("one seed is one life: the same digest twice, another one for another seed", async () => {
  const first = await live(7);
  const second = await live(7);
  equal(first.digest, second.digest);
  equal(first.stepCount, second.stepCount);
  notEqual(first.digest, (await live(8)).digest);
});
