// SPDX-License-Identifier: Apache-2.0
//
// `node bench/reduction.ts`: how many bytes the same disk images take in Varve, in compressed qcow2 files,
// in the repositories of borg and restic, and in dm-vdo. The images are those of bench/corpus: real
// packages in several versions, or any that are named. Kept apart from run.ts because it takes long, needs
// the network once, and its results don't depend on the machine but for the seconds.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, stat, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { chosen, openScratch } from "./command-line.ts";
import { buildCorpus, type Corpus } from "./corpus/build.ts";
import { sha256Of } from "./corpus/sources.ts";
import { describeMachine } from "./machine.ts";
import { type Content, type ReductionResults, reductionReport } from "./reduction-report.ts";
import { measurePeer, PEER_KINDS, type PeerKind, type StoreResult } from "./reduction-stores.ts";
import { measureVarve } from "./reduction-varve.ts";

const SYSTEMS = ["varve", ...PEER_KINDS];
const BLOCK_BYTES = 4096;

const HELP = `usage: node bench/reduction.ts [options]
  --only=a,b         of ${SYSTEMS.join(", ")} (all)
  --peers-from=FILE  take the others from this result (.json) about the same images
  --images=a,b       these raw images instead of the corpus
  --varve-args=".."  more arguments for varve serve
  --vdo-ratio="F -x" program, with arguments, that stores raw images in dm-vdo and prints its counts
                     (VARVE_VDO_RATIO)
  --scratch=DIR      where the stores go (a temporary directory on the disk of the checkout)
  --out=PREFIX       the result goes to PREFIX.md and .json (bench/results/DATE-reduction)
  --no-save          don't keep the result`;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    "peers-from": { type: "string" },
    images: { type: "string" },
    "varve-args": { type: "string", default: "" },
    "vdo-ratio": { type: "string" },
    scratch: { type: "string" },
    out: { type: "string" },
    save: { type: "boolean", default: true },
    help: { type: "boolean", default: false },
  },
  allowNegative: true,
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
const wanted = chosen(values.only, SYSTEMS, "system");
const say = (line: string): void => console.log(line);

const corpus = values.images ? await named(values.images.split(",")) : await buildCorpus(say);
const known = values["peers-from"] ? await readKnown(values["peers-from"]) : undefined;
await using scratch = await openScratch(values.scratch);

const vdoRatio = values["vdo-ratio"] ?? process.env.VARVE_VDO_RATIO;
// The daemon would take it for a setting.
delete process.env.VARVE_VDO_RATIO;
const machine = await describeMachine(scratch.directory);
const { images } = corpus;
const peers: { [kind in PeerKind]?: StoreResult | string } = { ...known?.peers };
for (const kind of PEER_KINDS) {
  if (!wanted.includes(kind)) continue;
  say(kind);
  peers[kind] = await measurePeer(kind, { images, scratch, vdoRatio, say });
}
if (wanted.includes("varve")) say("varve");
const serveArgs = values["varve-args"].split(" ").filter(Boolean);
const varve = wanted.includes("varve")
  ? await measureVarve({ images, scratch, serveArgs, commit: machine.commit, say })
  : known?.varve;

const results: ReductionResults = {
  date: new Date().toISOString(),
  machine,
  corpus: {
    manifestSha256: corpus.manifestSha256,
    images: images.map(({ name, sizeBytes, sha256 }) => ({ name, sizeBytes, sha256 })),
    notes: corpus.notes,
  },
  content: known?.content ?? (await contentOf(images.map(({ path }) => path))),
  ...(varve && { varve }),
  peers,
};
say(reductionReport(results));
if (values.save) {
  const name = `${results.date.slice(0, 10)}-reduction`;
  const prefix = values.out ?? join(import.meta.dirname, "results", name);
  await writeFile(`${prefix}.json`, `${JSON.stringify(results, null, 1)}\n`);
  await writeFile(`${prefix}.md`, `${reductionReport(results)}\n`);
  say(`kept as ${basename(prefix)}.{json,md}`);
}

async function named(paths: readonly string[]): Promise<Corpus> {
  const images = paths.map(async (one) => {
    const path = resolve(one);
    const { size } = await stat(path);
    const name = basename(path).replace(/\.[^.]*$/, "");
    return { name, path, tree: "", sizeBytes: size, sha256: await sha256Of(path) };
  });
  return { manifestSha256: "", images: await Promise.all(images), notes: [] };
}

/** An earlier result, if it is about the same images. */
async function readKnown(path: string): Promise<ReductionResults> {
  const results = JSON.parse(await readFile(path, "utf8")) as ReductionResults;
  const sums = (list: readonly { sha256: string }[]): string =>
    list.map(({ sha256 }) => sha256).join();
  if (sums(results.corpus.images) === sums(corpus.images)) return results;
  console.error(`bench: ${path}: is about other images: measure the peers again`);
  process.exit(2);
}

async function contentOf(paths: readonly string[]): Promise<Content> {
  const seen = new Set<string>();
  const zeros = Buffer.alloc(BLOCK_BYTES);
  let logicalBytes = 0;
  let nonZeroBytes = 0;
  for (const path of paths) {
    // Files are read in whole chunks but for the last, so blocks stay where they are.
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
      const bytes = chunk as Buffer<ArrayBuffer>;
      logicalBytes += bytes.length;
      for (let offset = 0; offset < bytes.length; offset += BLOCK_BYTES) {
        const block = bytes.subarray(offset, offset + BLOCK_BYTES);
        if (block.equals(zeros.subarray(0, block.length))) continue;
        nonZeroBytes += block.length;
        seen.add(createHash("sha256").update(block).digest("base64").slice(0, 24));
      }
    }
  }
  return { logicalBytes, nonZeroBytes, distinctBytes: seen.size * BLOCK_BYTES };
}
