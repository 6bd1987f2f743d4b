// SPDX-License-Identifier: Apache-2.0
//
// What is suspicious and what isn't, on a disk of which only the sizes of frames are kept. Real files and more kinds of
// work are in test/sim/activity-watch.test.ts.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { ActivityDisk, RAW_8, type Sizes } from "../../test/sim/activity-disk.ts";
import { Prng } from "../sim/prng.ts";
import { ActivityTimeline } from "./activity-timeline.ts";
import type { Suspicion } from "./activity-watch.ts";

const MIB_BLOCKS = 256;
const DISK_BLOCKS = 1024 * MIB_BLOCKS;
const WORDS = new Uint32Array(1024);

class Watched {
  readonly suspicions: Suspicion[] = [];
  readonly timeline: ActivityTimeline = new ActivityTimeline(WORDS, {
    bytesMax: 1 << 20,
    onSuspicious: (suspicion) => this.suspicions.push(suspicion),
  });
  readonly disk: ActivityDisk = new ActivityDisk(this.timeline, WORDS, DISK_BLOCKS);
  readonly random: Prng = new Prng(11);

  /** Blocks that shrink to between a fifth and three quarters. */
  text(count: number): Sizes {
    return Array.from({ length: count }, () => 100 + this.random.below(280));
  }

  /** Writes content that shrinks to the first half of the disk, then changes pieces of it. */
  settle(): void {
    for (let lba = 0; lba < DISK_BLOCKS / 2; lba += MIB_BLOCKS)
      this.disk.write(lba, this.text(MIB_BLOCKS));
    this.work(64);
  }

  work(mebibytes: number): void {
    for (let piece = 0; piece < mebibytes * 16; piece++)
      this.disk.write(this.random.below(DISK_BLOCKS / 32) * 16, this.text(16));
  }

  encrypt(fromMebibyte: number, count: number): void {
    for (let mebibyte = fromMebibyte; mebibyte < fromMebibyte + count; mebibyte++)
      this.disk.write(mebibyte * MIB_BLOCKS, raw(MIB_BLOCKS));
  }
}

function raw(count: number): Sizes {
  return new Array<number>(count).fill(RAW_8);
}

test("encryption in place is noticed within 64 MiB, with the moment before it", () => {
  const watched = settled();
  const { suspicions, timeline, disk } = watched;
  const before = { lsn: disk.lsn, micros: disk.micros };
  equal(suspicions.length, 0);
  watched.encrypt(100, 64);
  equal(suspicions.length, 1);
  equal(timeline.isSuspicious(1), true);
  const [suspicion] = suspicions as [Suspicion];
  ok(suspicion.lastLsnBefore <= before.lsn && suspicion.lastLsnBefore > before.lsn - 200);
  ok(suspicion.lastMicrosBefore <= before.micros);
  ok(suspicion.sinceMicros > suspicion.lastMicrosBefore);
  ok(suspicion.noticedLsn > before.lsn && suspicion.noticedMicros > before.micros);
  deepEqual(timeline.marks.suspicions, suspicions);
});

test("the moment before lies before the first of it, also when it paused", () => {
  const watched = settled();
  const { lsn } = watched.disk;
  watched.encrypt(100, 2);
  watched.work(56);
  watched.encrypt(110, 64);
  equal(watched.suspicions.length, 1);
  const [{ lastLsnBefore }] = watched.suspicions as [Suspicion];
  ok(lastLsnBefore <= lsn && lastLsnBefore > lsn - 200, `${lastLsnBefore - lsn}`);
});

test("it is told once, however long it goes on, and again after a quiet time", () => {
  const watched = settled();
  watched.encrypt(0, 200);
  equal(watched.suspicions.length, 1);
  watched.work(900);
  equal(watched.timeline.isSuspicious(1), false);
  watched.encrypt(200, 200);
  equal(watched.suspicions.length, 2);
});

test("a checkpoint in the middle changes nothing", () => {
  const watched = settled();
  watched.encrypt(100, 20);
  const restored = new Watched();
  equal(restored.timeline.restore(watched.timeline.cut()), true);
  deepEqual(restored.timeline.cut(), watched.timeline.cut());
  equal(restored.timeline.isSuspicious(1), false);
});

test("nothing is suspicious when it is the volume's compression that was turned off", () => {
  const watched = settled();
  watched.timeline.compressionSet(1, false);
  watched.encrypt(100, 300);
  equal(watched.suspicions.length, 0);
  watched.timeline.compressionSet(1, true);
  watched.settle();
  equal(watched.suspicions.length, 0);
  watched.encrypt(100, 64);
  equal(watched.suspicions.length, 1);
});

test("files that are written anew encrypted, and whose old blocks are trimmed, are noticed", () => {
  const { suspicions, disk } = settled();
  const half = DISK_BLOCKS / 2;
  for (let mebibyte = 0; mebibyte < 200; mebibyte++) {
    disk.write(half + mebibyte * MIB_BLOCKS, raw(MIB_BLOCKS));
    disk.trim(mebibyte * MIB_BLOCKS, MIB_BLOCKS);
  }
  equal(suspicions.length, 1);
});

test("content that doesn't shrink is not suspicious where nothing was, nor where such was before", () => {
  const { suspicions, disk } = settled();
  const half = DISK_BLOCKS / 2;
  for (let round = 0; round < 2; round++)
    for (let mebibyte = 0; mebibyte < 400; mebibyte++)
      disk.write(half + mebibyte * MIB_BLOCKS, raw(MIB_BLOCKS));
  deepEqual(suspicions, []);
});

test("a volume on which nothing ever shrank is never suspicious", () => {
  const { suspicions, disk, random } = new Watched();
  for (let mebibyte = 0; mebibyte < 1000; mebibyte++)
    disk.write(random.below(1000) * MIB_BLOCKS, raw(MIB_BLOCKS));
  deepEqual(suspicions, []);
});

test("nothing is suspicious before anything is normal", () => {
  const { suspicions, disk } = new Watched();
  disk.write(0, raw(60 * MIB_BLOCKS));
  deepEqual(suspicions, []);
});

test("a branch takes over what is normal for the one it goes on from", () => {
  const { timeline, suspicions } = settled();
  timeline.branched(2, 1);
  for (const branch of [2, 3]) {
    const clone = new ActivityDisk(timeline, WORDS, DISK_BLOCKS, branch);
    // Too little to learn from.
    for (let mebibyte = 0; mebibyte < 50; mebibyte++)
      clone.write(mebibyte * MIB_BLOCKS, new Array<number>(MIB_BLOCKS).fill(200));
    for (let mebibyte = 0; mebibyte < 50; mebibyte++)
      clone.write(mebibyte * MIB_BLOCKS, raw(MIB_BLOCKS));
  }
  deepEqual(
    suspicions.map(({ branch }) => branch),
    [2],
  );
});

function settled(): Watched {
  const watched = new Watched();
  watched.settle();
  return watched;
}
