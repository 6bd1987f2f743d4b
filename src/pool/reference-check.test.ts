// SPDX-License-Identifier: Apache-2.0
//
// The offline check of pools whose garbage was collected: every reference comes to its frame, wherever that was moved,
// nothing that is missing goes unnoticed, and nothing that was let go is missed.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { suite, test } from "node:test";
import {
  BLOCK,
  checkFiles,
  durableFilesOf,
  filesOf,
  noise,
  type PoolFiles,
  PoolRig,
} from "../../test/crash/memory-rig.ts";
import { homeOfBlock, moveAlone, moveShared } from "../../test/crash/moved-frames.ts";
import { segmentName, segmentNumberOf } from "../log/segment.ts";
import type { CheckReport } from "./pool-check.ts";

const MIB = 1 << 20;
const COLD = 150;
const HOUR = 3_600_000_000;

/** Most of it is in every block: cold ones end up together in one frame. */
function alike(seed: number): Uint8Array {
  const bytes = noise(1, BLOCK).slice();
  bytes.set(noise(seed + 1000, BLOCK / 4));
  return bytes;
}

async function write(rig: PoolRig, from: number, end: number): Promise<void> {
  for (let seed = from; seed < end; seed++) {
    await rig.write("a", ((seed * 7) % 100) * BLOCK, alike(seed));
    if (seed % 9 === 0) await rig.flush("a");
  }
}

/** Blocks written several times, their frames moved, some once more, and some written since. */
async function collected(everyWriteMicros: number | null): Promise<PoolRig> {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros } });
  await rig.pool.createVolume("a", MIB);
  await rig.pool.createVolume("cold", MIB);
  for (let block = 0; block < COLD; block++)
    await rig.write("cold", block * BLOCK, alike(5000 + block));
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.createVolume("gone", MIB);
  await rig.write("gone", 0, noise(1, 16 * BLOCK));
  await rig.pool.removeVolume("gone");
  await write(rig, 0, 250);
  await rig.pool.collect({ isDryRun: false });
  await write(rig, 250, 330);
  await rig.pool.collect({ isDryRun: false });
  await write(rig, 330, 350);
  await write(rig, 430, 450); // the same blocks
  await rig.flush("a");
  return rig;
}

function without(files: PoolFiles, name: string): PoolFiles {
  ok(files.log.has(name), name);
  return { ...files, log: new Map([...files.log].filter(([other]) => other !== name)) };
}

function codesOf({ findings }: CheckReport): string[] {
  return findings.map(({ code, message }) => `${code} ${message}`);
}

suite("a check of a collected pool", () => {
  test("with all of history counts every reference and finds nothing wrong", async () => {
    const rig = await collected(null);
    for (const files of [filesOf(rig.host), await rig.close()]) {
      const report = await checkFiles(files);
      deepEqual(codesOf(report), []);
      equal(report.firstLsn, 1);
      ok([...files.log.keys()].some((name) => name.endsWith(".rec")));
      const { counted } = report;
      equal(counted?.references, 100 + 16 + COLD);
      deepEqual([counted?.danglingReferences, counted?.damagedReferences], [0, 0]);
      ok((counted?.frames ?? 0) > 20);
      equal(report.blocksCompared, (counted?.references ?? 0) - (report.closedMicros ? 0 : 20));
    }
  });

  test("without history compares both checkpoints behind a log that begins late", async () => {
    const rig = await collected(0);
    for (const files of [filesOf(rig.host), await rig.close()]) {
      const report = await checkFiles(files);
      deepEqual(codesOf(report), []);
      ok(report.firstLsn > 100);
      equal(report.counted?.references, 100 + COLD, "what the removed volume held is let go");
      ok((report.counted?.unreferencedFrames ?? 0) > 0);
      ok((report.counted?.unreferencedBytes ?? 0) < (report.counted?.frameBytes ?? 0));
      ok(report.blocksCompared >= 80 + COLD);
    }
  });

  test("with a window follows what it shows as well", async () => {
    const rig = await PoolRig.create();
    await rig.pool.setPolicy({ retention: { everyWriteMicros: HOUR } });
    await rig.pool.createVolume("a", MIB);
    let references = 0;
    for (let step = 0; step < 14; step++) {
      await write(rig, step * 100, step * 100 + 100);
      rig.host.clock.wallOffsetMicros += HOUR / 3;
      await rig.pool.checkpoint();
      await rig.pool.collect({ isDryRun: false });
      const report = await checkFiles(filesOf(rig.host));
      deepEqual(codesOf(report), [], `step ${step}`);
      references = Math.max(references, report.counted?.frames ?? 0);
    }
    const files = rig.kill();
    const report = await checkFiles(files);
    ok(report.firstLsn > 1, "something was let go");
    ok(
      [...files.log.keys()].some((name) => name.endsWith(".rec")),
      "and something kept",
    );
  });

  test("is sound whatever a crash in a collection leaves", async () => {
    for (const everyWriteMicros of [null, 0]) {
      const rig = await PoolRig.create();
      await rig.pool.setPolicy({ retention: { everyWriteMicros } });
      await rig.pool.createVolume("a", MIB);
      await write(rig, 0, 120);
      const states: PoolFiles[] = [];
      let changeCount = 0;
      rig.host.log.onOperation = ({ kind }) => {
        if (["write", "datasync", "sync", "create", "remove"].includes(kind)) changeCount += 1;
        else return undefined;
        if (changeCount % 4 === 0) states.push(filesOf(rig.host), durableFilesOf(rig.host));
        return undefined;
      };
      await rig.pool.collect({ isDryRun: false });
      rig.host.log.onOperation = undefined;
      ok(states.length > 10, `${states.length} states`);
      for (const [at, files] of states.entries())
        deepEqual(codesOf(await checkFiles(files)), [], `state ${at} of ${everyWriteMicros}`);
      rig.host.stop();
    }
  });

  test("misses a segment that holds what is needed, wherever the log begins", async () => {
    const files = (await collected(0)).kill();
    const numbers = [...files.log.keys()].map(segmentNumberOf).filter((number) => number > 0);
    let dangling = 0;
    for (const number of numbers.sort((a, b) => a - b)) {
      const report = await checkFiles(without(files, segmentName(number)));
      if (report.counted === undefined) ok(!report.isLogWhole && report.findings.length > 0);
      else if (report.counted.danglingReferences === 0) continue;
      else {
        dangling += 1;
        const messages = codesOf(report).join("\n");
        match(messages, /^POOL_CORRUPT volume "(a|cold)", block \d+: its frame \d+:\d+ is gone: /);
        const { danglingReferences: count } = report.counted;
        const end = `segment ${segmentName(number)} is missing (one of ${count} such references)`;
        ok(messages.endsWith(end), messages);
        equal(report.findings.length, 1);
      }
    }
    ok(dangling > 0, "some segment was needed for its frames alone");
  });

  test("says how many blocks are in a damaged frame", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", MIB);
    for (let block = 0; block < 8; block++) await rig.write("a", block * BLOCK, alike(block));
    await moveShared(rig, [0, 1, 2, 3, 4]);
    const home = homeOfBlock(rig, 1);
    rig.pool.index.relocations.resolve(home.segment, home.offset8);
    const { foundSegment, foundLow } = rig.pool.index.relocations;
    const files = await rig.close();
    deepEqual(codesOf(await checkFiles(files)), []);
    const name = segmentName(foundSegment);
    const bytes = (files.log.get(name) as Uint8Array).slice();
    const at = ((foundLow >>> 6) & 0xffffff) * 8 + 100;
    bytes[at] = (bytes[at] as number) ^ 1;
    const report = await checkFiles({ ...files, log: new Map([...files.log, [name, bytes]]) });
    equal(report.counted?.damagedReferences, 5);
    equal(report.counted?.danglingReferences, 0);
    match(codesOf(report).join("\n"), /^FRAME_CORRUPT .*wrong checksum; it holds what was born at/);
    equal(report.findings.length, 1);
  });

  test("finds a block that was moved into another's place", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", MIB);
    for (let block = 0; block < 8; block++) await rig.write("a", block * BLOCK, alike(block));
    await moveShared(rig, [0, 1, 2, 3], { stored: [0, 1, 5, 3] });
    const report = await checkFiles(await rig.close());
    match(codesOf(report).join("\n"), /^FRAME_CORRUPT .*: slot 2 holds another block than/);
    equal(report.findings.length, 1);
  });

  test("finds what the index and the log say differently of a moved frame", async () => {
    for (const [tell, pattern] of [
      [null, /the index has it at home, the log at \d+:\d+ in \d+ bytes$/],
      [
        (cursor: { placeOffset8: number }): void => {
          cursor.placeOffset8 += 1;
        },
        /the index has it at (\d+):\d+ in \d+ bytes, the log at \1:\d+ in \d+ bytes$/,
      ],
    ] as const) {
      const rig = await PoolRig.create();
      await rig.pool.createVolume("a", MIB);
      for (let block = 0; block < 8; block++) await rig.write("a", block * BLOCK, alike(block));
      await moveAlone(rig, [3], { tell });
      await rig.pool.checkpoint();
      const report = await checkFiles(rig.kill());
      equal(report.findings.length, 1, codesOf(report).join("\n"));
      match(codesOf(report)[0] as string, pattern);
    }
  });
});
