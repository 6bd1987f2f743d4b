// SPDX-License-Identifier: Apache-2.0
//
// Contents for disks that look like life: an ext4 image filled from a directory tree of the system,
// pseudo-random bytes from a seed, and checksums of whole trees to compare them by.

import { open, stat } from "node:fs/promises";
import { run } from "./command.ts";

/** A tree that every machine with the test programs has: thousands of small files, links, big files. */
export const REAL_TREE = "/usr/lib/python3";

/** An ext4 file system in a sparse file, filled from `tree`. */
export async function makeExt4Image(path: string, sizeBytes: number, tree: string): Promise<void> {
  await run("truncate", ["-s", `${sizeBytes}`, path]);
  await run("mke2fs", ["-q", "-t", "ext4", "-d", tree, "-E", "root_owner=0:0", path]);
}

/** Reproducible bytes that don't compress. */
export function noise(lengthBytes: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(lengthBytes / 4));
  let state = seed * 2654435761 + 1;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
  return Buffer.from(words.buffer, 0, lengthBytes);
}

/** A sparse file with data of all sizes and positions, also across block borders, and holes between. */
export async function makeSparseFile(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, "w");
  try {
    let offset = 0;
    for (let piece = 1; offset < sizeBytes; piece++) {
      const length = Math.min(1 + ((piece * 7919) % 300_000), sizeBytes - offset);
      await file.write(noise(length, piece), 0, length, offset);
      offset += length + ((piece * 104_729) % 2_000_000);
    }
    await file.truncate(sizeBytes);
  } finally {
    await file.close();
  }
  if ((await stat(path)).size !== sizeBytes) throw new Error(`${path}: wrong size`);
}
