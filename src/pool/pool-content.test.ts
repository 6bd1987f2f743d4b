// SPDX-License-Identifier: Apache-2.0
//
// Records of moved frames and of dropped segments: what they did live they do again in a replay, behind a checkpoint and
// without one; those that make no sense refuse the opening.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { type PoolFiles, PoolRig } from "../../test/crash/memory-rig.ts";
import { RELOCATION, type RelocationIndex } from "../index/relocation-index.ts";
import { type DumpLine, dumpLog } from "../log/log-dump.ts";
import {
  encodeJsonRecord,
  newRecordCursor,
  parseRecord,
  putRelocated,
  RECORD_KIND,
} from "../log/record.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";
import { PoolContent } from "./pool-content.ts";

const HOMES = [
  { segment: 1, offset8: 528 },
  { segment: 70_000, offset8: 1043 },
] as const;

/** A relocated record: both homes share a frame at the place. */
function relocated(placeSegment: number): Uint8Array {
  const bytes = new Uint8Array(256);
  const view = new DataView(bytes.buffer);
  for (const [slot, { segment, offset8 }] of HOMES.entries()) {
    view.setUint32(slot * 16 + 8, segment, true);
    view.setUint32(slot * 16 + 12, offset8, true);
  }
  const lengthBytes = putRelocated(view, 64, {
    timeOffsetMicros: 0,
    placeSegment,
    placeOffset8: 2000,
    storedBytes: 3000,
    slotCount: 2,
    isShared: true,
    slotsOffset: 0,
  });
  return bytes.slice(64, 64 + lengthBytes);
}

/** Appends the record and applies it, as a writer does. */
function append(rig: PoolRig, record: Uint8Array): void {
  const { memory, index, log } = rig.pool;
  log.appendEncoded(record);
  const at = memory.scratchAddress;
  memory.bytes.set(record, at);
  const cursor = newRecordCursor();
  equal(parseRecord(memory.view, at, at + record.length, cursor), record.length);
  new PoolContent(index).replay(cursor);
}

async function expectPlaces(relocations: RelocationIndex, segment: number): Promise<void> {
  for (const [slot, home] of HOMES.entries()) {
    await relocations.load(home.segment, home.offset8);
    equal(relocations.resolve(home.segment, home.offset8), RELOCATION.FOUND);
    const { foundSegment, foundLow, foundStoredBytes } = relocations;
    const low = (0x80000000 | (2000 << 6) | slot) >>> 0;
    deepEqual([foundSegment, foundLow, foundStoredBytes], [segment, low, 3000]);
  }
  equal(relocations.resolve(1, 529), RELOCATION.AT_HOME);
  equal(relocations.resolve(2, 528), RELOCATION.AT_HOME);
}

const DROPPED = { segment: 1, keepsRecords: true };

test("moves are known after a kill, after a checkpoint, and after both", async () => {
  let rig = await PoolRig.create();
  const again = async (): Promise<void> => {
    rig = await PoolRig.open(rig.cutPower());
  };
  append(rig, relocated(2));
  await expectPlaces(rig.pool.index.relocations, 2);
  await rig.pool.flush();
  await again();
  await expectPlaces(rig.pool.index.relocations, 2);
  append(rig, relocated(3));
  append(rig, encodeJsonRecord(RECORD_KIND.SEGMENT_DROPPED, DROPPED));
  await rig.pool.checkpoint();
  await expectPlaces(rig.pool.index.relocations, 3);
  append(rig, encodeJsonRecord(RECORD_KIND.SEGMENT_DROPPED, { ...DROPPED, segment: 3 }));
  await rig.pool.flush();
  await again();
  await expectPlaces(rig.pool.index.relocations, 3);
  await rig.pool.checkpoint();
  equal(rig.pool.index.relocations.entryCount, 0, "the dropped segment was named in the replay");
  await rig.close();
});

test("a dump of the log tells of moves", async () => {
  const rig = await PoolRig.create();
  append(rig, relocated(9));
  const poolId = Uint8Array.from(Buffer.from(rig.pool.poolId, "hex"));
  const log = new MemoryDirectory("log", (await rig.close()).log);
  const lines: DumpLine[] = [];
  await dumpLog({ log, poolId }, (line) => lines.push(line));
  const move = lines.find((line) => line.type === "record" && line.kind === "relocated");
  ok(move?.type === "record");
  const { blocks, references, place, storedBytes } = move;
  deepEqual([blocks, place, storedBytes], [2, "9:16000", 3000]);
  deepEqual(references, ["1:4224", "70000:8344"]);
});

test("a tombstone that names no segment refuses the opening", async () => {
  const bodies = [
    {},
    { ...DROPPED, segment: 0 },
    { ...DROPPED, segment: 2 ** 32 },
    { ...DROPPED, segment: "1" },
    { ...DROPPED, keepsRecords: 1 },
  ];
  for (const body of bodies) {
    const rig = await PoolRig.create();
    rig.pool.log.appendEncoded(encodeJsonRecord(RECORD_KIND.SEGMENT_DROPPED, body));
    await rig.pool.flush();
    const files: PoolFiles = rig.kill();
    await rejects(PoolRig.open(files), { code: "LOG_CORRUPT" }, JSON.stringify(body));
  }
});
