// SPDX-License-Identifier: Apache-2.0
//
// The body of a checkpoint: everything that recovery needs besides the log's tail. It is the last node of
// the run that the checkpoint wrote: 4 bytes of JSON length, JSON (the cut, the catalog, the runs in use), and
// then two lists of roots: per branch, where the directory of each chunk is (branch, chunk, run, offset / 8: four u32);
// per segment of which frames were moved, where the directory of those is (segment, run, offset / 8: three u32).
//
// The slot is the pointer to it: `checkpoint-a` and `checkpoint-b` in turn, each with a sequence number, so that
// a torn write leaves the other one (docs/format/checkpoint.md).

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { FORMAT_VERSION, requireVersion } from "../log/batch.ts";
import { getU64, putU64 } from "../log/record.ts";
import type { ReplayStart } from "../log/replay-start.ts";
import { checksumMatches, isPoolId } from "../log/self-check.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import type { ActivityPlace } from "./activity-nodes.ts";
import type { ChangeListFile } from "./change-list.ts";

export const SLOT_NAMES = ["checkpoint-a", "checkpoint-b"] as const;
const SLOT_BYTES = 512;
const SLOT_MAGIC = 0x504b4356; // "VCKP"
const SLOT_CHECKSUM_AT = 80;
const ROOT_BYTES = 16;
const RELOCATION_ROOT_BYTES = 12;

export interface ChunkRoot {
  readonly branch: number;
  readonly chunk: number;
  readonly run: number;
  readonly offset8: number;
}

export interface RelocationRoot {
  /** Where the frames were born. */
  readonly segment: number;
  readonly run: number;
  readonly offset8: number;
}

/** A run that checkpoints need from the one with the sequence `since` on, before the one with `until`. */
export interface RunEntry {
  readonly number: number;
  readonly nodeCount: number;
  readonly sizeBytes: number;
  readonly since: number;
  /** Undefined: the newest one needs it too. */
  readonly until?: number;
}

/** A checkpoint that is kept for longer: what the volumes held at its cut, from where history goes on. */
export interface HistoryBase {
  readonly slot: CheckpointSlot;
  readonly cut: ReplayStart;
}

export interface CheckpointBody {
  readonly sequence: number;
  readonly cut: ReplayStart;
  /** The pool's catalog, as the pool encodes it. */
  readonly catalog: Readonly<Record<string, unknown>>;
  /** Nodes of the run that the body is in. */
  readonly nodeCount: number;
  /** Runs that this checkpoint reads from, its own not included, and those that only earlier ones need. */
  readonly runs: readonly RunEntry[];
  /** Earlier checkpoints that history needs, oldest first. */
  readonly bases?: readonly HistoryBase[];
  /** What happened between checkpoints, as far as history needs it, oldest first. */
  readonly lists?: readonly ChangeListFile[];
  /** What is promised of history, as the pool encodes it. */
  readonly promise?: Readonly<Record<string, unknown>>;
  /** Where in its run it has what happened when; only of the newest one it is read. */
  readonly activity?: ActivityPlace;
  readonly roots: readonly ChunkRoot[];
  readonly relocations: readonly RelocationRoot[];
}

export interface CheckpointSlot {
  readonly sequence: number;
  readonly run: number;
  readonly bodyOffset: number;
  readonly bodyBytes: number;
  readonly nextLsn: number;
}

export function encodeBody(body: CheckpointBody): Uint8Array {
  const { roots, relocations, ...rest } = body;
  const json = new TextEncoder().encode(
    JSON.stringify(rest, (_key, value: unknown) =>
      typeof value === "bigint" ? `0x${value.toString(16)}` : value,
    ),
  );
  const rootsAt = (4 + json.length + 7) & ~7;
  const bytes = new Uint8Array(
    rootsAt + 8 + roots.length * ROOT_BYTES + relocations.length * RELOCATION_ROOT_BYTES,
  );
  const view = new DataView(bytes.buffer);
  view.setUint32(0, json.length, true);
  bytes.set(json, 4);
  view.setUint32(rootsAt, roots.length, true);
  view.setUint32(rootsAt + 4, relocations.length, true);
  let at = rootsAt + 8;
  for (const root of roots) {
    view.setUint32(at, root.branch, true);
    view.setUint32(at + 4, root.chunk, true);
    view.setUint32(at + 8, root.run, true);
    view.setUint32(at + 12, root.offset8, true);
    at += ROOT_BYTES;
  }
  for (const root of relocations) {
    view.setUint32(at, root.segment, true);
    view.setUint32(at + 4, root.run, true);
    view.setUint32(at + 8, root.offset8, true);
    at += RELOCATION_ROOT_BYTES;
  }
  return bytes;
}

/** Undefined when the bytes make no sense (their checksum was right: another version's, or a bug). */
export function decodeBody(bytes: Uint8Array): CheckpointBody | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 16) return undefined;
  const jsonBytes = view.getUint32(0, true);
  if (jsonBytes > bytes.length) return undefined;
  const rootsAt = (4 + jsonBytes + 7) & ~7;
  if (rootsAt + 8 > bytes.length) return undefined;
  const rootCount = view.getUint32(rootsAt, true);
  const relocationsAt = rootsAt + 8 + rootCount * ROOT_BYTES;
  const relocationCount = view.getUint32(rootsAt + 4, true);
  if (relocationsAt + relocationCount * RELOCATION_ROOT_BYTES > bytes.length) return undefined;
  const json = parseJson(bytes.slice(4, 4 + jsonBytes));
  if (json === undefined) return undefined;
  const roots: ChunkRoot[] = [];
  for (let at = rootsAt + 8; at < relocationsAt; at += ROOT_BYTES) {
    roots.push({
      branch: view.getUint32(at, true),
      chunk: view.getUint32(at + 4, true),
      run: view.getUint32(at + 8, true),
      offset8: view.getUint32(at + 12, true),
    });
  }
  const relocations: RelocationRoot[] = [];
  for (let at = relocationsAt; relocations.length < relocationCount; at += RELOCATION_ROOT_BYTES) {
    relocations.push({
      segment: view.getUint32(at, true),
      run: view.getUint32(at + 4, true),
      offset8: view.getUint32(at + 8, true),
    });
  }
  return { ...json, roots, relocations };
}

type BodyJson = Omit<CheckpointBody, "roots" | "relocations">;

function numbersOf(cut: ReplayStart): number[] {
  return [cut.segmentNumber, cut.offset, cut.nextLsn, cut.incarnation, cut.recordedMicros];
}

function numbersOfRun({ number, nodeCount, sizeBytes, since = 0, until = 0 }: RunEntry): number[] {
  return [number, nodeCount, sizeBytes, since, until];
}

function numbersOfBase({ slot, cut }: HistoryBase): number[] {
  const { sequence, run, bodyOffset, bodyBytes, nextLsn } = slot;
  return [sequence, run, bodyOffset, bodyBytes, nextLsn, ...numbersOf(cut)];
}

function numbersOfList(list: ChangeListFile): number[] {
  const { run, bodyOffset, bodyBytes, sizeBytes, fromLsn, endLsn } = list;
  return [run, bodyOffset, bodyBytes, sizeBytes, fromLsn, endLsn];
}

/** JSON has no numbers of 64 bits: the chain is written as text. */
function withChain(cut: ReplayStart): ReplayStart {
  return { ...cut, chain: BigInt(cut.chain) };
}

function parseJson(bytes: Uint8Array): BodyJson | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const value = JSON.parse(text) as BodyJson;
    const { cut, catalog, runs, bases = [], lists = [], promise = {} } = value;
    const { activity = { offset8: 0, lengthBytes: 0 } } = value;
    const numbers = [
      value.sequence,
      value.nodeCount,
      ...numbersOf(cut),
      ...[activity.offset8, activity.lengthBytes],
      ...runs.flatMap(numbersOfRun),
      ...bases.flatMap(numbersOfBase),
      ...lists.flatMap(numbersOfList),
    ];
    const isSane =
      numbers.every((number) => Number.isSafeInteger(number) && number >= 0) &&
      [cut, ...bases.map((base) => base.cut)].every(({ chain }) =>
        /^0x[0-9a-f]{1,16}$/.test(String(chain)),
      ) &&
      [catalog, promise].every(isRecord);
    if (!isSane) return undefined;
    return {
      ...value,
      // Runs of before there were change lists don't say since when they are needed.
      runs: runs.map((run) => ({ ...run, since: run.since ?? 0 })),
      cut: withChain(cut),
      ...(value.bases === undefined
        ? {}
        : { bases: bases.map((base) => ({ ...base, cut: withChain(base.cut) })) }),
    };
  } catch {
    return undefined; // no JSON, or not of this shape
  }
}

function isRecord(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export async function writeSlot(
  memory: BlockMemory,
  directory: Directory,
  poolId: Uint8Array,
  slot: CheckpointSlot,
): Promise<void> {
  const address = memory.scratchAddress + 16384;
  const { view } = memory;
  memory.bytes.fill(0, address, address + SLOT_BYTES);
  view.setUint32(address, SLOT_MAGIC, true);
  view.setUint16(address + 4, FORMAT_VERSION, true);
  memory.bytes.set(poolId, address + 8);
  putU64(view, address + 24, slot.sequence);
  putU64(view, address + 32, slot.run);
  putU64(view, address + 40, slot.bodyOffset);
  putU64(view, address + 48, slot.bodyBytes);
  putU64(view, address + 56, slot.nextLsn);
  // 64 must-understand bits, 72 reserved
  memory.kernel.hash(address, SLOT_CHECKSUM_AT, address + SLOT_CHECKSUM_AT);
  const page = memory.bytes.slice(address, address + SLOT_BYTES);
  const name = SLOT_NAMES[slot.sequence % 2] as string;
  const isThere = (await directory.list()).includes(name);
  const file = await directory.open(name, isThere ? "write" : "create");
  await file.write(page, 0);
  await file.datasync();
  await file.close();
  if (!isThere) await directory.sync();
}

/** The valid slots, newest first. */
export async function readSlots(
  memory: BlockMemory,
  directory: Directory,
  poolId: Uint8Array,
): Promise<CheckpointSlot[]> {
  const slots: CheckpointSlot[] = [];
  const names = await directory.list();
  for (const name of SLOT_NAMES) {
    if (!names.includes(name)) continue;
    const file = await directory.open(name, "read");
    const page = new Uint8Array(SLOT_BYTES);
    const readBytes = await file.read(page, 0);
    await file.close();
    const slot = parseSlot(memory, page, readBytes, poolId);
    if (slot !== undefined) slots.push(slot);
  }
  return slots.sort((a, b) => b.sequence - a.sequence);
}

function parseSlot(
  memory: BlockMemory,
  page: Uint8Array,
  readBytes: number,
  poolId: Uint8Array,
): CheckpointSlot | undefined {
  if (readBytes < SLOT_BYTES) return undefined;
  const address = memory.scratchAddress + 16384;
  memory.bytes.set(page, address);
  const { view } = memory;
  if (view.getUint32(address, true) !== SLOT_MAGIC) return undefined;
  if (!checksumMatches(memory, address, SLOT_CHECKSUM_AT)) return undefined;
  requireVersion(
    "index: checkpoint",
    view.getUint16(address + 4, true),
    getU64(view, address + 64),
  );
  if (!isPoolId(memory, address + 8, poolId))
    throw new StorageError("POOL_CORRUPT", "index: checkpoint: it belongs to another pool");
  return {
    sequence: getU64(view, address + 24),
    run: getU64(view, address + 32),
    bodyOffset: getU64(view, address + 40),
    bodyBytes: getU64(view, address + 48),
    nextLsn: getU64(view, address + 56),
  };
}
