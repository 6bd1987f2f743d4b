// SPDX-License-Identifier: Apache-2.0
//
// Pack indexes: what a later backup learns of packs without opening them. For each pack its hooks: the ids of which the
// low six bits are zero, one of 64. Blocks that are known already come in long rows, so a row that lies in a pack hits
// one of its hooks soon, and then the pack's own ids tell the rest (content-index.ts).
//
//   | hooks | head | footer |                                      index/ab/abcdef…
//
//   hooks  one piece, for each hook of each pack: u32 u32 the first 8 bytes of its id · u32 slot
//   head   u32 packs · u32 stored bytes of the hooks · 16 their check · for each pack: 32 name · u32 slots · u32 hooks
//
// They are a hint and nothing else: a backup that finds none sends what it needn't, and one that is wrong is found out by
// the pack's ids. So any of them may be missing, and be deleted at any time; one of which no pack is in use any more is of
// no use to anybody.

import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import { PACK_SLOTS_MAX } from "./place.ts";
import {
  NAME_BYTES,
  nameFromBytes,
  nameToBytes,
  ObjectMaker,
  ObjectOpener,
  pieceCheck,
} from "./sealed-object.ts";
import { CONTENT_ID_BYTES, type Sealer } from "./sealing.ts";

/** Of the first 32 bits of an id: a hook has none of these. */
export const HOOK_MASK = 63;
/** Where objects of this kind are listed. */
export const PACK_INDEX_PREFIX = "index/";

/** Packs of one object: 3 MiB of hooks. */
const PACKS_MAX = 1024;
const FIXED_BYTES = 24;
const ROW_BYTES: number = NAME_BYTES + 8;
const HOOK_BYTES = 12;

export interface IndexedPack {
  readonly name: string;
  readonly slotCount: number;
  /** For each hook three words: the first two of its id, and its slot. */
  readonly hooks: Uint32Array;
}

/** The hooks of a pack with these ids. */
export function hooksOf(ids: Uint8Array): Uint32Array {
  const view = new DataView(ids.buffer, ids.byteOffset, ids.length);
  const hooks: number[] = [];
  for (let at = 0; at < ids.length; at += CONTENT_ID_BYTES) {
    const word = view.getUint32(at, true);
    if ((word & HOOK_MASK) === 0)
      hooks.push(word, view.getUint32(at + 4, true), at / CONTENT_ID_BYTES);
  }
  return Uint32Array.from(hooks);
}

/** Collects the packs of a session and puts an object for each thousand of them. */
export class PackIndexWriter {
  readonly #options: {
    readonly store: ObjectStore;
    readonly sealer: Sealer;
    readonly random: Random;
  };
  #packs: IndexedPack[] = [];

  constructor(options: { store: ObjectStore; sealer: Sealer; random: Random }) {
    this.#options = options;
  }

  /** Time to put them. */
  get isFull(): boolean {
    return this.#packs.length >= PACKS_MAX;
  }

  add(pack: { readonly name: string; readonly slotCount: number; readonly ids: Uint8Array }): void {
    const { name, slotCount, ids } = pack;
    this.#packs.push({ name, slotCount, hooks: hooksOf(ids) });
  }

  /** Puts what was added since the last time. */
  async put(): Promise<void> {
    const packs = this.#packs.splice(0);
    for (let first = 0; first < packs.length; first += PACKS_MAX)
      await this.#putSome(packs.slice(first, first + PACKS_MAX));
  }

  async #putSome(packs: readonly IndexedPack[]): Promise<void> {
    const { store, sealer, random } = this.#options;
    const maker = new ObjectMaker("index", sealer, random);
    const wordCount = packs.reduce((sum, { hooks }) => sum + hooks.length, 0);
    const hookBytes = new Uint8Array(wordCount * 4);
    const hookView = new DataView(hookBytes.buffer);
    let at = 0;
    for (const { hooks } of packs)
      for (const word of hooks) {
        hookView.setUint32(at, word, true);
        at += 4;
      }
    const stored = maker.seal(0, hookBytes);
    const head = new Uint8Array(FIXED_BYTES + packs.length * ROW_BYTES);
    const view = new DataView(head.buffer);
    view.setUint32(0, packs.length, true);
    view.setUint32(4, stored.length, true);
    head.set(pieceCheck(stored), 8);
    for (const [index, { name, slotCount, hooks }] of packs.entries()) {
      const row = FIXED_BYTES + index * ROW_BYTES;
      head.set(nameToBytes(name), row);
      view.setUint32(row + NAME_BYTES, slotCount, true);
      view.setUint32(row + NAME_BYTES + 4, hooks.length / 3, true);
    }
    await maker.put(store, [stored], head);
  }
}

/** Packs that an index tells of; their hooks are read when they are wanted. */
export interface OpenPackIndex {
  /** Names of its packs: the index is of use while one of them is. */
  readonly packNames: readonly string[];
  /** Throws TARGET_CORRUPT. */
  packs(): Promise<readonly IndexedPack[]>;
}

/** Opens the index of that hash. Throws TARGET_CORRUPT. */
export async function openPackIndex(
  store: ObjectStore,
  sealer: Sealer,
  name: string,
): Promise<OpenPackIndex> {
  const opener = new ObjectOpener("index", store, sealer);
  const object = await opener.open(name);
  const { head } = object;
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  const packCount = head.length < FIXED_BYTES ? 0 : view.getUint32(0, true);
  if (packCount === 0 || head.length !== FIXED_BYTES + packCount * ROW_BYTES)
    throw opener.damaged(name, "its head makes no sense");
  const storedBytes = view.getUint32(4, true);
  const rows = Array.from({ length: packCount }, (_, index) => {
    const row = FIXED_BYTES + index * ROW_BYTES;
    const slotCount = view.getUint32(row + NAME_BYTES, true);
    const hookCount = view.getUint32(row + NAME_BYTES + 4, true);
    return { name: nameFromBytes(head, row), slotCount, hookCount };
  });
  const hookCount = rows.reduce((sum, row) => sum + row.hookCount, 0);
  const isSound = rows.every(
    (row) => row.hookCount <= row.slotCount && row.slotCount <= PACK_SLOTS_MAX,
  );
  if (!isSound || storedBytes !== hookCount * HOOK_BYTES + sealer.overheadBytes)
    throw opener.damaged(name, "its hooks make no sense");
  return {
    packNames: rows.map((row) => row.name),
    packs: async () => {
      const stored = await opener.read(name, 0, storedBytes);
      const bytes = opener.piece(object, stored, { ordinal: 0, checkAt: 8 });
      if (bytes === undefined) throw opener.damaged(name, "its hooks");
      // A copy begins at a multiple of four.
      const words = new Uint32Array(bytes.slice().buffer);
      let at = 0;
      return rows.map((row) => {
        const hooks = words.subarray(at, at + row.hookCount * 3);
        at += row.hookCount * 3;
        return { name: row.name, slotCount: row.slotCount, hooks };
      });
    },
  };
}
