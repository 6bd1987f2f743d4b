// SPDX-License-Identifier: Apache-2.0
//
// Waiting for the next bytes: how long is learnt, and that it ends.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BusyPoll, nextWait } from "./busy-poll.ts";

/** The wait after a series of gaps, from none. */
function waitAfter(gapsMicros: readonly number[]): number {
  return gapsMicros.reduce(nextWait, 0);
}

test("the first bytes after a pause don't keep the loop awake, quick ones after them do", () => {
  equal(waitAfter([1e6]), 0);
  equal(waitAfter([1e6, 100]), 50);
  equal(waitAfter([1e6, 100, 100]), 100);
});

test("the loop is never awake for longer than the limit", () => {
  equal(waitAfter(Array<number>(20).fill(10)), 200);
});

test("a client that thinks between requests soon costs nothing", () => {
  const busy = Array<number>(20).fill(10);
  equal(waitAfter([...busy, 1000, 1000, 1000, 1000]), 0);
  ok(waitAfter([...busy, 1000]) > 0, "one pause is no habit");
});

test("a loop that is kept awake comes to rest when nothing more comes", async () => {
  const poll = new BusyPoll(2);
  for (let count = 0; count < 5; count++) poll.touch();
  while (poll.isAwake) await new Promise((resolve) => setTimeout(resolve, 1));
  equal(poll.isAwake, false);
});

test("alone on a core nothing is kept awake", () => {
  const poll = new BusyPoll(1);
  for (let count = 0; count < 5; count++) poll.touch();
  equal(poll.isAwake, false);
});
