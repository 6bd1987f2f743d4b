// SPDX-License-Identifier: Apache-2.0
//
// The same with qcow2: overlays of a filled image, snapshots inside it, and a chain of backing files with something
// written to each. `qemu-img` is what makes them, one process each, two at a time where they don't depend on each other;
// starting a process takes a few milliseconds, which users pay too. Reading is measured over `qemu-nbd`.

import { rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../test/interop/command.ts";
import { Server } from "../test/interop/server.ts";
import {
  type CloneOptions,
  type EndOfChain,
  LINK_BYTES,
  linkOffset,
  type Made,
  primeArguments,
} from "./moments-clones.ts";
import { FioJobs, inTurn, type Run } from "./moments-speed.ts";
import { fillArguments, fioArguments } from "./rows.ts";

const AT_ONCE = 2;
const EXPORT = "db";

export interface Qcow2Result {
  readonly overlays: Made;
  readonly snapshots: Made;
  readonly chain: EndOfChain;
  /** As they were run, one of each. */
  readonly commandLines: Readonly<Record<string, string>>;
}

export async function measureQcow2(options: CloneOptions): Promise<Qcow2Result> {
  const { scratch, volumeBytes, say } = options;
  const directory = scratch.path("qcow2");
  const server = await Server.start("qemu-qcow2", { directory, sizeBytes: volumeBytes });
  scratch.defer("qemu-nbd", () => server.stop());
  const jobs = new FioJobs(scratch);
  await jobs.run(server, EXPORT, fillArguments(volumeBytes));
  await server.stop();
  const commandLines: Record<string, string> = { reading: server.commandLine };
  const qemu = async (what: string, program: string, args: readonly string[]): Promise<void> => {
    commandLines[what] ??= [program, ...args].join(" ").replaceAll(`${directory}/`, "");
    await run(program, args, { cwd: directory });
  };
  const disk = join(directory, "disk.qcow2");

  const overlays = await measureOverlays(qemu, directory, options.cloneCount);
  say(`  ${overlays.count} overlays in ${overlays.seconds.toFixed(2)} s`);
  const chain = await measureChain(qemu, server, jobs, options);
  say(`  a chain of ${chain.length}: ${chain.linkMs.toFixed(2)} ms a link`);
  const bytesBefore = await occupied(disk);
  const start = performance.now();
  for (let at = 0; at < options.cloneCount; at++)
    await qemu("snapshot", "qemu-img", ["snapshot", "-c", `s-${at}`, disk]);
  const seconds = (performance.now() - start) / 1000;
  const bytesEach = ((await occupied(disk)) - bytesBefore) / options.cloneCount;
  say(`  ${options.cloneCount} snapshots inside an image in ${seconds.toFixed(2)} s`);
  const snapshots = { count: options.cloneCount, seconds, bytesEach };
  await rm(directory, { recursive: true, force: true });
  return { overlays, snapshots, chain, commandLines };
}

type Qemu = (what: string, program: string, args: readonly string[]) => Promise<void>;

async function measureOverlays(qemu: Qemu, directory: string, count: number): Promise<Made> {
  const start = performance.now();
  const make = async (first: number): Promise<void> => {
    for (let at = first; at < count; at += AT_ONCE)
      await qemu("overlay", "qemu-img", createArguments("disk.qcow2", `overlay-${at}.qcow2`));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, (_, first) => make(first)));
  const seconds = (performance.now() - start) / 1000;
  const paths = Array.from({ length: count }, (_, at) => join(directory, `overlay-${at}.qcow2`));
  let bytes = 0;
  for (const path of paths) bytes += await occupied(path);
  for (const path of paths) await rm(path);
  return { count, seconds, bytesEach: bytes / count };
}

/** The disk that is served becomes the first image, and the last image the one that is served; afterwards it is back. */
async function measureChain(
  qemu: Qemu,
  server: Server,
  jobs: FioJobs,
  options: CloneOptions,
): Promise<EndOfChain> {
  const { chainLength, volumeBytes, row, runs, seconds } = options;
  const { directory } = server;
  const disk = join(directory, "disk.qcow2");
  const path = (link: number): string => join(directory, `link-${link}.qcow2`);
  await rename(disk, path(0));
  let linkMs = 0;
  for (let link = 1; link <= chainLength; link++) {
    const start = performance.now();
    await qemu("chain", "qemu-img", createArguments(`link-${link - 1}.qcow2`, path(link)));
    linkMs += performance.now() - start;
    const write = `write -q -P ${link % 256} ${linkOffset(volumeBytes, link)} ${LINK_BYTES}`;
    await qemu("writing to a link", "qemu-io", ["-f", "qcow2", "-c", write, path(link)]);
  }
  linkMs /= chainLength;
  const results = { base: [] as Run[], end: [] as Run[] };
  const served = { base: path(0), end: path(chainLength) };
  const args = fioArguments(row, volumeBytes);
  for (let round = 0; round < runs; round++) {
    for (const place of inTurn(["base", "end"] as const, round)) {
      await rename(served[place], disk);
      await server.restart();
      await jobs.run(server, EXPORT, primeArguments(row, volumeBytes));
      results[place].push(await jobs.run(server, EXPORT, args, seconds));
      await server.stop();
      await rename(disk, served[place]);
    }
  }
  await rename(path(0), disk);
  for (let link = 1; link <= chainLength; link++) await rm(path(link));
  return { length: chainLength, linkMs, ...results };
}

function createArguments(backing: string, path: string): string[] {
  return ["create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", path];
}

async function occupied(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}
