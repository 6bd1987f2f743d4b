// SPDX-License-Identifier: Apache-2.0
//
// A segment that is judged by itself, where the one behind it is gone and nobody else says where its batches end: its
// footer repeats their headers and records, and some of these lie where a batch could begin.

import { deepEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, newHost, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { BATCH_ALIGN_BYTES, BATCH_HEADER_BYTES, parseBatchHeader } from "./batch.ts";
import {
  parseSegmentTrailer,
  SEGMENT_TRAILER_BYTES,
  segmentName,
  segmentNumberOf,
} from "./segment.ts";
import { checkSegmentEnds, scanBatches } from "./segment-scan.ts";

const MIB = 1 << 20;
const memory = new BlockMemory({ ...shapeOf(24 << 20), slotCount: 1024 });

/** Whether a header that is repeated in the footer lies where a batch could begin. */
function hasHeaderInFooter(bytes: Uint8Array, poolId: Uint8Array): boolean {
  const address = memory.slotsAddress;
  memory.bytes.set(bytes.subarray(bytes.length - SEGMENT_TRAILER_BYTES), address);
  const trailer = parseSegmentTrailer(memory, address);
  if (typeof trailer === "string") return false;
  for (let at = trailer.end; at < bytes.length - BATCH_HEADER_BYTES; at += BATCH_ALIGN_BYTES) {
    memory.bytes.set(bytes.subarray(at, at + BATCH_HEADER_BYTES), address);
    const header = parseBatchHeader(memory, address, BATCH_HEADER_BYTES, poolId);
    if (typeof header === "object") return true;
  }
  return false;
}

test("a batch's header that a footer repeats is taken for no batch in front of a hole", async () => {
  const rig = await PoolRig.create({ segmentBytes: MIB / 2 });
  await rig.pool.createVolume("a", MIB);
  for (let at = 0; at < 1500; at++) {
    await rig.write("a", (at % 200) * BLOCK, noise(at, BLOCK * (1 + ((at * at) % 7))));
    // Batches without frames are repeated whole.
    const trims = Array.from({ length: 1 + ((at * at) % 11) }, (_, of) => (at + of) % 100);
    await Promise.all(trims.map((block) => rig.trim("a", block * BLOCK, BLOCK)));
  }
  const poolId = Uint8Array.from(rig.pool.poolId.match(/../g) ?? [], (hex) =>
    Number.parseInt(hex, 16),
  );
  const { log: files } = await rig.close();
  const directory = newHost({ log: files }).log;
  const log = { directory, memory, poolId };
  let count = 0;
  const problems: string[] = [];
  for (const [name, bytes] of files) {
    const number = segmentNumberOf(name);
    if (number <= 0 || !hasHeaderInFooter(bytes, poolId)) continue;
    count += 1;
    const { header } = await checkSegmentEnds(log, number);
    await scanBatches(log, number, {
      from: 4096,
      end: undefined,
      header,
      onProblem: (problem) => problems.push(`${segmentName(number)}: ${problem}`),
      onDamagedFrame: ({ problem }) => problems.push(problem),
    });
  }
  ok(count > 1, `${count} segments have one`);
  deepEqual(problems, []);
});
