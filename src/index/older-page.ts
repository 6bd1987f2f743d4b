// SPDX-License-Identifier: Apache-2.0
//
// A page as an older checkpoint has it: what a damaged image is rebuilt from where the log doesn't reach back to its
// beginning any more. It uses staging, not the memory for reads: whoever waits for a rebuilt page holds some of that.

import { StorageError } from "../base/errors.ts";
import { LOW_ZERO } from "../log/reference.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { CheckpointBody } from "./checkpoint-body.ts";
import type { CheckpointSource } from "./checkpoint-loader.ts";
import {
  CHUNK_PAGES,
  CHUNK_WORDS,
  CONSTANT,
  PAGE_BLOCKS,
  WORD_OFFSET,
  WORD_RUN,
} from "./page-directory.ts";
import {
  DIRECTORY_BYTES_MAX,
  decodeDirectory,
  decodeLeaf,
  LEAF_BYTES_MAX,
  NODE_KIND,
  nodeCorrupt,
  readNode,
} from "./run-file.ts";

/** Where a checkpoint has the content of a page. */
export type PagePlace =
  | { readonly low: number }
  | { readonly run: number; readonly offset8: number };

const HOLE: PagePlace = { low: 0 };

/** Where the page is in the checkpoint; or the low word of all its references. Throws POOL_CORRUPT, DISK_IO, BUSY. */
export async function placeOfPage(
  source: CheckpointSource,
  body: CheckpointBody,
  { branch, page }: { readonly branch: number; readonly page: number },
): Promise<PagePlace> {
  const position = Math.floor(page / CHUNK_PAGES);
  const root = body.roots.find((each) => each.branch === branch && each.chunk === position);
  if (root === undefined) return HOLE;
  if (root.run === CONSTANT) return { low: LOW_ZERO };
  const { memory, runs } = source;
  const node = { kind: NODE_KIND.DIRECTORY, branch, position };
  const place = { ...node, run: root.run, offset: root.offset8 * 8 };
  const chunk = new Uint32Array(CHUNK_PAGES * CHUNK_WORDS);
  await withStaging(source, DIRECTORY_BYTES_MAX, async (target) => {
    await readNode(memory, runs, { ...place, target, maxBytes: DIRECTORY_BYTES_MAX });
    if (!decodeDirectory(memory, target, chunk)) throw nodeCorrupt(place, "impossible content");
  });
  const at = (page % CHUNK_PAGES) * CHUNK_WORDS;
  const run = chunk[at + WORD_RUN] as number;
  const offset8 = chunk[at + WORD_OFFSET] as number;
  if (run === 0) return HOLE;
  return run === CONSTANT ? { low: offset8 } : { run, offset8 };
}

/** The references of the page there, two words a block. Throws POOL_CORRUPT, DISK_IO, BUSY. */
export async function readPageAt(
  source: CheckpointSource,
  { branch, page }: { readonly branch: number; readonly page: number },
  { run, offset8 }: { readonly run: number; readonly offset8: number },
): Promise<Uint32Array> {
  const { memory, runs } = source;
  const place = { kind: NODE_KIND.LEAF, branch, position: page, run, offset: offset8 * 8 };
  return await withStaging(source, LEAF_BYTES_MAX + BLOCK_BYTES, async (target) => {
    await readNode(memory, runs, { ...place, target, maxBytes: LEAF_BYTES_MAX });
    const image = target + LEAF_BYTES_MAX;
    if (!decodeLeaf(memory, target, image)) throw nodeCorrupt(place, "impossible content");
    return memory.words.slice(image >>> 2, (image >>> 2) + PAGE_BLOCKS * 2);
  });
}

async function withStaging<T>(
  { memory }: CheckpointSource,
  lengthBytes: number,
  work: (address: number) => Promise<T>,
): Promise<T> {
  const address = memory.staging.allocate(lengthBytes);
  if (address < 0)
    throw new StorageError("BUSY", "index: page not read: no staging memory is free");
  try {
    return await work(address);
  } finally {
    memory.staging.release(address);
  }
}
