// SPDX-License-Identifier: Apache-2.0
//
// What real files take, block by block: the machine's own, as Varve's compressor sees them.

import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BlockMemory, FRAME_HEADER_BYTES, shapeOf } from "../../src/reduce/block-memory.ts";
import { RAW_8, type Sizes } from "./activity-disk.ts";

const BLOCK_BYTES = 4096;
/** As the block kernel has it. */
const COMPRESSED_BYTES_MAX = 3840;
const FILE_BYTES_MAX = 4 << 20;

/** Sizes of the blocks of files below a folder, evenly chosen, up to so many blocks; none where there is no such folder. */
export function filesBelow(folder: string, blocksMax: number): Sizes[] {
  const paths = pathsBelow(folder);
  const memory = new BlockMemory(shapeOf(24 << 20));
  const files: Sizes[] = [];
  let blockCount = 0;
  // Neighbours in a folder are alike: a stride that has nothing to do with their number mixes them.
  for (let index = 0; index < paths.length && blockCount < blocksMax; index++) {
    const path = paths[(index * 7919) % paths.length] as string;
    const sizes = sizesOf(memory, readFileSync(path).subarray(0, FILE_BYTES_MAX));
    blockCount += sizes.length;
    files.push(sizes);
  }
  return files;
}

function pathsBelow(folder: string): string[] {
  const paths: string[] = [];
  const folders = [folder];
  for (let next = folders.pop(); next !== undefined; next = folders.pop()) {
    for (const name of namesIn(next)) {
      const path = join(next, name);
      const status = lstatSync(path, { throwIfNoEntry: false });
      const isReadable = status !== undefined && (status.mode & 0o004) !== 0;
      if (isReadable && status.isDirectory()) folders.push(path);
      else if (isReadable && status.isFile() && status.size > 0) paths.push(path);
    }
  }
  return paths;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return []; // not there, or not for us
  }
}

function sizesOf(memory: BlockMemory, content: Uint8Array): Sizes {
  const source = memory.staging.allocate(BLOCK_BYTES);
  const target = memory.staging.allocate(2 * BLOCK_BYTES);
  const table = memory.staging.allocate(2 * BLOCK_BYTES);
  const sizes: number[] = [];
  for (let at = 0; at < content.length; at += BLOCK_BYTES) {
    const block = content.subarray(at, at + BLOCK_BYTES);
    memory.bytes.fill(0, source, source + BLOCK_BYTES);
    memory.bytes.set(block, source);
    const bytes = memory.kernel.compressBlock(source, target, COMPRESSED_BYTES_MAX, table);
    if (block.every((byte) => byte === 0)) sizes.push(0);
    else sizes.push(bytes === 0 ? RAW_8 : (FRAME_HEADER_BYTES + Math.ceil(bytes / 8) * 8) / 8);
  }
  for (const address of [source, target, table]) memory.staging.release(address);
  return sizes;
}
