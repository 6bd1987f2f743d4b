// SPDX-License-Identifier: Apache-2.0
//
// When a range changed is what a list of all changes says, whether checkpoints came in between or not.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { Prng } from "../sim/prng.ts";
import type { VolumeChanges } from "./types.ts";

const PAGE_BLOCKS = 512;
const BLOCKS = 6 * PAGE_BLOCKS;
const ALL = { from: { kind: "lsn", lsn: 0 }, to: { kind: "now" }, limit: 10_000 } as const;

function placesOf({ changes }: VolumeChanges): number[][] {
  return changes.map(({ lsn, offsetBytes, lengthBytes }) => [
    lsn,
    offsetBytes / BLOCK,
    lengthBytes / BLOCK,
  ]);
}

for (const seed of [1, 2, 3, 4])
  test(`changes of a range are those of a model, seed ${seed}`, async () => {
    const random = new Prng(seed);
    const rig = await PoolRig.create({ segmentBytes: 1 << 20 });
    const { pool } = rig;
    await pool.createVolume("db", BLOCKS * BLOCK);
    const done: { readonly lsn: number; readonly lba: number; readonly count: number }[] = [];
    for (let step = 0; step < 300; step++) {
      const count =
        random.below(20) === 0 ? 1 + random.below(3 * PAGE_BLOCKS) : 1 + random.below(9);
      const lba = random.below(BLOCKS - count);
      const lsn = pool.log.nextLsn;
      if (count > 9) await rig.trim("db", lba * BLOCK, count * BLOCK);
      else if (random.below(8) === 0) await rig.zero("db", lba * BLOCK, count * BLOCK);
      else await rig.write("db", lba * BLOCK, noise(step, count * BLOCK));
      equal(pool.log.nextLsn, lsn + 1, "one record");
      done.push({ lsn, lba, count });
      if (random.below(70) === 0) await pool.checkpoint();
    }
    for (let look = 0; look < 60; look++) {
      const lba = random.below(BLOCKS);
      const end = Math.min(BLOCKS, lba + 1 + random.below(look % 3 === 0 ? BLOCKS : 20));
      const [first, last] = [random.below(300), random.below(300)].sort((a, b) => a - b) as [
        number,
        number,
      ];
      const limit = look % 2 === 0 ? 10_000 : 1 + random.below(20);
      const from = { kind: "lsn", lsn: done[first]?.lsn as number } as const;
      const to = { kind: "lsn", lsn: done[last]?.lsn as number } as const;
      const asked = { from, to, limit, offsetBytes: lba * BLOCK, lengthBytes: (end - lba) * BLOCK };
      const found = await pool.changes("db", asked);
      const wanted = done
        .filter((one) => one.lsn > from.lsn && one.lsn <= to.lsn)
        .filter((one) => one.lba < end && one.lba + one.count > lba)
        .reverse();
      deepEqual(
        placesOf(found),
        wanted.slice(0, limit).map((one) => {
          const begin = Math.max(lba, one.lba);
          return [one.lsn, begin, Math.min(end, one.lba + one.count) - begin];
        }),
      );
      equal(found.isMore, wanted.length > limit);
      ok(found.changes.every(({ timeMicros }) => timeMicros > 0));
    }
    await rig.close();
  });

test("a rewind is a change of everything, and what it left is part of the search", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  await pool.createVolume("db", BLOCKS * BLOCK);
  await rig.write("db", 0, noise(1, BLOCK));
  const lsn = pool.log.nextLsn - 1;
  await rig.write("db", 0, noise(2, BLOCK));
  await rig.write("db", 10 * BLOCK, noise(2, BLOCK));
  await pool.rewind("db", { kind: "lsn", lsn });
  const rewound = pool.log.nextLsn - 1;
  await rig.write("db", 512, noise(3, 512));
  const range = { offsetBytes: 512, lengthBytes: 100 };
  const { changes, knownFromLsn } = await pool.changes("db", { ...ALL, ...range });
  deepEqual(
    changes.map((one) => [one.lsn, one.isBranch]),
    [
      [rewound + 1, false],
      [rewound, true],
      [lsn + 1, false],
      [lsn, false],
    ],
  );
  deepEqual(
    changes.map((one) => [one.offsetBytes, one.lengthBytes]),
    Array(4).fill([512, 100]),
  );
  ok(knownFromLsn < lsn);
  await rig.close();
});

test("what the lists have let go of is said, not left out in silence", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  const spans = { hourlyMicros: 0, dailyMicros: 0, weeklyMicros: 0, monthlyMicros: 0 };
  await pool.setPolicy({ retention: { everyWriteMicros: 0, ...spans } });
  await pool.createVolume("db", BLOCKS * BLOCK);
  await rig.write("db", 0, noise(1, BLOCK));
  await pool.checkpoint();
  const cut = pool.log.nextLsn;
  await rig.write("db", 0, noise(2, BLOCK));
  const found = await pool.changes("db", { ...ALL, offsetBytes: 0, lengthBytes: BLOCK });
  deepEqual(
    found.changes.map((one) => one.lsn),
    [cut],
  );
  equal(found.knownFromLsn, cut);
  await rig.close();
});
