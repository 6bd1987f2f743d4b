// SPDX-License-Identifier: Apache-2.0
//
// `node bench/corpus/build.ts`: makes the corpus that bench/reduction.ts measures with, from manifest.tsv:
//
//   $VARVE_BENCH_CACHE (default /var/cache/varve-bench)
//     deb/ npm/        what was fetched
//     trees/NAME/      it unpacked: what a backup program would be given
//     images/NAME.img  an ext4 image of the tree: what a virtual machine has, free space and all
//     corpus.json      what was built
//
// Each part is made under another name and renamed, so it is there whole or not at all; a second run does
// nothing. A version that has vanished from the mirror is replaced by the suite's present one, or left
// out, and corpus.json says so. Images of two machines hold the same files, but not the same bytes: the
// order of directory entries and some times in inodes are the machine's. So a result names the images'
// checksums, and only results about the same images are put side by side.

import { mkdir, readFile, rename, rm, statfs, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { run } from "../../test/interop/command.ts";
import { type Artifact, fileOf, MANIFEST_PATH, readManifest } from "./manifest.ts";
import type { Suite } from "./sets.ts";
import {
  type DebianPackage,
  downloadDeb,
  isThere,
  NotThere,
  npmPack,
  readIndex,
  sha256Of,
} from "./sources.ts";

const MIB = 1024 * 1024;
const NEEDED_BYTES = 12_000 * MIB;

export interface CorpusImage {
  readonly name: string;
  readonly path: string;
  readonly tree: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

export interface Corpus {
  readonly manifestSha256: string;
  readonly images: readonly CorpusImage[];
  /** Departures from the manifest, a sentence each. */
  readonly notes: readonly string[];
}

export function cacheDirectory(): string {
  return process.env.VARVE_BENCH_CACHE ?? "/var/cache/varve-bench";
}

/** The corpus, built if it isn't there. */
export async function buildCorpus(say: (line: string) => void): Promise<Corpus> {
  const cache = cacheDirectory();
  const manifestSha256 = await sha256Of(MANIFEST_PATH);
  const summary = join(cache, "corpus.json");
  const known = await readFile(summary, "utf8").then(
    (text) => JSON.parse(text) as Corpus,
    () => undefined,
  );
  if (known?.manifestSha256 === manifestSha256 && (await isWhole(known))) return known;

  await mkdir(cache, { recursive: true });
  const { bavail, bsize } = await statfs(cache);
  if (!(await isThere(join(cache, "images"))) && bavail * bsize < NEEDED_BYTES)
    throw new Error(`${cache}: the corpus needs ${NEEDED_BYTES / MIB} MiB of room`);

  const notes: string[] = [];
  const files = await fetchAll(await readManifest(), { cache, notes, say });
  await mkdir(join(cache, "trees"), { recursive: true });
  await mkdir(join(cache, "images"), { recursive: true });
  const images: CorpusImage[] = [];
  for (const name of [...files.keys()].sort()) {
    say(`building ${name}`);
    const tree = join(cache, "trees", name);
    const path = join(cache, "images", `${name}.img`);
    if (known?.manifestSha256 !== manifestSha256) await discard(tree, path);
    if (!(await isThere(tree))) await unpack(files.get(name)!, tree);
    if (!(await isThere(path))) await makeImage(tree, path);
    const sizeBytes = Number((await run("stat", ["-c%s", path])).stdout);
    images.push({ name, path, tree, sizeBytes, sha256: await sha256Of(path) });
  }
  const corpus = { manifestSha256, images, notes };
  await writeFile(summary, `${JSON.stringify(corpus, null, 1)}\n`);
  return corpus;
}

async function isWhole({ images }: Corpus): Promise<boolean> {
  for (const { path, tree } of images)
    if (!(await isThere(path)) || !(await isThere(tree))) return false;
  return true;
}

/** The file and the package of each artifact, by image. */
type Files = Map<string, { artifact: Artifact; file: string }[]>;

interface Fetching {
  readonly cache: string;
  readonly notes: string[];
  readonly say: (line: string) => void;
}

async function fetchAll(manifest: readonly Artifact[], fetching: Fetching): Promise<Files> {
  const { cache, notes, say } = fetching;
  const missing: Artifact[] = [];
  for (const one of manifest) if (!(await isThere(join(cache, fileOf(one))))) missing.push(one);
  if (missing.length > 0) say(`fetching ${missing.length} of ${manifest.length} packages`);

  const npmMissing = missing.filter(({ kind }) => kind === "npm");
  if (npmMissing.length > 0) {
    const specs = npmMissing.map((one) => `${one.package}@${one.version}`);
    await npmPack(specs, join(cache, "npm")).catch(async () => {
      // One that is gone fails all: take them one by one then.
      for (const spec of specs) await npmPack([spec], join(cache, "npm")).catch(() => {});
    });
  }
  const queue = missing.filter(({ kind }) => kind === "deb");
  const replacements = new Map<Artifact, string>();
  const worker = async (): Promise<void> => {
    for (let one = queue.pop(); one; one = queue.pop()) {
      const file = join(cache, fileOf(one));
      const [suite, path] = splitSource(one);
      try {
        await downloadDeb(suite, path, file);
      } catch (error) {
        if (!(error instanceof NotThere)) throw error;
        const other = await presentVersion(one, cache);
        if (other) replacements.set(one, other.file);
        notes.push(
          `${one.package} ${one.version} has gone; ${other ? `${other.version} is in its place` : "left out"}`,
        );
      }
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);

  const files: Files = new Map();
  for (const artifact of manifest) {
    const file = replacements.get(artifact) ?? join(cache, fileOf(artifact));
    if (!(await isThere(file))) {
      if (artifact.kind === "npm") notes.push(`${basename(file)} could not be had; left out`);
      continue;
    }
    if (!replacements.has(artifact) && (await sha256Of(file)) !== artifact.sha256) {
      await rm(file);
      throw new Error(`${artifact.source}: not what the manifest says; removed, try again`);
    }
    for (const image of artifact.images)
      files.set(image, [...(files.get(image) ?? []), { artifact, file }]);
  }
  return files;
}

function splitSource({ source }: Artifact): [string, string] {
  const colon = source.indexOf(":");
  return [source.slice(0, colon), source.slice(colon + 1)];
}

const indexes = new Map<string, Promise<ReadonlyMap<string, DebianPackage[]>>>();

/** The version that the suite has now, fetched. */
async function presentVersion(
  artifact: Artifact,
  cache: string,
): Promise<{ file: string; version: string } | undefined> {
  const [suite] = splitSource(artifact);
  if (!indexes.has(suite)) indexes.set(suite, readIndex(suite as Suite, cache));
  const found = (await indexes.get(suite)!).get(artifact.package)?.at(-1);
  if (!found) return undefined;
  const file = join(cache, "deb", basename(found.path));
  if (!(await isThere(file))) await downloadDeb(suite, found.path, file);
  if ((await sha256Of(file)) === found.sha256) return { file, version: found.version };
  await rm(file);
  throw new Error(`${found.path}: not what the mirror's index says; removed, try again`);
}

async function discard(...paths: readonly string[]): Promise<void> {
  for (const path of paths) await rm(path, { recursive: true, force: true });
}

async function unpack(
  packages: readonly { artifact: Artifact; file: string }[],
  tree: string,
): Promise<void> {
  const half = `${tree}.new`;
  await discard(half);
  await mkdir(half);
  for (const { artifact, file } of packages) {
    if (artifact.kind === "deb") await run("dpkg-deb", ["-x", file, half]);
    else {
      const folder = join(half, "node_modules", artifact.package);
      await mkdir(folder, { recursive: true });
      const whose = ["--no-same-owner", "--no-same-permissions"];
      await run("tar", ["-xzf", file, "-C", folder, "--strip-components=1", ...whose]);
    }
  }
  await rename(half, tree);
}

/** An ext4 image of a tree, with a sixth of free space, made without mounting anything. */
async function makeImage(tree: string, path: string): Promise<void> {
  const half = `${path}.new`;
  await discard(half);
  const [contentBytes, entries] = await Promise.all([
    run("du", ["-s", "--block-size=1", tree]).then(({ stdout }) => Number(stdout.split("\t")[0])),
    run("find", [tree, "-printf", "."]).then(({ stdout }) => stdout.length),
  ]);
  const inodes = Math.ceil(entries * 1.2) + 1024;
  const wanted = contentBytes * 1.2 + inodes * 256 + 32 * MIB;
  const sizeMib = Math.ceil(wanted / (16 * MIB)) * 16;
  // A fixed seed and time; else each image would differ from the last one all over its metadata.
  const uuid = "6c1f5f0e-2b52-4b0c-9d0f-76617276652e";
  const fixed = ["-U", uuid, "-E", `hash_seed=${uuid},lazy_itable_init=1`];
  await run(
    "mke2fs",
    ["-q", "-F", "-t", "ext4", "-b", "4096", "-N", `${inodes}`, ...fixed, "-d", tree, half].concat(
      `${sizeMib}M`,
    ),
    { env: { ...process.env, E2FSPROGS_FAKE_TIME: "1700000000" }, timeoutMs: 300_000 },
  );
  await rename(half, path);
}

if (import.meta.main) {
  const corpus = await buildCorpus((line) => console.log(line));
  for (const note of corpus.notes) console.log(`note: ${note}`);
  for (const { name, sizeBytes, sha256 } of corpus.images)
    console.log(`${name}  ${sizeBytes / MIB} MiB  ${sha256.slice(0, 16)}`);
}
