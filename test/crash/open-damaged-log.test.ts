// SPDX-License-Identifier: Apache-2.0
//
// A log that was damaged at rest, in every way that files are: recovery gives a prefix that holds everything that
// the rest of the log proves to have been durable, or it refuses, says where and why, and leaves the files as
// they are. It never throws anything else, keeps no memory and no file open.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { before, suite, test } from "node:test";
import { hasCode } from "../../src/base/errors.ts";
import { parseBatchHeader, sealBatch } from "../../src/log/batch.ts";
import { parseSegmentHeader, segmentNumberOf } from "../../src/log/segment.ts";
import type { DamagedFrame } from "../../src/log/segment-reader.ts";
import type { Files } from "../../src/sim/memory-host.ts";
import { Prng } from "../../src/sim/prng.ts";
import {
  type LogFixture,
  makeLog,
  memory,
  type Recovered,
  readLog,
  recover,
} from "./log-fixture.ts";
import { BLOCK, noise, PoolRig } from "./memory-rig.ts";

const AT = memory.slotsAddress;

/** What any header in these files claims to have been durable: an independent reading. */
function claimed(files: Files, poolId: Uint8Array): number {
  let durableLsn = 0;
  for (const [name, bytes] of files) {
    for (let at = 0; at < bytes.length; at += 512) {
      memory.bytes.fill(0, AT, AT + 4096);
      memory.bytes.set(bytes.subarray(at, at + 4096), AT);
      const available = Math.min(4096, bytes.length - at);
      try {
        const header =
          at === 0
            ? parseSegmentHeader(memory, AT, available, poolId)
            : parseBatchHeader(memory, AT, available, poolId);
        if (typeof header === "string") continue;
        if ("number" in header && header.number !== segmentNumberOf(name)) continue;
        durableLsn = Math.max(durableLsn, header.durableLsn);
      } catch (error) {
        if (!hasCode(error, "FORMAT_UNSUPPORTED")) throw error;
      }
    }
  }
  return durableLsn;
}

suite("a damaged log", () => {
  let log: LogFixture;
  let outcomes: Map<string, number>;

  before(async () => {
    log = await makeLog();
  });

  function copy(): Map<string, Uint8Array> {
    return new Map([...log.files].map(([name, bytes]) => [name, bytes.slice()]));
  }

  /** Recovers the files and judges the result. */
  async function judge(files: Files, what: string): Promise<Recovered> {
    const result = await recover(files, log.poolId).catch((error: unknown) => {
      throw new Error(`${what}: ${String(error)}`, { cause: error });
    });
    const durableLsn = claimed(files, log.poolId);
    if (result.error !== undefined) {
      const { code, message } = result.error;
      ok(code === "LOG_CORRUPT" || code === "FORMAT_UNSUPPORTED", `${what}: ${code} ${message}`);
      match(message, /^log: .*segment/, what);
      equal(result.files.size, files.size, `${what}: no file goes`);
      for (const [name, bytes] of files)
        ok(
          Buffer.compare(result.files.get(name) as Uint8Array, bytes) === 0,
          `${what}: ${name} stays`,
        );
    } else {
      equal(result.records.length, result.nextLsn - 1, what);
      const isPrefix = result.records.every((record, index) => record === log.records[index]);
      ok(isPrefix, `${what}: the records are a prefix`);
      ok(result.nextLsn >= durableLsn, `${what}: LSN ${result.nextLsn}, durable ${durableLsn}`);
      for (const [name, bytes] of files) {
        if (result.leftovers.includes(name)) continue;
        ok(
          Buffer.compare(result.files.get(name) as Uint8Array, bytes) === 0,
          `${what}: ${name} stays`,
        );
      }
    }
    const outcome =
      result.error?.code ?? (result.nextLsn === log.records.length + 1 ? "whole" : "prefix");
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    return result;
  }

  test("a bit turned over in any header, record, frame or footer", async () => {
    outcomes = new Map();
    const prng = new Prng(1);
    for (const { file, start, end, kind, header } of log.structures) {
      const records = start + 128 + (header?.frameBytes ?? 0);
      const places = [start + prng.below(128), start + prng.below(128)];
      if (kind === "batch") {
        places.push(prng.between(start + 128, end));
        if (header !== undefined && header.recordBytes > 0)
          places.push(records + prng.below(header.recordBytes));
      }
      for (const place of places) {
        const files = copy();
        const bytes = files.get(file) as Uint8Array;
        bytes[place] = (bytes[place] as number) ^ (1 << prng.below(8));
        await judge(files, `${file}, byte ${place}`);
      }
    }
    ok(
      (outcomes.get("LOG_CORRUPT") ?? 0) > 100 && (outcomes.get("prefix") ?? 0) > 3,
      "both answers are seen",
    );
  });

  test("bytes overwritten by chance", async () => {
    outcomes = new Map();
    const prng = new Prng(2);
    const names = [...log.files.keys()].filter(
      (name) => (log.files.get(name) as Uint8Array).length > 0,
    );
    for (let round = 0; round < 300; round++) {
      const files = copy();
      for (let count = prng.skewed(4); count > 0; count--) {
        const bytes = files.get(prng.pick(names)) as Uint8Array;
        const at = prng.below(bytes.length);
        const junk = prng.chance(0.5)
          ? noise(round, prng.skewed(5000))
          : new Uint8Array(prng.skewed(5000));
        bytes.set(junk.subarray(0, bytes.length - at), at);
      }
      await judge(files, `round ${round}`);
    }
  });

  test("a segment cut off at any multiple of 512", async () => {
    outcomes = new Map();
    for (const [name, whole] of log.files) {
      for (let length = 0; length < whole.length; length += 512) {
        const files = copy();
        files.set(name, whole.slice(0, length));
        await judge(files, `${name} cut at ${length}`);
      }
    }
    ok((outcomes.get("prefix") ?? 0) > 5, "the last segment's tail may be torn");
  });

  test("segments missing, swapped, copied to other numbers, and with other bytes behind them", async () => {
    outcomes = new Map();
    const names = [...log.files.keys()];
    const bytesOf = (name: string): Uint8Array => log.files.get(name) as Uint8Array;
    for (const name of names) {
      const files = copy();
      files.delete(name);
      await judge(files, `${name} is missing`);
      for (const other of names) {
        if (other === name) continue;
        await judge(copy().set(name, bytesOf(other)), `${name} is a copy of ${other}`);
        await judge(
          copy().set(name, bytesOf(other)).set(other, bytesOf(name)),
          `${name} and ${other} swapped`,
        );
      }
      await judge(
        copy().set("00000000000000ff.seg", bytesOf(name)),
        `a copy of ${name} at the end`,
      );
      await judge(copy().set("0000000000000003.seg", bytesOf(name)), `a copy of ${name} in a gap`);
      for (const tail of [noise(3, 5000), bytesOf(name).slice(4096), new Uint8Array(9000)])
        await judge(
          copy().set(name, Buffer.concat([bytesOf(name), tail])),
          `${name} with ${tail.length} more bytes`,
        );
    }
    await judge(new Map(), "no segment at all");
  });

  test("another pool's log is refused by name", async () => {
    const { error } = await recover(copy(), new Uint8Array(16).fill(7));
    ok(hasCode(error, "LOG_CORRUPT"));
    match(error.message, /segment 0000000000000001\.seg: another pool's segment/);
  });

  /** The first segment alone, up to `end`. */
  function firstSegment(end: number): Map<string, Uint8Array> {
    const name = "0000000000000001.seg";
    return new Map([[name, (log.files.get(name) as Uint8Array).slice(0, end)]]);
  }

  /** Batches of the first segment: their headers claim LSN 5 from the fourth on. */
  function batchAt(index: number): {
    start: number;
    end: number;
    firstLsn: number;
    frameBytes: number;
  } {
    const found = log.structures.filter(({ kind }) => kind === "batch")[index];
    ok(found?.header !== undefined);
    const { start, end, header } = found;
    return { start, end, firstLsn: header.firstLsn, frameBytes: header.frameBytes };
  }

  function damage(files: Map<string, Uint8Array>, place: number): Map<string, Uint8Array> {
    const bytes = [...files.values()][0] as Uint8Array;
    bytes[place] = (bytes[place] as number) ^ 1;
    return files;
  }

  test("a torn batch with a whole later batch behind it ends the log", async () => {
    outcomes = new Map();
    const [torn, later] = [batchAt(3), batchAt(4)];
    const result = await judge(damage(firstSegment(later.end), torn.start + 2000), "torn");
    equal(result.error, undefined);
    equal(result.nextLsn, torn.firstLsn);
  });

  // Simulation, scenario "a torn checkpoint slot", seed 25066: the question whether the batch had been durable
  // was asked from beyond the end of the file.
  test("a torn batch whose padding is cut off as well ends the log", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("v", 4 << 20);
    await rig.write("v", 0, noise(1, BLOCK), { isForced: true });
    const whole = await readLog(rig.kill());
    const [name, bytes] = [...whole.files][0] as [string, Uint8Array];
    const torn = whole.structures.find(({ header }) => (header?.frameBytes ?? 0) > 0);
    ok(torn?.header !== undefined);
    const { start, header } = torn;
    const usedEnd = start + 128 + header.frameBytes + header.recordBytes;
    ok(usedEnd < torn.end - 512, "it ends with its page");
    const files = new Map([[name, bytes.slice(0, torn.end - 512)]]);
    const result = await recover(damage(files, start + 2000), whole.poolId);
    equal(result.error, undefined);
    equal(result.nextLsn, header.firstLsn);
  });

  test("a wrong bit in a record of a durable batch refuses the log, where a later batch says that it was durable", async () => {
    outcomes = new Map();
    // The batch with LSN 7 claims 5; one of the next round claims 12.
    const [damaged, vouching] = [batchAt(5), batchAt(10)];
    const records = damaged.start + 128 + damaged.frameBytes;
    const result = await judge(damage(firstSegment(vouching.end), records), "durable");
    ok(hasCode(result.error, "LOG_CORRUPT"));
    match(
      result.error.message,
      new RegExp(`broken at offset ${damaged.start} .*LSN ${damaged.firstLsn}`),
    );
  });

  test("a wrong bit in a frame of a durable batch loses that block alone, where a later batch says that it was durable", async () => {
    outcomes = new Map();
    const [damaged, vouching] = [batchAt(5), batchAt(10)];
    const result = await judge(damage(firstSegment(vouching.end), damaged.start + 2000), "durable");
    equal(result.error, undefined);
    ok(result.nextLsn > vouching.firstLsn);
    const { problem, ...place } = result.damaged[0] as DamagedFrame;
    equal(result.damaged.length, 1);
    match(problem, /checksum/);
    deepEqual(place, {
      segmentNumber: 1,
      offset: damaged.start + 128,
      lsn: damaged.firstLsn,
      branch: 1,
      lba: 2,
    });
  });

  test("a wrong bit in a frame loses that block alone, where only a batch of the next segment says that it was durable", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("v", 4 << 20);
    // The second segment begins before anybody has flushed.
    for (let block = 0; rig.pool.stats().segmentCount < 2; block++)
      await rig.write("v", block * BLOCK, noise(block, BLOCK));
    for (const block of [100, 101]) {
      await rig.write("v", block * BLOCK, noise(block, BLOCK));
      await rig.flush("v");
    }
    const whole = await readLog(rig.kill());
    const [name] = [...whole.files.keys()] as [string];
    const last = whole.structures
      .filter(({ file, kind }) => file === name && kind === "batch")
      .pop();
    ok(last !== undefined);
    for (const isVouched of [true, false]) {
      const files = new Map([...whole.files].map(([key, bytes]) => [key, bytes.slice()]));
      const first = files.get(name) as Uint8Array;
      first[last.start + 300] = (first[last.start + 300] as number) ^ 1;
      // Without the second segment's batches nothing says so.
      if (!isVouched)
        for (const other of [...files.keys()].slice(1)) files.set(other, new Uint8Array(0));
      const result = await recover(files, whole.poolId);
      equal(result.error, undefined);
      equal(result.damaged.length, isVouched ? 1 : 0);
      equal(result.nextLsn === whole.records.length + 1, isVouched);
    }
  });

  test("the last flushed batch with a wrong bit is damage with a marker behind it, and a torn tail without", async () => {
    outcomes = new Map();
    const second = "0000000000000002.seg";
    const marker = log.structures.find(({ header }) => header?.recordCount === 0);
    const last = log.structures.find(({ file, end }) => file === second && end === marker?.start);
    ok(marker?.file === second && last?.header !== undefined);
    for (const isMarked of [true, false]) {
      const files = new Map(
        [...log.files].slice(0, 2).map(([name, bytes]) => [name, bytes.slice()]),
      );
      const bytes = files.get(second) as Uint8Array;
      const place = last.start + 128 + last.header.frameBytes;
      bytes[place] = (bytes[place] as number) ^ 1;
      files.set(second, bytes.slice(0, isMarked ? marker.end : last.end));
      const result = await judge(files, `marked ${isMarked}`);
      if (isMarked) ok(hasCode(result.error, "LOG_CORRUPT"));
      else equal(result.nextLsn, last.header.firstLsn);
    }
  });

  test("a leftover segment of an earlier incarnation is thrown away, and its batches never come back", async () => {
    outcomes = new Map();
    // The log of the first life alone, torn; then the second life's first segment, which knows a later end.
    const names = [...log.files.keys()];
    const [first, second, third] = names as [string, string, string];
    const torn = (log.files.get(first) as Uint8Array).slice(0, batchAt(4).start);
    const result = await judge(
      new Map([
        [first, torn],
        [second, (log.files.get(second) as Uint8Array).slice(0, 4096)],
      ]),
      "leftover",
    );
    ok(hasCode(result.error, "LOG_CORRUPT"), "its header claims LSN 18");
    // A header that claims nothing more: its segment goes.
    const files = new Map([
      [first, log.files.get(first) as Uint8Array],
      [third, new Uint8Array(5000)],
    ]);
    const kept = await judge(files, "leftover without a header");
    deepEqual(kept.leftovers, [third]);
    equal(kept.files.has(third), false);
  });

  /** The batch header at `start` with some bytes changed and its checksums right again. */
  function resealed(
    files: Map<string, Uint8Array>,
    place: { file: string; start: number },
    change: (view: DataView, at: number) => void,
  ): void {
    const bytes = files.get(place.file) as Uint8Array;
    const lengthBytes = bytes.length - place.start;
    memory.bytes.set(bytes.subarray(place.start), AT);
    const header = parseBatchHeader(memory, AT, lengthBytes, log.poolId);
    ok(typeof header === "object");
    change(memory.view, AT + 128 + header.frameBytes);
    sealBatch(memory, AT, log.poolId, header);
    bytes.set(memory.bytes.subarray(AT, AT + lengthBytes), place.start);
  }

  test("a record of an unknown kind is skipped when it may be, and refused when it must be understood", async () => {
    for (const [kind, flags, code] of [
      [200, 1, "FORMAT_UNSUPPORTED"],
      [200, 0, undefined],
      [41, 1, "FORMAT_UNSUPPORTED"],
      [40, 1, "FORMAT_UNSUPPORTED"],
    ] as const) {
      const last = batchAt(3);
      const files = firstSegment(last.end);
      resealed(files, { file: "0000000000000001.seg", start: last.start }, (view, at) => {
        view.setUint8(at, kind);
        view.setUint8(at + 1, flags);
        if (kind < 128) view.setUint32(at + 8, 0, true);
      });
      const { error, nextLsn } = await recover(files, log.poolId);
      equal(error?.code, code, `kind ${kind}, flags ${flags}: ${error?.message}`);
      if (error === undefined) equal(nextLsn, last.firstLsn + 1);
      else
        match(
          error.message,
          /^log: segment 0000000000000001\.seg, LSN 5: record kind \d+ .*must be understood/,
        );
    }
  });

  test("a segment or a batch of a future format version is refused, not thrown away", async () => {
    const header = firstSegment(batchAt(5).end);
    const bytes = header.get("0000000000000001.seg") as Uint8Array;
    const sealHeader = (at: number): void => {
      memory.bytes.set(bytes.subarray(at, at + 128), AT);
      memory.kernel.hash(AT, 120, AT + 120);
      bytes.set(memory.bytes.subarray(AT, AT + 128), at);
    };
    const batch = batchAt(5).start;
    bytes[batch + 4] = 2;
    sealHeader(batch);
    equal((await recover(header, log.poolId)).error?.code, "FORMAT_UNSUPPORTED");
    bytes[batch + 4] = 1;
    bytes[batch + 96] = 1; // a must-understand bit
    sealHeader(batch);
    equal((await recover(header, log.poolId)).error?.code, "FORMAT_UNSUPPORTED");
    bytes[8] = 2;
    sealHeader(0);
    const { error } = await recover(header, log.poolId);
    equal(error?.code, "FORMAT_UNSUPPORTED");
    match(error?.message ?? "", /segment: not read: format version 2, this is 1/);
  });

  test("a payload that looks like a batch of a future version is not taken for one behind a torn tail", async () => {
    const torn = batchAt(3);
    const files = firstSegment(torn.end);
    const bytes = files.get("0000000000000001.seg") as Uint8Array;
    // What a guest wrote into its disk: magic, another pool's id, version 9, and a right checksum.
    const place = Math.ceil((torn.start + 200) / 512) * 512;
    memory.bytes.fill(0, AT, AT + 128);
    memory.view.setUint32(AT, 0x54414256, true);
    memory.view.setUint16(AT + 4, 9, true);
    memory.kernel.hash(AT, 120, AT + 120);
    bytes.set(memory.bytes.subarray(AT, AT + 128), place);
    const { error, nextLsn } = await recover(files, log.poolId);
    equal(error, undefined);
    equal(nextLsn, torn.firstLsn);
  });

  test("recovering what was recovered changes nothing more", async () => {
    outcomes = new Map();
    const last = batchAt(4);
    const once = await judge(damage(firstSegment(last.end), last.start + 300), "once");
    const twice = await judge(once.files, "twice");
    equal(twice.nextLsn, once.nextLsn);
    deepEqual([...twice.files.keys()], [...once.files.keys()]);
  });
});
