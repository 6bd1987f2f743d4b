// SPDX-License-Identifier: Apache-2.0
//
// The crashes that logs are known to get wrong, each by name (docs/format/ordering.md says what must hold).
// A scenario runs against any store; it throws when a check fails and otherwise says what it did.

import type { PoolDriver } from "../../src/sim/pool-under-test.ts";
import { Rig } from "../../src/sim/rig.ts";
import type { PowerLoss, PowerLossShape } from "../../src/sim/stored-file.ts";
import { pump } from "./pump.ts";
import {
  cutEverywhere,
  failEverywhere,
  LOST,
  type Script,
  Session,
  type StepReport,
} from "./script.ts";

export interface Scenario {
  readonly name: string;
  readonly run: (options: { driver: PoolDriver; seed: number }) => Promise<string>;
}

const BLOCK = 4096;

function at(block: number, blockCount = 1): { offsetBytes: number; lengthBytes: number } {
  return { offsetBytes: block * BLOCK, lengthBytes: blockCount * BLOCK };
}

function loss(shape: PowerLossShape, unitBytes = 512): PowerLoss {
  return { shape, unitBytes, sizeKeptRatio: 0.5, staleRatio: 0.5 };
}

function say(reports: readonly StepReport[]): string {
  const runCount = reports.reduce((sum, report) => sum + report.runCount, 0);
  const hitCount = reports.reduce((sum, report) => sum + report.hitCount, 0);
  return `${runCount} runs, ${hitCount} of them cut or failed`;
}

/** Some of everything that changes a pool. */
const everything: Script = async (session) => {
  await session.create("a");
  await session.create("b", (1 << 20) + 512);
  await session.write("a", at(0), at(3, 2), { offsetBytes: 512, lengthBytes: 1024 });
  await session.flush("a");
  await session.write(
    "b",
    { ...at(1), isForced: true },
    { offsetBytes: 1 << 20, lengthBytes: 512 },
  );
  await session.writeTogether("a", [at(8, 4), at(16, 4), at(24, 8)]);
  await session.trim("a", { offsetBytes: 3 * BLOCK + 512, lengthBytes: 2 * BLOCK });
  await session.checkpoint();
  await session.change("b", { kind: "rename", name: "c" });
  await session.write("a", at(0), at(40, 6));
  await session.read("a", at(0, 46));
  await session.change("c", { kind: "resize", sizeBytes: 2 << 20 });
  await session.idle(2000);
  await session.write("c", at(300, 4), at(2));
  await session.flush("c");
  await session.checkpoint();
  await session.write("c", at(300), { offsetBytes: 77, lengthBytes: 13 });
  await session.change("a", { kind: "remove" });
  await session.create("a");
  await session.write("a", at(0));
};

const rollOver: Script = async (session) => {
  await session.create("a");
  for (let round = 0; round < 3; round++) {
    await session.writeTogether("a", [at(round), at(8, 4), at(16, 4)]);
    await session.write("a", at(32, 5), at(40, 3));
    await session.flush("a");
  }
};

const checkpoints: Script = async (session) => {
  await session.create("a");
  for (let round = 0; round < 4; round++) {
    await session.write("a", at(round, 2), {
      offsetBytes: round * 512 + 64 * BLOCK,
      lengthBytes: 512,
    });
    await session.checkpoint();
    await session.write("a", at(32 + round));
  }
};

const forced: Script = async (session) => {
  await session.create("a");
  await session.write("a", at(0), { ...at(1), isForced: true }, at(2));
  await session.flush("a");
  await session.write("a", at(1), { ...at(3), isForced: true }, at(0));
  await session.flush("a");
  await session.write("a", at(2), at(3));
  await session.flush("a");
};

const changedDuringCheckpoint: Script = async (session) => {
  await session.create("a");
  await session.write("a", at(0));
  await session.changeDuringCheckpoint("a", { kind: "rename", name: "b" });
  await session.create("c");
  await session.changeDuringCheckpoint("c", { kind: "remove" });
  await session.changeDuringCheckpoint("b", { kind: "resize", sizeBytes: 3 << 20 });
};

/** Several who wait for room and for durability in the same turn, where a segment ends. */
const crowd: Script = async (session) => {
  const { rig, pool } = session;
  await session.create("a");
  for (let round = 0; round < 6; round++) {
    await session.together([
      () => rig.write(pool, "a", at(round * 2, 2)),
      () => rig.write(pool, "a", { offsetBytes: 40 * BLOCK + 512 * round, lengthBytes: 512 }),
      () => rig.write(pool, "a", at(20, 12)),
      ...Array.from({ length: 4 }, () => () => pool.flush().then(() => 0)),
      () => rig.flush(pool, "a"),
      () => pool.checkpoint().then(() => 0),
      () => rig.trim(pool, "a", { offsetBytes: 80 * BLOCK + 512, lengthBytes: BLOCK }),
    ]);
  }
};

const clockSteps: Script = async (session) => {
  const { rig, pool } = session;
  await session.create("a");
  for (const milliseconds of [5000, -3_600_000, 86_400_000]) {
    await session.write("a", at(0));
    session.stepClock(milliseconds);
    await session.together([
      () => rig.write(pool, "a", at(3)),
      () => pool.checkpoint().then(() => 0),
    ]);
    await session.write("a", at(1));
    session.stepClock(-milliseconds);
    await session.flush("a");
  }
  await session.write("a", { ...at(1), isForced: true });
  session.stepClock(3_600_000);
  await session.close();
};

/** Requests that meet others under way take effect in the order of the calls. */
const overlaps: Script = async (session) => {
  const { rig, pool } = session;
  await session.create("a");
  await session.write("a", at(0, 4));
  await session.checkpoint();
  for (let round = 0; round < 3; round++) {
    await session.together([
      () => rig.write(pool, "a", { offsetBytes: 512, lengthBytes: 512 }),
      () => rig.write(pool, "a", at(0)),
      () => rig.read(pool, "a", at(0)),
      () => rig.trim(pool, "a", { offsetBytes: BLOCK + 100, lengthBytes: 2 * BLOCK }),
      () => rig.read(pool, "a", { offsetBytes: BLOCK, lengthBytes: 2 * BLOCK }),
      () => rig.write(pool, "a", { offsetBytes: 2 * BLOCK, lengthBytes: 1024 }),
      () => rig.read(pool, "a", at(2)),
    ]);
  }
};

/** Cuts `script` everywhere, in each of these ways. */
function cut(
  name: string,
  script: Script,
  losses: readonly (PowerLoss | "kill")[],
  isNew = false,
): Scenario {
  return {
    name,
    run: async ({ driver, seed }) => {
      const reports: StepReport[] = [];
      for (const one of losses) {
        const how =
          one === "kill" ? { kind: "kill" as const } : { kind: "power" as const, loss: one };
        reports.push(
          await cutEverywhere({ driver, seed: seed + reports.length, script, isNew, ...how }),
        );
      }
      return say(reports);
    },
  };
}

const making: Script = async (session) => {
  await session.create("a");
  await session.flush("a");
};

export const SCENARIOS: readonly Scenario[] = [
  cut(
    "making a store, cut at every operation",
    making,
    [LOST, loss("mixed"), loss("last"), "kill"],
    true,
  ),
  cut("everything, cut at every operation", everything, [
    LOST,
    loss("mixed"),
    loss("sectors"),
    "kill",
  ]),
  cut("a flush across a roll-over of segments", rollOver, [
    LOST,
    loss("mixed"),
    loss("last", 4096),
  ]),
  cut("a torn checkpoint slot", checkpoints, [
    loss("sectors"),
    loss("mixed", 4096),
    loss("prefix"),
  ]),
  cut("a crash between a checkpoint and the unlinking after it", checkpoints, [
    LOST,
    loss("all"),
    "kill",
  ]),
  cut("a forced write, cut at every operation", forced, [LOST, loss("sectors")]),
  cut("a change of the catalog while a checkpoint is taken", changedDuringCheckpoint, [
    LOST,
    loss("mixed"),
    "kill",
  ]),
  cut("a crowd of waiters at the end of a segment", crowd, [LOST, loss("last")]),
  cut("steps of the wall clock", clockSteps, [LOST, "kill"]),
  cut("requests that overlap others under way", overlaps, [LOST, loss("mixed")]),
  {
    name: "a crash in recovery, three deep",
    run: async ({ driver, seed }) => {
      const options = { driver, script: everything, recoveryCuts: 3 };
      return say([
        await cutEverywhere({ ...options, seed, kind: "power", loss: loss("mixed") }),
        await cutEverywhere({ ...options, seed: seed + 1, kind: "power", loss: LOST }),
        await cutEverywhere({ ...options, seed: seed + 2, kind: "kill" }),
      ]);
    },
  },
  {
    name: "a torn tail beside a whole later batch",
    run: async ({ driver, seed }) => {
      const rounds = 120;
      for (let round = 0; round < rounds; round++) {
        const rig = new Rig({ seed: seed * 1000 + round, driver, pump });
        const session = new Session(rig, await rig.recover());
        await session.create("a");
        await session.write("a", at(0, 4));
        await session.flush("a");
        // Three batches, none of them synced; the last one reaches the disk whole.
        await session.write("a", at(0, 2), at(1, 2 + (round % 3)), at(2, 1));
        rig.machine.crash("power", loss("last", round % 2 === 0 ? 512 : 4096));
        rig.noteCrash();
        await rig.recover();
      }
      return `${rounds} crashes`;
    },
  },
  {
    name: "leftovers of an earlier incarnation",
    run: async ({ driver, seed }) => {
      const [rigs, lives] = [12, 12];
      for (let number = 0; number < rigs; number++) {
        const rig = new Rig({ seed: seed * 1000 + number, driver, pump });
        for (let life = 0; life < lives; life++) {
          const session = new Session(rig, await rig.recover());
          await session.create("a");
          // The same places and lengths in every life, so that old batches fit where new ones end.
          await session.write("a", at(0), at(1), at(2), at(3));
          if (life % 3 === 0) await session.flush("a");
          await session.write("a", at(4), at(5));
          const shape = (["prefix", "last", "mixed"] as const)[life % 3];
          const remains = {
            shape: shape ?? "mixed",
            unitBytes: 512,
            sizeKeptRatio: 1,
            staleRatio: 1,
          };
          rig.machine.crash("power", remains);
          rig.noteCrash();
        }
        await rig.recover();
      }
      return `${rigs * lives} crashes`;
    },
  },
  {
    name: "making a store while an operation fails",
    run: async ({ driver, seed }) => {
      const reports: StepReport[] = [];
      for (const fault of ["io", "full"] as const) {
        for (const kind of ["write", "create", "datasync", "rename", "sync"] as const) {
          const options = { driver, seed, script: making, fault, kinds: [kind], isNew: true };
          reports.push(await failEverywhere({ ...options, count: 1 }));
        }
      }
      return say(reports);
    },
  },
  {
    name: "a failed datasync, each in turn",
    run: async ({ driver, seed }) => {
      const options = { driver, fault: "io", kinds: ["datasync"] } as const;
      return say([
        await failEverywhere({ ...options, seed, script: everything, count: 1 }),
        await failEverywhere({ ...options, seed: seed + 1, script: forced, count: 1 }),
        await failEverywhere({ ...options, seed: seed + 2, script: rollOver, count: 2 }),
      ]);
    },
  },
  {
    name: "EIO at every operation",
    run: async ({ driver, seed }) => {
      const reports: StepReport[] = [];
      for (const kind of [
        "write",
        "create",
        "rename",
        "remove",
        "sync",
        "open",
        "truncate",
      ] as const) {
        const options = { driver, script: everything, fault: "io", kinds: [kind] } as const;
        reports.push(await failEverywhere({ ...options, seed, count: 1 }));
      }
      return say(reports);
    },
  },
  {
    name: "EIO at every read",
    run: async ({ driver, seed }) => {
      const options = {
        driver,
        script: everything,
        fault: "io",
        kinds: ["read", "list", "size"],
      } as const;
      return say([await failEverywhere({ ...options, seed, count: 1 })]);
    },
  },
  {
    name: "ENOSPC at every operation",
    run: async ({ driver, seed }) => {
      const options = { driver, script: everything, fault: "full" } as const;
      const kinds = ["write", "create", "truncate"] as const;
      return say([
        await failEverywhere({ ...options, kinds: ["write"], seed, count: 1 }),
        await failEverywhere({ ...options, kinds: ["create"], seed: seed + 1, count: 1 }),
        await failEverywhere({ ...options, kinds, seed: seed + 2, count: 3 }),
        await failEverywhere({
          ...options,
          kinds,
          seed: seed + 3,
          count: Number.POSITIVE_INFINITY,
        }),
      ]);
    },
  },
];
