// SPDX-License-Identifier: Apache-2.0
//
// The machine that a benchmark runs on: what it is, what a process used of it, and how to bring it into
// the same state before every run. Virtual machines lie most about memory: the first touch of a page
// that the host hasn't given yet costs ten times a later one, and whoever comes first pays for all. So
// the memory that page caches will use is touched once before anything is measured, and before each run
// everything dirty is written out.

import { readFile, readlink, realpath, rm, stat, statfs, writeFile } from "node:fs/promises";
import { arch, cpus, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { delay, run } from "../test/interop/command.ts";
import { GIB, MIB } from "./rows.ts";

export interface Machine {
  readonly cpuModel: string;
  readonly cores: number;
  readonly kernel: string;
  readonly memoryBytes: number;
  readonly fileSystem: string;
  readonly node: string;
  readonly commit: string;
  readonly versions: Readonly<Record<string, string>>;
}

export async function describeMachine(directory: string): Promise<Machine> {
  const here = { cwd: import.meta.dirname };
  const git = async (...args: string[]): Promise<string> =>
    (await run("git", args, { ...here, accept: [0, 128] })).stdout.trim();
  const isDirty = (await git("status", "--porcelain", "--", "../src", "../bin")) !== "";
  const mount = await run("findmnt", ["-no", "FSTYPE,SOURCE,OPTIONS", "--target", directory]);
  const firstLine = async (command: string, ...args: string[]): Promise<string> =>
    run(command, args).then(
      ({ stdout, stderr }) => `${stdout}${stderr}`.split("\n")[0]!.trim(),
      () => "not installed",
    );
  return {
    cpuModel: cpus()[0]?.model ?? arch(),
    cores: cpus().length,
    kernel: release(),
    memoryBytes: totalmem(),
    fileSystem: mount.stdout.trim().replaceAll(/\s+/g, " "),
    node: process.version,
    commit: `${(await git("rev-parse", "--short=10", "HEAD")) || "unknown"}${isDirty ? "-dirty" : ""}`,
    versions: {
      fio: await firstLine("fio", "--version"),
      "qemu-nbd": await firstLine("qemu-nbd", "--version"),
      nbdkit: await firstLine("nbdkit", "--version"),
    },
  };
}

/** What a result says of it, as names and values. */
export function machineFacts({ cores, cpuModel, memoryBytes, ...machine }: Machine): string[][] {
  return [
    ["commit", machine.commit],
    ["machine", `${cores} × ${cpuModel}, ${(memoryBytes / GIB).toFixed(1)} GiB`],
    ["kernel", machine.kernel],
    ["file system", machine.fileSystem],
    ["node", machine.node],
    ["fio", machine.versions.fio ?? ""],
  ];
}

/** A place for stores on the same disk as the checkout: the temporary directory, if it is there. */
export async function placeForStores(): Promise<string> {
  const checkout = join(import.meta.dirname, "..");
  const temporary = await realpath(tmpdir());
  return (await stat(temporary)).dev === (await stat(checkout)).dev ? temporary : checkout;
}

async function memoryField(name: string): Promise<number> {
  const text = await readFile("/proc/meminfo", "utf8");
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? 0) * 1024;
}

/** Touches 60 % of the free memory once, so that no server pays for the host's first hand-out. */
export async function warmMemory(scratch: string, say: (line: string) => void): Promise<void> {
  const limit = 32 * GIB;
  const wanted = Math.min(Math.floor((await memoryField("MemFree")) * 0.6), limit);
  // Memory is memory: a file that no disk stands behind does it without writing anything out.
  const directory = (await freeBytes("/dev/shm")) > wanted + GIB ? "/dev/shm" : scratch;
  const room = Math.min(wanted, (await freeBytes(directory)) - GIB);
  if (room < GIB) return;
  const path = join(directory, `varve-warm-${process.pid}`);
  const start = performance.now();
  try {
    await run("dd", ["if=/dev/zero", `of=${path}`, "bs=1M", `count=${Math.floor(room / MIB)}`], {
      timeoutMs: 600_000,
    });
  } finally {
    await rm(path, { force: true });
  }
  const seconds = (performance.now() - start) / 1000;
  say(`touched ${(room / GIB).toFixed(1)} GiB of free memory once, in ${seconds.toFixed(1)} s`);
}

async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}

/** Writes out what is dirty and waits until the kernel agrees that nothing much is left. */
export async function settle(): Promise<void> {
  await run("sync", [], { timeoutMs: 300_000 });
  for (let round = 0; round < 100; round++) {
    const dirty = (await memoryField("Dirty")) + (await memoryField("Writeback"));
    if (dirty < 16 * MIB) return;
    await delay(50);
  }
}

/**
 * Empties the page cache. What an earlier job left there decides a peer's speed by a factor of seven:
 * large folios from sequential writes make each small write walk hundreds of buffers, small ones from
 * small writes save it the allocation. False where this process may not do it.
 */
export async function dropPageCache(): Promise<boolean> {
  return await writeFile("/proc/sys/vm/drop_caches", "3").then(
    () => true,
    () => false,
  );
}

/** What a process and its children have used up to now. */
export interface Usage {
  readonly cpuSeconds: number;
  /** Bytes of page cache that the process made dirty (/proc/PID/io, write_bytes). */
  readonly chargedBytes: number;
  readonly peakResidentBytes: number;
}

const TICKS_PER_SECOND = 100; // USER_HZ, fixed on Linux for all that can be seen from outside

export async function usageOf(pid: number): Promise<Usage> {
  let cpuSeconds = 0;
  let chargedBytes = 0;
  let peakResidentBytes = 0;
  for (const id of await familyOf(pid)) {
    const fields = (await proc(id, "stat")).replace(/^.*\) /s, "").split(" ");
    // utime, stime: all threads of the process; cutime, cstime: children that have ended.
    cpuSeconds += [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at] ?? 0), 0);
    chargedBytes += Number(/^write_bytes: (\d+)/m.exec(await proc(id, "io"))?.[1] ?? 0);
    peakResidentBytes += Number(/^VmHWM:\s+(\d+)/m.exec(await proc(id, "status"))?.[1] ?? 0) * 1024;
  }
  return { cpuSeconds: cpuSeconds / TICKS_PER_SECOND, chargedBytes, peakResidentBytes };
}

async function familyOf(pid: number): Promise<number[]> {
  const text = await proc(pid, `task/${pid}/children`);
  const children = text.split(" ").filter(Boolean).map(Number);
  return [pid, ...(await Promise.all(children.map(familyOf))).flat()];
}

function proc(pid: number, name: string): Promise<string> {
  return readFile(`/proc/${pid}/${name}`, "utf8").catch(() => "");
}

/** Bytes written to the device under `directory` since boot, journal and metadata included. */
export async function deviceWrittenBytes(directory: string): Promise<number> {
  const { dev } = await stat(directory);
  const major = Math.floor(dev / 256) & 0xfff;
  const name = `/sys/dev/block/${major}:${dev & 0xff}`;
  if ((await readlink(name).catch(() => "")) === "") return 0;
  const fields = (await readFile(`${name}/stat`, "utf8")).trim().split(/\s+/);
  return Number(fields[6] ?? 0) * 512;
}

/** Bytes that a store occupies. */
export async function occupiedBytes(directory: string): Promise<number> {
  const { stdout } = await run("du", ["-s", "--block-size=1", directory]);
  return Number(stdout.split("\t")[0]);
}
