// SPDX-License-Identifier: Apache-2.0
//
// Reading from damaged segments: an error for exactly the blocks that are lost, everything else as it was.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import {
  BLOCK,
  Gate,
  noise,
  type PoolFiles,
  PoolRig,
  sameBytes,
  turns,
} from "../../test/crash/memory-rig.ts";
import { moveAlone } from "../../test/crash/moved-frames.ts";

const MIB = 1 << 20;
const EIO = 5;
const SETTINGS = { segmentBytes: 4 * MIB };

/** A pool of 64 blocks in one segment, all below a checkpoint. */
async function checkpointed(): Promise<{ files: PoolFiles; segment: string }> {
  const rig = await PoolRig.create(SETTINGS);
  await rig.pool.createVolume("a", MIB);
  for (let block = 0; block < 64; block += 8)
    await rig.write("a", block * BLOCK, noise(block, 8 * BLOCK));
  await rig.pool.checkpoint();
  const files = await rig.close();
  return { files, segment: [...files.log.keys()].find((name) => name.endsWith(".seg")) as string };
}

function withSegment(files: PoolFiles, name: string, bytes: Uint8Array): PoolFiles {
  return { root: files.root, log: new Map(files.log).set(name, bytes) };
}

/** The blocks that read as errors, alone and in one large read. */
async function lostBlocks(rig: PoolRig): Promise<number[]> {
  const lost: number[] = [];
  for (let block = 0; block < 64; block++) {
    const found = await rig.read("a", block * BLOCK, BLOCK);
    const wanted = noise(block & ~7, 8 * BLOCK).subarray(
      (block % 8) * BLOCK,
      ((block % 8) + 1) * BLOCK,
    );
    if (typeof found !== "number") sameBytes(found, wanted, `block ${block}`);
    else {
      equal(found, EIO);
      lost.push(block);
    }
  }
  const whole = await rig.read("a", 0, 64 * BLOCK);
  equal(typeof whole === "number", lost.length > 0);
  return lost;
}

test("a flipped bit in a frame is an error for its block alone, and is told", async () => {
  const { files, segment } = await checkpointed();
  for (let round = 0; round < 12; round++) {
    const bytes = (files.log.get(segment) as Uint8Array).slice();
    const place = 20_000 + round * 17_001;
    bytes[place] = (bytes[place] as number) ^ 16;
    const rig = await PoolRig.open(withSegment(files, segment, bytes), SETTINGS);
    const lost = await lostBlocks(rig);
    ok(lost.length <= 1, `${lost.length} blocks are lost`);
    equal(rig.host.eventNames().includes("request.failed"), lost.length === 1);
    // What is lost can be written anew, whole; a part of it can't be merged.
    const [block] = lost;
    if (block !== undefined) {
      equal(await rig.write("a", block * BLOCK + 512, noise(1, 512)), EIO);
      equal(await rig.write("a", block * BLOCK, noise(block & ~7, BLOCK)), 0);
      ok(typeof (await rig.read("a", block * BLOCK, BLOCK)) !== "number");
    }
    await rig.close();
  }
});

test("a segment that is cut off or gone is an error for the blocks behind the cut, not for others", async () => {
  const { files, segment } = await checkpointed();
  const bytes = files.log.get(segment) as Uint8Array;
  const later = await PoolRig.open(files, SETTINGS);
  // Behind another checkpoint in a later segment, recovery doesn't look at the first one any more.
  await later.write("a", 100 * BLOCK, noise(5, BLOCK));
  await later.pool.checkpoint();
  const kept = await later.close();
  for (const length of [4096, 50_000, 150_000]) {
    const rig = await PoolRig.open(withSegment(kept, segment, bytes.slice(0, length)), SETTINGS);
    const lost = await lostBlocks(rig);
    ok(lost.length > 0 && lost.at(-1) === 63);
    equal(lost.length, 64 - (lost[0] as number), "all behind the first");
    sameBytes(await rig.read("a", 100 * BLOCK, BLOCK), noise(5, BLOCK));
    await rig.close();
  }
  const log = new Map(kept.log);
  log.delete(segment);
  const rig = await PoolRig.open({ root: kept.root, log }, SETTINGS);
  equal((await lostBlocks(rig)).length, 64);
  sameBytes(await rig.read("a", 100 * BLOCK, BLOCK), noise(5, BLOCK));
  rig.host.stop();
});

test("a read of moved frames of which some are on the disk and some aren't yet reads both", async () => {
  const rig = await PoolRig.create({ segmentBytes: 16 * MIB, syncWriteBytes: 0 });
  await rig.pool.createVolume("a", 8 * MIB);
  const content = noise(1, 8 * BLOCK);
  await rig.write("a", 0, content);
  await rig.flush("a");
  await moveAlone(rig, [0, 1, 2, 3]);
  await rig.flush("a");
  const gate = new Gate<undefined>();
  rig.host.log.onOperation = ({ kind }) => (kind === "write" ? gate.wait : undefined);
  const moving = moveAlone(rig, [4, 5, 6, 7]);
  await turns(4);
  // As many batches as there are buffers for: none is left that has what was moved before.
  const writes: Promise<number>[] = [];
  for (let at = MIB; at < 2 * MIB; at += 64 * BLOCK) {
    writes.push(rig.write("a", at, noise(at, 64 * BLOCK)));
    await turns(2);
  }
  sameBytes(await rig.read("a", 0, content.length), content);
  equal(rig.pool.stats().failedRequestCount, 0);
  rig.host.log.onOperation = undefined;
  gate.open(undefined);
  await moving;
  for (const errno of await Promise.all(writes)) equal(errno, 0);
  await rig.close();
});
