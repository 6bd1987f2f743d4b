// SPDX-License-Identifier: Apache-2.0
//
// Where the artifacts of the corpus come from: the Debian mirror, whose indexes and pool are read over
// HTTP, and the npm registry, through npm. What a mirror sends is believed only with the right checksum.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { run } from "../../test/interop/command.ts";
import type { Suite } from "./sets.ts";

const MIRROR = process.env.VARVE_BENCH_DEBIAN ?? "http://deb.debian.org";
const DOWNLOAD_MS = 120_000;

export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  readonly path: string;
  readonly sha256: string;
}

function archiveOf(suite: string): string {
  return `${MIRROR}/${suite.endsWith("-security") ? "debian-security" : "debian"}`;
}

/** The amd64 packages of a suite by name; a name can have several versions. */
export async function readIndex(
  suite: Suite,
  cache: string,
): Promise<ReadonlyMap<string, DebianPackage[]>> {
  const url = `${archiveOf(suite)}/dists/${suite}/main/binary-amd64/Packages.xz`;
  const path = join(cache, "index", `${suite}.xz`);
  await download(url, path);
  const { stdout } = await run("xz", ["-dc", path]);
  const index = new Map<string, DebianPackage[]>();
  for (const stanza of stdout.split("\n\n")) {
    const field = (name: string): string =>
      new RegExp(`^${name}: (.*)$`, "m").exec(stanza)?.[1] ?? "";
    const name = field("Package");
    const found = { name, version: field("Version"), path: field("Filename") };
    if (name === "" || found.version === "" || found.path === "") continue;
    const versions = index.get(name) ?? [];
    versions.push({ ...found, sha256: field("SHA256") });
    index.set(name, versions);
  }
  return index;
}

export function downloadDeb(suite: string, path: string, file: string): Promise<void> {
  return download(`${archiveOf(suite)}/${path}`, file);
}

export class NotThere extends Error {}

async function download(url: string, file: string): Promise<void> {
  const response = await fetch(url, { signal: AbortSignal.timeout(DOWNLOAD_MS) });
  if (response.status === 404) throw new NotThere(`${url}: not on the mirror any more`);
  if (!response.ok) throw new Error(`${url}: status ${response.status}`);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(`${file}.part`, Buffer.from(await response.arrayBuffer()));
  await rename(`${file}.part`, file);
}

export interface Packed {
  readonly name: string;
  readonly version: string;
  readonly filename: string;
}

/** Has npm fetch packages as tarballs into `directory`. */
export async function npmPack(specs: readonly string[], directory: string): Promise<Packed[]> {
  await mkdir(directory, { recursive: true });
  const cache = join(directory, "..", "npm-cache");
  const where = ["--pack-destination", directory, "--cache", cache];
  const args = ["pack", "--json", "--ignore-scripts", "--loglevel=error", ...where];
  const { stdout } = await run("npm", [...args, ...specs], { cwd: directory, timeoutMs: 600_000 });
  await rm(cache, { recursive: true, force: true }); // all of it is in the tarballs
  const found: unknown = JSON.parse(stdout);
  // npm 11 prints a list here, npm 12 an object by package.
  return (Array.isArray(found) ? found : Object.values(found as object)) as Packed[];
}

export async function sha256Of(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

export async function isThere(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
