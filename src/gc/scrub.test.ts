// SPDX-License-Identifier: Apache-2.0
//
// A scrub of a pool in use finds damage of every kind of place, and says which blocks it hit; it finds nothing in a sound
// pool, whatever goes on beside it; and it ends when it should.

import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { suite, test } from "node:test";
import { BLOCK, Gate, noise, PoolRig, turns } from "../../test/crash/memory-rig.ts";
import { homeOfBlock } from "../../test/crash/moved-frames.ts";
import { RELOCATION } from "../index/relocation-index.ts";
import { offset8Of } from "../log/reference.ts";
import { segmentName } from "../log/segment.ts";
import type { ScrubReport } from "../pool/types.ts";

const MIB = 1 << 20;

/** Nothing that shrinks. */
function hard(seed: number): Uint8Array {
  return noise(seed + 5000, BLOCK);
}

/** Half of it shrinks. */
function soft(seed: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  bytes.set(noise(seed, BLOCK / 2));
  return bytes;
}

/** Most of it is in every block: cold ones end up together in one frame. */
function alike(seed: number): Uint8Array {
  const bytes = noise(1, BLOCK).slice();
  bytes.set(noise(seed + 1000, BLOCK / 4));
  return bytes;
}

/**
 * Blocks 0 to 149 share frames, and the records of their old segments are left; then 60 blocks as they are, then 60 in
 * frames of their own that shrank; and some in the segment that is being written.
 */
async function makeRig(): Promise<PoolRig> {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 4 * MIB);
  for (let block = 0; block < 150; block++) await rig.write("a", block * BLOCK, alike(block));
  await rig.pool.collect({ isDryRun: false });
  for (let block = 150; block < 210; block++) await rig.write("a", block * BLOCK, hard(block));
  for (let block = 210; block < 270; block++) await rig.write("a", block * BLOCK, soft(block));
  await rig.pool.checkpoint();
  await rig.write("a", 270 * BLOCK, hard(270));
  await rig.flush("a");
  return rig;
}

async function scrub({ pool }: PoolRig): Promise<ScrubReport> {
  pool.startScrub();
  return await ended({ pool } as PoolRig);
}

async function ended({ pool }: PoolRig): Promise<ScrubReport> {
  while (pool.scrubStatus().progress !== undefined) await turns(1);
  const { report } = pool.scrubStatus();
  ok(report !== undefined);
  return report;
}

/** Begins a scrub, and holds it at its 20th read of a segment until the function returned is called. */
async function held({ host, pool }: PoolRig): Promise<() => void> {
  const gate = new Gate();
  let count = 0;
  host.log.onOperation = ({ kind, name }) => {
    if (kind !== "read" || !name.endsWith(".seg")) return undefined;
    count += 1;
    return count < 20 ? undefined : gate.wait;
  };
  pool.startScrub();
  while (count < 20) await turns(1);
  host.log.onOperation = undefined;
  return () => gate.open(undefined);
}

/** Turns a bit over under the running pool. */
async function flip({ host }: PoolRig, name: string, offset: number): Promise<void> {
  const bytes = host.log.files().get(name);
  ok(bytes !== undefined && offset < bytes.length, `${name} has a byte ${offset}`);
  const file = await host.log.open(name, "write");
  await file.write(Uint8Array.of((bytes[offset] as number) ^ 8), offset);
  await file.close();
}

interface Place {
  readonly name: string;
  readonly offset: number;
}

/** Where a block's frame is now. */
async function placeOf(rig: PoolRig, block: number): Promise<Place> {
  await rig.read("a", block * BLOCK, BLOCK);
  const { segment, offset8 } = homeOfBlock(rig, block);
  const { relocations } = rig.pool.index;
  if (relocations.resolve(segment, offset8) === RELOCATION.NOT_LOADED)
    await relocations.load(segment, offset8);
  if (relocations.resolve(segment, offset8) === RELOCATION.AT_HOME)
    return { name: segmentName(segment), offset: offset8 * 8 };
  const { foundSegment, foundLow } = relocations;
  return { name: segmentName(foundSegment), offset: offset8Of(foundLow) * 8 };
}

/** The batch that holds the frame: frames follow the header at once. */
function batchOf({ host }: PoolRig, { name, offset }: Place): number {
  const bytes = host.log.files().get(name) as Uint8Array;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 4096; ; at += view.getUint32(at + 52, true))
    if (offset < at + view.getUint32(at + 52, true)) return at;
}

function nodesOf(bytes: Uint8Array, kind: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: number[] = [];
  for (let at = 4096; at < bytes.length - 64; at += 32 + view.getUint32(at + 28, true))
    if (view.getUint8(at + 16) === kind) found.push(at);
  return found;
}

/** The last run that has a node of the kind, and where. */
function nodeOf({ host }: PoolRig, kind: number): Place {
  const runs = [...host.log.files()].filter(([name]) => name.endsWith(".run")).sort();
  for (const [name, bytes] of runs.reverse()) {
    const [offset] = nodesOf(bytes, kind);
    if (offset !== undefined) return { name, offset };
  }
  throw new Error(`no run has a node of kind ${kind}`);
}

suite("a scrub", () => {
  test("of a sound pool reads all that is at rest, and finds nothing", async () => {
    const rig = await makeRig();
    const report = await scrub(rig);
    deepEqual(report.problems, []);
    equal(report.isComplete, true);
    const current = segmentName(rig.pool.log.segmentNumber);
    const files = [...rig.host.log.files()].filter(
      ([name]) => /\.(seg|rec|run)$/.test(name) && name < current,
    );
    const isFull = ([name]: [string, Uint8Array]): boolean => !name.endsWith(".run");
    equal(report.segmentsChecked, files.filter(isFull).length);
    const runs = [...rig.host.log.files()].filter(([name]) => name.endsWith(".run"));
    const all = [...files.filter(isFull), ...runs];
    equal(
      report.bytesChecked,
      all.reduce((sum, [, bytes]) => sum + bytes.length, 0),
    );
    ok(report.framesChecked >= 100, `${report.framesChecked} frames`);
    const { scrub: statistics, damagedBlockCount } = rig.pool.stats();
    deepEqual(statistics, {
      completedCount: 1,
      checkedBytes: report.bytesChecked,
      problemCount: 0,
    });
    equal(damagedBlockCount, 0);
    const events = rig.host.eventNames().filter((name) => name.startsWith("scrub."));
    deepEqual(events, ["scrub.began", "scrub.ended"]);
    await rig.close();
  });

  test("finds a damaged frame, and says which block it held", async () => {
    const rig = await makeRig();
    const places = [await placeOf(rig, 160), await placeOf(rig, 220)];
    for (const { name, offset } of places) await flip(rig, name, offset + 100);
    const { problems, problemCount } = await scrub(rig);
    equal(problemCount, 2);
    for (const [at, block] of [160, 220].entries()) {
      const { code, message, data } = problems[at] ?? {};
      equal(code, "FRAME_CORRUPT");
      match(message ?? "", new RegExp(`wrong checksum; it holds block ${block} of volume "a"`));
      deepEqual([data?.lba, data?.volume, data?.offset], [block, "a", places[at]?.offset]);
    }
    const { damagedBlockCount, scrub: statistics } = rig.pool.stats();
    equal(damagedBlockCount, 2);
    equal(statistics.problemCount, 2);
    ok(rig.host.eventNames().includes("log.frame-damaged"));
    await rig.close();
  });

  test("finds a damaged frame that blocks share, and says where those were born", async () => {
    const rig = await makeRig();
    const { name, offset } = await placeOf(rig, 3);
    await flip(rig, name, offset + 500);
    const { problems, problemCount } = await scrub(rig);
    equal(problemCount, 1);
    const { segment, offset8 } = homeOfBlock(rig, 3);
    const born = problems[0]?.data.homes as string[];
    ok(born.includes(`${segment}:${offset8 * 8}`) && born.length > 10);
    equal(rig.pool.stats().damagedBlockCount, 1);
    await rig.close();
  });

  test("finds damage in every other kind of place", async () => {
    const inSegment = (rig: PoolRig, { name }: Place, fromEnd: number): Place => {
      return { name, offset: (rig.host.log.files().get(name) as Uint8Array).length - fromEnd };
    };
    const records = (rig: PoolRig): string =>
      [...rig.host.log.files().keys()].find((name) => name.endsWith(".rec")) as string;
    // By the place of a block's frame.
    const places: readonly [string, (rig: PoolRig, frame: Place) => Place, RegExp][] = [
      ["segment header", (_, frame) => ({ ...frame, offset: 50 }), /segment header checksum/],
      [
        "batch header",
        (rig, frame) => ({ ...frame, offset: batchOf(rig, frame) + 60 }),
        /no whole batch from \d+ to \d+: header checksum/,
      ],
      [
        "records",
        (_, frame) => ({ ...frame, offset: frame.offset + 24 + BLOCK + 5 }),
        /no whole batch from \d+ to \d+: records checksum/,
      ],
      ["footer", (rig, frame) => inSegment(rig, frame, 3000), /footer checksum is wrong/],
      ["trailer", (rig, frame) => inSegment(rig, frame, 20), /trailer checksum is wrong/],
      [
        "records alone",
        (rig) => ({ name: records(rig), offset: 4096 + 150 }),
        /its records: its footer can't be used/,
      ],
      ["leaf", (rig) => nodeOf(rig, 1), /index: \w+\.run, offset \d+: a node up to/],
      ["directory", (rig) => nodeOf(rig, 2), /index: \w+\.run, offset \d+: a node up to/],
      ["relocations", (rig) => nodeOf(rig, 4), /index: \w+\.run, offset \d+: a node up to/],
      ["changes", (rig) => nodeOf(rig, 6), /index: \w+\.run, offset \d+: a node up to/],
      ["changed pages", (rig) => nodeOf(rig, 7), /index: \w+\.run, offset \d+: a node up to/],
      ["roots of changes", (rig) => nodeOf(rig, 9), /index: \w+\.run, offset \d+: its body/],
    ];
    for (const [what, placeIn, pattern] of places) {
      const rig = await makeRig();
      const { name, offset } = placeIn(rig, await placeOf(rig, 170));
      await flip(rig, name, offset + (name.endsWith(".run") ? 40 : 0));
      const { problems, isComplete } = await scrub(rig);
      ok(isComplete);
      ok(problems.length > 0, what);
      match(problems.map(({ message }) => message).join("\n"), pattern, what);
      ok(problems.every(({ code }) => /^(LOG|POOL)_CORRUPT$/.test(code)));
      if (name.endsWith(".run")) equal(rig.pool.stats().damagedPageCount, 1, what);
      ok(rig.host.eventNames().includes("scrub.problem"));
      rig.host.stop();
    }
  });

  test("goes through a segment frame by frame where a part of it can't be read", async () => {
    const rig = await makeRig();
    const { name, offset } = await placeOf(rig, 180);
    rig.host.log.onOperation = (operation) => {
      const { kind, position, lengthBytes } = operation;
      const isBad = operation.name === name && position <= offset + 2000;
      return kind === "read" && isBad && position + lengthBytes > offset + 2000 ? "EIO" : undefined;
    };
    const { problems, isComplete, segmentsChecked } = await scrub(rig);
    ok(isComplete);
    deepEqual(problems.map(({ code }) => code).sort(), ["DISK_IO", "FRAME_CORRUPT"]);
    const lost = problems.find(({ code }) => code === "FRAME_CORRUPT");
    match(lost?.message ?? "", /it can't be read; it holds block 180 of volume "a"/);
    ok(segmentsChecked > 5);
    rig.host.log.onOperation = undefined;
    await rig.close();
  });

  test("finds nothing in what is dropped, made and replaced meanwhile", async () => {
    const rig = await makeRig();
    await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
    for (let round = 0; round < 3; round++) {
      rig.pool.startScrub();
      for (let block = 0; block < 100; block++) {
        await rig.write("a", block * 3 * BLOCK, soft(round * 1000 + block));
        if (block % 20 === 0) await rig.pool.checkpoint();
      }
      await rig.pool.collect({ isDryRun: false });
      const report = await ended(rig);
      deepEqual(report.problems, [], `round ${round}`);
      equal(report.isComplete, true);
    }
    rig.pool.checkInvariants();
    await rig.close();
  });

  test("is one at a time, and tells how far it is", async () => {
    const rig = await makeRig();
    equal(rig.pool.scrubStatus().progress, undefined);
    let doneBytes = 0;
    const phases = new Set<string>();
    rig.host.log.onOperation = () => {
      const { progress } = rig.pool.scrubStatus();
      if (progress === undefined) return undefined;
      ok(progress.doneBytes >= doneBytes && progress.doneBytes <= progress.totalBytes);
      doneBytes = progress.doneBytes;
      phases.add(progress.phase);
      return undefined;
    };
    rig.pool.startScrub();
    rig.pool.startScrub();
    await ended(rig);
    rig.host.log.onOperation = undefined;
    ok(phases.has("verifying the log") && phases.has("verifying the index"), [...phases].join());
    ok(doneBytes > 0);
    equal(rig.pool.stats().scrub.completedCount, 1);
    await rig.close();
  });

  test("ends when it is stopped, and when the pool is closed", async () => {
    const rig = await makeRig();
    const stop = await held(rig);
    rig.pool.stopScrub();
    stop();
    const stopped = await ended(rig);
    equal(stopped.isComplete, false);
    ok(stopped.bytesChecked < (await scrub(rig)).bytesChecked);
    equal(rig.pool.stats().scrub.completedCount, 1);
    const close = await held(rig);
    const closed = rig.pool.close();
    close();
    await closed;
    equal(rig.pool.scrubStatus().report?.isComplete, false);
    equal(rig.host.log.openCount, 0, "no file stays open");
    throws(() => rig.pool.startScrub(), { code: "POOL_STOPPED" });
  });

  test("that a crash ends changes nothing", async () => {
    const rig = await makeRig();
    const before = rig.host.log.files();
    await held(rig);
    ok(rig.pool.scrubStatus().progress !== undefined);
    const files = rig.kill();
    for (const [name, bytes] of before)
      if (name !== segmentName(rig.pool.log.segmentNumber))
        equal(Buffer.compare(bytes, files.log.get(name) as Uint8Array), 0, name);
    const again = await PoolRig.open(files);
    deepEqual((await scrub(again)).problems, []);
    await again.close();
  });
});
