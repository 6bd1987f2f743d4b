// SPDX-License-Identifier: Apache-2.0
//
// `npm run tour`: what Varve is for, on real data, in less than a minute. It makes a disk with real files,
// puts it into a pool, kills the daemon without warning while a program writes, starts it again, and
// shows that everything flushed is there. It works in a temporary directory and leaves nothing behind;
// it needs no root, and of programs only e2fsprogs.

import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { delay, run } from "../test/interop/command.ts";
import { ConnectionLost, NbdConnection } from "../test/interop/nbd-connection.ts";
import { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";

const MIB = 1024 * 1024;
const DISK_MIB = 384;
const JOURNAL_MIB = 64;
const SECTOR_BYTES = 512;
const WRITE_MS = 2000;
const LINES_PER_FLUSH = 100;

let failureCount = 0;

try {
  await tour();
} catch (error) {
  failureCount++;
  console.error(`\ntour: failed: ${error instanceof Error ? error.message : String(error)}`);
}
process.exitCode = failureCount === 0 ? 0 : 1;

async function tour(): Promise<void> {
  await using scratch = await Scratch.create();
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      void scratch[Symbol.asyncDispose]().finally(() => process.exit(130));
    });
  }

  title("1. A disk with real files");
  const tree = await chooseTree();
  const image = scratch.path("disk.raw");
  await timed(`an ext4 disk of ${DISK_MIB} MiB, filled with ${tree.name}`, async () => {
    await run("truncate", ["-s", `${DISK_MIB}M`, image]);
    await run("mke2fs", ["-q", "-t", "ext4", "-d", tree.path, image]).catch((cause: unknown) => {
      throw new Error("mke2fs didn't make the disk (Debian has it in e2fsprogs)", { cause });
    });
  });
  const fingerprint = await sha256(image);

  title("2. A pool, and the disk in it");
  const started = performance.now();
  const server = await Server.start("varve", {
    directory: scratch.directory,
    exportName: "journal",
    sizeBytes: JOURNAL_MIB * MIB,
  });
  scratch.defer("the daemon", () => server.stop());
  step(
    `varve serve: a daemon, process ${server.pid}, serves a new pool`,
    performance.now() - started,
  );
  step(`varve create journal ${JOURNAL_MIB}M: an empty disk; it takes no space yet`);
  await timed(`varve import disk.raw files: a copy of our disk, now served over NBD`, () =>
    server.varve(["import", image, "files"]),
  );

  title("3. The plug is pulled while a program writes");
  say("A program writes numbered lines to the disk 'journal', one after the other, as a database");
  say(
    `would. After every ${LINES_PER_FLUSH} it asks for a flush: "tell me when all this is safe".`,
  );
  const progress = { acknowledged: 0, flushed: 0 };
  const writing = writeLines(server, progress);
  await delay(WRITE_MS);
  const pid = server.pid;
  await server.kill9();
  await writing;
  step(`kill -9 ${pid}: the daemon is gone, in the middle of a line`);
  step(
    `${count(progress.acknowledged)} lines were acknowledged, ${count(progress.flushed)} of them flushed`,
  );

  title("4. The daemon starts again");
  const restarted = performance.now();
  await server.restart();
  const firstLine = await readLine(server, 1);
  step(
    "varve serve: the log is read, and the first line of the journal too",
    performance.now() - restarted,
  );
  verify("the first line says 1", firstLine === 1);
  const found = await readLines(server, progress.acknowledged + 1);
  verify(`lines 1 to ${count(found)} are there, in order, without a gap`, found > 0);
  verify(`all ${count(progress.flushed)} flushed lines are among them`, found >= progress.flushed);
  verify(
    `so are those that were only acknowledged: nothing is lost when just the daemon dies`,
    found >= progress.acknowledged,
  );
  const copy = scratch.path("copy.raw");
  await timed("varve export files copy.raw: our disk with the files, out of the pool again", () =>
    server.varve(["export", "files", copy]),
  );
  verify("it is the same, bit for bit (SHA-256)", (await sha256(copy)) === fingerprint);
  const check = await run("e2fsck", ["-fn", copy], { accept: [0, 4] });
  verify("e2fsck finds nothing to complain about", check.status === 0);
  await server.stop();
  const offline = await server.varve(["check"], { accept: [0, 1, 13] });
  verify("varve check: every record and checksum in the pool is right", offline.status === 0);

  title(failureCount === 0 ? "Everything that was flushed survived." : "THAT WENT WRONG.");
}

function title(text: string): void {
  console.log(`\n${text}`);
}

function say(text: string): void {
  console.log(`   ${text}`);
}

function step(text: string, elapsedMs?: number): void {
  say(elapsedMs === undefined ? `· ${text}` : `· ${text} (${(elapsedMs / 1000).toFixed(2)} s)`);
}

async function timed(text: string, work: () => Promise<unknown>): Promise<void> {
  const start = performance.now();
  await work();
  step(text, performance.now() - start);
}

function verify(claim: string, isTrue: boolean): void {
  if (!isTrue) failureCount++;
  say(`${isTrue ? "✓" : "✗ NOT SO:"} ${claim}`);
}

function count(number: number): string {
  return number.toLocaleString("en-US");
}

/** Files that any machine with this checkout has: the system's documents, or our own dependencies. */
async function chooseTree(): Promise<{ path: string; name: string }> {
  const choices = ["/usr/share/doc", "/usr/lib/python3", join(import.meta.dirname, "../src")];
  const path = choices.find((choice) => existsSync(choice))!;
  const fileCount = (await readdir(path, { recursive: true })).length;
  return { path, name: `${count(fileCount)} files and directories of ${path}` };
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** Line `number` as it lies on the disk: one sector of text. */
function lineOf(number: number): Buffer {
  return Buffer.from(`line ${number}\n`.padEnd(SECTOR_BYTES, "."), "latin1");
}

async function writeLines(
  target: Server,
  done: { acknowledged: number; flushed: number },
): Promise<void> {
  const connection = await NbdConnection.open(target.socket, "journal");
  const lineCountMax = (JOURNAL_MIB * MIB) / SECTOR_BYTES;
  try {
    for (let number = 1; number <= lineCountMax; number++) {
      await connection.write((number - 1) * SECTOR_BYTES, lineOf(number));
      done.acknowledged = number;
      if (number % LINES_PER_FLUSH > 0) continue;
      await connection.flush();
      done.flushed = number;
    }
  } catch (error) {
    if (!(error instanceof ConnectionLost)) throw error;
  }
}

/** The number that line `number` of the journal carries, or 0. */
async function readLine(target: Server, number: number): Promise<number> {
  const connection = await NbdConnection.open(target.socket, "journal");
  const sector = await connection.read((number - 1) * SECTOR_BYTES, SECTOR_BYTES);
  await connection.close();
  return sector.equals(lineOf(number)) ? number : 0;
}

/** How many lines are there in order; 0 if anything but emptiness follows the last of them. */
async function readLines(target: Server, lineCount: number): Promise<number> {
  const connection = await NbdConnection.open(target.socket, "journal");
  const bytes = await connection.read(0, lineCount * SECTOR_BYTES);
  await connection.close();
  let number = 0;
  const sector = (index: number): Buffer =>
    bytes.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
  while (number < lineCount && sector(number).equals(lineOf(number + 1))) number++;
  const isRestEmpty = bytes.subarray(number * SECTOR_BYTES).every((byte) => byte === 0);
  return isRestEmpty ? number : 0;
}
