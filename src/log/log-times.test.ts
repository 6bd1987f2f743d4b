// SPDX-License-Identifier: Apache-2.0
//
// Lookups by time and LSN in tight places: batches that are still open, footers that are on their way or never come,
// segments that go between two looks, a disk that fails, no memory; and how little of the log they read.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, Gate, noise, PoolRig, turns } from "../../test/crash/memory-rig.ts";
import { hasCode } from "../base/errors.ts";
import { keepRecords } from "../gc/kept-records.ts";
import { readSegmentFrames } from "../gc/segment-frames.ts";
import { poolIdBytes, readIdentity } from "../pool/identity.ts";
import { FileStore } from "./file-store.ts";
import { RECORD_KIND } from "./record.ts";
import { segmentName } from "./segment.ts";

const MIB = 1 << 20;
const FAR_FUTURE = 8e15;

/** Some segments of 20 records each; the last is open. */
async function longLog(segmentCount: number): Promise<{ rig: PoolRig; firstLsns: number[] }> {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const { log } = rig.pool;
  const firstLsns: number[] = [];
  for (let segment = 0; segment < segmentCount; segment++) {
    firstLsns.push(log.nextLsn);
    for (let at = 0; at < 20; at++) {
      rig.host.clock.nowMicros += 1000;
      await rig.trim("a", at * BLOCK, BLOCK);
    }
    if (segment < segmentCount - 1) await log.sealSegment();
  }
  await turns(20);
  return { rig, firstLsns };
}

test("what was appended a moment ago is found, also in a batch that is still open", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const { times, log } = rig.pool;
  for (let count = 0; count < 3; count++) {
    rig.host.clock.nowMicros += 1000;
    const range = { lba: 0, blockCount: 1, options: 0 };
    const lsn = log.appendRange(RECORD_KIND.TRIMMED, 1, range);
    const timeMicros = rig.host.clock.wallMicros();
    deepEqual(await times.atOrBefore(FAR_FUTURE), { lsn, timeMicros, isBeforeHole: false });
    equal(await times.timeOf(lsn), timeMicros);
    equal(await times.timeOf(log.nextLsn), undefined);
  }
  equal(await times.atOrBefore(0), undefined);
  rig.kill();
});

test("a segment whose footer is on its way, or finds no space, is read from memory", async () => {
  for (const verdict of [undefined, "ENOSPC"]) {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", MIB);
    const { times, log } = rig.pool;
    const gate = new Gate<string | undefined>();
    let footerCount = 0;
    let held = "";
    rig.host.log.onOperation = ({ kind, name, position, lengthBytes }) => {
      ok(kind !== "read" || name !== held, "what is in memory is not read");
      // Footers are written asynchronously, and nothing else of that size is.
      if (kind !== "write" || position === 0 || lengthBytes < 4096 || log.segmentNumber === 1)
        return undefined;
      footerCount += 1;
      if (footerCount === 1) held = name;
      return footerCount === 1 ? gate.wait : undefined;
    };
    while (log.segmentNumber < 4) {
      await rig.trim("a", 0, BLOCK);
      await rig.flush("a");
      await turns(2);
    }
    ok(footerCount > 0, "a footer is held");
    const lsns = Array.from({ length: log.nextLsn - 1 }, (_, at) => at + 1);
    const timesOf = (): Promise<(number | undefined)[]> =>
      Promise.all(lsns.map((lsn) => times.timeOf(lsn)));
    const before = await timesOf();
    ok(before.every((micros, at) => micros !== undefined && micros >= (before[at - 1] ?? 0)));
    if (verdict === undefined) held = "";
    gate.open(verdict);
    await turns(20);
    deepEqual(await timesOf(), before);
    rig.host.log.onOperation = undefined;
    await rig.close();
  }
});

test("a segment that goes between two looks is a hole, not an error", async () => {
  const { rig, firstLsns } = await longLog(8);
  const { times } = rig.pool;
  const [, , second, third, fourth] = firstLsns as [number, number, number, number, number];
  ok((await times.timeOf(second)) !== undefined);
  await rig.host.log.remove(segmentName(4));
  equal(await times.timeOf(third), undefined);
  const behind = (await times.timeOf(fourth)) as number;
  const nearest = await times.atOrBefore(behind - 1);
  deepEqual([nearest?.lsn, nearest?.isBeforeHole], [third - 1, true]);
  deepEqual((await times.atOrBefore(behind))?.isBeforeHole, false);
  rig.kill();
});

test("a segment of which only the records are left while it is looked into is known as before", async () => {
  for (let held = 1; held <= 3; held++) {
    const before = await PoolRig.create();
    await before.pool.createVolume("a", MIB);
    for (let at = 0; at < 20; at++) await before.trim("a", at * BLOCK, BLOCK);
    const lsn = before.pool.log.nextLsn - 3;
    // A crash ends the segment: it has no footer, and its records are read from its batches.
    const { pool, host } = await PoolRig.open(before.kill());
    const name = segmentName(1);
    const reached = new Gate();
    const gate = new Gate();
    let openCount = 0;
    host.log.onOperation = ({ kind, name: opened }) => {
      if (kind !== "open" || opened !== name) return undefined;
      openCount += 1;
      if (openCount !== held) return undefined;
      reached.open(undefined);
      return gate.wait;
    };
    const found = pool.times.timeOf(lsn);
    await reached.wait;
    const poolId = poolIdBytes(await readIdentity(host.root));
    const files = { memory: pool.memory, directory: host.log, poolId, clock: host.clock };
    const store = new FileStore(host.log, segmentName, 1);
    await keepRecords(files, store, await readSegmentFrames(files, 1));
    await store.closeAll();
    await host.log.remove(name);
    gate.open(undefined);
    ok((await found) !== undefined, `before it is opened for the ${held}. time`);
    equal(await pool.times.timeOf(lsn), await found);
    host.stop();
  }
});

test("an error of the disk is told to whoever asks, and the next look is not harmed by it", async () => {
  let failedCount = 0;
  for (let failing = 1; failing <= 12; failing++) {
    const { rig, firstLsns } = await longLog(6);
    const { times } = rig.pool;
    const lsn = (firstLsns[2] as number) + 7;
    let readCount = 0;
    rig.host.log.onOperation = ({ kind }) => {
      if (kind === "read") readCount += 1;
      return kind === "read" && readCount === failing ? "EIO" : undefined;
    };
    await times.timeOf(lsn).catch((error: unknown) => {
      ok(hasCode(error, "DISK_IO"), String(error));
      failedCount += 1;
    });
    ok((await times.timeOf(lsn)) !== undefined);
    rig.kill();
  }
  ok(failedCount >= 6 && failedCount < 12, `it reads ${failedCount} times`);
});

test("a look waits for staging memory instead of failing", async () => {
  const { rig, firstLsns } = await longLog(4);
  const { times, memory } = rig.pool;
  const taken: number[] = [];
  for (let lengthBytes = 2 * MIB; lengthBytes >= 512; lengthBytes /= 2)
    for (let at = memory.staging.allocate(lengthBytes); at >= 0; ) {
      taken.push(at);
      at = memory.staging.allocate(lengthBytes);
    }
  let found: number | undefined;
  const look = times.timeOf(firstLsns[1] as number).then((micros) => {
    found = micros;
  });
  await turns(50);
  equal(found, undefined);
  for (const address of taken) memory.staging.release(address);
  await look;
  ok(found !== undefined);
  rig.kill();
});

test("a look into a long log opens few segments, and one into the same segment none", async () => {
  const { rig, firstLsns } = await longLog(200);
  const { times } = rig.pool;
  let openCount = 0;
  let readBytes = 0;
  rig.host.log.onOperation = ({ kind, lengthBytes }) => {
    if (kind === "open") openCount += 1;
    if (kind === "read") readBytes += lengthBytes;
    return undefined;
  };
  const timeMicros = await times.timeOf((firstLsns[77] as number) + 5);
  ok(openCount <= 12, `${openCount} of 200 segments were opened`);
  ok(readBytes < 12 * 8192 + 65536, `${readBytes} bytes were read`);
  openCount = 0;
  const found = await times.atOrBefore((timeMicros as number) + 1);
  equal(found?.lsn, (firstLsns[77] as number) + 5);
  ok(openCount <= 2, `${openCount} more were opened`);
  openCount = 0;
  await times.atOrBefore(timeMicros as number);
  equal(openCount, 0);
  rig.kill();
});

test("many looks at once, all over the log, agree with one after the other", async () => {
  const { rig, firstLsns } = await longLog(30);
  const { times } = rig.pool;
  const all = firstLsns.map((firstLsn) => firstLsn + 3);
  const together = await Promise.all(all.map((lsn) => times.timeOf(lsn)));
  for (const [at, lsn] of all.entries()) equal(await times.timeOf(lsn), together[at]);
  const found = await Promise.all(together.map((micros) => times.atOrBefore(micros as number)));
  deepEqual(
    found.map((moment) => moment?.lsn),
    all,
  );
  rig.kill();
});

test("a flush is found in a segment far below, but not below where it is looked for", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.pool.createVolume("b", MIB);
  const { times, log } = rig.pool;
  await rig.write("a", 0, noise(1, BLOCK));
  await rig.flush("a");
  const flushLsn = log.nextLsn - 1;
  for (let segment = 0; segment < 6; segment++) {
    await rig.trim("b", 0, BLOCK);
    await rig.flush("b");
    await log.sealSegment();
  }
  await rig.trim("b", 0, BLOCK);
  const lsn = log.nextLsn - 1;
  const found = await times.lastFlush({ branch: 1, fromLsn: 1, lsn });
  deepEqual([found?.lsn, found?.isBeforeHole], [flushLsn, false]);
  equal(await times.lastFlush({ branch: 1, fromLsn: flushLsn + 1, lsn }), undefined);
  equal((await times.lastFlush({ branch: 1, fromLsn: flushLsn, lsn: flushLsn }))?.lsn, flushLsn);
  equal(await times.lastFlush({ branch: 1, fromLsn: 1, lsn: flushLsn - 1 }), undefined);
  equal(await times.lastFlush({ branch: 3, fromLsn: 1, lsn }), undefined);
  await rig.close();
});

test("recorded time doesn't go back across a kill, though records are later than their batch began", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const range = { lba: 0, blockCount: 1, options: 0 };
  rig.pool.log.appendRange(RECORD_KIND.TRIMMED, 1, range);
  rig.host.clock.nowMicros += 3_000_000;
  const lsn = rig.pool.log.appendRange(RECORD_KIND.TRIMMED, 1, range);
  const before = (await rig.pool.times.timeOf(lsn)) as number;
  // Its clock begins where the first one's did.
  const next = await PoolRig.open(rig.kill());
  const after = (await next.pool.times.timeOf(lsn + 1)) as number;
  ok(after >= before, `${after - before} µs`);
  await next.close();
});
