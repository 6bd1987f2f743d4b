// SPDX-License-Identifier: Apache-2.0
//
// `npm run tour`: what Varve is for, on real data, in about a minute. A disk with real files is encrypted by
// a program; its history says when that began, the disk of the moment before is looked at, the disk goes
// back to it, and undo shows that nothing was lost on the way. Then the daemon is killed in mid-write, and
// what was flushed is there, the past too. It works in a temporary directory and leaves nothing behind; it
// needs no root, and of programs only e2fsprogs.

import { delay, run } from "../test/interop/command.ts";
import { NbdConnection, TRANSMISSION } from "../test/interop/nbd-connection.ts";
import { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import {
  BLOCK_BYTES,
  chooseText,
  chooseTree,
  DISK_MIB,
  encryptFiles,
  firstLine,
  isWhole,
  makeImage,
  placesOfFiles,
  sha256,
} from "./tour-files.ts";
import { JOURNAL_MIB, LINES_PER_FLUSH, readLines, writeLines } from "./tour-journal.ts";
import { allIsWell, count, fail, quote, say, step, timed, title, verify } from "./tour-telling.ts";

const MIB = 1024 * 1024;
const WRITE_MS = 2000;

/** The disk with files, and what was seen of it. */
interface Story {
  readonly scratch: Scratch;
  readonly server: Server;
  /** A file that can be read. */
  readonly text: string;
  /** Where on the disk that begins, as OFFSET:LENGTH. */
  readonly place: string;
  /** Of the whole disk, before the accident. */
  readonly fingerprint: string;
}

await tour().catch(fail);
process.exitCode = allIsWell() ? 0 : 1;

async function tour(): Promise<void> {
  await using scratch = await Scratch.create();
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      void scratch[Symbol.asyncDispose]().finally(() => process.exit(130));
    });
  }
  const story = await tellOfTheDisk(scratch);
  const before = await tellOfTheSecondBefore(story);
  await tellOfTheWayBack(story, before);
  await tellOfThePlug(story, before);
  title(allIsWell() ? "Everything is there: now, and as it was." : "THAT WENT WRONG.");
}

/** A disk in a pool, and what becomes of it. */
async function tellOfTheDisk(scratch: Scratch): Promise<Story> {
  title("1. A disk with real files");
  const tree = await chooseTree();
  const image = scratch.path("disk.raw");
  await timed(`an ext4 disk of ${DISK_MIB} MiB, filled with ${tree.name}`, () =>
    makeImage(image, tree),
  );
  const server = await timed(
    "varve serve: a daemon serves a new pool, and in it an empty disk",
    () =>
      Server.start("varve", {
        directory: scratch.directory,
        exportName: "journal",
        sizeBytes: JOURNAL_MIB * MIB,
      }),
  );
  scratch.defer("the daemon", () => server.stop());
  await timed("varve import disk.raw files: our disk is in the pool, and served over NBD", () =>
    server.varve(["import", image, "files"]),
  );
  const text = await chooseText(tree, image);
  step(`one of its files, ${text}, begins:`);
  quote(await firstLine(image, text));

  title("2. The accident");
  say("Ransomware gets at the disk: it reads each file, encrypts it, and writes it back.");
  const runs = await placesOfFiles({ tree, first: text, image }, scratch);
  const bytes = await timed(
    "the content of all files is encrypted (AES-256), the key thrown away",
    () => encryptFiles({ socket: server.socket, exportName: "files" }, runs),
  );
  step(`${count(Math.round(bytes / MIB))} MiB are lost, on any other disk`);
  const place = `${runs[0]!.block * BLOCK_BYTES}:${BLOCK_BYTES}`;
  const story = { scratch, server, text, place, fingerprint: await sha256(image) };
  const after = await exported(story, "files");
  const now = await firstLine(after.image, text);
  step("the same file, now:");
  quote(now);
  verify("nothing of what it began with is left", now !== (await firstLine(image, text)));
  return story;
}

/** The moment before the accident, as history tells it. */
async function tellOfTheSecondBefore(story: Story): Promise<string> {
  title("3. The second before");
  const { server, place } = story;
  say("Every write is a moment that can be opened. Which one was the last good one?");
  const { stdout, stderr } = await server.varve(["history", "files"]);
  step("varve history files: what happened to the disk, and when");
  quote(stdout + stderr);
  const { flagged } = await json<{ flagged: { lastLsnBefore: number }[] }>(server, ["history"]);
  verify("history has noticed by itself that content was encrypted", flagged.length > 0);
  if (flagged.length === 0) throw new Error("history doesn't say when it began");
  const since = `lsn:${flagged[0]!.lastLsnBefore}`;
  say("It is cautious: up to 4 MiB of good writes may lie behind the moment that it names.");
  const range = ["--extent", place, "--since", since];
  step(`varve when files ${range.join(" ")}: when has our file changed since then?`);
  quote((await server.varve(["when", "files", ...range])).stdout);
  const { changes } = await json<{ changes: { lsn: number }[] }>(server, ["when", ...range]);
  const before = `files@#${changes[0]!.lsn - 1}`;
  say(`The newest of these is the accident, so ${before} is the disk as it was one write before.`);
  say("Any NBD client can open it by that name:");
  const connection = await NbdConnection.open(server.socket, before);
  verify("it opens at once, read-only", (connection.flags & TRANSMISSION.READ_ONLY) !== 0);
  await connection.close();
  const { image, isSame } = await exported(story, before);
  verify("it is our disk, bit for bit (SHA-256), while the encrypted one is still served", isSame);
  verify("e2fsck finds nothing to complain about", await isWhole(image));
  quote(await firstLine(image, story.text));
  return before;
}

async function tellOfTheWayBack(story: Story, before: string): Promise<void> {
  title("4. The way back, and back again");
  const { server } = story;
  const encrypted = (await exported(story, "files")).fingerprint;
  await timed(`varve rewind ${before}: the disk goes on from what it was`, () =>
    server.varve(["rewind", before]),
  );
  verify("all files are back, bit for bit", (await exported(story, "files")).isSame);
  await timed("varve undo files: a rewind loses nothing, it can be taken back", () =>
    server.varve(["undo", "files"]),
  );
  const undone = await exported(story, "files");
  verify("the encrypted disk is back, bit for bit", undone.fingerprint === encrypted);
  await timed("varve undo files: and so can an undo", () => server.varve(["undo", "files"]));
  verify("all files are back again", (await exported(story, "files")).isSame);
}

async function tellOfThePlug(story: Story, before: string): Promise<void> {
  title("5. The plug is pulled while a program writes");
  const { server } = story;
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
  const { acknowledged, flushed } = progress;
  step(`${count(acknowledged)} lines were acknowledged, ${count(flushed)} of them flushed`);

  title("6. The daemon starts again");
  await timed("varve serve: the log is read", () => server.restart());
  const found = await readLines(server, acknowledged + 1);
  verify(`lines 1 to ${count(found)} are there, in order, without a gap`, found > 0);
  verify(`all ${count(flushed)} flushed lines are among them`, found >= flushed);
  verify(
    "so are those that were only acknowledged: nothing is lost when just the daemon dies",
    found >= acknowledged,
  );
  verify("our disk is the same, bit for bit", (await exported(story, "files")).isSame);
  verify(`and so is the past, ${before}`, (await exported(story, before)).isSame);
  await server.stop();
  const offline = await server.varve(["check"], { accept: [0, 1, 13] });
  verify("varve check: every record and checksum in the pool is right", offline.status === 0);
}

/** What a command says of the disk, for programs. */
async function json<Answer>(server: Server, [name, ...options]: string[]): Promise<Answer> {
  const { stdout } = await server.varve([name!, "files", ...options, "--json"]);
  return JSON.parse(stdout) as Answer;
}

/** A copy of a disk, now or at a moment, out of the pool. */
async function exported(
  { scratch, server, fingerprint: original }: Pick<Story, "scratch" | "server" | "fingerprint">,
  disk: string,
): Promise<{ image: string; fingerprint: string; isSame: boolean }> {
  const image = scratch.path("copy.raw");
  await run("rm", ["-f", image]);
  await server.varve(["export", disk, image]);
  const fingerprint = await sha256(image);
  return { image, fingerprint, isSame: fingerprint === original };
}
