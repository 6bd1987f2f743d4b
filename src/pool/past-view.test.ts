// SPDX-License-Identifier: Apache-2.0
//
// Moments as disks, through the pool: whatever is written, checkpointed, collected and started again meanwhile, a view holds
// what the volume held then; and what was let go is refused, not half answered.

import { equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, Gate, noise, PoolRig, sameBytes, turns } from "../../test/crash/memory-rig.ts";
import type { Moment } from "../base/moment.ts";
import { wholeRetention } from "./catalog-policy.ts";
import type { ResolvedMoment } from "./types.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;

async function expectAt(rig: PoolRig, moment: Moment, wanted: Uint8Array): Promise<void> {
  const view = await rig.pool.openView(await rig.pool.resolve("a", moment));
  sameBytes(await rig.readDevice(view.device, 0, wanted.length), wanted);
  view.close();
}

function at(lsn: number): Moment {
  return { kind: "lsn", lsn };
}

function now(rig: PoolRig): number {
  return rig.pool.log.nextLsn - 1;
}

test("every write is a moment, before and behind checkpoints, and after a restart", async () => {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  const wanted = new Map<number, Uint8Array>();
  const content = new Uint8Array(64 * BLOCK);
  for (let step = 0; step < 60; step++) {
    const block = (step * 7) % 64;
    const bytes = noise(step + 1, BLOCK);
    await rig.write("a", block * BLOCK, bytes);
    content.set(bytes, block * BLOCK);
    wanted.set(now(rig), content.slice());
    if (step % 20 === 10) await rig.pool.checkpoint();
  }
  for (const [lsn, bytes] of wanted) await expectAt(rig, at(lsn), bytes);
  rig = await PoolRig.open(rig.kill());
  for (const [lsn, bytes] of wanted) await expectAt(rig, at(lsn), bytes);
  rig = await PoolRig.open(await rig.close());
  for (const [lsn, bytes] of wanted) await expectAt(rig, at(lsn), bytes);
  await rig.close();
});

test("a view stays what it is while it is open, also when its moment leaves the window and its garbage is collected", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 4 * MIB);
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  const moment = await rig.pool.resolve("a", { kind: "now" });
  const view = await rig.pool.openView(moment);
  const other = await rig.pool.openView(moment);
  for (let round = 0; round < 6; round++) {
    await rig.write("a", 0, noise(10 + round, MIB));
    rig.host.clock.wallOffsetMicros += HOUR;
    await rig.pool.checkpoint();
  }
  await rig.pool.collect({ isDryRun: false });
  sameBytes(await rig.readDevice(view.device, 0, MIB), first);
  view.close();
  await rig.pool.collect({ isDryRun: false });
  sameBytes(await rig.readDevice(other.device, 0, MIB), first, "another reader has it still");
  other.close();
  await rejects(rig.pool.openView(moment), { code: "MOMENT_GONE" });
  await rejects(rig.pool.resolve("a", at(moment.lsn)), { code: "MOMENT_GONE" });
  const before = rig.pool.stats().storedBytes;
  await rig.pool.checkpoint();
  const report = await rig.pool.collect({ isDryRun: false });
  ok(report.bytesFreed >= MIB / 2, `${report.bytesFreed} of ${before} bytes are free then`);
  await rig.close();
});

test("a named moment stays as long as its name, whatever retention lets go of", async () => {
  let rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await rig.pool.createVolume("a", 4 * MIB);
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  await rig.pool.snapshot([{ volume: "a", name: "v1" }]);
  const named: Moment = { kind: "name", name: "v1" };
  for (let round = 0; round < 4; round++) {
    await rig.write("a", 0, noise(10 + round, MIB));
    await rig.pool.collect({ isDryRun: false });
    await expectAt(rig, named, first);
  }
  rig = await PoolRig.open(await rig.close());
  await rig.pool.collect({ isDryRun: false });
  await expectAt(rig, named, first);
  equal(rig.pool.snapshots("a").length, 1);
  await rig.pool.removeSnapshot({ volume: "a", name: "v1" });
  await rig.pool.checkpoint();
  const report = await rig.pool.collect({ isDryRun: false });
  ok(report.bytesFreed >= MIB / 2, `${report.bytesFreed} bytes are free then`);
  await rig.close();
});

test("hourly moments are kept when the window of every write has passed them, and those between go", async () => {
  let rig = await PoolRig.create();
  await rig.pool.setPolicy({
    retention: { everyWriteMicros: HOUR, hourlyMicros: 10 * HOUR },
  });
  await rig.pool.createVolume("a", 4 * MIB);
  const ends: { lsn: number; bytes: Uint8Array }[] = [];
  for (let quarter = 0; quarter < 24; quarter++) {
    const bytes = noise(quarter + 1, 16 * BLOCK);
    await rig.write("a", 0, bytes);
    ends.push({ lsn: now(rig), bytes });
    await rig.pool.checkpoint();
    rig.host.clock.wallOffsetMicros += HOUR / 4;
  }
  const { wallOffsetMicros } = rig.host.clock;
  rig = await PoolRig.open(await rig.close());
  rig.host.clock.wallOffsetMicros = wallOffsetMicros;
  await rig.pool.checkpoint();
  await rig.pool.collect({ isDryRun: false });
  let keptCount = 0;
  for (const { lsn, bytes } of ends) {
    const isThere = await rig.pool.resolve("a", at(lsn)).then(
      () => true,
      () => false,
    );
    if (!isThere) continue;
    keptCount += 1;
    await expectAt(rig, at(lsn), bytes);
  }
  equal(keptCount, 5 + 4, "of 24 one of each hour but the last, and all of that");
  await rig.close();
});

test("each hour in which something was written has a moment, however little that was", async () => {
  const rig = await PoolRig.create();
  const { clock } = rig.host;
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 20 * HOUR, hourlyMicros: 40 * HOUR } });
  await rig.pool.createVolume("a", 4 * MIB);
  const hourOf = (micros: number): number => Math.floor(micros / HOUR);
  // So many turns would be an hour by themselves.
  clock.isFrozen = true;
  const written: { lsn: number; hour: number; bytes: Uint8Array }[] = [];
  for (let step = 0; step < 90; step++) {
    const bytes = noise(step + 1, BLOCK);
    await rig.write("a", 0, bytes);
    written.push({ lsn: now(rig), hour: hourOf(clock.wallMicros()), bytes });
    await turns(50);
    clock.wallOffsetMicros += HOUR * 0.4;
  }
  clock.isFrozen = false;
  await rig.pool.checkpoint();
  await rig.pool.collect({ isDryRun: false });
  const asked = {
    from: { kind: "ago", micros: 40 * HOUR },
    to: { kind: "now" },
    stepMicros: HOUR,
  } as const;
  const { kept, everyWriteFrom } = await rig.pool.history("a", asked);
  const hours = new Set(kept.map(({ timeMicros }) => hourOf(timeMicros)));
  // In its first hour it may have been made behind the hour's moment.
  for (const { hour, lsn } of written.filter((one) => one.hour > (written[0]?.hour ?? 0)))
    ok(hours.has(hour) || lsn >= (everyWriteFrom?.lsn ?? 0), `#${lsn} has a moment of its hour`);
  ok(kept.length >= 14, `${kept.length} hours are behind the window`);
  for (const { lsn } of kept) {
    const bytes = written.findLast((one) => one.lsn <= lsn)?.bytes ?? new Uint8Array(BLOCK);
    await expectAt(rig, at(lsn), bytes);
  }
  await rig.close();
});

test("the record that a named moment ends with is found when the log has forgotten it", async () => {
  const rig = await PoolRig.create({ segmentBytes: 65536 });
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await rig.pool.createVolume("a", 4 * MIB);
  const first = noise(1, 16 * BLOCK);
  await rig.write("a", 0, first);
  const [named] = await rig.pool.snapshot([{ volume: "a", name: "v1" }]);
  for (let round = 0; round < 4; round++) {
    await rig.write("a", 0, noise(10 + round, 16 * BLOCK));
    await rig.pool.collect({ isDryRun: false });
  }
  await expectAt(rig, at(named?.lsn ?? 0), first);
  await rig.close();
});

test("garbage is collected under a window that no volume was under for a while", async () => {
  const rig = await PoolRig.create({ segmentBytes: 65536 });
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  for (let round = 0; round < 4; round++) {
    await rig.pool.checkpoint();
    rig.host.clock.wallOffsetMicros += HOUR;
    await rig.pool.setPolicy({ historyFloorMicros: round });
  }
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  await rig.pool.collect({ isDryRun: false });
  await expectAt(rig, at(now(rig)), noise(1, BLOCK));
  await rig.close();
});

test("a view that is open reads pages of a checkpoint that nothing else needs", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  await rig.pool.checkpoint();
  await rig.write("a", 0, noise(2, BLOCK));
  await rig.pool.checkpoint();
  await rig.write("a", 3 * MIB, noise(9, BLOCK));
  const view = await rig.pool.openView(await rig.pool.resolve("a", { kind: "now" }));
  // It knows where the pages of these two GiB are from now on.
  sameBytes(await rig.readDevice(view.device, 3 * MIB, BLOCK), noise(9, BLOCK));
  for (let round = 0; round < 3; round++) {
    await rig.write("a", 0, noise(3 + round, BLOCK));
    await rig.pool.checkpoint();
  }
  sameBytes(await rig.readDevice(view.device, 0, BLOCK), noise(2, BLOCK));
  view.close();
  await rig.close();
});

test("a window that begins stands on a checkpoint of its own, whoever lets go of older ones", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: null } });
  await rig.pool.createVolume("a", 4 * MIB);
  const nothing = wholeRetention({ everyWriteMicros: 0 });
  await rig.pool.setVolumeRetention("a", nothing);
  await rig.pool.checkpoint();
  await rig.pool.setVolumeRetention("a", wholeRetention({ everyWriteMicros: null }));
  await rig.pool.checkpoint();
  await rig.write("a", 0, noise(1, BLOCK));
  const lsn = now(rig);
  await rig.pool.checkpoint();
  await rig.pool.setPolicy({ retention: nothing });
  await rig.write("a", 0, noise(2, BLOCK));
  await rig.pool.checkpoint();
  await expectAt(rig, at(lsn), noise(1, BLOCK));
  await rig.close();
});

test("a volume that goes back to the pool's retention isn't promised what its own let go", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: null } });
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.pool.setVolumeRetention("a", {
    ...{ everyWriteMicros: 0, hourlyMicros: 0, dailyMicros: 0 },
    ...{ weeklyMicros: 0, monthlyMicros: 0 },
  });
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  await rig.write("a", 2 * MIB, noise(3, MIB));
  const written = now(rig);
  await rig.pool.resizeVolume("a", MIB);
  const shrunk = now(rig);
  await rig.pool.checkpoint();
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.setVolumeRetention("a", undefined);
  const inherited = now(rig);
  const expectGone = async (rig: PoolRig): Promise<void> => {
    for (const lsn of [written, shrunk - 1])
      await rejects(rig.pool.resolve("a", at(lsn)), { code: "MOMENT_GONE" });
    await rejects(rig.pool.undo("a"), { code: "MOMENT_GONE" });
  };
  await expectGone(rig);
  await rig.pool.checkpoint();
  await expectGone(rig);
  await rig.write("a", 0, noise(2, BLOCK));
  const again = await PoolRig.open(await rig.close());
  await expectGone(again);
  await expectAt(again, at(inherited), first);
  await again.close();
});

test("a view of many terabytes knows a part of its directory at a time, and reads all of it", async () => {
  const rig = await PoolRig.create({ memoryBytes: 64 << 20 });
  const gib2 = 2 ** 31;
  await rig.pool.createVolume("a", 2200 * gib2);
  for (let chunk = 0; chunk < 2200; chunk += 1)
    await rig.write("a", chunk * gib2, noise(chunk + 1, BLOCK));
  const before = rig.pool.index.directoryBytes;
  const view = await rig.pool.openView(await rig.pool.resolve("a", { kind: "now" }));
  await rig.write("a", 0, noise(9999, BLOCK));
  for (const round of [1, 2])
    for (let chunk = 0; chunk < 2200; chunk += 1)
      sameBytes(
        await rig.readDevice(view.device, chunk * gib2, BLOCK),
        noise(chunk + 1, BLOCK),
        `round ${round}`,
      );
  ok(rig.pool.index.directoryBytes - before <= 2048 * 16384, `${rig.pool.index.directoryBytes}`);
  rig.pool.checkInvariants();
  view.close();
  equal(rig.pool.index.directoryBytes, before);
  await rig.close();
});

test("what a checkpoint would let go is promised until that checkpoint is durable", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 4 * MIB);
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  const lsn = now(rig);
  for (let round = 0; round < 2; round++) {
    await rig.pool.checkpoint();
    rig.host.clock.wallOffsetMicros += HOUR / 4;
    await rig.write("a", 0, noise(round + 2, MIB));
  }
  rig.host.clock.wallOffsetMicros += 3 * HOUR;
  rig.host.log.onOperation = ({ kind, name }) =>
    kind === "write" && name.startsWith("checkpoint-") ? "ENOSPC" : undefined;
  await rejects(rig.pool.checkpoint(), { code: "DISK_FULL" });
  await rig.pool.reclaim();
  rig.host.log.onOperation = undefined;
  const again = await PoolRig.open(rig.cutPower());
  await expectAt(again, at(lsn), first);
  await again.close();
});

/** A checkpoint that lets go of the moment has chosen so and isn't written yet while `claim` is made. */
async function claimWhileItIsLetGo<T>(
  claim: (rig: PoolRig, moment: ResolvedMoment) => Promise<T>,
): Promise<{ rig: PoolRig; first: Uint8Array; outcome: PromiseSettledResult<T> }> {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
  await rig.pool.createVolume("a", 4 * MIB);
  const first = noise(1, MIB);
  await rig.write("a", 0, first);
  await rig.pool.checkpoint();
  const moment = await rig.pool.resolve("a", { kind: "now" });
  for (let round = 0; round < 3; round++) {
    rig.host.clock.wallOffsetMicros += HOUR / 8;
    await rig.write("a", 0, noise(10 + round, MIB));
    await rig.pool.checkpoint();
  }
  rig.host.clock.wallOffsetMicros += 3 * HOUR;
  await rig.write("a", MIB, noise(20, BLOCK));
  const gate = new Gate();
  const chosen = new Gate();
  rig.host.log.onOperation = ({ kind, name }) => {
    if (kind !== "write" || !name.startsWith("checkpoint-")) return undefined;
    chosen.open(undefined);
    return gate.wait;
  };
  const checkpoint = rig.pool.checkpoint();
  await chosen.wait;
  const claimed = Promise.allSettled([claim(rig, moment)]);
  await turns(5);
  rig.host.log.onOperation = undefined;
  gate.open(undefined);
  await checkpoint;
  const [outcome] = await claimed;
  for (let round = 0; round < 3; round++) {
    await rig.write("a", 0, noise(30 + round, MIB));
    await rig.pool.checkpoint();
    await rig.pool.collect({ isDryRun: false });
  }
  return { rig, first, outcome };
}

test("a view of a moment that is just being let go is refused, or holds for good", async () => {
  const { rig, first, outcome } = await claimWhileItIsLetGo((rig, moment) =>
    rig.pool.openView(moment),
  );
  if (outcome.status === "rejected") equal(outcome.reason.code, "MOMENT_GONE");
  else sameBytes(await rig.readDevice(outcome.value.device, 0, MIB), first);
  await rig.close();
});

test("a clone of a moment that is just being let go is refused, or holds for good", async () => {
  const { rig, first, outcome } = await claimWhileItIsLetGo((rig, { lsn }) =>
    rig.pool.clone("a", at(lsn), "b"),
  );
  if (outcome.status === "rejected") equal(outcome.reason.code, "MOMENT_GONE");
  else sameBytes(await rig.read("b", 0, MIB), first);
  const again = await PoolRig.open(rig.kill());
  const names = again.pool.volumes().map(({ name }) => name);
  equal(names.includes("b"), outcome.status === "fulfilled");
  await again.close();
});
