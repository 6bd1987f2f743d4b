// SPDX-License-Identifier: Apache-2.0
//
// The tour's disk with files, without mounting anything and so without root: mke2fs fills it, debugfs
// says where each file lies, e2fsck and a checksum say whether it is what it was. The accident is what
// ransomware does: file by file, content is read over NBD, encrypted, and written back in its place.

import { createCipheriv, createHash, randomBytes } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { run } from "../test/interop/command.ts";
import { NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { count } from "./tour-telling.ts";

export const DISK_MIB = 384;
export const BLOCK_BYTES = 4096;
/** Of one read or write. */
const BLOCKS_MAX = 256;
/** Less is over before it looks like anything; more doesn't fit. */
const TREE_MIB = { min: 80, max: 300 };

export interface Tree {
  readonly path: string;
  readonly name: string;
}

/** Files that any machine with this checkout has: the system's documents, or our own dependencies. */
export async function chooseTree(): Promise<Tree> {
  const ours = join(import.meta.dirname, "../node_modules/binaryen");
  for (const path of ["/usr/share/doc", "/usr/include", ours]) {
    if (!existsSync(path)) continue;
    const mib = Number.parseInt((await run("du", ["-sm", path])).stdout, 10);
    if (mib < TREE_MIB.min || mib > TREE_MIB.max) continue;
    const { length } = await readdir(path, { recursive: true });
    return { path, name: `${count(length)} files and directories of ${path}` };
  }
  throw new Error(`no files to show: ${ours} isn't there (npm ci brings it)`);
}

export async function makeImage(image: string, tree: Tree): Promise<void> {
  await run("truncate", ["-s", `${DISK_MIB}M`, image]);
  const args = ["-q", "-t", "ext4", "-b", `${BLOCK_BYTES}`, "-d", tree.path, image];
  await run("mke2fs", args).catch((cause: unknown) => {
    throw new Error("mke2fs didn't make the disk (Debian has it in e2fsprogs)", { cause });
  });
}

export async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** Whether e2fsck finds nothing to complain about. */
export async function isWhole(image: string): Promise<boolean> {
  return (await run("e2fsck", ["-fn", image], { accept: [0, 4, 8, 12] })).status === 0;
}

/** The first line of a text on the disk, as far as it can be shown. */
export async function firstLine(image: string, file: string): Promise<string> {
  const { stdout } = await run("debugfs", ["-R", `cat "${file}"`, image]);
  return (stdout.split("\n")[0] ?? "").slice(0, 60).replaceAll(/[^ -~]/g, "·");
}

/** A text of the tree that says what it is in its first line. */
export async function chooseText(tree: Tree, image: string): Promise<string> {
  const names = (await filesOf(tree)).filter((name) => /(README|copyright|\.h|\.md)$/.test(name));
  for (const name of names) {
    if (/^[\w ,.:/*-]{25,}$/.test(await firstLine(image, name))) return name;
  }
  throw new Error(`${tree.path}: no text to show`);
}

/** Encrypts the content of every file on the disk that clients reach at `socket`; how many bytes that was. */
export async function encryptFiles(
  disk: { readonly socket: string; readonly exportName: string },
  runs: readonly BlockRun[],
): Promise<number> {
  const cipher = createCipheriv("aes-256-ctr", randomBytes(32), randomBytes(16));
  const connection = await NbdConnection.open(disk.socket, disk.exportName);
  let bytes = 0;
  for (const { block, blockCount } of runs) {
    const offset = block * BLOCK_BYTES;
    const content = await connection.read(offset, blockCount * BLOCK_BYTES);
    await connection.write(offset, cipher.update(content));
    bytes += content.length;
  }
  await connection.flush();
  await connection.close();
  return bytes;
}

interface BlockRun {
  readonly block: number;
  readonly blockCount: number;
}

/** Where the tree's files lie in the image, `first` before the others. */
export async function placesOfFiles(
  { tree, first, image }: { readonly tree: Tree; readonly first: string; readonly image: string },
  scratch: Scratch,
): Promise<BlockRun[]> {
  const script = scratch.path("where");
  const names = [first, ...(await filesOf(tree)).filter((name) => name !== first)];
  await writeFile(script, names.map((name) => `blocks "${name}"\n`).join(""));
  const { stdout } = await run("debugfs", ["-f", script, image]);
  const runs: { block: number; blockCount: number }[] = [];
  for (const line of stdout.split("\n")) {
    if (!/^[\d ]+$/.test(line)) continue;
    for (const block of line.trim().split(/ +/).map(Number)) {
      const last = runs.at(-1);
      if (last && last.block + last.blockCount === block && last.blockCount < BLOCKS_MAX) {
        last.blockCount += 1;
      } else if (block > 0) {
        runs.push({ block, blockCount: 1 });
      }
    }
  }
  return runs;
}

async function filesOf({ path }: Tree): Promise<string[]> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && !/["\\\n]/.test(entry.name))
    .map((entry) => `/${relative(path, join(entry.parentPath, entry.name))}`);
}
