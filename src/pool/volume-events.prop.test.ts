// SPDX-License-Identifier: Apache-2.0
//
// What is told of a volume between any two moments makes of the disk at the first the disk at the second:
// against a plain disk that is copied after every request, with other volumes, resizes and moved frames.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BLOCK, newHost, noise, PoolRig, sameBytes } from "../../test/crash/memory-rig.ts";
import { type Home, homeOfBlock, moveAlone, moveShared } from "../../test/crash/moved-frames.ts";
import { hasCode } from "../base/errors.ts";
import { parseMoment } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import { segmentName } from "../log/segment.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import type { MemoryHost } from "../sim/memory-host.ts";
import { poolIdBytes, readIdentity } from "./identity.ts";
import { RecordedPast } from "./recorded-past.ts";
import { tellEvents, type VolumeEvent } from "./volume-events.ts";

const RUNS = Number(process.env.FUZZ_RUNS ?? 25);
const MIB = 1 << 20;
const DISK_BYTES_MAX = MIB + 6 * BLOCK;
const memory = new BlockMemory(shapeOf(24 << 20));

type Event = Omit<VolumeEvent, "data"> & { readonly data: Uint8Array | undefined };

async function pastOf({ host }: { readonly host: MemoryHost }): Promise<{
  past: RecordedPast;
  events: (range: { from: string | undefined; to: string; volume?: string }) => Promise<Event[]>;
  lsnOf: (moment: string, nowMicros?: number, volume?: string) => Promise<number>;
}> {
  const { log, root, zstd, clock } = host;
  const source = { memory, log, poolId: poolIdBytes(await readIdentity(root)) };
  const past = await RecordedPast.read(source);
  const resolve = (moment: string, now = clock.wallMicros(), volume = "a") =>
    past.resolve(volume, parseMoment(moment), now);
  return {
    past,
    lsnOf: async (...args) => (await resolve(...args)).lsn,
    events: async ({ from, to, volume }) => {
      const end = await resolve(to, undefined, volume);
      const made = end.volume.states[0]?.fromLsn ?? 0;
      const fromLsn = from === undefined ? made : (await resolve(from, undefined, volume)).lsn;
      const events: Event[] = [];
      const onEvent = async (event: VolumeEvent): Promise<void> => {
        events.push({ ...event, data: event.data?.slice() });
      };
      const freeBytes = memory.staging.freeBytes;
      try {
        await tellEvents({ ...source, zstd, past, fromLsn, to: end, onEvent });
      } finally {
        equal(memory.staging.freeBytes, freeBytes, "no memory is kept");
      }
      return events;
    },
  };
}

function apply(disk: Uint8Array, events: readonly Event[]): void {
  for (const { kind, offsetBytes, lengthBytes, data } of events) {
    if (data !== undefined) disk.set(data, offsetBytes);
    else if (kind !== "flush") disk.fill(0, offsetBytes, offsetBytes + lengthBytes);
  }
}

const anyRange = fc.record({
  offset: fc.oneof(
    fc.nat(250).map((block) => block * BLOCK),
    fc.nat(MIB - 40_000),
  ),
  length: fc.oneof(
    fc.integer({ min: 1, max: 5 }).map((blocks) => blocks * BLOCK),
    fc.nat(30_000),
  ),
});
const anyOperation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("write"), range: anyRange, seed: fc.nat(8) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom("zero", "trim"),
      range: anyRange,
      seed: fc.nat(1),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom("flush", "resize", "other", "moveAlone", "moveShared"),
      range: anyRange,
      seed: fc.nat(12),
    }),
  },
);

/** Blocks of the volume that have a frame, the first few. */
function framesOf(disk: Uint8Array): number[] {
  const lbas = Array.from({ length: Math.floor(disk.length / BLOCK) }, (_, lba) => lba);
  return lbas
    .filter((lba) => disk.subarray(lba * BLOCK, (lba + 1) * BLOCK).some((byte) => byte !== 0))
    .slice(0, 3);
}

test("the events between two moments make of the first disk the second", async () => {
  const anyLife = fc.record({
    operations: fc.array(anyOperation, { minLength: 2, maxLength: 14 }),
    picks: fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 3, maxLength: 3 }),
  });
  await fc.assert(
    fc.asyncProperty(anyLife, async ({ operations, picks }) => {
      const rig = await PoolRig.create({ segmentBytes: MIB });
      await rig.pool.createVolume("a", MIB);
      await rig.pool.createVolume("b", MIB);
      let disk = new Uint8Array(MIB);
      const states = [{ lsn: rig.pool.stats().headLsn - 2, disk: disk.slice() }];
      const homes: Home[] = [];
      for (const { kind, range, seed } of operations) {
        const { offset, length } = range;
        if (length === 0) continue; // the door answers these itself
        const isIn = offset + length <= disk.length;
        if (kind === "write" && isIn) {
          const bytes = seed === 0 ? new Uint8Array(length) : noise(seed, length);
          equal(await rig.write("a", offset, bytes), 0);
          disk.set(bytes, offset);
        } else if (kind === "zero" || kind === "trim") {
          if (!isIn) continue;
          equal(await rig[kind]("a", offset, length), 0);
          disk.fill(0, offset, offset + length);
        } else if (kind === "flush") equal(await rig.flush("a"), 0);
        else if (kind === "other") await rig.write("b", offset, noise(seed, length));
        else if (kind === "resize") {
          const sizeBytes = MIB + seed * 1536;
          await rig.pool.resizeVolume("a", sizeBytes);
          const resized = new Uint8Array(sizeBytes);
          resized.set(disk.subarray(0, sizeBytes));
          disk = resized;
        } else if (kind === "moveAlone" || kind === "moveShared") {
          const lbas = framesOf(disk);
          await rig.pool.flush();
          homes.push(...lbas.map((lba) => homeOfBlock(rig, lba)));
          if (lbas.length > 0) await (kind === "moveAlone" ? moveAlone : moveShared)(rig, lbas);
        }
        states.push({ lsn: rig.pool.stats().headLsn - 1, disk: disk.slice() });
      }
      const files = await rig.close();
      // Whoever still reads moved frames where they were born finds garbage.
      for (const { segment, offset8 } of homes)
        files.log.get(segmentName(segment))?.fill(0xee, offset8 * 8, offset8 * 8 + 16);
      const { events } = await pastOf({ host: newHost(files) });
      for (const [first, second] of picks) {
        const end = states[second % states.length]!;
        const begin = states[first % ((second % states.length) + 1)]!;
        const replayed = new Uint8Array(DISK_BYTES_MAX);
        replayed.set(begin.disk);
        const told = await events({ from: `#${begin.lsn}`, to: `#${end.lsn}` });
        ok(told.every(({ lsn }) => lsn > begin.lsn && lsn <= end.lsn));
        apply(replayed, told);
        sameBytes(replayed.subarray(0, end.disk.length), end.disk, `#${begin.lsn}..#${end.lsn}`);
      }
    }),
    { numRuns: RUNS },
  );
});

test("events say what was sent: content, zeros, ranges, flushes, each with its LSN", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB + 512);
  const bytes = noise(1, 6 * BLOCK);
  bytes.fill(0, BLOCK, 3 * BLOCK);
  await rig.write("a", 0, bytes);
  await rig.trim("a", 8 * BLOCK, 4 * BLOCK);
  await rig.zero("a", MIB, 512);
  await rig.flush("a");
  await rig.pool.resizeVolume("a", MIB);
  const { events } = await pastOf(rig);
  const told = await events({ from: undefined, to: "now" });
  deepEqual(
    told.map(({ kind, lsn, offsetBytes, lengthBytes }) => [kind, lsn, offsetBytes, lengthBytes]),
    [
      ["write", 4, 0, BLOCK],
      ["zero", 4, BLOCK, 2 * BLOCK],
      ["write", 4, 3 * BLOCK, 3 * BLOCK],
      ["trim", 5, 8 * BLOCK, 4 * BLOCK],
      ["trim", 6, MIB, 512],
      ["flush", 7, 0, 0],
      ["trim", 8, MIB, 512],
    ],
  );
  sameBytes(told[2]?.data ?? 0, bytes.subarray(3 * BLOCK));
  await rig.close();
});

test("moments are found by LSN, time, flush, snapshot and now", async () => {
  const rig = await PoolRig.create();
  const { clock } = rig.host;
  await rig.pool.createVolume("a", MIB); // #3
  await rig.write("a", 0, noise(1, BLOCK)); // #4
  await rig.flush("a"); // #5
  clock.wallOffsetMicros += 3_600_000_000;
  await rig.write("a", 0, noise(2, BLOCK)); // #7, behind one of the clock's step
  await rig.pool.flush();
  const { lsnOf } = await pastOf(rig);
  const now = clock.wallMicros();
  equal(await lsnOf("now"), 7);
  equal(await lsnOf("#4"), 4);
  equal(await lsnOf("-10m"), 5);
  equal(await lsnOf(formatTime(now - 600_000_000)), 5);
  equal(await lsnOf("flush:now"), 5);
  equal(await lsnOf("flush:-10m"), 5);
  const missing = async (moment: string, why: RegExp): Promise<void> => {
    await rejects(lsnOf(moment), (error) => {
      if (!hasCode(error, "MOMENT_NOT_FOUND")) return false;
      match(error.message, why);
      return true;
    });
  };
  await missing("#8", /the log goes up to #7/);
  await missing("#2", /no volume was named "a" at #2, the first was from #3 on/);
  await missing("flush:#4", /no flush came before #4/);
  await missing("-2h", /history begins at/);
  await missing("2254-01-01", /it is in the future/);
  await missing("v1", /it has no snapshot of that name/);
  await rejects(lsnOf("now", undefined, "c"), /no volume was ever named "c"/);
  await rig.close();
});

test("a name means the volume that had it then", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB); // #3
  await rig.write("a", 0, noise(1, BLOCK)); // #4
  await rig.pool.removeVolume("a"); // #5
  await rig.pool.createVolume("a", 2 * MIB); // #6
  await rig.write("a", BLOCK, noise(2, BLOCK)); // #7
  await rig.pool.flush();
  const { events, past } = await pastOf(rig);
  deepEqual(
    (await events({ from: undefined, to: "#4" })).map(({ lsn }) => lsn),
    [4],
  );
  deepEqual(
    (await events({ from: undefined, to: "now" })).map(({ lsn }) => lsn),
    [7],
  );
  await rejects(past.resolve("a", parseMoment("#5"), 0), (error) =>
    hasCode(error, "MOMENT_NOT_FOUND"),
  );
  await rig.close();
});

test("a frame that is damaged or gone ends it with its record", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", MIB);
  await rig.write("a", 0, noise(1, BLOCK));
  const files = await rig.close();
  const segment = files.log.get(segmentName(1));
  ok(segment !== undefined);
  const at = Buffer.from(segment).indexOf(noise(1, 32));
  ok(at > 0);
  segment[at] = (segment[at] as number) ^ 1;
  const { events } = await pastOf({ host: newHost(files) });
  await rejects(events({ from: undefined, to: "now" }), (error) => {
    if (!hasCode(error, "FRAME_CORRUPT")) return false;
    match(error.message, /^volume "a", record #4, byte 0: not exported: frame 1:\d+: /);
    return true;
  });
});

test("a log whose beginning was let go tells what is left, and says what isn't", async () => {
  const rig = await PoolRig.create({ checkpointChanges: 256 });
  await rig.pool.createVolume("a", MIB);
  const none = { everyWriteMicros: 0, hourlyMicros: 0, dailyMicros: 0 };
  await rig.pool.setPolicy({ retention: { ...none, weeklyMicros: 0, monthlyMicros: 0 } });
  for (let round = 0; round < 12; round += 1) {
    await rig.write("a", 0, noise(round, 200_000));
    await rig.write("a", 300_000 + round * 8192, noise(99 + round, 8192));
  }
  for (let pass = 0; pass < 2; pass += 1) {
    await rig.pool.checkpoint();
    await rig.pool.collect({ isDryRun: false });
  }
  // Both in the checkpoint and in what is left of the log.
  await rig.pool.createVolume("b", MIB);
  await rig.pool.checkpoint();
  const disk = await rig.read("a", 0, MIB);
  ok(typeof disk !== "number");
  const { headLsn } = rig.pool.stats();
  await rig.write("a", 100_000, noise(50, 9000));
  await rig.zero("a", 0, 5000);
  await rig.pool.flush();
  const { events, past } = await pastOf(rig);
  ok(past.isLetGo(1), "the first segment is gone");
  apply(disk, await events({ from: `#${headLsn - 1}`, to: "now" }));
  sameBytes(await rig.read("a", 0, MIB), disk);
  for (const from of [undefined, "#4"]) {
    await rejects(events({ from, to: "now" }), (error) => {
      if (!hasCode(error, "MOMENT_GONE")) return false;
      match(error.message, /^moment "a@#[34]": gone: the records before #\d+ were let go$/);
      return true;
    });
  }
  await rig.close();
});
