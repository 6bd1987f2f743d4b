// SPDX-License-Identifier: Apache-2.0
//
// The simulated disk: that it behaves as the real one while the power is on, and that it takes everything
// it may when the power goes.

import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../src/base/errors.ts";
import type { Directory } from "../../src/host/ports.ts";
import { failOperations } from "../../src/sim/faults.ts";
import { type CrashKind, SimMachine } from "../../src/sim/machine.ts";
import type { PowerLoss } from "../../src/sim/stored-file.ts";
import { directorySuite } from "../conformance/directory.ts";
import { pump } from "./pump.ts";

directorySuite("simulated disk", async () => {
  const machine = new SimMachine(1);
  const { log: directory } = machine.start();
  let isOver = false;
  const turning = pump(() => {
    machine.step();
    return !isOver;
  });
  return {
    directory,
    dispose: async () => {
      isOver = true;
      await turning;
    },
  };
});

const LOST: PowerLoss = { shape: "none", unitBytes: 512, sizeKeptRatio: 0, staleRatio: 0 };
const KEPT: PowerLoss = { ...LOST, shape: "all" };

/** Runs `work` on the machine until it ends or the machine goes down. */
async function run<T>(machine: SimMachine, work: Promise<T>): Promise<T | "down"> {
  let settled: { value: T } | { error: unknown } | undefined;
  work.then(
    (value) => {
      settled = { value };
    },
    (error: unknown) => {
      settled = { error };
    },
  );
  await pump(() => settled === undefined && machine.step());
  if (settled === undefined) return "down";
  if ("error" in settled) throw settled.error;
  return settled.value;
}

/** Crashes the machine and starts it again. */
function restart(machine: SimMachine, kind: CrashKind, loss: PowerLoss = LOST): Directory {
  machine.crash(kind, loss);
  return machine.start().log;
}

async function readAll(machine: SimMachine, directory: Directory, name: string): Promise<string> {
  const work = async (): Promise<string> => {
    const file = await directory.open(name, "read");
    const bytes = new Uint8Array(await file.sizeBytes());
    await file.read(bytes, 0);
    return Buffer.from(bytes).toString("latin1");
  };
  return run(machine, work());
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

async function make(directory: Directory, name: string, content: string): Promise<void> {
  const file = await directory.open(name, "create");
  await file.write(text(content), 0);
  await file.datasync();
  await file.close();
  await directory.sync();
}

test("what a datasync and a directory sync have covered survives every power loss", async () => {
  for (let seed = 1; seed <= 50; seed++) {
    const machine = new SimMachine(seed);
    const { log } = machine.start();
    await run(machine, make(log, "a", "durable"));
    machine.crash("power");
    equal(await readAll(machine, machine.start().log, "a"), "durable");
  }
});

test("a file whose directory wasn't synced may be gone, with everything in it", async () => {
  const machine = new SimMachine(1);
  const { log } = machine.start();
  await run(
    machine,
    log.open("a", "create").then((file) => file.datasync()),
  );
  const after = restart(machine, "power");
  deepEqual(await run(machine, after.list()), []);
});

test("creating, removing and renaming are kept or lost without regard to each other", async () => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= 60; seed++) {
    const machine = new SimMachine(seed);
    const { log } = machine.start();
    const work = async (): Promise<void> => {
      await make(log, "a", "1");
      await make(log, "b", "2");
      await log.rename("a", "c");
      await log.remove("b");
    };
    await run(machine, work());
    const after = restart(machine, "power", { ...LOST, shape: "mixed" });
    seen.add(((await run(machine, after.list())) as string[]).join());
  }
  deepEqual([...seen].sort(), ["a", "a,b", "b,c", "c"]);
});

test("a kill loses nothing that was written, synced or not", async () => {
  const machine = new SimMachine(1);
  const { log } = machine.start();
  await run(
    machine,
    log.open("a", "create").then((file) => file.write(text("written"), 0)),
  );
  equal(await readAll(machine, restart(machine, "kill"), "a"), "written");
  // It was never synced, so a power loss may still take it.
  const after = restart(machine, "power");
  deepEqual(await run(machine, after.list()), []);
});

test("unsynced writes survive as any subset, in any order, torn at sectors", async () => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= 300; seed++) {
    const machine = new SimMachine(seed);
    const { log } = machine.start();
    const work = async (): Promise<void> => {
      await make(log, "a", ".".repeat(1024));
      const file = await log.open("a", "write");
      file.writeSync(new Uint8Array(1024).fill(49), 0);
      file.writeSync(new Uint8Array(512).fill(50), 512);
    };
    await run(machine, work());
    const loss = { ...LOST, shape: "mixed" as const };
    const content = await readAll(machine, restart(machine, "power", loss), "a");
    ok(/^(.)\1{511}(.)\2{511}$/s.test(content), "a sector is of one version");
    seen.add(`${content[0]}${content[512]}`);
  }
  // Each sector is old or of either write; the second write touches only the second sector.
  deepEqual([...seen].sort(), ["..", ".1", ".2", "1.", "11", "12"]);
});

test("a datasync covers what was written before it began, not what came later", async () => {
  const machine = new SimMachine(1);
  const { log } = machine.start();
  const work = async (): Promise<void> => {
    await make(log, "a", "..");
    const file = await log.open("a", "write");
    file.writeSync(text("1"), 0);
    const synced = file.datasync();
    file.writeSync(text("2"), 1);
    await synced;
  };
  await run(machine, work());
  equal(await readAll(machine, restart(machine, "power"), "a"), "1.");
});

test("after a failed datasync the next one succeeds, and the data may be lost all the same", async () => {
  let lostCount = 0;
  for (let seed = 1; seed <= 40; seed++) {
    const machine = new SimMachine(seed);
    const { log } = machine.start();
    const work = async (): Promise<void> => {
      await make(log, "a", ".");
      const file = await log.open("a", "write");
      file.writeSync(text("1"), 0);
      machine.disk.faultPlan = failOperations({ fault: "io", kinds: ["datasync"], first: 1 });
      await rejects(file.datasync(), (error) => hasCode(error, "DISK_IO"));
      await file.datasync();
    };
    await run(machine, work());
    if ((await readAll(machine, restart(machine, "power"), "a")) === ".") lostCount += 1;
  }
  ok(lostCount > 5 && lostCount < 35, `lost in ${lostCount} of 40`);
});

test("a full disk takes what fits of a write, and says DISK_FULL", async () => {
  const machine = new SimMachine(1, { capacityBytes: 1000 });
  const { log } = machine.start();
  const work = async (): Promise<void> => {
    const file = await log.open("a", "create");
    await rejects(file.write(new Uint8Array(2000), 0), (error) => hasCode(error, "DISK_FULL"));
    equal(await file.sizeBytes(), 1000);
    equal(await log.freeBytes(), 0);
    throws(
      () => file.writeSync(new Uint8Array(1), 1000),
      (error) => hasCode(error, "DISK_FULL"),
    );
    await log.remove("a");
    equal(await log.freeBytes(), 1000);
  };
  await run(machine, work());
});

test("a crash in the middle of a synchronous write ends the process there", async () => {
  const machine = new SimMachine(1);
  const { log } = machine.start();
  const work = async (): Promise<void> => {
    const file = await log.open("a", "create");
    await log.sync();
    machine.orderCrash({ kind: "power", loss: KEPT, afterOperations: 2 });
    file.writeSync(text("1"), 0);
    file.writeSync(text("2"), 1);
    // The process is dead: this reaches nobody, and what it awaits never comes.
    file.writeSync(text("3"), 2);
    await file.datasync();
    throw new Error("a dead process went on");
  };
  equal(await run(machine, work()), "down");
  equal(await readAll(machine, machine.start().log, "a"), "12");
});

test("damage at rest shows in reads and survives", async () => {
  const machine = new SimMachine(1);
  const { log } = machine.start();
  await run(machine, make(log, "a", "A"));
  machine.disk.file("log/a").flipBit(0, 1);
  equal(await readAll(machine, log, "a"), "C");
  equal(await readAll(machine, restart(machine, "power"), "a"), "C");
});

test("a lying read returns one wrong bit and no error", async () => {
  const machine = new SimMachine(1);
  const { log } = machine.start();
  await run(machine, make(log, "a", "A"));
  machine.disk.faultPlan = failOperations({ fault: "lie", kinds: ["read"], first: 1 });
  const wrong = await readAll(machine, log, "a");
  equal(wrong.length, 1);
  ok(wrong !== "A");
  equal(await readAll(machine, log, "a"), "A");
});
