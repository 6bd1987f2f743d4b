// SPDX-License-Identifier: Apache-2.0
//
// After a restart what was stored is found again, all of it that the log accepted and nothing else, whatever else
// happens meanwhile.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import {
  BLOCK,
  Gate,
  newHost,
  noise,
  type PoolFiles,
  PoolRig,
  sameBytes,
  turn,
  turns,
} from "../../test/crash/memory-rig.ts";
import { segmentName, segmentNumberOf } from "../log/segment.ts";
import type { PoolSettings } from "./types.ts";

const MIB = 1 << 20;
/** They don't fill the last segment of a life. */
const LIFE_BLOCKS = 50;
const NO_HISTORY = { retention: { everyWriteMicros: 0 } };

async function restored(rig: PoolRig): Promise<void> {
  for (let at = 0; rig.pool.dedupRestore.isRunning; at++) {
    ok(at < 100_000, "it ends");
    await turn();
  }
}

/** Opens what was left, and waits until the index is filled. */
async function reopen(files: PoolFiles, settings: Partial<PoolSettings> = {}): Promise<PoolRig> {
  const rig = await PoolRig.open(files, settings);
  await restored(rig);
  return rig;
}

/** How many blocks of `content` are stored anew when it is written to the volume's end. */
async function newBlocks(rig: PoolRig, content: Uint8Array): Promise<number> {
  const frames = (): number =>
    rig.pool.stats().volumes.reduce((sum, { frameCount }) => sum + frameCount, 0);
  const before = frames();
  const offset = rig.pool.device("a").sizeBytes - content.length;
  equal(await rig.write("a", offset, content), 0);
  sameBytes(await rig.read("a", offset, content.length), content);
  return frames() - before;
}

/** Half noise, half the same byte. */
function halfNoise(seed: number, lengthBytes: number): Uint8Array {
  const bytes = noise(seed, lengthBytes);
  for (let at = 0; at < lengthBytes; at += BLOCK) bytes.fill(seed, at + BLOCK / 2, at + BLOCK);
  return bytes;
}

/** Several lives, each with sealed segments and one that isn't; the content of the first blocks of "a". */
async function severalLives(lifeCount: number): Promise<{ files: PoolFiles; content: Uint8Array }> {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  const content = new Uint8Array(lifeCount * LIFE_BLOCKS * BLOCK);
  for (let life = 0; life < lifeCount; life++) {
    for (let at = 0; at < LIFE_BLOCKS; at += 5) {
      const bytes = (at % 2 === 0 ? noise : halfNoise)(life * 100 + at, 5 * BLOCK);
      content.set(bytes, (life * LIFE_BLOCKS + at) * BLOCK);
      await rig.write("a", (life * LIFE_BLOCKS + at) * BLOCK, bytes);
    }
    await rig.flush("a");
    if (life + 1 === lifeCount) break;
    rig = await PoolRig.open(life % 2 === 0 ? rig.kill() : await rig.close());
  }
  return { files: rig.kill(), content };
}

test("after a restart nothing that was stored is stored again, in sealed segments and in others", async () => {
  const { files, content } = await severalLives(3);
  const rig = await PoolRig.open(files);
  const before = rig.pool.stats().dedup;
  ok(before.unrestoredSegmentCount > 6 && before.restoredSegmentCount === 0);
  await restored(rig);
  const { restoredCount, segmentCount } = rig.pool.dedupRestore;
  ok(segmentCount > 6 && restoredCount === segmentCount);
  const { restoredSegmentCount, unrestoredSegmentCount } = rig.pool.stats().dedup;
  deepEqual([restoredSegmentCount, unrestoredSegmentCount], [segmentCount, 0]);
  equal(await newBlocks(rig, content), 0);
  const [event] = rig.host.events.filter((one) => one.event === "dedup.restored");
  ok(event !== undefined);
  equal(event.fields.segments, segmentCount);
  equal(event.fields.frames, 3 * LIFE_BLOCKS);
  equal(event.fields.problems, 0);
  rig.pool.dedup.checkInvariants();
  const again = await reopen(await rig.close());
  equal(await newBlocks(again, content), 0);
  await again.close();
});

test("without the restore old data is stored once more", async () => {
  const { files, content } = await severalLives(1);
  const rig = await reopen(files, { isDedupRestored: false });
  equal(await newBlocks(rig, content), LIFE_BLOCKS);
  equal(rig.host.eventNames().includes("dedup.restored"), false);
  await rig.close();
});

test("what garbage collection moved, alone or together, is found after a restart, more than once", async () => {
  const { files, content } = await severalLives(2);
  let rig = await reopen(files);
  await rig.pool.setPolicy(NO_HISTORY);
  await rig.pool.collect({ isDryRun: false });
  rig = await reopen(await rig.close());
  equal(await newBlocks(rig, content), 0, "collected once");
  // Without garbage it would stay where it is now.
  const goneBytes = 10 * BLOCK;
  for (const offset of [0, rig.pool.device("a").sizeBytes - content.length])
    await rig.trim("a", offset, goneBytes);
  await rig.pool.collect({ isDryRun: false });
  rig = await reopen(await rig.close());
  equal(await newBlocks(rig, content.subarray(goneBytes)), 0, "collected twice");
  ok(rig.host.log.files().get(segmentName(1)) === undefined, "it isn't where it was born");
  await rig.close();
});

test("what the log didn't accept is not found: nobody made it durable", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB });
  await rig.pool.createVolume("a", 4 * MIB);
  const parts = [1, 2, 3].map((seed) => noise(seed, 8 * BLOCK));
  const [first, second, third] = parts as [Uint8Array, Uint8Array, Uint8Array];
  const ends: number[] = [];
  for (const [at, part] of parts.entries()) {
    await rig.write("a", at * MIB, part);
    await turns(2);
    ends.push(rig.pool.log.tailBytes);
  }
  const files = rig.kill();
  const name = segmentName(1);
  const torn = (files.log.get(name) as Uint8Array).slice();
  torn.fill(0, (ends[0] as number) + 300, (ends[0] as number) + 900); // a frame of the second batch
  const again = await reopen(
    { root: files.root, log: new Map(files.log).set(name, torn) },
    { segmentBytes: MIB },
  );
  equal(again.pool.recovery?.position.previousEnd, ends[0]);
  equal(await newBlocks(again, third), 8);
  equal(await newBlocks(again, second), 8);
  equal(await newBlocks(again, first), 0);
  // Nor in the next life, which learns from this one where that segment ended.
  const last = await reopen(await again.close(), { segmentBytes: MIB });
  equal(await newBlocks(last, first), 0);
  await last.close();
});

test("what a killed process hadn't made durable is found, and as durable as any once somebody flushes", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  const content = noise(1, 40 * BLOCK);
  for (let at = 0; at < content.length; at += 4 * BLOCK)
    await rig.write("a", at, content.subarray(at, at + 4 * BLOCK));
  const host = rig.host.restart(); // with the page cache as it was
  const again = await PoolRig.open({ root: new Map(), log: new Map() }, {}, host);
  await restored(again);
  const before = again.pool.stats().frameBytes;
  await again.write("a", 2 * MIB, content);
  equal(again.pool.stats().frameBytes, before);
  await again.flush("a");
  const last = await PoolRig.open(again.cutPower());
  sameBytes(await last.read("a", 2 * MIB, content.length), content);
  await last.close();
});

/** The segments of which frames are told when the index is filled, after these files are gone. */
async function toldSegments(files: PoolFiles, removed: readonly string[]): Promise<number[]> {
  const rig = await PoolRig.open(files, { isDedupRestored: false });
  const { dedup, dedupRestore } = rig.pool;
  for (const name of removed) await rig.host.log.remove(name);
  const told = new Set<number>();
  const { restoreRows } = dedup;
  dedup.restoreRows = (rows, count, segment) => {
    told.add(segment);
    restoreRows.call(dedup, rows, count, segment);
  };
  dedupRestore.begin();
  await restored(rig);
  rig.host.stop();
  const [done] = rig.host.events.filter(({ event }) => event === "dedup.restored");
  equal(done?.fields.problems, removed.length, "nothing else is a problem");
  return [...told].sort((a, b) => a - b);
}

test("where nothing says how much of a segment counts, it is left out, and the others are not", async () => {
  const { files } = await severalLives(3);
  const lives = new Map<number, string[]>();
  for (const [name, bytes] of [...files.log].sort()) {
    if (!name.endsWith(".seg") || bytes.length === 0) continue;
    const incarnation = new DataView(bytes.buffer, bytes.byteOffset).getUint32(40, true);
    lives.set(incarnation, [...(lives.get(incarnation) ?? []), name]);
  }
  const [first = [], second = []] = [...lives.values()];
  const [lastOfFirst, firstOfSecond] = [first.at(-1), second[0]] as [string, string];
  const all = await toldSegments(files, []);
  ok(all.length > 5);
  // As if the first segment of the second life had been dropped: nobody says where the first life ended.
  const leftOut = [lastOfFirst, firstOfSecond].map(segmentNumberOf);
  ok(leftOut.every((number) => all.includes(number)));
  deepEqual(
    await toldSegments(files, [firstOfSecond]),
    all.filter((number) => !leftOut.includes(number)),
  );
  // In the middle of a life nothing else is lost.
  deepEqual(
    await toldSegments(files, [second[1] as string]),
    all.filter((number) => number !== segmentNumberOf(second[1] as string)),
  );
});

test("damaged and missing segments are told once, and cost what is in them alone", async () => {
  const { files, content } = await severalLives(2);
  const log = new Map(files.log);
  const names = [...log.keys()].filter((name) => name.endsWith(".seg")).sort();
  const damaged = names[1] as string;
  const bytes = (log.get(damaged) as Uint8Array).slice();
  bytes.fill(0x55, 0, 4096);
  const rig = await PoolRig.open(files, { isDedupRestored: false });
  await rig.pool.checkpoint();
  const later = await rig.close();
  const left = new Map(later.log).set(damaged, bytes);
  const again = await PoolRig.open({ root: later.root, log: left }, { isDedupRestored: false });
  await again.host.log.remove(names[2] as string);
  again.pool.dedupRestore.begin();
  await restored(again);
  const told = again.host.events.filter(({ event }) => event.startsWith("dedup."));
  deepEqual(
    told.map(({ event }) => event),
    ["dedup.segment-left-out", "dedup.restored"],
  );
  equal(told[1]?.fields.problems, 2);
  const stored = await newBlocks(again, content);
  ok(stored > 10 && stored < 60, `${stored} blocks were in two of the segments`);
  await again.close();
});

test("a pool that is closed while its index is filled doesn't wait for the rest", async () => {
  const { files } = await severalLives(3);
  const host = newHost(files);
  const gate = new Gate();
  const rig = await PoolRig.open(files, { isDedupRestored: false }, host);
  let readCount = 0;
  host.log.onOperation = ({ kind, name }) => {
    if (kind !== "read" || !name.endsWith(".seg")) return undefined;
    readCount += 1;
    return readCount < 8 ? undefined : gate.wait;
  };
  rig.pool.dedupRestore.begin();
  await turns(200);
  equal(readCount, 8);
  const closing = rig.pool.close();
  await turns(20);
  gate.open(undefined);
  await closing;
  equal(readCount, 8);
  equal(host.log.openCount, 0);
  equal(host.eventNames().includes("dedup.restored"), false);
});

test("what is collected before its turn comes is found all the same", async () => {
  const { files, content } = await severalLives(2);
  const host = newHost(files);
  const gate = new Gate();
  const rig = await PoolRig.open(files, { isDedupRestored: false }, host);
  await rig.pool.setPolicy(NO_HISTORY);
  let openCount = 0;
  host.log.onOperation = ({ kind, name }) => {
    if (kind !== "open" || !name.endsWith(".seg")) return undefined;
    openCount += 1;
    return openCount === 1 ? gate.wait : undefined;
  };
  rig.pool.dedupRestore.begin();
  await turns(3);
  equal(openCount, 1);
  const report = await rig.pool.collect({ isDryRun: false });
  ok(report.segmentsFreed > 3);
  gate.open(undefined);
  await restored(rig);
  equal(host.eventNames().includes("dedup.segment-left-out"), false, "dropped is not damaged");
  const stored = await newBlocks(rig, content);
  // What was moved to the segment that is still being written isn't in any footer.
  ok(stored <= 16, `${stored} blocks are stored again`);
  await rig.close();
});

test("clients are waited for", async () => {
  const { files, content } = await severalLives(2);
  for (const isBusy of [false, true]) {
    const rig = await PoolRig.open(files, { isDedupRestored: false });
    const { clock } = rig.host;
    const { after } = clock;
    let pauseCount = 0;
    clock.after = (delayMs, callback) => {
      if (delayMs < 10) pauseCount += 1;
      return after.call(clock, delayMs, callback);
    };
    rig.pool.dedupRestore.begin();
    while (rig.pool.dedupRestore.isRunning) {
      if (isBusy) await rig.read("a", 0, BLOCK);
      await turn();
    }
    if (isBusy) ok(pauseCount >= 4, `${pauseCount} pauses`);
    else equal(pauseCount, 0);
    equal(await newBlocks(rig, content), 0);
    await rig.close();
  }
});
