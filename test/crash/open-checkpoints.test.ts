// SPDX-License-Identifier: Apache-2.0
//
// Checkpoints that are damaged at rest: the pool falls back to the one before, and that to the whole log, and
// goes on from there without losing what it reads from.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import {
  BLOCK,
  checkFiles,
  Gate,
  newHost,
  noise,
  type PoolFiles,
  PoolRig,
  sameBytes,
  turns,
} from "./memory-rig.ts";
import { checkpointRuns, newestRun, nodesOf } from "./run-files.ts";

const MIB = 1 << 20;
const EIO = 5;
const PAGE = 512 * BLOCK;

/** The pool's files with one bit of `name` turned over. */
function flipped(files: PoolFiles, name: string, position: number): PoolFiles {
  const bytes = files.log.get(name)?.slice();
  ok(bytes !== undefined && position < bytes.length, `${name} has a byte ${position}`);
  bytes[position] = (bytes[position] as number) ^ 4;
  return { root: files.root, log: new Map(files.log).set(name, bytes) };
}

async function expectPages(rig: PoolRig, seeds: readonly number[]): Promise<void> {
  for (const [page, seed] of seeds.entries())
    sameBytes(await rig.read("a", page * PAGE, BLOCK), noise(seed, BLOCK), `page ${page}`);
}

test("after a fall-back to the older checkpoint its runs are kept, and its slot is not written over", async () => {
  const rig = await PoolRig.create({ segmentBytes: 4 * MIB });
  await rig.pool.createVolume("a", 64 * MIB);
  for (let page = 0; page < 10; page++) await rig.write("a", page * PAGE, noise(page, BLOCK));
  await rig.pool.checkpoint();
  for (let page = 0; page < 9; page++) await rig.write("a", page * PAGE, noise(page + 50, BLOCK));
  await rig.pool.checkpoint();
  await rig.write("a", 0, noise(100, BLOCK));
  // The first run has one node left in use: this checkpoint moves it, so only the older one needs that run.
  await rig.pool.checkpoint();
  const seeds = [100, 51, 52, 53, 54, 55, 56, 57, 58, 9];
  await expectPages(rig, seeds);
  const files = rig.kill();
  const run = newestRun(files);
  const damaged = flipped(files, run, (nodesOf(files, run, 2)[0] as number) + 40);
  const again = await PoolRig.open(damaged, { segmentBytes: 4 * MIB });
  ok(again.host.eventNames().includes("pool.checkpoint-damaged"));
  await expectPages(again, seeds);
  const slots = again.host.log.files();
  await again.write("a", PAGE, noise(101, BLOCK));
  seeds[1] = 101;
  await again.pool.checkpoint();
  // Checkpoint 3 is damaged: 2 in slot a must stay.
  equal(
    Buffer.compare(
      again.host.log.files().get("checkpoint-a") as Uint8Array,
      slots.get("checkpoint-a") as Uint8Array,
    ),
    0,
  );
  const third = await PoolRig.open(again.kill(), { segmentBytes: 4 * MIB });
  await expectPages(third, seeds);
  await third.close();
});

/** A pool with two checkpoints and changes behind them; page p begins with noise(p). */
async function twoCheckpoints(): Promise<PoolFiles> {
  const rig = await PoolRig.create({ segmentBytes: 4 * MIB });
  await rig.pool.createVolume("a", 64 * MIB);
  for (let page = 0; page < 3; page++) {
    await rig.write("a", page * PAGE, noise(page, BLOCK));
    if (page < 2) await rig.pool.checkpoint();
  }
  await rig.flush("a");
  return rig.kill();
}

test("a bit turned over anywhere in the newest run or slot gives the right content all the same", async () => {
  const files = await twoCheckpoints();
  const run = newestRun(files);
  let rebuiltCount = 0;
  for (const name of [run, "checkpoint-a"]) {
    const bytes = files.log.get(name) as Uint8Array;
    const step = name === run ? 37 : 3;
    const from = name === run ? 4096 : 0;
    const end = name === run ? bytes.length : 96;
    for (let at = from; at < end; at += step) {
      const rig = await PoolRig.open(flipped(files, name, at), { segmentBytes: 4 * MIB });
      rig.pool.onEvent(({ event }) => {
        if (event === "index.pages-rebuilt") rebuiltCount += 1;
      });
      for (let page = 0; page < 3; page++) {
        const found = await rig.read("a", page * PAGE, BLOCK);
        sameBytes(found, noise(page, BLOCK), `${name}, byte ${at}, page ${page}`);
      }
      rig.pool.checkInvariants();
      rig.host.stop();
    }
  }
  ok(rebuiltCount > 0, "a damaged leaf is rebuilt");
});

test("without any whole checkpoint the log alone gives everything", async () => {
  const files = await twoCheckpoints();
  for (const gone of [
    ["checkpoint-a", "checkpoint-b"],
    [...files.log.keys()].filter((name) => name.endsWith(".run")),
  ]) {
    const log = new Map(files.log);
    for (const name of gone) log.delete(name);
    const rig = await PoolRig.open({ root: files.root, log }, { segmentBytes: 4 * MIB });
    for (let page = 0; page < 3; page++)
      sameBytes(await rig.read("a", page * PAGE, BLOCK), noise(page, BLOCK));
    await rig.pool.checkpoint();
    const again = await PoolRig.open(await rig.close(), { segmentBytes: 4 * MIB });
    for (let page = 0; page < 3; page++)
      sameBytes(await again.read("a", page * PAGE, BLOCK), noise(page, BLOCK));
    await again.close();
  }
});

test("a checkpoint of another pool is refused", async () => {
  const files = await twoCheckpoints();
  const other = await PoolRig.create({ segmentBytes: 4 * MIB }, newHost({ seed: 2 }));
  await other.pool.createVolume("b", MIB);
  await other.pool.checkpoint();
  await other.pool.checkpoint();
  const strange = other.kill();
  const log = new Map(files.log).set("checkpoint-a", strange.log.get("checkpoint-a") as Uint8Array);
  await rejects(PoolRig.open({ root: files.root, log }), { code: "POOL_CORRUPT" });
});

test("a checkpoint doesn't make a trim durable before the writes in front of it", async () => {
  const rig = await PoolRig.create({ segmentBytes: 16 * MIB });
  await rig.pool.createVolume("a", 64 * MIB);
  for (let at = 0; at < 8; at++) await rig.write("a", at * MIB, noise(at, MIB));
  await rig.flush("a");
  const gate = new Gate();
  rig.host.log.onOperation = ({ kind, name }) =>
    kind === "create" && name.endsWith(".run") ? gate.wait : undefined;
  const checkpoint = rig.pool.checkpoint();
  await turns(5);
  await rig.write("a", 32 * MIB, noise(99, BLOCK));
  await rig.trim("a", 2 * MIB, 2 * MIB);
  gate.open(undefined);
  await checkpoint;
  const again = await PoolRig.open(rig.cutPower(), { segmentBytes: 16 * MIB });
  const written = await again.read("a", 32 * MIB, BLOCK);
  const trimmed = await again.read("a", 2 * MIB, MIB);
  ok(typeof written !== "number" && typeof trimmed !== "number");
  const isWritten = written.some((byte) => byte !== 0);
  const isTrimmed = trimmed.every((byte) => byte === 0);
  ok(isWritten || !isTrimmed, "the trim is there and the write in front of it isn't");
  await again.close();
});

test("a checkpoint waits for the footers of segments that recovery then won't look at", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 64 * MIB);
  const gate = new Gate();
  const held = new Gate();
  rig.host.log.onOperation = ({ kind, name, position }) => {
    if (kind !== "write" || !name.endsWith(".seg") || position < 65536) return undefined;
    held.open(undefined);
    return gate.wait;
  };
  await rig.write("a", 0, noise(1, 20 * BLOCK));
  await rig.write("a", 20 * BLOCK, noise(2, BLOCK));
  await held.wait;
  await rig.flush("a");
  const before = rig.pool.stats().checkpointCount;
  const checkpoint = rig.pool.checkpoint();
  await turns(50);
  equal(rig.pool.stats().checkpointCount, before, "the footer isn't written yet");
  gate.open(undefined);
  await checkpoint;
  deepEqual((await checkFiles(rig.cutPower())).findings, []);
});

test("a segment that ends below the checkpoint is refused", async () => {
  const files = await twoCheckpoints();
  const name = [...files.log.keys()].find((one) => one.endsWith(".seg")) as string;
  const log = new Map(files.log).set(name, (files.log.get(name) as Uint8Array).slice(0, 9000));
  await rejects(PoolRig.open({ root: files.root, log }, { segmentBytes: 4 * MIB }), {
    code: "LOG_CORRUPT",
    message: /^log: segment 0000000000000001\.seg: cut off at 9000, below the checkpoint at \d+$/,
  });
});

test("a checkpoint holds nothing that was written behind its cut", async () => {
  const rig = await PoolRig.create({ segmentBytes: 16 * MIB });
  await rig.pool.createVolume("a", 64 * MIB);
  for (let page = 0; page < 8; page++) await rig.write("a", page * PAGE, noise(page, BLOCK));
  await rig.flush("a");
  await rig.pool.checkpoint();
  for (let page = 0; page < 8; page++)
    await rig.write("a", page * PAGE + BLOCK, noise(page, BLOCK));
  await rig.flush("a");
  // Half of the pages are in memory.
  for (let page = 0; page < 4; page++) await rig.read("a", page * PAGE, BLOCK);
  const gate = new Gate();
  rig.host.log.onOperation = ({ kind, name }) =>
    kind === "create" && name.endsWith(".run") ? gate.wait : undefined;
  const checkpoint = rig.pool.checkpoint();
  await turns(5);
  // Later writes to the same pages: none of them is flushed.
  for (let page = 0; page < 8; page++) await rig.write("a", page * PAGE, noise(page + 100, BLOCK));
  gate.open(undefined);
  await checkpoint;
  const again = await PoolRig.open(rig.cutPower(), { segmentBytes: 16 * MIB });
  ok(again.pool.recovery?.replayedRecords === 0, "nothing behind the checkpoint was durable");
  for (let page = 0; page < 8; page++)
    sameBytes(await again.read("a", page * PAGE, BLOCK), noise(page, BLOCK), `page ${page}`);
  await again.close();
});

test("a damaged page of the index is rebuilt from the log, for reads and for the next checkpoint", async () => {
  for (const isRead of [true, false]) {
    const rig = await PoolRig.create({ segmentBytes: MIB });
    await rig.pool.createVolume("a", 64 * MIB);
    for (let page = 0; page < 10; page++) {
      await rig.write("a", page * PAGE, noise(page, 3 * BLOCK));
      await rig.trim("a", page * PAGE + BLOCK, BLOCK);
    }
    await rig.pool.checkpoint();
    const files = await rig.close();
    const run = newestRun(files);
    let damaged = files;
    const leaves = nodesOf(files, run, 1);
    for (const leaf of leaves) damaged = flipped(damaged, run, leaf + 40);
    const again = await PoolRig.open(damaged);
    const events: string[] = [];
    again.pool.onEvent(({ event }) => events.push(event));
    // Changed before anybody reads it: the checkpoint merges a rebuilt image with the change.
    await again.write("a", 2 * BLOCK, noise(99, BLOCK));
    const expectAll = async (rig: PoolRig): Promise<void> => {
      await expectPages(rig, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
      sameBytes(await rig.read("a", 2 * BLOCK, BLOCK), noise(99, BLOCK), "the change");
      sameBytes(await rig.read("a", PAGE + BLOCK, BLOCK), new Uint8Array(BLOCK), "trimmed");
    };
    if (isRead) await expectAll(again);
    await again.pool.checkpoint();
    equal(events.filter((event) => event === "index.pages-rebuilt").length > 0, true);
    again.pool.checkInvariants();
    await expectAll(again);
    await again.pool.checkpoint();
    const mended = await again.close();
    // What was damaged is in no run that is still in use.
    const last = await PoolRig.open(mended, { isDedupRestored: false });
    const later: string[] = [];
    last.pool.onEvent(({ event }) => later.push(event));
    await expectAll(last);
    deepEqual(later, []);
    await last.close();
  }
});

test("a damaged page of the index with a damaged log behind it is an error, and other pages are still read", async () => {
  const rig = await PoolRig.create({ segmentBytes: 4 * MIB });
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await rig.pool.createVolume("a", 64 * MIB);
  for (let page = 0; page < 3; page++) await rig.write("a", page * PAGE, noise(page, BLOCK));
  const files = await rig.close();
  const run = newestRun(files);
  const [leaf] = nodesOf(files, run, 1) as [number];
  const batches = flipped(flipped(files, run, leaf + 40), "0000000000000001.seg", 4096 + 128 + 20);
  const again = await PoolRig.open(batches);
  equal(await again.read("a", 0, BLOCK), EIO);
  sameBytes(await again.read("a", PAGE, BLOCK), noise(1, BLOCK), "page 1");
  await again.close();
});

/** A log whose beginning was let go. Between its two checkpoints pages 1 to 3 changed, and page 9 was cut off. */
async function lateLog(): Promise<PoolFiles> {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  await rig.pool.createVolume("a", 64 * MIB);
  for (let round = 0; round < 3; round++)
    for (let page = 0; page < 10; page++)
      await rig.write("a", page * PAGE, noise(page + round * 10, 8 * BLOCK));
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.checkpoint();
  await rig.write("a", PAGE, noise(50, BLOCK));
  await rig.trim("a", 2 * PAGE + BLOCK, BLOCK);
  await rig.write("a", 3 * PAGE + BLOCK, noise(53, BLOCK));
  await rig.pool.resizeVolume("a", 18 * MIB);
  await rig.pool.resizeVolume("a", 64 * MIB);
  await rig.write("a", 9 * PAGE + 5 * BLOCK, noise(59, BLOCK));
  await rig.pool.checkpoint();
  await rig.write("a", PAGE + 3 * BLOCK, noise(60, BLOCK));
  await rig.flush("a");
  ok(!rig.host.log.files().has("0000000000000001.seg"));
  return rig.kill();
}

test("a log that begins late gives a damaged page with the older checkpoint's help", async () => {
  const files = await lateLog();
  const run = newestRun(files);
  let damaged = files;
  for (const leaf of nodesOf(files, run, 1)) damaged = flipped(damaged, run, leaf + 40);
  const rig = await PoolRig.open(damaged);
  const events: string[] = [];
  rig.pool.onEvent(({ event }) => events.push(event));
  const expectAll = async (rig: PoolRig): Promise<void> => {
    for (let page = 0; page < 9; page++) {
      const wanted = noise(page + 20, 8 * BLOCK).slice();
      if (page === 1) {
        wanted.set(noise(50, BLOCK));
        wanted.set(noise(60, BLOCK), 3 * BLOCK);
      }
      if (page === 2) wanted.fill(0, BLOCK, 2 * BLOCK);
      if (page === 3) wanted.set(noise(53, BLOCK), BLOCK);
      sameBytes(await rig.read("a", page * PAGE, 8 * BLOCK), wanted, `page ${page}`);
    }
    const last = new Uint8Array(8 * BLOCK);
    last.set(noise(59, BLOCK), 5 * BLOCK);
    sameBytes(await rig.read("a", 9 * PAGE, 8 * BLOCK), last, "what was cut off");
  };
  await expectAll(rig);
  equal(rig.pool.stats().damagedPageCount, 4);
  ok(events.includes("index.pages-rebuilt"));
  ok(!events.includes("request.failed"));
  const again = await PoolRig.open(await rig.close());
  await expectAll(again);
  await again.close();
});

test("a damaged page that both checkpoints have, behind a log that begins late, is an error that says so", async () => {
  const files = await lateLog();
  // The newest run but one holds the pages that didn't change since.
  const runs = checkpointRuns(files);
  let damaged = files;
  for (const run of runs.slice(0, -1))
    for (const leaf of nodesOf(files, run, 1)) damaged = flipped(damaged, run, leaf + 40);
  const rig = await PoolRig.open(damaged);
  const causes: string[] = [];
  rig.pool.onEvent(({ fields }) => causes.push(String(fields.message)));
  equal(await rig.read("a", 5 * PAGE, BLOCK), EIO);
  ok(
    causes.some((cause) =>
      /page 5 of branch 1: damaged, and not rebuilt, from an earlier checkpoint or the log's beginning: log: segment 0{15}1/.test(
        cause,
      ),
    ),
    causes.join("\n"),
  );
  sameBytes(await rig.read("a", PAGE, BLOCK), noise(50, BLOCK), "a page that did change");
  rig.host.stop();
});
