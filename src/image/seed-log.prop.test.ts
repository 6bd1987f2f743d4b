// SPDX-License-Identifier: Apache-2.0
//
// Laws of logs: whatever stands in them, reading one ends, with changes or an error of ours, and a window's
// worth of memory; and a log of any requests and replies, replayed, gives what an array to which the
// answered requests were done in order holds.

import { ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  COMMANDS,
  chunk,
  dataLogged,
  filled,
  MemoryDisk,
  reply,
  request,
} from "../../test/image/handmade-log.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { StorageError } from "../base/errors.ts";
import { BlockCdpSource } from "./blockcdp-source.ts";
import { replayLog } from "./log-replay.ts";
import type { SeedLog } from "./seed-log.ts";
import { TransactionLogSource } from "./transaction-log-source.ts";

const RUNS = Number(process.env.FUZZ_RUNS ?? 200);
const DISK_BYTES = 64 << 10;

/** Reads and replays; only our errors may come of it. */
async function survives(log: SeedLog): Promise<void> {
  try {
    const { endBytes } = await log.survey();
    let changeCount = 0;
    for await (const { lengthBytes, offsetBytes } of log.changes()) {
      changeCount += 1;
      ok(offsetBytes + lengthBytes <= endBytes, "the survey knows the end");
    }
    ok(changeCount < 10_000);
    if (endBytes <= DISK_BYTES) await replayLog(log, new MemoryDisk(DISK_BYTES));
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
  }
}

function transactionLog(bytes: Uint8Array): SeedLog {
  return new TransactionLogSource(MemoryFile.of(bytes), "nbd.log");
}

function pairLog(meta: Uint8Array, data: Uint8Array): SeedLog {
  const pair = {
    name: "metafile.1",
    openMeta: async () => MemoryFile.of(meta),
    openData: async () => MemoryFile.of(data),
  };
  return new BlockCdpSource([pair], { utcOffset: "Z" });
}

const anyEvent = fc.record({
  command: fc.constantFrom(...Object.values(COMMANDS).filter((command) => command !== 2)),
  offset: fc.nat(DISK_BYTES - 9000),
  length: fc.oneof(fc.nat(9000), fc.constant(4096), fc.constant(0)),
  byte: fc.integer({ min: 1, max: 255 }),
  /** 0: done; undefined: no reply. */
  error: fc.constantFrom(0, 0, 0, 28, undefined),
  isChunked: fc.boolean(),
  /** Replies wait for as many further requests. */
  delay: fc.nat(3),
});

interface Logged {
  readonly bytes: Buffer;
  readonly disk: Buffer;
}

/** A log of the events, and the disk that it must give. */
function logOf(
  events: readonly (typeof anyEvent extends fc.Arbitrary<infer E> ? E : never)[],
): Logged {
  const records: Uint8Array[] = [dataLogged()];
  const disk = Buffer.alloc(DISK_BYTES);
  let due: { at: number; bytes: Uint8Array }[] = [];
  for (const [index, event] of events.entries()) {
    const { command, offset, length, byte, error, isChunked, delay } = event;
    const cookie = index + 1;
    const payload = filled(byte, length);
    records.push(
      request({
        command,
        cookie,
        offset,
        length,
        ...(command === COMMANDS.write ? { payload } : {}),
      }),
    );
    if (error === 0 && command === COMMANDS.write) disk.set(payload, offset);
    if (error === 0 && (command === COMMANDS.zero || command === COMMANDS.trim))
      disk.fill(0, offset, offset + length);
    if (error !== undefined) {
      const type = error === 0 ? 0 : 0x8001;
      const bytes = isChunked ? chunk(cookie, { isLast: true, type }) : reply(cookie, error);
      due.push({ at: index + delay, bytes });
    }
    records.push(...due.filter(({ at }) => at <= index).map(({ bytes }) => bytes));
    due = due.filter(({ at }) => at > index);
  }
  records.push(...due.map(({ bytes }) => bytes));
  return { bytes: Buffer.concat(records), disk };
}

const anyLog = fc.array(anyEvent, { minLength: 1, maxLength: 30 }).map(logOf);

test("a log, replayed, is the disk that its answered requests made", async () => {
  await fc.assert(
    fc.asyncProperty(anyLog, async ({ bytes, disk }) => {
      const log = transactionLog(bytes);
      const { damage } = await log.survey();
      const replayed = new MemoryDisk(DISK_BYTES);
      await replayLog(log, replayed);
      ok(damage === undefined);
      ok(replayed.bytes.equals(disk));
    }),
    { numRuns: RUNS },
  );
});

test("random bytes, and logs with bytes changed, cut out or put in, end with an answer", async () => {
  const anyDamage = fc.record({
    log: anyLog,
    start: fc.nat(),
    cut: fc.nat(60),
    bytes: fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc.constantFrom(filled(0xff, 4), filled(0, 8), dataLogged(0), reply(1), reply(2, 5)),
    ),
  });
  await fc.assert(
    fc.asyncProperty(anyDamage, async ({ log, start, cut, bytes }) => {
      const at = start % log.bytes.length;
      const damaged = Buffer.concat([
        log.bytes.subarray(0, at),
        bytes,
        log.bytes.subarray(at + cut),
      ]);
      await survives(transactionLog(damaged));
    }),
    { numRuns: RUNS },
  );
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), (bytes) => survives(transactionLog(bytes))),
    { numRuns: RUNS },
  );
});

test("any metafile beside any datafile ends with an answer", async () => {
  const anyNumber = fc.oneof(fc.nat(20), fc.nat(5000), fc.constant(2 ** 32 - 1), fc.maxSafeNat());
  const anyLine = fc.oneof(
    fc.tuple(fc.nat(70), anyNumber, anyNumber, anyNumber).map(([second, ...numbers]) => {
      const seconds = String(second).padStart(2, "0");
      return `2024-03-01-14-03-${seconds}:${numbers.map((number) => `[${number}]`).join("")}`;
    }),
    fc.string({ maxLength: 300 }),
  );
  const anyMeta = fc.oneof(
    fc.array(anyLine, { maxLength: 20 }).map((lines) => Buffer.from(lines.join("\n"))),
    fc.uint8Array({ maxLength: 300 }),
  );
  await fc.assert(
    fc.asyncProperty(anyMeta, fc.uint8Array({ maxLength: 9000 }), (meta, data) =>
      survives(pairLog(meta, data)),
    ),
    { numRuns: RUNS },
  );
});
