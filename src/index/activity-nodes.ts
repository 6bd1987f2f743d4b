// SPDX-License-Identifier: Apache-2.0
//
// What a checkpoint keeps of what happened when (docs/format/activity.md): bytes that the index doesn't look into, in
// nodes that lie one behind the other in the checkpoint's run. They aren't part of the body, because past moments read
// bodies and never this; and because damage here must cost nobody a checkpoint.

import type { BlockMemory } from "../reduce/block-memory.ts";
import type { NodeIdentity, RunStore } from "./run-file.ts";
import {
  DIRECTORY_BYTES_MAX,
  NODE_HEADER_BYTES,
  NODE_KIND,
  nodeCorrupt,
  readNode,
} from "./run-file.ts";
import { RunReadAhead } from "./run-read-ahead.ts";
import type { RunWriter } from "./run-writer.ts";

export interface ActivityPlace {
  /** Of the first node; the others follow. */
  readonly offset8: number;
  readonly lengthBytes: number;
}

const PART_BYTES: number = DIRECTORY_BYTES_MAX - NODE_HEADER_BYTES;
/** More isn't believed: a mebibyte, and some of it per branch. */
const ACTIVITY_BYTES_MAX: number = 64 << 20;

/** Throws DISK_FULL, DISK_IO. */
export async function writeActivity(
  memory: BlockMemory,
  writer: RunWriter,
  bytes: Uint8Array,
): Promise<ActivityPlace> {
  let offset8 = 0;
  for (let part = 0; part * PART_BYTES < bytes.length; part++) {
    const content = bytes.subarray(part * PART_BYTES, (part + 1) * PART_BYTES);
    const at = await writer.add(nodeOf(part), (target) => {
      const payload = target + NODE_HEADER_BYTES;
      const payloadBytes = (content.length + 7) & ~7;
      memory.bytes.set(content, payload);
      memory.bytes.fill(0, payload + content.length, payload + payloadBytes);
      return { lengthBytes: NODE_HEADER_BYTES + payloadBytes, count: 0, encoding: 0 };
    });
    if (part === 0) offset8 = at;
  }
  return { offset8, lengthBytes: bytes.length };
}

/** Throws POOL_CORRUPT, DISK_IO. */
export async function readActivity(
  { memory, runs }: { readonly memory: BlockMemory; readonly runs: RunStore },
  run: number,
  { offset8, lengthBytes }: ActivityPlace,
): Promise<Uint8Array> {
  if (lengthBytes > ACTIVITY_BYTES_MAX)
    throw nodeCorrupt({ ...nodeOf(0), run, offset: offset8 * 8 }, "impossible length");
  const bytes = new Uint8Array(lengthBytes);
  const ahead = new RunReadAhead(runs);
  const target = await memory.reads.acquire(DIRECTORY_BYTES_MAX);
  try {
    let offset = offset8 * 8;
    for (let part = 0; part * PART_BYTES < lengthBytes; part++) {
      const place = { ...nodeOf(part), run, offset, target, maxBytes: DIRECTORY_BYTES_MAX };
      const nodeBytes = await readNode(memory, ahead, place);
      const wanted = Math.min(PART_BYTES, lengthBytes - part * PART_BYTES);
      if (nodeBytes - NODE_HEADER_BYTES < wanted) throw nodeCorrupt(place, "cut off");
      const payload = target + NODE_HEADER_BYTES;
      bytes.set(memory.bytes.subarray(payload, payload + wanted), part * PART_BYTES);
      offset += nodeBytes;
    }
    return bytes;
  } finally {
    memory.reads.release(target);
  }
}

function nodeOf(part: number): NodeIdentity {
  return { kind: NODE_KIND.ACTIVITY, branch: 0, position: part };
}
