// SPDX-License-Identifier: Apache-2.0
//
// Damage at rest: after an orderly end one bit of one file turns over. Whatever it hits, nobody is ever
// shown a wrong byte: the pool says what is damaged and doesn't open, or it opens, and each read gives the
// right content or an error.

import { ok } from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../../src/base/errors.ts";
import type { PoolUnderTest } from "../../src/sim/pool-under-test.ts";
import { Rig } from "../../src/sim/rig.ts";
import { poolDriver } from "./pool-driver.ts";
import { pump } from "./pump.ts";
import { Session } from "./script.ts";

const ROUNDS = 400;
const BLOCK = 4096;
const SIZE_BYTES = 1 << 20;

async function fill(rig: Rig): Promise<void> {
  const session = new Session(rig, await rig.recover());
  await session.create("a", SIZE_BYTES);
  for (let round = 0; round < 3; round++) {
    await session.write("a", { offsetBytes: round * BLOCK, lengthBytes: 5 * BLOCK });
    await session.write("a", { offsetBytes: 40 * BLOCK + 512 * round, lengthBytes: 512 });
    await session.trim("a", { offsetBytes: 2 * BLOCK, lengthBytes: BLOCK });
    await session.checkpoint();
    await session.write("a", { offsetBytes: 60 * BLOCK, lengthBytes: (round + 1) * BLOCK });
  }
  await session.close();
  rig.machine.crash("kill");
  rig.noteCrash();
}

/** Turns one bit over; says where. */
function damage(rig: Rig): string {
  const { prng, disk } = rig.machine;
  const paths = disk.paths().filter((path) => disk.file(path).sizeBytes > 0);
  const path = prng.pick(paths);
  const position = prng.below(disk.file(path).sizeBytes);
  disk.file(path).flipBit(position, prng.below(8));
  return `${path} at ${position}`;
}

async function readAll(rig: Rig, pool: PoolUnderTest): Promise<number> {
  let errorCount = 0;
  for (let offsetBytes = 0; offsetBytes < 80 * BLOCK; offsetBytes += BLOCK) {
    const read = rig.read(pool, "a", { offsetBytes, lengthBytes: BLOCK });
    const outcome = await rig.wait("a read ends", read);
    if (outcome !== "down" && "value" in outcome && outcome.value !== 0) errorCount += 1;
  }
  return errorCount;
}

test("a flipped bit anywhere is never shown to anybody", async (context) => {
  const counts = { refused: 0, "read errors": 0, harmless: 0 };
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const rig = new Rig({ seed, driver: poolDriver(), pump });
    await fill(rig);
    const where = damage(rig);
    const opened = await rig.open();
    try {
      if (opened !== "down" && "value" in opened) {
        ok(
          opened.value.volumes().some(({ name }) => name === "a"),
          "the volume is gone",
        );
        const errorCount = await readAll(rig, opened.value);
        counts[errorCount > 0 ? "read errors" : "harmless"] += 1;
      } else {
        const error = opened === "down" ? undefined : opened.error;
        ok(error instanceof StorageError && error.code !== "INTERNAL", String(error));
        counts.refused += 1;
      }
    } catch (error) {
      throw new Error(`seed ${seed}, damage in ${where}: ${String(error)}`, { cause: error });
    }
  }
  context.diagnostic(JSON.stringify(counts));
  ok(counts.refused > 0 && counts["read errors"] > 0 && counts.harmless > 0);
});
