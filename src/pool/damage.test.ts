// SPDX-License-Identifier: Apache-2.0
//
// What an operator hears of a disk that loses blocks: each place is counted, and few lines say so.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { TELL_EVERY_MS } from "./bounded-events.ts";
import { Damage } from "./damage.ts";

interface Line {
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A clock that a test moves, and what was told by it. */
class Watch {
  readonly lines: Line[] = [];
  readonly #timers: Map<number, { dueMs: number; callback: () => void }> = new Map();
  #nowMs = 0;
  #lastTimer = 0;
  readonly clock: Clock = {
    wallMicros: () => this.#nowMs * 1000,
    monotoneMicros: () => this.#nowMs * 1000,
    after: (delayMs, callback) => {
      this.#lastTimer += 1;
      const timer = this.#lastTimer;
      this.#timers.set(timer, { dueMs: this.#nowMs + delayMs, callback });
      return () => this.#timers.delete(timer);
    },
    afterInput: () => undefined,
  };
  readonly damage: Damage = new Damage(this.clock, (_level, event, fields) =>
    this.lines.push({ event, fields }),
  );

  get timerCount(): number {
    return this.#timers.size;
  }

  pass(ms: number): void {
    this.#nowMs += ms;
    for (const [timer, { dueMs, callback }] of [...this.#timers]) {
      if (dueMs > this.#nowMs) continue;
      this.#timers.delete(timer);
      callback();
    }
  }

  /** What the lines say of each: event, place, how many were left out. */
  takeLines(): unknown[][] {
    return this.lines
      .splice(0)
      .map(({ event, fields }) => [event, fields.offset ?? fields.page, fields.suppressed]);
  }
}

function frameCorrupt(offset: number): StorageError {
  return new StorageError("FRAME_CORRUPT", "frame: not returned", { data: { segment: 3, offset } });
}

test("the first failure is told at once, then one line in ten seconds with the newest place", () => {
  const watch = new Watch();
  for (let at = 1; at <= 900; at++) watch.damage.requestFailed(frameCorrupt(at), "db");
  deepEqual(watch.takeLines(), [["request.failed", 1, undefined]]);
  watch.pass(TELL_EVERY_MS - 1);
  deepEqual(watch.takeLines(), []);
  watch.pass(1);
  deepEqual(watch.takeLines(), [["request.failed", 900, 898]]);
  watch.damage.requestFailed(frameCorrupt(5), "db");
  deepEqual(watch.takeLines(), [], "the line of a moment ago counts too");
  watch.pass(TELL_EVERY_MS);
  deepEqual(watch.takeLines(), [["request.failed", 5, 0]]);
  watch.pass(TELL_EVERY_MS);
  deepEqual(watch.takeLines(), []);
  equal(watch.timerCount, 0);
  watch.damage.requestFailed(frameCorrupt(6), "db");
  deepEqual(watch.takeLines(), [["request.failed", 6, undefined]], "after ten quiet seconds");
});

test("each kind of damage has lines of its own, and what was held back is told at the end", () => {
  const watch = new Watch();
  const frame = { segmentNumber: 3, problem: "checksum", lsn: 1, branch: 1, lba: 0 };
  const leaf = { branch: 1, run: 2, offset8: 8 };
  const cause = new StorageError("POOL_CORRUPT", "index: damaged");
  const io = new StorageError("DISK_IO", "read failed", { data: { offset: 7 } });
  for (let at = 1; at <= 3; at++) {
    watch.damage.frameDamaged({ ...frame, offset: at });
    watch.damage.pageDamaged({ ...leaf, page: at }, cause);
    watch.damage.requestFailed(io, "db");
    watch.damage.requestFailed(frameCorrupt(at), "db");
  }
  const first = [
    ["log.frame-damaged", 1, undefined],
    ["index.page-damaged", 1, undefined],
    ["request.failed", 7, undefined],
    ["request.failed", 1, undefined],
  ];
  deepEqual(watch.takeLines(), first);
  watch.damage.close();
  const last = [
    ["log.frame-damaged", 3, 1],
    ["index.page-damaged", 3, 1],
    ["request.failed", 7, 1],
    ["request.failed", 3, 1],
  ];
  deepEqual(watch.takeLines(), last);
  equal(watch.timerCount, 0);
});

test("a place counts once, a request each time, and what a client did wrong not at all", () => {
  const watch = new Watch();
  for (const offset of [8, 16, 8, 8]) watch.damage.requestFailed(frameCorrupt(offset), "db");
  watch.damage.requestFailed(new StorageError("DISK_IO", "read failed"), "db");
  watch.damage.requestFailed(new StorageError("ACCESS_DENIED", "read-only"), "db");
  const frame = { segmentNumber: 3, problem: "checksum", lsn: 1, branch: 1, lba: 0 };
  watch.damage.frameDamaged({ ...frame, offset: 8 });
  watch.damage.frameDamaged({ ...frame, offset: 24 });
  const cause = new StorageError("POOL_CORRUPT", "index: damaged");
  for (const offset8 of [1, 2, 1])
    watch.damage.pageDamaged({ branch: 1, page: 1, run: 2, offset8 }, cause);
  const { statistics } = watch.damage;
  deepEqual(statistics, { damagedBlockCount: 3, damagedPageCount: 2, failedRequestCount: 5 });
});

test("a pool counts the blocks that its readers find damaged, and names their volume", async () => {
  const rig = await PoolRig.create({ segmentBytes: 4 << 20 });
  await rig.pool.createVolume("a", 1 << 20);
  for (let block = 0; block < 16; block++) await rig.write("a", block * BLOCK, noise(block, BLOCK));
  await rig.pool.checkpoint();
  const files = await rig.close();
  const log = new Map(files.log);
  for (const [name, bytes] of files.log) {
    if (!name.endsWith(".seg")) continue;
    const damaged = bytes.slice();
    for (let at = 20_000; at < 60_000; at += 8192) damaged[at] = ~(damaged[at] as number);
    log.set(name, damaged);
  }
  const settings = { segmentBytes: 4 << 20, isDedupRestored: false };
  const again = await PoolRig.open({ root: files.root, log }, settings);
  again.host.clock.isFrozen = true;
  const told: unknown[] = [];
  again.pool.onEvent(({ event, fields }) => told.push([event, fields.volume, fields.suppressed]));
  let failedCount = 0;
  for (let round = 0; round < 3; round++) {
    for (let block = 0; block < 16; block++)
      if (typeof (await again.read("a", block * BLOCK, BLOCK)) === "number") failedCount += 1;
  }
  const { damagedBlockCount, failedRequestCount } = again.pool.stats();
  again.host.clock.isFrozen = false;
  await again.close();
  ok(failedCount > 0);
  equal(failedRequestCount, failedCount);
  equal(damagedBlockCount * 3, failedCount);
  const lines = [
    ["request.failed", "a", undefined],
    ["request.failed", "a", failedCount - 2],
  ];
  deepEqual(told, lines);
});
