// SPDX-License-Identifier: Apache-2.0
//
// What bench/reduction-fio.ts measures, each on a new pool: a cell (one content, written in order and then
// at random), an image (one content in a file, stored here and by dm-vdo), and a pair (data that is new,
// then the same data again, at another place).

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { rm } from "node:fs/promises";
import { run } from "../test/interop/command.ts";
import {
  BLOCK_BYTES,
  type Content,
  contentArguments,
  FreshPool,
  type Job,
  jobArguments,
  type Measured,
  type PairWork,
  SEEDS,
  type StoredImage,
  type WorkOptions,
} from "./reduction-fio-pool.ts";
import { measurePeer } from "./reduction-stores.ts";
import { MIB } from "./rows.ts";

export interface CellRun {
  readonly sequential: Measured;
  readonly random: Measured;
}

export interface ImageResult {
  readonly nonZeroBytes: number;
  readonly distinctBytes: number;
  readonly varve: StoredImage;
  /** A string is the reason why there is no figure. */
  readonly vdo: { readonly storedBytes: number; readonly notes: readonly string[] } | string;
}

export interface PairRun {
  readonly unique: Measured;
  readonly duplicate: Measured;
}

/** Both jobs on a new pool; the round decides the seeds, so that all cells get the same offsets. */
export async function runCell(
  content: Content,
  round: number,
  options: WorkOptions,
): Promise<CellRun> {
  const { volumeBytes, seconds } = options;
  const pool = await FreshPool.start(options);
  try {
    await pool.warmUp(content);
    const seed = SEEDS.firstRun + 2 * round;
    const inOrder = jobArguments("sequential", content, volumeBytes);
    const sequential = await pool.measured({ args: inOrder, seed });
    const args = jobArguments("random", content, volumeBytes);
    return { sequential, random: await pool.measured({ args, seed: seed + 1, seconds }) };
  } finally {
    await pool.discard();
  }
}

/** New content to the lower half of the volume and the same to the upper half, in turn; both held other data. */
export async function runPairs(
  work: PairWork,
  compressPercent: number,
  options: WorkOptions & { readonly runs: number },
): Promise<PairRun[]> {
  const content = { dedupePercent: 0, compressPercent };
  const halfBytes = Math.floor(options.volumeBytes / 2 / MIB) * MIB;
  const pool = await FreshPool.start(options);
  try {
    await pool.warmUp(content);
    await pool.fio({ args: jobArguments("sequential", content, 2 * halfBytes), seed: SEEDS.fill });
    const pair = async (seed: number, sizeBytes: number): Promise<PairRun> => {
      const half = (offset: number): Job => ({
        args: [...jobArguments(work, content, sizeBytes), `--offset=${offset}`],
        seed,
      });
      const unique = await pool.measured(half(0));
      return { unique, duplicate: await pool.measured(half(halfBytes)) };
    };
    // The path of duplicates is cold as yet.
    await pair(SEEDS.warmPair, Math.ceil(halfBytes / 4 / MIB) * MIB);
    const pairs: PairRun[] = [];
    for (let round = 0; round < options.runs; round++)
      pairs.push(await pair(SEEDS.firstRun + round, halfBytes));
    return pairs;
  } finally {
    await pool.discard();
  }
}

/** The same file, stored by Varve and by dm-vdo. */
export async function measureImage(content: Content, options: WorkOptions): Promise<ImageResult> {
  const { scratch, imageBytes, vdoRatio } = options;
  const path = scratch.path("content.raw");
  await run("fio", [
    "--name=image",
    "--ioengine=psync",
    `--filename=${path}`,
    "--rw=write",
    `--bs=${BLOCK_BYTES}`,
    `--size=${imageBytes}`,
    ...contentArguments(content, BLOCK_BYTES, imageBytes),
    `--randseed=${SEEDS.image}`,
  ]);
  try {
    const counts = await countBlocks(path);
    const pool = await FreshPool.start(options);
    const varve = await pool.importImage(path).finally(() => pool.discard());
    const name = `dedupe-${content.dedupePercent}-compress-${content.compressPercent}`;
    const image = { name, path, tree: "", sizeBytes: imageBytes, sha256: "" };
    const vdo = await measurePeer("vdo", { images: [image], scratch, vdoRatio, say: () => {} });
    return { ...counts, varve, vdo };
  } finally {
    await rm(path, { force: true });
  }
}

async function countBlocks(
  path: string,
): Promise<Pick<ImageResult, "nonZeroBytes" | "distinctBytes">> {
  const seen = new Set<string>();
  const zeros = Buffer.alloc(BLOCK_BYTES);
  let nonZeroBytes = 0;
  // Files are read in whole chunks but for the last, so blocks stay where they are.
  for await (const chunk of createReadStream(path, { highWaterMark: MIB })) {
    const bytes = chunk as Buffer<ArrayBuffer>;
    for (let offset = 0; offset < bytes.length; offset += BLOCK_BYTES) {
      const block = bytes.subarray(offset, offset + BLOCK_BYTES);
      if (block.equals(zeros)) continue;
      nonZeroBytes += BLOCK_BYTES;
      seen.add(createHash("sha1").update(block).digest("base64"));
    }
  }
  return { nonZeroBytes, distinctBytes: seen.size * BLOCK_BYTES };
}
