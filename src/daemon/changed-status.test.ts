// SPDX-License-Identifier: Apache-2.0
//
// Block status of what changed, over a pool whose differences are a list: what is told, how much is looked at for it, and
// how it ends.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { NBD_ERROR, StorageError } from "../base/errors.ts";
import type { BlockRequest } from "../nbd/block-device.ts";
import type { DiffMoment, DiffRange, DiffSummary, DiffVisitor } from "../pool/types.ts";
import { ChangedStatus } from "./changed-status.ts";
import { Turns } from "./turns.ts";

const GIB = 2 ** 30;
const BLOCK = 4096;

/** Bytes [start, end) that changed, in order. */
type Changed = readonly (readonly [number, number])[];

class Rig {
  changed: Changed;
  to: DiffMoment = { volume: "db", branch: 1, lsn: 20, sizeBytes: 64 * GIB };
  readonly looks: DiffRange[] = [];
  nowMicros = 0;
  /** What a look costs. */
  lookMicros = 0;
  beforeLook: () => Promise<void> | undefined = () => undefined;
  releasedCount = 0;
  readonly failures: string[] = [];
  readonly turns: Turns;
  readonly status: ChangedStatus;

  constructor(changed: Changed, turns: Turns = new Turns(4)) {
    this.changed = changed;
    this.turns = turns;
    this.status = new ChangedStatus({
      pool: { diff: (_from, to, range, visitor) => this.#diff(to, range, visitor) },
      clock: { monotoneMicros: () => this.nowMicros },
      turns,
      from: { ...this.to, lsn: 10 },
      to: async () => this.to,
      failed: ({ message }) => this.failures.push(message),
      released: () => {
        this.releasedCount += 1;
      },
    });
  }

  async #diff(to: DiffMoment, range: DiffRange, visitor: DiffVisitor): Promise<DiffSummary> {
    this.looks.push(range);
    this.nowMicros += this.lookMicros;
    await this.beforeLook();
    await visitor.room?.();
    const end = range.offsetBytes + range.lengthBytes;
    let nextOffsetBytes: number | undefined;
    for (const [from, until] of this.changed) {
      const start = Math.max(from, range.offsetBytes);
      const stop = Math.min(until, end);
      if (start >= stop) continue;
      if (visitor.extent(start, stop - start, "data")) continue;
      nextOffsetBytes = stop;
      break;
    }
    const sums = { extentCount: 0, dataBytes: 0, zeroBytes: 0, holeBytes: 0, untoldBytes: 0 };
    return { fromSizeBytes: 0, toSizeBytes: to.sizeBytes, ...sums, nextOffsetBytes };
  }

  /** The answer as "length flags", and the error. */
  async ask(
    offsetBytes: number,
    lengthBytes: number,
    countMax = 1e6,
  ): Promise<{ readonly extents: string[]; readonly errno: number; readonly told: number }> {
    const extents: string[] = [];
    let told = 0;
    const errno = await new Promise<number>((complete) => {
      const request: BlockRequest = {
        ...{ offsetBytes, lengthBytes, address: 0, isForceUnitAccess: false },
        complete,
      };
      this.status.blockStatus(request, {
        add: (length, flags) => {
          // As the door does it.
          const [lastBytes, lastFlags] = extents.at(-1)?.split(" ").map(Number) ?? [];
          if (lastFlags === flags) extents.pop();
          extents.push(`${(lastFlags === flags ? (lastBytes as number) : 0) + length} ${flags}`);
          told += length;
          return extents.length < countMax && told < lengthBytes;
        },
      });
    });
    return { extents, errno, told };
  }
}

test("clean and dirty extents fill the range that was asked for, cut at its ends", async () => {
  const rig = new Rig([
    [0, BLOCK],
    [8 * BLOCK, 10 * BLOCK],
    [10 * BLOCK, 11 * BLOCK],
  ]);
  const told = async (from: number, end: number): Promise<string[]> =>
    (await rig.ask(from * BLOCK, (end - from) * BLOCK)).extents;
  deepEqual(await told(0, 2), ["4096 1", "4096 0"]);
  deepEqual(await told(1, 8), [`${7 * BLOCK} 0`]);
  deepEqual(await told(9, 12), [`${2 * BLOCK} 1`, "4096 0"], "neighbours are one");
  deepEqual((await rig.ask(8 * BLOCK + 512, 1024)).extents, ["1024 1"]);
  deepEqual((await rig.ask(BLOCK - 512, 1024)).extents, ["512 1", "512 0"]);
});

test("extent by extent costs one look in a thousand, as long as the disk stays as it is", async () => {
  const rig = new Rig(
    Array.from({ length: 3000 }, (_, at) => [at * 3 * BLOCK, (at * 3 + 1) * BLOCK]),
  );
  const end = 9000 * BLOCK;
  let dirty = 0;
  for (let at = 0; at < end; ) {
    const { extents, told } = await rig.ask(at, end - at, 1);
    if (extents[0]?.endsWith(" 1")) dirty += 1;
    at += told;
  }
  equal(dirty, 3000);
  ok(rig.looks.length <= 4, `${rig.looks.length} looks`);
  const before = rig.looks.length;
  rig.to = { ...rig.to, lsn: 21 };
  rig.changed = [[0, 2 * BLOCK]];
  deepEqual((await rig.ask(0, 4 * BLOCK)).extents, ["8192 1", "8192 0"], "as of now");
  equal(rig.looks.length, before + 1);
});

test("a look takes the range that is asked for, and more only of who asks on", async () => {
  const rig = new Rig([]);
  await rig.ask(BLOCK, BLOCK);
  await rig.ask(5 * BLOCK, BLOCK);
  await rig.ask(6 * BLOCK, BLOCK);
  await rig.ask(7 * BLOCK, BLOCK);
  deepEqual(
    rig.looks.map(({ offsetBytes, lengthBytes }) => [offsetBytes, lengthBytes]),
    [
      [BLOCK, BLOCK],
      [5 * BLOCK, BLOCK],
      [6 * BLOCK, 2 * GIB - 6 * BLOCK],
    ],
  );
});

test("a large range is looked at piece by piece, and answered in part when that takes long", async () => {
  const rig = new Rig([[5 * GIB, 6 * GIB]]);
  const all = await rig.ask(GIB, 63 * GIB);
  equal(all.told, 63 * GIB);
  deepEqual(
    rig.looks.map(({ offsetBytes }) => offsetBytes / GIB),
    [1, ...Array.from({ length: 31 }, (_, at) => 2 + 2 * at)],
  );
  rig.to = { ...rig.to, lsn: 21 };
  rig.lookMicros = 100_000;
  const part = await rig.ask(0, 64 * GIB);
  equal(part.told, 6 * GIB, "after a quarter of a second");
  equal(part.errno, 0);
});

test("no more is looked at than is wanted", async () => {
  const rig = new Rig([[GIB, GIB + BLOCK]]);
  deepEqual((await rig.ask(0, 64 * GIB, 1)).extents, [`${GIB} 0`]);
  equal(rig.looks.length, 1);
});

test("requests are worked on one after the other, and over all contexts few at once", async () => {
  const turns = new Turns(2);
  const rigs = Array.from({ length: 5 }, () => new Rig([], turns));
  let [now, most] = [0, 0];
  const ends: (() => void)[] = [];
  for (const rig of rigs)
    rig.beforeLook = async () => {
      now += 1;
      most = Math.max(most, now);
      await new Promise<void>((resolve) => ends.push(resolve));
      now -= 1;
    };
  const answers = rigs.flatMap((rig) => [rig.ask(0, BLOCK), rig.ask(8 * BLOCK, BLOCK)]);
  for (let count = 0; count < 10; count++) {
    for (let turns = 0; turns < 5; turns++) await turn();
    ends.shift()?.();
  }
  for (const { errno } of await Promise.all(answers)) equal(errno, 0);
  equal(most, 2);
});

test("a newest moment that is gone before it is compared is taken anew, not for ever", async () => {
  const rig = new Rig([[0, BLOCK]]);
  let failures = 3;
  rig.beforeLook = () => {
    failures -= 1;
    rig.to = { ...rig.to, lsn: rig.to.lsn + 1 };
    if (failures >= 0) throw new StorageError("MOMENT_GONE", "let go");
    return undefined;
  };
  deepEqual((await rig.ask(0, 8192)).extents, ["4096 1", "4096 0"]);
  failures = 4;
  equal((await rig.ask(0, 8192)).errno, NBD_ERROR.EIO);
});

test("a failure is told once, is an error of that request, and the next one is tried", async () => {
  const rig = new Rig([[0, BLOCK]]);
  rig.beforeLook = () => {
    throw new StorageError("DISK_IO", "the disk");
  };
  equal((await rig.ask(0, BLOCK)).errno, NBD_ERROR.EIO);
  equal((await rig.ask(0, BLOCK)).errno, NBD_ERROR.EIO);
  deepEqual(rig.failures, ["the disk"]);
  rig.beforeLook = () => undefined;
  deepEqual(await rig.ask(0, BLOCK), { extents: ["4096 1"], errno: 0, told: BLOCK });
});

test("cancelled, all that is asked ends at the next opportunity, and close lets the moment go", async () => {
  const rig = new Rig([[0, BLOCK]]);
  let end: () => void = () => {};
  rig.beforeLook = () =>
    new Promise<void>((resolve) => {
      end = resolve;
    });
  const answers = Array.from({ length: 100 }, (_, at) => rig.ask(at * BLOCK, BLOCK));
  await turn();
  rig.status.cancel();
  end();
  for (const { errno } of await Promise.all(answers)) ok(errno !== 0);
  equal(rig.looks.length, 1, "the others didn't begin");
  deepEqual(rig.failures, []);
  rig.status.close();
  equal(rig.releasedCount, 1);
});
