// SPDX-License-Identifier: Apache-2.0
//
// The runs in a pool's files, and the nodes in them, found without the pool's own readers: what tests damage.

import type { PoolFiles } from "./memory-rig.ts";

const HEADER_BYTES = 4096;
const TRAILER_BYTES = 64;
const NODE_HEADER_BYTES = 32;
const BODY = 3;

/** Where the nodes of a kind are in a run: 1 leaf, 2 directory, 3 body … */
export function nodesOf(files: PoolFiles, name: string, kind: number): number[] {
  const bytes = files.log.get(name) as Uint8Array;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: number[] = [];
  const end = bytes.length - TRAILER_BYTES;
  for (let at = HEADER_BYTES; at < end; at += NODE_HEADER_BYTES + view.getUint32(at + 28, true))
    if (view.getUint8(at + 16) === kind) found.push(at);
  return found;
}

/** The runs of checkpoints, oldest first, without the change lists beside them. */
export function checkpointRuns(files: PoolFiles): string[] {
  return [...files.log.keys()]
    .filter((name) => name.endsWith(".run") && nodesOf(files, name, BODY).length > 0)
    .sort();
}

export function newestRun(files: PoolFiles): string {
  return checkpointRuns(files).at(-1) as string;
}
