// SPDX-License-Identifier: Apache-2.0
//
// What is written as a transaction log reads as one: every change, whatever its size, with its LSN.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { changesOf, filled, MemoryDisk, reply, request } from "../../test/image/handmade-log.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { replayLog } from "./log-replay.ts";
import { TransactionLogReader } from "./transaction-log.ts";
import { TransactionLogSource } from "./transaction-log-source.ts";
import { type DiskEvent, TransactionLogWriter } from "./transaction-log-writer.ts";

function event(fields: Partial<DiskEvent> & Pick<DiskEvent, "kind">): DiskEvent {
  return { lsn: 1, timeMicros: 0, offsetBytes: 0, lengthBytes: 0, data: undefined, ...fields };
}

async function logOf(events: readonly DiskEvent[]): Promise<MemoryFile> {
  const parts: Uint8Array[] = [];
  const writer = new TransactionLogWriter(async (bytes) => void parts.push(bytes.slice()));
  await writer.begin();
  for (const each of events) await writer.add(each);
  await writer.end();
  return MemoryFile.of(Buffer.concat(parts));
}

async function changesIn(file: MemoryFile): Promise<string[]> {
  const log = new TransactionLogSource(file, "nbd.log");
  const { damage, warnings, leftOutCount } = await log.survey();
  deepEqual([damage, warnings, leftOutCount], [undefined, [], 0]);
  return changesOf(log);
}

test("a write is what the format says, byte by byte", async () => {
  const data = filled(7, 512);
  const file = await logOf([
    event({ kind: "write", lsn: 9, offsetBytes: 4096, lengthBytes: 512, data }),
  ]);
  const wanted = Buffer.concat([
    request({ command: 1, cookie: 9, offset: 4096, payload: data }),
    reply(9),
    request({ command: 2, cookie: 0 }),
  ]);
  deepEqual(Buffer.from(file.bytes().subarray(28)), wanted);
});

test("every kind of change comes back as it was", async () => {
  const data = filled(7, 8192);
  const file = await logOf([
    event({ kind: "write", offsetBytes: 4096, lengthBytes: 8192, data }),
    event({ kind: "flush" }),
    event({ kind: "zero", offsetBytes: 4096, lengthBytes: 4096 }),
    event({ kind: "trim", offsetBytes: 2 ** 40, lengthBytes: 4096 }),
  ]);
  deepEqual(await changesIn(file), [
    "write 4096+8192",
    "flush 0+0",
    "zero 4096+4096",
    `zero ${2 ** 40}+4096`,
  ]);
  const log = new TransactionLogSource(
    await logOf([
      event({ kind: "zero", lengthBytes: 4096 }),
      event({ kind: "trim", lengthBytes: 4096 }),
    ]),
    "nbd.log",
  );
  await log.survey();
  const disk = new MemoryDisk(4096);
  await replayLog(log, disk);
  deepEqual(disk.calls, ["zero 0+4096 kept", "zero 0+4096"]);
});

test("what is larger than a request becomes several, each answered, with one cookie", async () => {
  const lengthBytes = (64 << 20) + 512;
  const file = await logOf([
    event({ kind: "write", lsn: 2 ** 33, lengthBytes, data: new Uint8Array(lengthBytes) }),
    event({ kind: "trim", lsn: 2 ** 33 + 1, lengthBytes: 5 * 2 ** 30 + 512 }),
  ]);
  deepEqual(await changesIn(file), [
    `write 0+${32 << 20}`,
    `write ${32 << 20}+${32 << 20}`,
    `write ${64 << 20}+512`,
    ...[0, 1, 2, 3, 4].map((at) => `zero ${at * 2 ** 30}+${2 ** 30}`),
    `zero ${5 * 2 ** 30}+512`,
  ]);
  const reader = new TransactionLogReader(file, await file.sizeBytes());
  const cookies = new Set<bigint>();
  while ((await reader.next()) === undefined)
    if (reader.record.kind === "reply") cookies.add(reader.record.cookie);
  deepEqual([...cookies], [2n ** 33n, 2n ** 33n + 1n]);
});

test("a log without a change is whole", async () => {
  const file = await logOf([]);
  equal(await file.sizeBytes(), 56);
  deepEqual(await changesIn(file), []);
});
