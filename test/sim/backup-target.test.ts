// SPDX-License-Identifier: Apache-2.0
//
// Many who use one backup target at once, in thousands of interleavings (target-world.ts). First the oracle must be able
// to fail: programs that do a single thing wrong are caught within some hundred lives.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { type Mistakes, runWorld } from "./target-world.ts";

const LIVES = 400;
const LIVES_TO_CATCH = 600;

const MISTAKES: Readonly<Record<keyof Mistakes, string>> = {
  trustsTheListing: "a backup that refers to packs which no point reaches",
  sparesNothing: "a backup that leaves what it reaches on the lists",
  looksBeforeItsSession: "a backup that looks before it has a session",
  readsWithoutLease: "a reader without a lease",
  putsTwice: "a store in which two puts of a generation succeed",
  deletesUnlisted: "a prune that believes a listing",
  usesNamesTwice: "two packs of one name",
};

for (const [mistake, what] of Object.entries(MISTAKES)) {
  test(`${what} is found`, async () => {
    for (let seed = 1; seed <= LIVES_TO_CATCH; seed += 1)
      if ((await runWorld(seed, { [mistake]: true })).violation !== undefined) return;
    ok(false, `not in ${LIVES_TO_CATCH} lives`);
  });
}

test("no interleaving of backups, prunes, readers and crashes loses or leaves anything", async () => {
  const sum = { crashes: 0, committed: 0, deleted: 0, refused: 0 };
  for (let seed = 1; seed <= LIVES; seed += 1) {
    const { violation, crashCount, committedCount, deletedCount, refusedCount } =
      await runWorld(seed);
    equal(violation, undefined, `seed ${seed}`);
    sum.crashes += crashCount;
    sum.committed += committedCount;
    sum.deleted += deletedCount;
    sum.refused += refusedCount;
  }
  // It must have been worth looking at.
  ok(sum.crashes > LIVES && sum.committed > 2 * LIVES && sum.deleted > LIVES, JSON.stringify(sum));
});

test("one seed is one schedule", async () => {
  for (const seed of [3, 4]) equal((await runWorld(seed)).digest, (await runWorld(seed)).digest);
});
