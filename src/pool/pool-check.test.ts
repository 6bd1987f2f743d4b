// SPDX-License-Identifier: Apache-2.0
//
// The offline check finds what is damaged, wherever that is, and says how far the rest goes; and it never says more
// of a sound pool than its files can prove.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { before, suite, test } from "node:test";
import {
  BLOCK,
  checkFiles,
  durableFilesOf,
  filesOf,
  noise,
  type PoolFiles,
  PoolRig,
} from "../../test/crash/memory-rig.ts";
import { segmentNumberOf } from "../log/segment.ts";
import { Prng } from "../sim/prng.ts";

const MIB = 1 << 20;

/** Segments with footers, two checkpoints, two lives, and something behind the newest checkpoint. */
async function makeRig(): Promise<PoolRig> {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", 8 * MIB);
  for (let life = 0; life < 2; life++) {
    for (let block = 0; block < 40; block++) {
      await rig.write("a", (life * 600 + block) * BLOCK, noise(life * 40 + block, BLOCK));
      await rig.flush("a");
    }
    await rig.pool.checkpoint();
    if (life === 0) rig = await PoolRig.open(await rig.close());
  }
  await rig.write("a", 50 * BLOCK, noise(99, BLOCK));
  await rig.flush("a");
  return rig;
}

function flipped(files: PoolFiles, name: string, offset: number): PoolFiles {
  const bytes = (files.log.get(name) as Uint8Array).slice();
  bytes[offset] = (bytes[offset] as number) ^ 16;
  return { ...files, log: new Map([...files.log, [name, bytes]]) };
}

function segmentNames(files: PoolFiles): string[] {
  return [...files.log.keys()].filter((name) => segmentNumberOf(name) >= 0).sort();
}

/** The parts of a file that some checksum covers. */
function coveredParts(name: string, bytes: Uint8Array): [number, number][] {
  if (name === "reserve") return [];
  if (name.startsWith("checkpoint-")) return [[0, 88]];
  if (name.endsWith(".run")) return parts([0, 128], [4096, bytes.length]);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: [number, number][] = [[0, 128]];
  let at = 4096;
  while (at + 128 <= bytes.length && view.getUint32(at, true) === 0x54414256) {
    const used = 128 + view.getUint32(at + 44, true) + view.getUint32(at + 48, true);
    found.push([at, at + 128], [at + used - view.getUint32(at + 48, true), at + used]);
    if (view.getUint32(at + 44, true) > 0) found.push([at + 128, at + 128 + 4120]);
    at += view.getUint32(at + 52, true);
  }
  const footer = Math.ceil(at / 4096) * 4096;
  if (bytes.length - footer > 64)
    found.push([footer, bytes.length - 64], [bytes.length - 64, bytes.length]);
  return found.filter(([start, end]) => end > start);
}

function parts(...ranges: [number, number][]): [number, number][] {
  return ranges;
}

suite("check", () => {
  let closed: PoolFiles;

  before(async () => {
    closed = await (await makeRig()).close();
  });

  test("a pool that was closed is sound, up to its last record, and says when it was closed", async () => {
    const report = await checkFiles(closed);
    deepEqual(report.findings, []);
    ok(report.closedMicros !== undefined && report.closedMicros >= report.timeMicros);
    equal(report.isLogWhole, true);
    equal(report.checkpoints, 2);
    equal(report.blocksCompared, 81, "blocks that hold something, once");
  });

  test("a pool that was killed is sound, but nobody knows what came behind its end", async () => {
    const rig = await makeRig();
    const report = await checkFiles(rig.kill());
    deepEqual(report.findings, []);
    equal(report.closedMicros, undefined);
  });

  test("whatever a power cut or a kill leaves is sound", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 8 * MIB);
    const states: PoolFiles[] = [];
    for (let block = 0; block < 200; block++) {
      const done = rig.write("a", block * BLOCK, noise(block, BLOCK));
      if (block % 7 === 0) states.push(durableFilesOf(rig.host), filesOf(rig.host));
      await done;
      if (block % 5 === 0) void rig.flush("a");
      if (block % 60 === 50) void rig.pool.checkpoint();
    }
    for (const files of [...states, rig.cutPower()])
      deepEqual((await checkFiles(files)).findings, []);
  });

  test("a closed log whose last segment was cut off isn't closed any more", async () => {
    const last = segmentNames(closed).at(-1) as string;
    const bytes = closed.log.get(last) as Uint8Array;
    const log = new Map([...closed.log, [last, bytes.slice(0, bytes.length - 4096)]]);
    const report = await checkFiles({ ...closed, log });
    equal(report.closedMicros, undefined);
  });

  test("a bit turned over in whatever a checksum covers is found", async () => {
    const prng = new Prng(3);
    const sound = await checkFiles(closed);
    const last = segmentNames(closed).at(-1);
    const missed: string[] = [];
    let count = 0;
    for (const [name, bytes] of closed.log) {
      const covered = coveredParts(name, bytes);
      // The last batch is the marker of the close: damaged, it is a torn one, and the log isn't closed.
      const isLast = name === last;
      for (const [index, [start, end]] of covered.entries()) {
        if (index > 6 && index < covered.length - 4 && !prng.chance(0.05)) continue;
        const offset = prng.between(start, end - 1);
        const report = await checkFiles(flipped(closed, name, offset));
        count += 1;
        const isMissed = report.findings.length === 0 && report.closedMicros !== undefined;
        if (isMissed || (report.findings.length === 0 && !isLast)) missed.push(`${name} ${offset}`);
        ok(report.lsn <= sound.lsn && report.lsn > 0);
      }
    }
    deepEqual(missed, []);
    ok(count > 60, `${count} places`);
  });

  test("a broken chain says how far it was read, and what is damaged behind it", async () => {
    const [, second, third] = segmentNames(closed);
    const broken = flipped(closed, second as string, 4096 + 60);
    const noFooter = flipped(
      broken,
      second as string,
      (closed.log.get(second as string)?.length ?? 0) - 4,
    );
    const frame = coveredParts(third as string, closed.log.get(third as string) as Uint8Array).find(
      ([start, end]) => end - start === 4120,
    );
    const [frameAt] = frame as [number, number];
    const inFrame = flipped(noFooter, third as string, frameAt + 200);
    const report = await checkFiles(inFrame);
    equal(report.isLogWhole, false);
    equal(report.segment, 1, "the last batch before the break");
    ok(report.offset > 4096 && report.lsn > 1);
    equal(report.volumes, 1);
    const messages = report.findings.map(({ message }) => message).join("\n");
    match(messages, /segment 0{15}2\.seg: broken at offset 4096 .*LSN \d+/);
    match(messages, /segment 0{15}2\.seg: no whole batch from 4096 to \d+/);
    match(messages, /segment 0{15}2\.seg: its footer can't be used: trailer checksum is wrong/);
    ok(messages.includes(`segment ${third}, frame at ${frameAt}: wrong checksum`), messages);
    equal(report.findings.length, 4, messages);
  });

  test("where a footer repeats a damaged batch, the rest is compared all the same", async () => {
    const [, second] = segmentNames(closed);
    const report = await checkFiles(flipped(closed, second as string, 4096 + 60));
    deepEqual(
      report.findings.map(({ code, data }) => [code, data.segment, data.offset]),
      [["LOG_CORRUPT", 2, 4096]],
    );
    equal(report.blocksCompared, 81);
    deepEqual([report.isLogWhole, report.tail], [false, "broken"]);
    equal(report.counted?.danglingReferences, 0, "the frame in the batch is whole");
  });

  test("a log that ends before what a checkpoint holds was cut off", async () => {
    const names = segmentNames(closed);
    const gone = new Set(names.slice(-3));
    const log = new Map([...closed.log].filter(([name]) => !gone.has(name)));
    const { findings } = await checkFiles({ ...closed, log });
    match(findings[0]?.message ?? "", /cut off before LSN \d+: a checkpoint holds/);
  });

  test("an empty volume of any size is nothing to compare", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 2 ** 46);
    const report = await checkFiles(await rig.close());
    deepEqual(report.findings, []);
    equal(report.blocksCompared, 0);
  });
});
