// SPDX-License-Identifier: Apache-2.0
//
// The layout of a pack (docs/format/backup.md):
//
//   | group 0 | group 1 | … | ids | head | footer |
//
// A group is 64 slots, the last one perhaps fewer, compressed together; so the group of a slot needs no table. The ids
// are a piece of their own behind the groups: who reads blocks needs only the head, 24 bytes a group, and not 24 bytes
// a block.
//
//   head   u32 slots · u32 stored bytes of the ids · 16 their check
//          for each group: u32 stored bytes · u32 codec · 16 check

import { assert } from "../base/assert.ts";
import { BLOCK_BYTES, GROUP_SLOTS, PACK_SLOTS_MAX } from "./place.ts";
import { CHECK_BYTES } from "./sealed-object.ts";
import { CONTENT_ID_BYTES } from "./sealing.ts";

export const CODEC = { raw: 0, zstd: 1 } as const;
/** The most that a pack may take in the target, with everything. */
export const PACK_BYTES_MAX: number = 32 << 20;
/** Groups are pieces 0, 1, 2 …; the ids are sealed in a place that no group has. */
export const IDS_ORDINAL = 0xfffffffe;
export const IDS_CHECK_AT = 8;

const FIXED_BYTES = 24;
const ROW_BYTES = 24;

export interface GroupRow {
  readonly storedBytes: number;
  readonly codec: number;
}

function groupCountOf(slotCount: number): number {
  return Math.ceil(slotCount / GROUP_SLOTS);
}

/** Bytes of head for so many groups. */
export function packHeadBytes(groupCount: number): number {
  return FIXED_BYTES + groupCount * ROW_BYTES;
}

/** What a pack's head says: where everything lies. */
export class PackHead {
  readonly bytes: Uint8Array;
  readonly slotCount: number;
  readonly groupCount: number;
  readonly idsStoredBytes: number;
  readonly idsOffset: number;
  readonly #offsets: Float64Array;
  readonly #view: DataView;

  private constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.slotCount = this.#view.getUint32(0, true);
    this.idsStoredBytes = this.#view.getUint32(4, true);
    this.groupCount = groupCountOf(this.slotCount);
    this.#offsets = new Float64Array(this.groupCount + 1);
    for (let group = 0; group < this.groupCount; group += 1)
      this.#offsets[group + 1] = this.#offsets[group]! + this.storedBytes(group);
    this.idsOffset = this.#offsets[this.groupCount]!;
  }

  /** Why the bytes can't be a pack's head; otherwise the head. `overheadBytes`: what sealing adds to a piece. */
  static parse(bytes: Uint8Array, overheadBytes: number): PackHead | string {
    if (bytes.length < FIXED_BYTES) return "its head is cut";
    const slotCount = new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(0, true);
    if (slotCount === 0 || slotCount > PACK_SLOTS_MAX)
      return `it says ${slotCount} slots, a pack has 1 to ${PACK_SLOTS_MAX}`;
    if (bytes.length !== packHeadBytes(groupCountOf(slotCount)))
      return `its head of ${bytes.length} bytes is not that of ${slotCount} slots`;
    const head = new PackHead(bytes);
    if (head.idsStoredBytes !== slotCount * CONTENT_ID_BYTES + overheadBytes)
      return `its ids have ${head.idsStoredBytes} bytes`;
    for (let group = 0; group < head.groupCount; group += 1) {
      const stored = head.storedBytes(group) - overheadBytes;
      const content = head.contentBytes(group);
      const codec = head.codec(group);
      const isPossible = codec === CODEC.raw ? stored === content : stored > 0 && stored < content;
      if (codec > CODEC.zstd || !isPossible)
        return `group ${group} has ${stored} bytes for ${content} and codec ${codec}`;
    }
    return head;
  }

  /** Of the pack without its head and footer. */
  get bodyBytes(): number {
    return this.idsOffset + this.idsStoredBytes;
  }

  offset(group: number): number {
    return this.#offsets[group]!;
  }

  storedBytes(group: number): number {
    return this.#view.getUint32(FIXED_BYTES + group * ROW_BYTES, true);
  }

  codec(group: number): number {
    return this.#view.getUint32(FIXED_BYTES + group * ROW_BYTES + 4, true);
  }

  checkAt(group: number): number {
    return FIXED_BYTES + group * ROW_BYTES + 8;
  }

  slotsOf(group: number): number {
    return Math.min(GROUP_SLOTS, this.slotCount - group * GROUP_SLOTS);
  }

  contentBytes(group: number): number {
    return this.slotsOf(group) * BLOCK_BYTES;
  }
}

export function encodePackHead(options: {
  readonly slotCount: number;
  readonly idsStoredBytes: number;
  readonly idsCheck: Uint8Array;
  readonly groups: readonly { row: GroupRow; check: Uint8Array }[];
}): Uint8Array {
  const { slotCount, groups } = options;
  assert(groups.length === groupCountOf(slotCount), "all groups but the last one are full");
  const bytes = new Uint8Array(packHeadBytes(groups.length));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, slotCount, true);
  view.setUint32(4, options.idsStoredBytes, true);
  bytes.set(options.idsCheck, IDS_CHECK_AT);
  for (const [group, { row, check }] of groups.entries()) {
    const at = FIXED_BYTES + group * ROW_BYTES;
    assert(check.length === CHECK_BYTES, "a check has its bytes");
    view.setUint32(at, row.storedBytes, true);
    view.setUint32(at + 4, row.codec, true);
    bytes.set(check, at + 8);
  }
  return bytes;
}
