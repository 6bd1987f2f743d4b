// SPDX-License-Identifier: Apache-2.0
//
// A pool of format version 1, kept as bytes (golden-content.ts says what it holds): today's code opens it, checks it,
// tells its log and gives back its volumes; broken copies of it are refused or give errors, never other content.

import { deepEqual, equal, ok } from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { StorageError } from "../../src/base/errors.ts";
import { catVolume, type DumpLine, dumpLog } from "../../src/log/log-dump.ts";
import { poolIdBytes, readIdentity } from "../../src/pool/identity.ts";
import { checkPool } from "../../src/pool/pool-check.ts";
import type { MemoryHost } from "../../src/sim/memory-host.ts";
import { Prng } from "../../src/sim/prng.ts";
import { newHost, type PoolFiles, PoolRig, sameBytes } from "../crash/memory-rig.ts";
import {
  BLOCK,
  blockText,
  GOLDEN_FOLDER,
  GOLDEN_VOLUMES,
  type GoldenVolume,
  MIB,
} from "./golden-content.ts";

const KEPT: PoolFiles = { root: readFolder(""), log: readFolder("log") };

function readFolder(part: string): Map<string, Uint8Array> {
  const folder = join(GOLDEN_FOLDER, part);
  const names = readdirSync(folder).filter((name) => name.endsWith(".gz"));
  return new Map(
    names.map((name) => [
      name.slice(0, -3),
      new Uint8Array(gunzipSync(readFileSync(join(folder, name)))),
    ]),
  );
}

function contentOf({ sizeBytes, blocks }: GoldenVolume): Uint8Array {
  const content = new Uint8Array(sizeBytes);
  for (const [block, label] of blocks) {
    const text = blockText(label);
    content.set(text.subarray(0, Math.min(BLOCK, sizeBytes - block * BLOCK)), block * BLOCK);
  }
  return content;
}

async function source(host: MemoryHost): Promise<{ log: MemoryHost["log"]; poolId: Uint8Array }> {
  return { log: host.log, poolId: poolIdBytes(await readIdentity(host.root)) };
}

test("the kept pool opens, has its volumes and their content, and goes on from there", async () => {
  const rig = await PoolRig.open(KEPT);
  for (const volume of GOLDEN_VOLUMES) {
    const { name, sizeBytes, isReadOnly } = volume;
    const summary = rig.pool.volume(name);
    deepEqual([summary.sizeBytes, summary.isReadOnly], [sizeBytes, isReadOnly]);
    const wanted = contentOf(volume);
    for (let at = 0; at < sizeBytes; at += MIB)
      sameBytes(
        await rig.read(name, at, Math.min(MIB, sizeBytes - at)),
        wanted.subarray(at, at + MIB),
        `${name} at ${at}`,
      );
    const extents = await rig.status(name, 0, sizeBytes);
    for (const [first, count] of volume.zeroed)
      ok(
        extents.some(({ lengthBytes, flags }) => flags === 2 && lengthBytes === count * BLOCK),
        `${first}`,
      );
  }
  deepEqual(
    rig.pool.volumes({ includesRemoved: true }).map(({ name }) => name),
    ["database", "renamed", "scratch"],
  );
  equal(rig.pool.volume("renamed").description, "kept for good");
  ok(rig.host.eventNames().includes("pool.recovered"), "its tail is torn");
  equal(await rig.write("database", 0, blockText("today")), 0);
  await rig.pool.checkpoint();
  const later = await PoolRig.open(await rig.close());
  sameBytes(await later.read("database", 0, BLOCK), blockText("today"));
  sameBytes(await later.read("database", 600 * BLOCK, BLOCK), blockText("second page 600"));
  await later.close();
});

test("the kept pool is sound, by the log and by both of its checkpoints", async () => {
  const { root, log, zstd } = newHost(KEPT);
  const report = await checkPool({ root, log, zstd, memoryBytes: 64 * MIB });
  deepEqual(report.findings, []);
  equal(report.checkpoints, 2);
  equal(report.volumes, 3);
  ok(report.tail !== "clean", report.tail);
  deepEqual(log.files(), KEPT.log, "checking changes nothing");
});

test("the kept pool's log tells of every kind of record in use", async () => {
  const host = newHost(KEPT);
  const lines: DumpLine[] = [];
  await dumpLog(await source(host), (line) => lines.push(line));
  const kinds = new Set(lines.flatMap((line) => (line.type === "record" ? [line.kind] : [])));
  deepEqual([...kinds].sort(), [
    "clock-stepped",
    "flushed",
    "opened",
    "trimmed",
    "volume-made",
    "volume-removed",
    "volume-resized",
    "volume-set",
    "wrote",
    "zeroed",
  ]);
  const batches = lines.flatMap((line) => (line.type === "batch" ? [line] : []));
  ok(batches.some(({ isMarker }) => isMarker));
  deepEqual([...new Set(batches.map(({ incarnation }) => incarnation))], [1, 2, 3]);
  const times = lines.flatMap((line) => (line.type === "gap" ? [] : [line.timeMicros]));
  ok(
    times.every((time, at) => at === 0 || time >= (times[at - 1] as number)),
    "time never goes back",
  );
});

test("the kept pool's volumes are given back by the log alone", async () => {
  for (const volume of GOLDEN_VOLUMES) {
    const found = new Uint8Array(volume.sizeBytes);
    const onContent = (bytes: Uint8Array, offset: number): Promise<void> => {
      found.set(bytes, offset);
      return Promise.resolve();
    };
    const host = newHost(KEPT);
    const { zstd } = host;
    const options = { ...(await source(host)), zstd, volume: volume.name, onContent };
    equal(await catVolume(options), volume.sizeBytes);
    sameBytes(found, contentOf(volume), volume.name);
  }
});

test("broken copies of the kept pool are refused, or give what was there, or errors", async () => {
  const prng = new Prng(11);
  const outcomes = { refused: 0, errors: 0, whole: 0, older: 0 };
  for (let round = 0; round < 120; round++) {
    const root = new Map(KEPT.root);
    const log = new Map(KEPT.log);
    const files = prng.chance(0.1) ? root : log;
    const name = prng.pick([...files.keys()]);
    const bytes = (files.get(name) as Uint8Array).slice();
    const what = `round ${round}: ${name}`;
    if (bytes.length === 0 || prng.chance(0.1)) files.delete(name);
    else if (prng.chance(0.2)) files.set(name, bytes.slice(0, prng.below(bytes.length)));
    else {
      const at = prng.below(bytes.length);
      bytes[at] = (bytes[at] as number) ^ (1 << prng.below(8));
      files.set(name, bytes);
    }
    const host = newHost({ root, log });
    const before = { root: host.root.files(), log: host.log.files() };
    try {
      const rig = await PoolRig.open({ root, log }, {}, host);
      outcomes[await judge(rig, what)] += 1;
      rig.pool.checkInvariants();
    } catch (error) {
      if (!(error instanceof StorageError)) throw new Error(what, { cause: error });
      outcomes.refused += 1;
      for (const [kept, content] of before.log)
        if (kept.endsWith(".seg"))
          ok(
            Buffer.compare(host.log.files().get(kept) as Uint8Array, content) === 0,
            `${what}: ${kept} stays`,
          );
    }
    host.stop();
  }
  ok(outcomes.refused > 0 && outcomes.whole > 0, JSON.stringify(outcomes));
});

/** Content is as it was, or an older state of it (where nothing proved the newest), or an error; never anything else. */
async function judge(rig: PoolRig, what: string): Promise<"errors" | "whole" | "older"> {
  let outcome: "errors" | "whole" | "older" = "whole";
  const known = new Set([
    "trimmed again",
    "gone with its volume",
    "never flushed",
    ...GOLDEN_VOLUMES.flatMap(({ blocks }) => [...blocks.values()]),
  ]);
  for (const { name, sizeBytes } of rig.pool.volumes()) {
    const golden = GOLDEN_VOLUMES.find((volume) => volume.name === name);
    for (let block = 0; block < Math.floor(sizeBytes / BLOCK); block++) {
      const found = await rig.read(name, block * BLOCK, BLOCK);
      if (typeof found === "number") {
        outcome = "errors";
        continue;
      }
      const text = Buffer.from(found.subarray(0, 40)).toString().split(".")[0] as string;
      const wanted = golden?.blocks.get(block);
      if (found.every((byte) => byte === 0) ? wanted === undefined : text === wanted) continue;
      ok(
        found.every((byte) => byte === 0) || known.has(text),
        `${what}: ${name}, block ${block}: ${text}`,
      );
      if (outcome === "whole") outcome = "older";
    }
  }
  return outcome;
}
