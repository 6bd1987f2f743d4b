// SPDX-License-Identifier: Apache-2.0
//
// The worked examples of docs/format are what the code writes and reads, byte for byte. An example is a block
// of hexadecimal behind a "<!-- test: name -->" line. UPDATE=1 rewrites them: then look at the difference.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openDocument, sealDocument } from "../../src/backup/document.ts";
import { EXTENT_KIND } from "../../src/backup/extents.ts";
import { PackReader } from "../../src/backup/pack-reader.ts";
import { PackWriter } from "../../src/backup/pack-writer.ts";
import { PackTable } from "../../src/backup/place.ts";
import { RunReader } from "../../src/backup/run-reader.ts";
import { RunWriter } from "../../src/backup/run-writer.ts";
import { PLAIN_SEALER } from "../../src/backup/sealing.ts";
import { parseBatchHeader, sealBatch } from "../../src/log/batch.ts";
import {
  newRecordCursor,
  parseRecord,
  putRecordHeader,
  putRelocated,
  putU64,
  RECORD_KIND,
} from "../../src/log/record.ts";
import { formatReference } from "../../src/log/reference.ts";
import { BlockMemory, shapeOf } from "../../src/reduce/block-memory.ts";
import { MemoryBucket, MemoryObjectStore } from "../../src/sim/memory-object-store.ts";
import { SIM_ZSTD } from "../../src/sim/sim-zstd.ts";

const FOLDER = join(import.meta.dirname, "../../docs/format");
const memory = new BlockMemory(shapeOf(24 << 20));
const at = memory.slotsAddress;
const POOL_ID = Uint8Array.from({ length: 16 }, (_, index) => index);

/** The example's bytes; words before the hexadecimal of a line name it. */
function example(page: string, name: string, written: Uint8Array): Uint8Array {
  const path = join(FOLDER, page);
  const text = readFileSync(path, "utf8");
  const match = new RegExp(`<!-- test: ${name} -->\n\`\`\`\n([^\`]*)\`\`\``).exec(text);
  assert.ok(match?.[1] !== undefined, `${page} has the example "${name}"`);
  if (process.env.UPDATE === "1") {
    const lines: string[] = [];
    let from = 0;
    for (const line of match[1].trimEnd().split("\n")) {
      const label = /^[a-z]+ +/.exec(line)?.[0] ?? "";
      const count =
        line === "CHECKED" ? written.length - from : line.slice(label.length).split(/\s+/).length;
      lines.push(label + hex(written.subarray(from, from + count)));
      from += count;
    }
    writeFileSync(path, text.replace(match[1], `${lines.join("\n")}\n`));
    return written;
  }
  const digits = match[1].replaceAll(/^[a-z]+ +/gm, "").replaceAll(/\s+/g, "");
  return Uint8Array.from(Buffer.from(digits, "hex"));
}

function hex(bytes: Uint8Array): string {
  const groups: string[] = [];
  for (let from = 0; from < bytes.length; from += 4)
    groups.push(
      [...bytes.subarray(from, from + 4)]
        .map((byte) => byte.toString(16).padStart(2, "0"))
        .join(" "),
    );
  return groups.join("  ");
}

test("the frame and reference of frame.md are what the kernel packs", () => {
  memory.bytes.fill(0x41, at, at + 4096);
  const { kernel } = memory;
  const hash = at + 4120;
  kernel.examineBlocks(at, 1, hash, at + 4096);
  const rows = at + 4128;
  kernel.packBlocks(at, 1, at + 8192, 1, 4224 / 8, hash, at + 4096, rows, 0, 0, 0, 0, at + 4144);
  const written = new Uint8Array([
    ...memory.bytes.slice(at + 8192, at + 8192 + 24),
    ...memory.bytes.slice(at + 4096, at + 4104),
  ]);
  assert.deepEqual(example("frame.md", "frame", written), written);
  assert.equal(memory.kernel.openFrame(at + 8192, 4120, 1, 528, 0), 0);
  assert.equal(
    formatReference(memory.view.getUint32(at + 4096, true), memory.view.getUint32(at + 4100, true)),
    "1:4224",
  );
});

test("the record of record.md is what the writer appends", () => {
  putRecordHeader(memory.view, at, RECORD_KIND.WROTE, 32, 41);
  memory.view.setUint32(at + 8, 1, true);
  memory.view.setUint32(at + 12, 1, true);
  putU64(memory.view, at + 16, 7);
  memory.view.setUint32(at + 24, 1, true);
  memory.view.setUint32(at + 28, (1 << 30) | (528 << 6), true);
  const written = memory.bytes.slice(at, at + 32);
  assert.deepEqual(example("record.md", "record", written), written);
  const cursor = newRecordCursor();
  assert.equal(parseRecord(memory.view, at, at + 32, cursor), 32);
  assert.deepEqual([cursor.branch, cursor.lba, cursor.blockCount], [1, 7, 1]);
});

test("the relocated record of record.md is what garbage collection appends", () => {
  const slots = at + 4096;
  memory.view.setBigUint64(slots, 0xe10b3e9d6d2b58c3n, true);
  memory.words.set([1, 4224 / 8], (slots + 8) >>> 2);
  memory.view.setBigUint64(slots + 16, 0x1122334455667788n, true);
  memory.words.set([3, 8192 / 8], (slots + 24) >>> 2);
  const lengthBytes = putRelocated(memory.view, at, {
    timeOffsetMicros: 0,
    placeSegment: 9,
    placeOffset8: 12480 / 8,
    storedBytes: 3000,
    slotCount: 2,
    isShared: true,
    slotsOffset: slots,
  });
  const written = memory.bytes.slice(at, at + lengthBytes);
  assert.deepEqual(example("record.md", "relocated", written), written);
  const cursor = newRecordCursor();
  assert.equal(parseRecord(memory.view, at, at + lengthBytes, cursor), lengthBytes);
  assert.deepEqual([cursor.placeSegment, cursor.placeOffset8 * 8], [9, 12480]);
  assert.deepEqual([cursor.slotCount, cursor.isShared, cursor.storedBytes], [2, true, 3000]);
});

/** 0, 1, 2 … */
const random = {
  fill: (bytes: Uint8Array) => {
    for (const index of bytes.keys()) bytes[index] = index;
  },
};

test("the document of backup.md is what a session puts", () => {
  const document = { kind: "session", name: "sessions/x/0", sealer: PLAIN_SEALER } as const;
  const body = Buffer.from("{}");
  const written = new Uint8Array(Buffer.concat(sealDocument({ ...document, random }, body)));
  const stored = example("backup.md", "document", written);
  assert.deepEqual(stored, written);
  assert.deepEqual([...openDocument(document, stored)], [...body]);
});

test("the pack of backup.md is what a backup puts, and its block is read", async () => {
  const bucket = new MemoryBucket();
  const store = new MemoryObjectStore(bucket);
  const block = new Uint8Array(4096).fill(0x41);
  // Written by hand, as another version of the library may write it otherwise.
  const frame = Uint8Array.from(Buffer.from("28b52ffd60000f03800041", "hex"));
  const zstd = { ...SIM_ZSTD, compress: () => Promise.resolve(frame) };
  const packs = new PackTable();
  const shared = { store, sealer: PLAIN_SEALER, random, packs };
  const writer = new PackWriter({ ...shared, zstd, onFinished: () => {} });
  const id = new Uint8Array(24);
  PLAIN_SEALER.contentId(block, id, 0);
  writer.add(block, id, 0);
  await writer.flush();
  const [[path, written]] = [...bucket.objects] as [[string, Uint8Array]];
  const stored = example("backup.md", "pack", written);
  assert.deepEqual(stored, written);
  bucket.objects.set(path, stored);
  const reader = new PackReader({ ...shared, zstd: SIM_ZSTD, cacheBytes: 0 });
  assert.deepEqual(new Uint8Array(await reader.groups(0, 0, 1)[0]!), block);
});

test("the run of backup.md is what a backup puts, and its extents are read", async () => {
  const bucket = new MemoryBucket();
  const store = new MemoryObjectStore(bucket);
  const packs = new PackTable();
  packs.ordinalOf("11".repeat(32));
  const shared = { store, sealer: PLAIN_SEALER, random, packs };
  const writer = new RunWriter(shared);
  writer.add(8, 2, EXTENT_KIND.frames, 5);
  writer.add(100, 1, EXTENT_KIND.frames, 7);
  writer.add(101, 900, EXTENT_KIND.zero, 0);
  const part = (await writer.finishPart())!;
  const [[path, written]] = [...bucket.objects] as [[string, Uint8Array]];
  const stored = example("backup.md", "run", written);
  assert.deepEqual(stored, written);
  bucket.objects.set(path, stored);
  const reader = new RunReader(shared);
  const { lbas, blockCounts, kinds, places } = await reader.page(await reader.open(part), 0);
  assert.deepEqual([...lbas], [8, 100, 101]);
  assert.deepEqual([...blockCounts], [2, 1, 900]);
  assert.deepEqual([...kinds], [0, 0, 1]);
  assert.deepEqual([...places], [5, 7, 0]);
});

test("the batch of batch.md is what the writer seals", () => {
  const records = at + 128;
  memory.bytes.fill(0, at, at + 4096);
  putRecordHeader(memory.view, records, RECORD_KIND.FLUSHED, 16, 0);
  memory.view.setUint32(records + 8, 1, true);
  const header = {
    incarnation: 1,
    firstLsn: 1,
    recordCount: 1,
    frameBytes: 0,
    recordBytes: 16,
    totalBytes: 4096,
    previousChecksum: 0n,
    durableLsn: 1,
    wallMicros: 1_700_000_000_000_000,
    monotoneMicros: 5,
    recordedMicros: 1_700_000_000_000_000,
    flags: 0,
    checksum: 0n,
  };
  const checksum = sealBatch(memory, at, POOL_ID, header);
  const written = memory.bytes.slice(at, at + 144);
  assert.deepEqual(example("batch.md", "batch", written), written);
  assert.deepEqual(parseBatchHeader(memory, at, 4096, POOL_ID), { ...header, checksum });
});
