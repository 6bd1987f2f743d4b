// SPDX-License-Identifier: Apache-2.0
//
// A small real log for the tests that damage one: several segments, incarnations, markers, footers, all record
// kinds in use; and a plain reading of it (where its batches and headers are, what each claims, what each record
// says) by which the recovery of a damaged copy is judged.

import { StorageError } from "../../src/base/errors.ts";
import { type BatchHeader, parseBatchHeader } from "../../src/log/batch.ts";
import type { RecordCursor } from "../../src/log/record.ts";
import { recoverLog } from "../../src/log/recovery.ts";
import { LOG_BEGIN } from "../../src/log/replay-start.ts";
import { parseSegmentHeader } from "../../src/log/segment.ts";
import type { DamagedFrame } from "../../src/log/segment-reader.ts";
import { BlockMemory, shapeOf } from "../../src/reduce/block-memory.ts";
import { type Files, MemoryDirectory } from "../../src/sim/memory-host.ts";
import { BLOCK, noise, PoolRig, turns } from "./memory-rig.ts";

const MIB = 1 << 20;

export interface Structure {
  readonly file: string;
  readonly start: number;
  readonly end: number;
  readonly kind: "segment" | "batch";
  /** What it claims to have been durable. */
  readonly durableLsn: number;
  readonly header: BatchHeader | undefined;
}

export interface LogFixture {
  readonly files: Files;
  readonly poolId: Uint8Array;
  /** What each record says, in order, from LSN 1. */
  readonly records: readonly string[];
  readonly structures: readonly Structure[];
}

export const memory: BlockMemory = new BlockMemory(shapeOf(24 << 20));

/** Five lives of a pool, no checkpoints. */
export async function makeLog(): Promise<LogFixture> {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  await rig.pool.createVolume("b", MIB + 512);
  for (let life = 0; life < 4; life++) {
    for (let round = 0; round < 4; round++) {
      for (let at = 0; at < 3; at++)
        await rig.write(
          "a",
          (life * 16 + round * 4 + at) * BLOCK,
          noise(life * 100 + round * 10 + at, BLOCK),
        );
      await rig.write("b", round * 512, noise(round, 512));
      await rig.trim("a", round * BLOCK, 2 * BLOCK);
      await rig.zero("a", 64 * BLOCK, MIB, { isHoleForbidden: true });
      await rig.flush("a");
    }
    if (life === 1) await rig.pool.resizeVolume("b", 2 * MIB);
    if (life === 2)
      await rig.pool.renameVolume("b", "c").then(() => rig.pool.renameVolume("c", "b"));
    if (life % 2 === 0) await turns(300); // a marker
    await rig.write("a", 0, noise(life + 1000, 3 * BLOCK));
    rig = await PoolRig.open(rig.kill());
  }
  await rig.write("a", 0, noise(77, BLOCK));
  await rig.flush("a");
  await rig.write("a", BLOCK, noise(78, 2 * BLOCK));
  return readLog(rig.kill());
}

export async function readLog(pool: { root: Files; log: Files }): Promise<LogFixture> {
  const json = JSON.parse(new TextDecoder().decode(pool.root.get("pool.json"))) as {
    poolId: string;
  };
  const poolId = Uint8Array.from(Buffer.from(json.poolId, "hex"));
  const files = new Map([...pool.log].filter(([name]) => /\.(seg|rec)$/.test(name)));
  const found = await recover(files, poolId);
  if (found.error !== undefined) throw found.error;
  return { files, poolId, records: found.records, structures: structuresOf(files, poolId) };
}

function structuresOf(files: Files, poolId: Uint8Array): Structure[] {
  const at = memory.slotsAddress;
  const structures: Structure[] = [];
  for (const [file, bytes] of files) {
    memory.bytes.set(bytes.subarray(0, 4096), at);
    const segment = parseSegmentHeader(memory, at, Math.min(4096, bytes.length), poolId);
    if (typeof segment === "string") continue;
    structures.push({
      file,
      start: 0,
      end: 128,
      kind: "segment",
      durableLsn: segment.durableLsn,
      header: undefined,
    });
    for (let start = 4096; start + 128 <= bytes.length; ) {
      memory.bytes.set(bytes.subarray(start, start + 128), at);
      const header = parseBatchHeader(memory, at, 128, poolId);
      if (typeof header === "string") break;
      const end = start + header.totalBytes;
      structures.push({ file, start, end, kind: "batch", durableLsn: header.durableLsn, header });
      start = end;
    }
  }
  return structures;
}

export interface Recovered {
  readonly records: readonly string[];
  readonly nextLsn: number;
  readonly error: StorageError | undefined;
  readonly leftovers: readonly string[];
  readonly damaged: readonly DamagedFrame[];
  readonly files: Files;
}

/** Recovers a copy of the files for writing; a StorageError is a result, anything else is thrown. */
export async function recover(files: Files, poolId: Uint8Array): Promise<Recovered> {
  const directory = new MemoryDirectory("log", files);
  const records: string[] = [];
  const damaged: DamagedFrame[] = [];
  const freeBytes = memory.staging.freeBytes;
  let error: StorageError | undefined;
  let nextLsn = 0;
  let leftovers: readonly string[] = [];
  try {
    const result = await recoverLog({
      memory,
      directory,
      poolId,
      start: LOG_BEGIN,
      onRecord: (cursor) => records.push(describe(cursor)),
      onDamagedFrame: (frame) => damaged.push(frame),
    });
    nextLsn = result.position.nextLsn;
    leftovers = result.leftovers;
  } catch (caught) {
    if (!(caught instanceof StorageError)) throw caught;
    error = caught;
  }
  if (memory.staging.freeBytes !== freeBytes) throw new Error("recovery keeps staging memory");
  if (directory.openCount !== 0) throw new Error("recovery leaves files open");
  return { records, nextLsn, error, leftovers, damaged, files: directory.files() };
}

function describe(cursor: RecordCursor): string {
  const { kind, lsn, timeMicros, branch, lba, blockCount, json } = cursor;
  let references = "";
  if (kind === 1)
    for (let at = 0; at < blockCount * 8; at += 4)
      references += `${memory.view.getUint32(cursor.referencesOffset + at, true)},`;
  const body =
    json === undefined
      ? `${branch} ${kind < 4 ? `${lba}+${blockCount}` : ""}`
      : JSON.stringify(json);
  return `#${lsn} ${timeMicros} ${kind} ${body} ${references}`;
}
