// SPDX-License-Identifier: Apache-2.0
//
// Backups beside what people use today: a volume is backed up as a whole and restored, beside `qemu-img convert -c`; then
// one per cent of its blocks change, at random, and it is backed up again, beside borg and restic, which must read the
// image again, and beside the bytes that QEMU's bitmap of 64 KiB would move.
//
//   node bench/backup.ts                    # 16 GiB, half an hour, 80 GiB of disk
//   node bench/backup.ts --volume=1G        # smaller
//   node bench/backup.ts --only=varve,qemu
//
// Half of each block is chance, half of it text, and no two blocks are the same: compression has something to do, and
// deduplication nothing but to find that out. Each figure is of one run, caches warm, for all alike.

import { rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { parseSize } from "../src/base/units.ts";
import { connectStream } from "../src/host/node/socket-connect.ts";
import { NbdClient } from "../src/nbd/client.ts";
import { Prng } from "../src/sim/prng.ts";
import { type RunOptions, run } from "../test/interop/command.ts";
import { Scratch } from "../test/interop/scratch.ts";
import { Server } from "../test/interop/server.ts";
import { describeMachine, machineFacts, occupiedBytes, placeForStores, settle } from "./machine.ts";

const BLOCK_BYTES = 4096;
const PIECE_BYTES: number = 1 << 20;
const CHUNK_BYTES: number = 64 << 10;
const GIB: number = 1 << 30;
const PATIENT: RunOptions = { timeoutMs: 7_200_000 };
const SYSTEMS = ["varve", "qemu", "borg", "restic"];

const { values } = parseArgs({
  options: {
    volume: { type: "string", default: "16G" },
    /** Per cent of the blocks. */
    changes: { type: "string", default: "1" },
    only: { type: "string", default: SYSTEMS.join() },
    seed: { type: "string", default: "1" },
    scratch: { type: "string" },
    out: { type: "string" },
  },
});
const volumeBytes = parseSize(values.volume) ?? 0;
const systems = values.only.split(",");
if (volumeBytes < PIECE_BYTES || systems.some((name) => !SYSTEMS.includes(name))) {
  console.error(`bench: write --volume=16G, and --only with some of ${SYSTEMS.join()}`);
  process.exit(2);
}

interface Row {
  readonly system: string;
  readonly work: "full" | "restore" | "incremental";
  readonly seconds: number;
  /** Written to the store, or read to make the restored disk. */
  readonly bytes: number;
}

const rows: Row[] = [];
const chance = new Prng(Number(values.seed));
await using scratch = await Scratch.create(values.scratch ?? (await placeForStores()));
const machine = await describeMachine(scratch.directory);
const server = await Server.start("varve", {
  directory: scratch.path("varve"),
  sizeBytes: volumeBytes,
  serveArgs: ["--exit-with-parent"],
});
scratch.defer("the daemon", () => server.stop());
const image = scratch.path("disk.raw");

const client = await NbdClient.open(await connectStream({ kind: "unix", path: server.socket }), {
  exportName: "db",
});
await fill();
await exportImage();
if (systems.includes("varve")) await varveFull();
if (systems.includes("qemu")) await qemuFull();
const backupPrograms = systems.filter((name) => name === "borg" || name === "restic");
for (const name of backupPrograms) await backupProgram(name, "full");
const changes = await change();
if (systems.includes("varve")) await varveIncremental();
await exportImage();
for (const name of backupPrograms) await backupProgram(name, "incremental");
await client.close();
await report();

async function fill(): Promise<void> {
  const pieces: Promise<void>[] = [];
  for (let at = 0; at < volumeBytes; at += PIECE_BYTES) {
    const piece = content(Math.min(PIECE_BYTES, volumeBytes - at));
    pieces.push(client.write(at, piece));
    if (pieces.length === 8) await Promise.all(pieces.splice(0));
  }
  await Promise.all(pieces);
  await client.flush();
}

function content(lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes, "what people write to disks repeats itself. ");
  for (let block = 0; block < lengthBytes; block += BLOCK_BYTES)
    for (let at = block; at < block + BLOCK_BYTES / 2; at += 4)
      bytes.writeUInt32LE(chance.word(), at);
  return bytes;
}

/** Blocks, each of them once; what a bitmap of 64 KiB says of them. */
async function change(): Promise<{ readonly blockCount: number; readonly bitmapBytes: number }> {
  const blockCount = Math.ceil(((volumeBytes / BLOCK_BYTES) * Number(values.changes)) / 100);
  const blocks = new Set<number>();
  while (blocks.size < blockCount) blocks.add(chance.word() % (volumeBytes / BLOCK_BYTES));
  const writes: Promise<void>[] = [];
  for (const block of blocks) {
    writes.push(client.write(block * BLOCK_BYTES, content(BLOCK_BYTES)));
    if (writes.length === 64) await Promise.all(writes.splice(0));
  }
  await Promise.all(writes);
  await client.flush();
  const chunks = new Set(
    [...blocks].map((block) => Math.floor((block * BLOCK_BYTES) / CHUNK_BYTES)),
  );
  return { blockCount, bitmapBytes: chunks.size * CHUNK_BYTES };
}

async function exportImage(): Promise<void> {
  await server.varve(["export", "db@now", image, "--force"], PATIENT);
}

async function measured(
  system: string,
  work: Row["work"],
  store: string,
  job: () => Promise<unknown>,
): Promise<void> {
  await settle();
  const before = await sizeOf(store);
  const start = performance.now();
  await job();
  const seconds = (performance.now() - start) / 1000;
  const after = await sizeOf(store);
  const bytes = work === "restore" ? after : after - before;
  rows.push({ system, work, seconds, bytes });
  console.log(`${system} ${work}: ${seconds.toFixed(1)} s, ${(bytes / GIB).toFixed(3)} GiB`);
}

async function sizeOf(store: string): Promise<number> {
  const isThere = await stat(store).catch(() => undefined);
  return isThere === undefined ? 0 : occupiedBytes(store);
}

async function varveFull(): Promise<void> {
  const target = scratch.path("target");
  const restored = scratch.path("restored.raw");
  await measured("varve", "full", target, () => server.varve(["backup", "db", target], PATIENT));
  const words = ["restore", target, "--volume", "db", "--to", restored];
  await measured("varve", "restore", target, () => server.varve(words, PATIENT));
  await run("cmp", [image, restored], PATIENT);
  await rm(restored);
}

async function varveIncremental(): Promise<void> {
  const target = scratch.path("target");
  await measured("varve", "incremental", target, () =>
    server.varve(["backup", "db", target], PATIENT),
  );
}

async function qemuFull(): Promise<void> {
  const compressed = scratch.path("disk.qcow2");
  const restored = scratch.path("restored.raw");
  const convert = ["convert", "-f", "raw", "-O", "qcow2", "-c", image, compressed];
  await measured("qemu-img", "full", compressed, () => run("qemu-img", convert, PATIENT));
  const back = ["convert", "-f", "qcow2", "-O", "raw", compressed, restored];
  await measured("qemu-img", "restore", compressed, () => run("qemu-img", back, PATIENT));
  await rm(restored);
}

async function backupProgram(name: string, work: "full" | "incremental"): Promise<void> {
  const store = scratch.path(name);
  const env = {
    ...process.env,
    BORG_BASE_DIR: scratch.path("caches"),
    BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: "yes",
    RESTIC_PASSWORD: "benchmark",
    RESTIC_CACHE_DIR: scratch.path("caches"),
  };
  const options = { ...PATIENT, env, cwd: scratch.directory };
  const isBorg = name === "borg";
  if (work === "full")
    await run(name, isBorg ? ["init", "-e", "none", store] : ["-r", store, "init"], options);
  const create = isBorg
    ? ["create", "--compression", "zstd,3", `${store}::${work}`, basename(image)]
    : ["-r", store, "backup", "--quiet", basename(image)];
  await measured(name, work, store, () => run(name, create, options));
}

async function report(): Promise<void> {
  const changedBytes = changes.blockCount * BLOCK_BYTES;
  const moved = { changedBytes, bitmapBytes: changes.bitmapBytes };
  const lines = [
    ...machineFacts(machine).map(([what, is]) => `${what}: ${is}`),
    `volume: ${(volumeBytes / GIB).toFixed(2)} GiB, full; then ${changes.blockCount} blocks of 4 KiB changed`,
    `a bitmap of 64 KiB would move ${(changes.bitmapBytes / changedBytes).toFixed(1)} times as much as changed`,
    "system     work           seconds    MiB/s  stored MiB",
    ...rows.map(({ system, work, seconds, bytes }) => {
      const rate = volumeBytes / seconds / PIECE_BYTES;
      const stored = (bytes / PIECE_BYTES).toFixed(1).padStart(10);
      return `${system.padEnd(10)} ${work.padEnd(12)} ${seconds.toFixed(2).padStart(9)} ${rate.toFixed(0).padStart(8)}  ${stored}`;
    }),
  ];
  console.log(lines.join("\n"));
  if (values.out === undefined) return;
  const results = { machine, volumeBytes, ...moved, rows };
  await writeFile(join(`${values.out}.json`), `${JSON.stringify(results, null, 1)}\n`);
}
