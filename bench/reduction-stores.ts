// SPDX-License-Identifier: Apache-2.0
//
// The peers of bench/reduction.ts: each stores all images, one after another, in the order of the corpus.
// What counts is what `du` finds in the store's directory afterwards. dm-vdo's store is a device with a
// fixed overhead of 3 GB, so there its own count of data blocks stands, which is to its advantage. Caches that a backup
// program keeps elsewhere are not counted. The command lines are part of the result.

import { mkdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type RunOptions, run } from "../test/interop/command.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import type { CorpusImage } from "./corpus/build.ts";
import { occupiedBytes } from "./machine.ts";

const PATIENCE_MS = 3_600_000;

export const PEER_KINDS = [
  "qcow2-zlib",
  "qcow2-zstd",
  "borg",
  "restic",
  "vdo",
  "borg-trees",
  "restic-trees",
] as const;
export type PeerKind = (typeof PEER_KINDS)[number];

export interface StoreResult {
  readonly storedBytes: number;
  readonly seconds: number;
  readonly version: string;
  readonly command: string;
  /** Stored bytes after each image. */
  readonly after: readonly number[];
  /** Remarks, a line each. */
  readonly notes: readonly string[];
}

export interface StoreOptions {
  readonly images: readonly CorpusImage[];
  readonly scratch: Scratch;
  readonly say: (line: string) => void;
}

/** A string is the reason why it could not be measured here. */
export async function measurePeer(
  kind: PeerKind,
  options: StoreOptions & { readonly vdoRatio: string | undefined },
): Promise<StoreResult | string> {
  if (kind === "vdo") return await vdo(options.images, options.vdoRatio);
  if (kind.endsWith("-trees") && options.images.some(({ tree }) => tree === ""))
    return "these images have no trees";
  const recipe = RECIPES[kind](options.scratch);
  const version = await versionOf(...recipe.version);
  if (version === undefined) return `${recipe.version[0]} isn't installed`;
  return { version, command: recipe.command, notes: [], ...(await storeAll(recipe, options)) };
}

interface Recipe {
  readonly version: readonly [command: string, ...args: string[]];
  readonly command: string;
  readonly prepare: (store: string) => Promise<unknown>;
  readonly add: (image: CorpusImage, store: string) => Promise<unknown>;
}

const RECIPES: {
  readonly [kind in Exclude<PeerKind, "vdo">]: (scratch: Scratch) => Recipe;
} = {
  "qcow2-zlib": () => qcow2("zlib"),
  "qcow2-zstd": () => qcow2("zstd"),
  borg: (scratch) => borg(scratch, wholeImage),
  restic: (scratch) => restic(scratch, wholeImage),
  "borg-trees": (scratch) => borg(scratch, wholeTree),
  "restic-trees": (scratch) => restic(scratch, wholeTree),
};

/** What a backup program is given: a directory to run in, and a name there. */
type Subject = (image: CorpusImage) => readonly [cwd: string, name: string];
const wholeImage: Subject = ({ path }) => [dirname(path), basename(path)];
const wholeTree: Subject = ({ tree }) => [tree, "."];

function qcow2(method: "zlib" | "zstd"): Recipe {
  const args = ["convert", "-O", "qcow2", "-c", "-o", `compression_type=${method}`];
  return {
    version: ["qemu-img", "--version"],
    command: `qemu-img ${args.join(" ")} IMAGE IMAGE.qcow2`,
    prepare: async () => {},
    add: ({ name, path }, store) =>
      run("qemu-img", [...args, path, join(store, `${name}.qcow2`)], { timeoutMs: PATIENCE_MS }),
  };
}

function borg(scratch: Scratch, subject: Subject): Recipe {
  const args = ["create", "--compression", "zstd,3"];
  const settings = {
    BORG_BASE_DIR: scratch.path("caches"),
    BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: "yes",
  };
  return {
    version: ["borg", "--version"],
    command: `borg ${args.join(" ")} REPOSITORY::IMAGE IMAGE, encryption none`,
    prepare: (store) => run("borg", ["init", "-e", "none", store], patient(settings)),
    add: (image, store) => {
      const [cwd, name] = subject(image);
      const archive = `${store}::${image.name}`;
      return run("borg", [...args, archive, name], { ...patient(settings), cwd });
    },
  };
}

function restic(scratch: Scratch, subject: Subject): Recipe {
  const settings = { RESTIC_PASSWORD: "benchmark", RESTIC_CACHE_DIR: scratch.path("caches") };
  return {
    version: ["restic", "version"],
    command: "restic backup IMAGE, compression auto (the default)",
    prepare: (store) => run("restic", ["-r", store, "init"], patient(settings)),
    add: (image, store) => {
      const [cwd, name] = subject(image);
      return run("restic", ["-r", store, "backup", "--quiet", name], { ...patient(settings), cwd });
    },
  };
}

function patient(settings: NodeJS.ProcessEnv): RunOptions {
  return { env: { ...process.env, ...settings }, timeoutMs: PATIENCE_MS };
}

async function storeAll(
  recipe: Recipe,
  { images, scratch, say }: StoreOptions,
): Promise<Pick<StoreResult, "storedBytes" | "seconds" | "after">> {
  const store = scratch.path("store");
  await mkdir(store);
  const after: number[] = [];
  let seconds = 0;
  try {
    await recipe.prepare(store);
    for (const image of images) {
      const start = performance.now();
      await recipe.add(image, store);
      seconds += (performance.now() - start) / 1000;
      after.push(await occupiedBytes(store));
      say(`  ${image.name}: ${Math.round(after.at(-1)! / 1024 / 1024)} MiB`);
    }
  } finally {
    await rm(store, { recursive: true, force: true });
    await rm(scratch.path("caches"), { recursive: true, force: true });
  }
  return { storedBytes: after.at(-1) ?? 0, seconds, after };
}

/** dm-vdo is part of a kernel that few machines run: a program does it elsewhere and prints its counts. */
async function vdo(
  images: readonly CorpusImage[],
  program: string | undefined,
): Promise<StoreResult | string> {
  if (program === undefined) return "no program given (VARVE_VDO_RATIO)";
  const start = performance.now();
  const paths = images.map(({ path }) => path);
  const [command, ...args] = program.split(" ");
  // A guest that was too slow is no reason to lose the other results.
  const outcome = await run(command!, [...args, ...paths], { timeoutMs: PATIENCE_MS }).catch(
    (cause: Error) => void console.error(cause.message),
  );
  if (!outcome) return "its program failed";
  const counts = JSON.parse(outcome.stdout) as {
    dataBytes: number;
    overheadBytes: number;
    dedupeAdviceTimeouts: number;
    after: { dataBytes: number }[];
  };
  const overhead = Math.round(counts.overheadBytes / 1024 / 1024);
  return {
    storedBytes: counts.dataBytes,
    seconds: (performance.now() - start) / 1000,
    version: "see the kernel",
    command: "deduplication and compression on, in a guest",
    after: counts.after.map(({ dataBytes }) => dataBytes),
    notes: [
      `data blocks only: its index and metadata take ${overhead} MiB beside them`,
      "emulated: its time means nothing",
      ...(counts.dedupeAdviceTimeouts > 0
        ? [`${counts.dedupeAdviceTimeouts} lookups timed out: some duplicates were missed`]
        : []),
    ],
  };
}

async function versionOf(command: string, ...args: string[]): Promise<string | undefined> {
  return await run(command, args).then(
    ({ stdout }) => stdout.split("\n")[0]!.trim(),
    () => undefined,
  );
}
