// SPDX-License-Identifier: Apache-2.0
//
// npm run sim: simulated lives of a pool by seed. Prints seed, digest and crashes per second; at the first
// failure the seed, the check that failed and the last events, and exits with 1.
//
//   npm run sim -- --seed=7                 one life
//   npm run sim -- --seed=1000 --count=500  many, from that seed on
//   npm run sim -- --seconds=60             as many as fit, from a seed drawn from the clock
//   --trouble=none|faults|sync|full   the disk works, fails now and then, forgets after a failed datasync,
//                                   is too small (default: all in turn)
//   --ack=written|memory|durable --cycles=20 --overlaps=yes|no --keep-going
//   --store=pool|collecting|window|archive|reference|history|target
//                                   history: any moment is opened and compared (default: pool, then history);
//                                   target: a backup target, with all who use it
//   --scenario=NAME              one of the named scenarios (--scenario=list shows them)

import { parseArgs } from "node:util";
import { runHistoryLife } from "../../src/sim/history-life.ts";
import {
  describeFailure,
  type LifeResult,
  runLife,
  TROUBLES,
  type Trouble,
} from "../../src/sim/life.ts";
import type { PoolDriver } from "../../src/sim/pool-under-test.ts";
import { historyDriver } from "./history-driver.ts";
import { collectingDriver, poolDriver } from "./pool-driver.ts";
import { pump } from "./pump.ts";
import { referenceDriver } from "./reference-store.ts";
import { SCENARIOS } from "./scenarios.ts";
import { runWorld } from "./target-world.ts";

/** Longer than a life between two crashes, shorter than all of them. */
const WINDOW_MICROS = 500_000;

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    count: { type: "string" },
    seconds: { type: "string" },
    cycles: { type: "string", default: "20" },
    trouble: { type: "string" },
    ack: { type: "string", default: "written" },
    overlaps: { type: "string" },
    store: { type: "string" },
    scenario: { type: "string" },
    "keep-going": { type: "boolean", default: false },
  },
});

if (values.scenario !== undefined) process.exitCode = await runScenario();
else process.exitCode = values.store === "target" ? await runWorlds() : await runLives();

async function runLives(): Promise<number> {
  const first = values.seed === undefined ? Date.now() % 1e9 : Number(values.seed);
  const seconds = values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds);
  const endless = values.seconds === undefined ? 1 : Number.POSITIVE_INFINITY;
  const count = values.count === undefined ? endless : Number(values.count);
  const started = performance.now();
  const elapsed = (): number => (performance.now() - started) / 1000;
  let crashCount = 0;
  let failureCount = 0;
  let seed = first;
  for (; seed < first + count && elapsed() < seconds; seed++) {
    for (const life of livesOf(seed)) {
      const result = await life.run();
      crashCount += result.crashCount;
      if (count <= 20 || result.failure !== undefined) {
        console.log(
          `seed ${seed} (${life.name}): digest ${result.digest}, ` +
            `${result.crashCount} crashes (${result.recoveryCrashCount} in recovery), ` +
            `${result.requestCount} requests, ${result.stepCount} events`,
        );
      }
      if (result.failure === undefined) continue;
      failureCount += 1;
      console.log(describeFailure(seed, result.failure));
    }
    if (failureCount > 0 && !values["keep-going"]) break;
  }
  const perSecond = Math.round(crashCount / elapsed());
  console.log(
    `${seed - first} seeds from ${first}: ${failureCount} failed, ${crashCount} crashes, ` +
      `${perSecond} crashes/s, ${elapsed().toFixed(1)} s`,
  );
  return failureCount === 0 ? 0 : 1;
}

async function runWorlds(): Promise<number> {
  const first = values.seed === undefined ? Date.now() % 1e9 : Number(values.seed);
  const count =
    values.count === undefined && values.seconds === undefined ? 1 : Number(values.count);
  const seconds = values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds);
  const started = performance.now();
  let crashCount = 0;
  let seed = first;
  for (; !(seed >= first + count) && performance.now() - started < seconds * 1000; seed++) {
    const result = await runWorld(seed);
    crashCount += result.crashCount;
    if (result.violation === undefined) continue;
    console.log(`seed ${seed}: digest ${result.digest}: ${result.violation}`);
    return 1;
  }
  console.log(`${seed - first} targets from ${first}: none failed, ${crashCount} crashes`);
  return 0;
}

/** What a seed is lived with: what is asked for, or the pool, and then the pool with its past. */
function livesOf(
  seed: number,
): { readonly name: string; readonly run: () => Promise<LifeResult> }[] {
  const cycleCount = Number(values.cycles);
  const lives: { readonly name: string; readonly run: () => Promise<LifeResult> }[] = [];
  if (values.store !== "history") {
    const trouble = (values.trouble ?? TROUBLES[seed % TROUBLES.length]) as Trouble;
    const driver = chooseDriver();
    const { overlaps } = values;
    const profile = overlaps === undefined ? {} : { areOverlapsSent: overlaps === "yes" };
    const options = { seed, driver, pump, cycleCount, trouble, profile };
    lives.push({ name: `${driver.name}, trouble ${trouble}`, run: () => runLife(options) });
  }
  if (values.store === "history" || values.store === undefined) {
    const driver = historyDriver({ ack: values.ack as PoolDriver["ack"] });
    const options = { seed, driver, pump, cycleCount };
    lives.push({ name: driver.name, run: () => runHistoryLife(options) });
  }
  return lives;
}

async function runScenario(): Promise<number> {
  const wanted = SCENARIOS.filter(
    ({ name }) => values.scenario === "all" || name === values.scenario,
  );
  if (wanted.length === 0) {
    for (const { name } of SCENARIOS) console.log(name);
    return values.scenario === "list" ? 0 : 2;
  }
  let failureCount = 0;
  for (const { name, run } of wanted) {
    try {
      const report = await run({ driver: chooseDriver(), seed: Number(values.seed ?? 1) });
      console.log(`${name}: ${report}`);
    } catch (error) {
      failureCount += 1;
      console.log(`${name}: FAILED: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return failureCount === 0 ? 0 : 1;
}

function chooseDriver(): PoolDriver {
  const ack = values.ack as PoolDriver["ack"];
  if (values.store === "reference") return referenceDriver(undefined, ack);
  const windows: Readonly<Record<string, number | null>> = {
    collecting: 0,
    window: WINDOW_MICROS,
    archive: null,
  };
  const everyWriteMicros = windows[values.store ?? "pool"];
  return everyWriteMicros === undefined
    ? poolDriver({ ack })
    : collectingDriver({ ack }, everyWriteMicros);
}
