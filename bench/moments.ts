// SPDX-License-Identifier: Apache-2.0
//
// `node bench/moments.ts`: what the past costs. Opening any moment of ten million, reading it against reading the live
// disk, writing with such a history against writing with none, rewinding a huge volume, and a thousand clones, beside
// what qcow2 has for that. Ten minutes; `--quick`, for development, two.

import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { DaemonClient } from "../src/cli/daemon-client.ts";
import { until } from "../test/interop/command.ts";
import type { Scratch } from "../test/interop/scratch.ts";
import { accepts, Server } from "../test/interop/server.ts";
import { chosen, openScratch, refuse, sizeOf } from "./command-line.ts";
import { describeMachine, dropPageCache, settle, warmMemory } from "./machine.ts";
import { type CloneOptions, measureClones } from "./moments-clones.ts";
import { KnownHistory } from "./moments-history.ts";
import { measureOpenings } from "./moments-opening.ts";
import { measureQcow2 } from "./moments-qcow2.ts";
import { type MomentResults, momentsReport } from "./moments-report.ts";
import { measureRewinds } from "./moments-rewind.ts";
import {
  measureReads,
  measureWrites,
  READS,
  type ReadResult,
  type SpeedOptions,
  writeRandomly,
} from "./moments-speed.ts";
import { MIB } from "./rows.ts";

const PARTS = ["opening", "reading", "writing", "rewind", "clones", "qcow2"];
const OF_HISTORY = ["opening", "reading", "writing"];

const HELP = `usage: node bench/moments.ts [options]
  --only=a,b          of ${PARTS.join(", ")} (all)
  --quick             small sizes, for development: the figures are a model at best
  --records=N         in the history (10000000; quick 1000000)
  --volume=SIZE       that they are written to (4G; quick 512M)
  --openings=N        cold, and warm, in each of three rounds (200; quick 60)
  --working-set=SIZE  that is read (512M; quick 256M)
  --runs=N            of each kind of reads and writes (5; quick 3)
  --seconds=N         of each of these runs (3; quick 1)
  --rewound=SIZE      volume that is rewound (1T)
  --rewinds=N         each way (20)
  --cloned=SIZE       volume that is cloned (1G; quick 256M)
  --clones=N          and overlays, and snapshots in an image (1000; quick 200)
  --chain=N           clones of clones; of qcow2 a tenth (1000; quick 200)
  --scratch=DIR       where the stores go: some 40 GiB (a temporary directory on the disk of the checkout)
  --page-cache=keep   don't empty it before cold starts
  --no-warm           don't touch free memory first
  --out=PREFIX        the result goes to PREFIX.md and .json (bench/results/DATE-moments)
  --no-save           don't keep the result`;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    quick: { type: "boolean", default: false },
    records: { type: "string" },
    volume: { type: "string" },
    openings: { type: "string" },
    "working-set": { type: "string" },
    runs: { type: "string" },
    seconds: { type: "string" },
    rewound: { type: "string", default: "1T" },
    rewinds: { type: "string", default: "20" },
    cloned: { type: "string" },
    clones: { type: "string" },
    chain: { type: "string" },
    scratch: { type: "string" },
    "page-cache": { type: "string", default: "drop" },
    warm: { type: "boolean", default: true },
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
const wanted = chosen(values.only, PARTS, "part");
const SIZES = { units: "KMGT", example: "512M" };
const isQuick = values.quick;
const recordCount = numberOf(values.records ?? (isQuick ? "1000000" : "10000000"));
const volumeBytes = sizeOf(values.volume ?? (isQuick ? "512M" : "4G"), SIZES);
const runs = numberOf(values.runs ?? (isQuick ? "3" : "5"));
const seconds = Number(values.seconds ?? (isQuick ? "1" : "3"));
const workingSetBytes = sizeOf(values["working-set"] ?? (isQuick ? "256M" : "512M"), SIZES);
const clonedBytes = sizeOf(values.cloned ?? (isQuick ? "256M" : "1G"), SIZES);
const cloneCount = numberOf(values.clones ?? (isQuick ? "200" : "1000"));
const chainLength = numberOf(values.chain ?? (isQuick ? "200" : "1000"));
const openings = numberOf(values.openings ?? (isQuick ? "60" : "200"));
const isPageCacheDropped = values["page-cache"] !== "keep";
const OPENING_ROUNDS = 3;
/** Of the history, between two checkpoints; the daemon's usual distance for ten million records. */
const checkpointChanges = Math.max(1024, Math.min(2 ** 20, Math.floor(recordCount / 10)));
/** Overwritten since the recent moment: behind the newest checkpoint, as a minute ago is on a disk that isn't busy. */
const RECENT_BLOCKS: number = Math.min(50_000, Math.floor(checkpointChanges / 2));
const VOLUME = "db";
const say = (line: string): void => console.log(line);

await using scratch = await openScratch(values.scratch);
const startedMs = Date.now();
const machine = await describeMachine(scratch.directory);
if (values.warm) await warmMemory(scratch.directory, say);

const speed: SpeedOptions = { scratch, volume: VOLUME, volumeBytes, runs, seconds, say };
const ofHistory = wanted.some((part) => OF_HISTORY.includes(part)) ? await measureHistory() : {};
const rewinds = wanted.includes("rewind")
  ? await measureRewinds({
      scratch,
      volumeBytes: sizeOf(values.rewound, SIZES),
      writtenBytes: Math.min(clonedBytes * 2, sizeOf(values.rewound, SIZES)),
      runs: numberOf(values.rewinds),
    })
  : undefined;
const cloning: CloneOptions = {
  scratch,
  volumeBytes: clonedBytes,
  cloneCount,
  chainLength,
  row: READS[1]!,
  runs,
  seconds,
  say,
};
if (wanted.includes("clones")) say("clones");
const clones = wanted.includes("clones") ? await measureClones(cloning) : undefined;
if (wanted.includes("qcow2")) say("qcow2");
const qcow2 = wanted.includes("qcow2")
  ? await measureQcow2({ ...cloning, chainLength: Math.max(1, Math.floor(chainLength / 10)) })
  : undefined;

const results: MomentResults = {
  date: new Date(startedMs).toISOString(),
  machine,
  options: {
    qemu: machine.versions["qemu-nbd"] ?? "",
    volume: `${volumeBytes / MIB} MiB, ${recordCount} writes of 4 KiB at random; half of each block compressible`,
    checkpoints: `every ${checkpointChanges} changes while the history was made`,
    reading: `working set ${workingSetBytes / MIB} MiB; ${runs} runs of ${seconds} s in turn`,
    rewound: `${values.rewound}, sparse`,
    cloned: `${clonedBytes / MIB} MiB, filled`,
    "page cache": isPageCacheDropped ? "emptied before cold starts" : "kept",
    "took minutes": ((Date.now() - startedMs) / 60_000).toFixed(1),
  },
  ...ofHistory,
  ...(rewinds && { rewinds }),
  ...(clones && { clones }),
  ...(qcow2 && { qcow2 }),
};
const report = momentsReport(results);
say(report);
if (values.save) {
  const name = `${results.date.slice(0, 10)}-moments`;
  const prefix = values.out ?? join(import.meta.dirname, "results", name);
  await writeFile(`${prefix}.json`, `${JSON.stringify(results, null, 1)}\n`);
  await writeFile(`${prefix}.md`, `# What the past costs\n\n${report}\n`);
  say(`kept as ${basename(prefix)}.{json,md}`);
}

/** Opening, writing and reading share the pool with the history. */
async function measureHistory(): Promise<Partial<MomentResults>> {
  say(`history: ${recordCount} records`);
  const { server, history } = await historyPool(scratch);
  const measured: { -readonly [key in keyof MomentResults]?: MomentResults[key] } = {
    history: history.built,
  };
  if (wanted.includes("opening")) {
    say("opening");
    measured.openings = await measureOpenings({
      server,
      volume: VOLUME,
      volumeBytes,
      history,
      rounds: OPENING_ROUNDS,
      openings,
      isPageCacheDropped,
    });
    await server.stop();
  }
  if (wanted.includes("writing")) {
    say("writing");
    measured.writing = await measureWrites(server, speed);
  }
  if (wanted.includes("reading")) {
    say("reading");
    measured.reading = await measureViews(server, history);
  }
  return measured;
}

/** The daemon is stopped. */
async function historyPool(scratch: Scratch): Promise<{ server: Server; history: KnownHistory }> {
  const directory = scratch.path("history");
  const serveArgs = ["--exit-with-parent"];
  const server = await Server.start("varve", { directory, sizeBytes: volumeBytes, serveArgs });
  scratch.defer("the daemon of the history", () => server.stop());
  await server.stop();
  const history = await KnownHistory.build({
    poolDirectory: join(directory, "pool"),
    volume: VOLUME,
    volumeBytes,
    recordCount,
    checkpointChanges,
    seed: 1,
    say,
  });
  return { server, history };
}

async function measureViews(server: Server, { built }: KnownHistory): Promise<ReadResult> {
  await settle();
  if (isPageCacheDropped) await dropPageCache();
  await server.restart();
  const pool = join(server.directory, "pool");
  // It comes after the one that the restart waits for.
  await until("the control socket", () => accepts(join(pool, "control.sock")));
  const daemon = new DaemonClient(pool);
  const { lsn } = await daemon.call("resolveMoment", { volume: VOLUME, moment: "now" });
  await writeRandomly(server, speed, RECENT_BLOCKS);
  const halfway = built.beginLsn + Math.floor((built.endLsn - built.beginLsn) / 2);
  const exports = {
    live: VOLUME,
    halfway: `${VOLUME}@lsn:${halfway}`,
    recent: `${VOLUME}@lsn:${lsn}`,
  };
  try {
    return await measureReads({ ...speed, server, workingSetBytes, exports });
  } finally {
    await server.stop();
  }
}

function numberOf(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : refuse(`"${text}" isn't a number`);
}
