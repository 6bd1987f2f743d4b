// SPDX-License-Identifier: Apache-2.0
//
// The line for memory: first come first served, and replies before all.

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { hasCode } from "../base/errors.ts";
import { MemorySlab } from "../sim/memory-device.ts";
import { ManualClock } from "../sim/nbd-door.ts";
import { DoorMemory, OUTPUT_PIECE_BYTES } from "./door-memory.ts";

const MIB = 1 << 20;

function create(pieceCount: number): { memory: DoorMemory; slab: MemorySlab; clock: ManualClock } {
  const slab = new MemorySlab(pieceCount);
  const clock = new ManualClock(queueMicrotask);
  return { memory: new DoorMemory(slab, clock, queueMicrotask), slab, clock };
}

/** Takes pieces of 1 MiB until there are none. */
function drain(memory: DoorMemory): number[] {
  const pieces: number[] = [];
  for (let piece = memory.take(MIB); piece >= 0; piece = memory.take(MIB)) pieces.push(piece);
  return pieces;
}

test("a slab without room for the window and the reserve is refused with a hint", () => {
  throws(
    () => create(1),
    (error) => hasCode(error, "BUSY") && error.hint.includes("--memory"),
  );
});

test("whoever waits first is served first, and nobody passes the line", async () => {
  const { memory } = create(4);
  const pieces = drain(memory);
  equal(pieces.length, 2);
  const served: string[] = [];
  const large: number[] = [];
  memory.wait({
    retry: () => {
      for (let count = large.length; count < 2; count++) {
        const piece = memory.take(MIB);
        if (piece < 0) {
          for (const taken of large.splice(0)) memory.release(taken);
          return false;
        }
        large.push(piece);
      }
      served.push("large");
      return true;
    },
  });
  memory.wait({
    retry: () => {
      served.push("small");
      return true;
    },
  });
  memory.release(pieces[0] as number);
  await turn();
  deepEqual(served, []);
  equal(memory.take(4096), -1, "a third one who comes now has to wait");
  memory.release(pieces[1] as number);
  await turn();
  deepEqual(served, ["large", "small"]);
  for (const piece of large) memory.release(piece);
  memory.close();
});

test("an output piece is to be had when payloads have taken everything", () => {
  const { memory } = create(4);
  const pieces = drain(memory);
  const outputs: number[] = [];
  for (let piece = memory.takeOutput(); piece >= 0; piece = memory.takeOutput())
    outputs.push(piece);
  ok(outputs.length >= 4);
  for (const piece of outputs) memory.releaseOutput(piece);
  for (const piece of pieces) memory.release(piece);
  memory.close();
});

test("who waits for output is woken by output", async () => {
  const { memory } = create(4);
  const pieces = drain(memory);
  const outputs: number[] = [];
  for (let piece = memory.takeOutput(); piece >= 0; piece = memory.takeOutput())
    outputs.push(piece);
  let wakes = 0;
  memory.waitForOutput({ retryOutput: () => (wakes += 1) });
  await turn();
  equal(wakes, 0);
  memory.releaseOutput(outputs.pop() as number);
  await turn();
  equal(wakes, 1);
  for (const piece of outputs) memory.releaseOutput(piece);
  for (const piece of pieces) memory.release(piece);
  memory.close();
});

test("memory that somebody else gave back is noticed in time", async () => {
  const { memory, slab, clock } = create(4);
  const others: number[] = [];
  for (let piece = slab.allocate(MIB); piece >= 0; piece = slab.allocate(MIB)) others.push(piece);
  let taken = -1;
  const waiter = {
    retry: () => {
      taken = memory.take(MIB);
      return taken >= 0;
    },
  };
  memory.wait(waiter);
  await turn();
  equal(taken, -1);
  slab.release(others.pop() as number);
  clock.advance(100);
  ok(taken >= 0);
  memory.release(taken);
  memory.close();
  for (const piece of others) slab.release(piece);
});

test("pieces that are kept for the next burst go back when somebody waits, and all at the end", async () => {
  const { memory, slab } = create(8);
  const outputs = Array.from({ length: 12 }, () => memory.takeOutput());
  for (const piece of outputs) memory.releaseOutput(piece);
  const kept = slab.bytes.length - slab.freeBytes;
  const waiter = { retry: () => true };
  memory.wait(waiter);
  await turn();
  equal(kept - (slab.bytes.length - slab.freeBytes), 8 * OUTPUT_PIECE_BYTES);
  equal(memory.heldCount, 0);
  memory.close();
  equal(slab.freeBytes, slab.bytes.length);
});
