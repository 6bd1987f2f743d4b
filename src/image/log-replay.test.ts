// SPDX-License-Identifier: Apache-2.0
//
// A replay applies every change in order, waits where it must, and knows which moment each change became.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import {
  COMMANDS,
  dataLogged,
  filled,
  MemoryDisk,
  reply,
  request,
  written,
} from "../../test/image/handmade-log.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { type ReplayedChange, type ReplayOptions, replayLog } from "./log-replay.ts";
import { TransactionLogSource } from "./transaction-log-source.ts";

const MIB = 1 << 20;

async function logOf(...records: Uint8Array[]): Promise<TransactionLogSource> {
  const bytes = Buffer.concat([dataLogged(), ...records]);
  const log = new TransactionLogSource(MemoryFile.of(bytes), "nbd.log");
  await log.survey();
  return log;
}

function flushed(cookie: number): Buffer {
  return Buffer.concat([request({ command: COMMANDS.flush, cookie }), reply(cookie)]);
}

/** Replays with moments wanted; [kind, LSN] of each change. */
async function momentsOf(
  log: TransactionLogSource,
  disk: MemoryDisk,
  options: Partial<ReplayOptions> = {},
): Promise<(readonly [string, number | undefined])[]> {
  const seen: ReplayedChange[] = [];
  await replayLog(log, disk, {
    nextLsn: async () => disk.nextLsn,
    onReplayed: async (changes) => void seen.push(...changes),
    ...options,
  });
  return seen.map(({ change, lsn }) => [change.kind, lsn]);
}

test("every write is there, and one of many MiB goes in pieces that end with blocks", async () => {
  const large = Buffer.from(Array.from({ length: 3 * MIB + 700 }, (_, at) => (at * 7) % 251));
  const log = await logOf(written(1, 5000, large), written(2, 100, filled(9, 50)), flushed(3));
  const disk = new MemoryDisk(8 * MIB);
  const { counts, writtenBytes } = await replayLog(log, disk);
  deepEqual(counts, { write: 2, zero: 0, trim: 0, flush: 1 });
  equal(writtenBytes, large.length + 50);
  ok(disk.bytes.subarray(5000, 5000 + large.length).equals(large));
  deepEqual(disk.calls, [
    `write 5000+${MIB - 904}`,
    `write ${MIB + 4096}+${MIB}`,
    `write ${2 * MIB + 4096}+${MIB}`,
    `write ${3 * MIB + 4096}+1604`,
    "write 100+50",
    "flush",
  ]);
});

test("memory doesn't depend on the log's writes", async () => {
  const log = await logOf(written(1, 0, Buffer.alloc(40 * MIB)));
  const disk = new MemoryDisk(40 * MIB);
  await replayLog(log, disk);
  ok(disk.openBytesMax <= 9 * MIB, `${disk.openBytesMax} bytes were under way`);
});

test("each change has its moment where nobody else writes", async () => {
  const writes = [1, 2, 3].map((cookie) => written(cookie, cookie * 4096, filled(cookie, 4096)));
  const log = await logOf(...writes, flushed(4), written(5, 0, filled(5, 2 * MIB)));
  deepEqual(await momentsOf(log, new MemoryDisk(4 * MIB)), [
    ["write", 100],
    ["write", 101],
    ["write", 102],
    ["flush", 103],
    ["write", 105], // of two records, the last
  ]);
});

test("where others write too, the last of a group has its moment and no other is guessed", async () => {
  const writes = [1, 2].map((cookie) => written(cookie, cookie * 4096, filled(cookie, 4096)));
  const log = await logOf(...writes, flushed(4));
  const disk = new MemoryDisk(MIB);
  disk.strangers = 1;
  deepEqual(await momentsOf(log, disk), [
    ["write", undefined],
    ["write", 103],
    ["flush", 105],
  ]);
});

test("a range with ragged ends takes records that nobody counts: it is a group of its own", async () => {
  const ragged = request({ command: COMMANDS.zero, cookie: 2, offset: 100, length: 9000 });
  const log = await logOf(
    written(1, 0, filled(1, 4096)),
    Buffer.concat([ragged, reply(2)]),
    written(3, 0, filled(3, 4096)),
  );
  const disk = new MemoryDisk(MIB);
  const zero = disk.writeZeroes.bind(disk);
  disk.writeZeroes = (...args) => {
    disk.nextLsn += 2;
    return zero(...args);
  };
  deepEqual(await momentsOf(log, disk), [
    ["write", 100],
    ["zero", 103],
    ["write", 104],
  ]);
});

test("a flush waits for what came before it", async () => {
  const log = await logOf(written(1, 0, filled(1, 4096)), flushed(2), written(3, 0, filled(3, 10)));
  const disk = new MemoryDisk(MIB);
  const open: number[] = [];
  const flush = disk.flush.bind(disk);
  disk.flush = () => {
    open.push(disk.openBytes);
    return flush();
  };
  await replayLog(log, disk);
  deepEqual(open, [0]);
});

test("the first error ends it after what is under way", async () => {
  const writes = Array.from({ length: 600 }, (_, at) => written(at, at * 512, filled(1, 512)));
  const disk = new MemoryDisk(MIB);
  disk.failAfter = 300;
  const told: number[] = [];
  await rejects(
    replayLog(await logOf(...writes), disk, { onProgress: (done) => told.push(done) }),
    /the disk fails at write 153600\+512/,
  );
  equal(disk.calls.length, 512);
  equal(told.length, 1);
});

test("an abort ends it between two changes", async () => {
  const writes = Array.from({ length: 600 }, (_, at) => written(at, at * 512, filled(1, 512)));
  const abort = new AbortController();
  const disk = new MemoryDisk(MIB);
  const work = replayLog(await logOf(...writes), disk, {
    signal: abort.signal,
    onProgress: () => abort.abort(new Error("enough")),
  });
  await rejects(work, /enough/);
  ok(disk.calls.length < 600);
});
