// SPDX-License-Identifier: Apache-2.0
//
// The map of changes over a real pool, against a model that keeps what every moment held: of the live disk while it is
// written, and of views; since any moment, on either side of rewinds; whole, in parts, and extent by extent; while
// checkpoints are taken, garbage is collected, and history is let go.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BLOCK, PoolRig } from "../../test/crash/memory-rig.ts";
import { hasCode } from "../base/errors.ts";
import type { OpenContext } from "../nbd/block-device.ts";
import { Prng } from "../sim/prng.ts";
import { VolumeCatalog } from "./catalog.ts";
import { ClientRegistry } from "./clients.ts";
import { EventLog } from "./event-log.ts";
import { SINCE } from "./since-contexts.ts";
import { TemporaryVolumes } from "./temporary-volumes.ts";

/** Behind a chunk of the index, which is also where a look ends. */
const BLOCKS = 1024 * 512 + 700;
const PLACES = [0, 500, 1024, 1024 * 512 - 10, BLOCKS - 60];
const NOTHING = {
  everyWriteMicros: 0,
  hourlyMicros: 0,
  dailyMicros: 0,
  weeklyMicros: 0,
  monthlyMicros: 0,
};

class Rig {
  readonly prng: Prng;
  readonly catalog: VolumeCatalog;
  readonly #rig: PoolRig;
  /** By block: 0 reads as zeros. */
  #now = new Uint8Array(BLOCKS);
  readonly #named: { readonly name: string; readonly held: Uint8Array }[] = [];

  constructor(seed: number, rig: PoolRig) {
    this.prng = new Prng(seed);
    this.#rig = rig;
    const { pool } = rig;
    const { clock, logger } = rig.host;
    const events = new EventLog(clock, logger);
    const clients = new ClientRegistry();
    const temporary = new TemporaryVolumes({ pool, clients, events });
    this.catalog = new VolumeCatalog({ pool, past: pool, clients, events, clock, temporary });
  }

  async step(): Promise<void> {
    const { pool } = this.#rig;
    const chance = this.prng.below(100);
    if (chance < 50) await this.change();
    else if (chance < 65 || this.#named.length === 0) await this.name();
    else if (chance < 69) await this.rewind();
    else if (chance < 74) await pool.checkpoint();
    else if (chance < 77) await pool.collect({ isDryRun: false });
    else await this.look();
  }

  async change(): Promise<void> {
    const { prng } = this;
    const first = prng.pick(PLACES) + prng.below(50);
    const count = Math.min(BLOCKS - first, prng.skewed(40));
    const range = [first * BLOCK, count * BLOCK] as const;
    const content = prng.below(4);
    if (content > 0) {
      const bytes = new Uint8Array(range[1]).fill(content);
      equal(await this.#rig.write("db", range[0], bytes), 0);
    } else if (prng.chance(0.5)) equal(await this.#rig.zero("db", ...range), 0);
    else equal(await this.#rig.trim("db", ...range), 0);
    this.#now.fill(content, first, first + count);
  }

  async name(): Promise<void> {
    const name = `m${this.#named.length}`;
    await this.#rig.pool.snapshot([{ volume: "db", name }]);
    this.#named.push({ name, held: this.#now.slice() });
  }

  async rewind(): Promise<void> {
    const { name, held } = this.prng.pick(this.#named);
    await this.#rig.pool.rewind("db", { kind: "name", name });
    this.#now = held.slice();
  }

  async look(): Promise<void> {
    const { prng } = this;
    const from = prng.pick(this.#named);
    const to = prng.chance(0.5) ? undefined : prng.pick(this.#named);
    const found = await this.catalog.find(to === undefined ? "db" : `db@${to.name}`);
    const context = await (await found.findContext(`${SINCE}${from.name}`))?.open();
    ok(context !== undefined);
    const countMax = prng.pick([1, 2, 1e6]);
    const first = prng.chance(0.5) ? 0 : prng.pick(PLACES) + prng.below(40);
    const end = prng.chance(0.5) ? BLOCKS : Math.min(BLOCKS, first + 1 + prng.below(90));
    for (let at = first; at < end; ) {
      const told = await ask(context, at, end - at, countMax);
      const held = to?.held ?? this.#now;
      for (const { count, isDirty } of told) {
        ok(count > 0 && at + count <= end);
        for (let block = at; block < at + count; block++)
          if ((held[block] !== from.held[block]) !== isDirty)
            equal(isDirty, !isDirty, `block ${block} of ${to?.name ?? "now"} since ${from.name}`);
        at += count;
      }
      ok(told.length > 0, "every answer gets on");
      if (to === undefined && prng.chance(0.3)) await this.change();
    }
    context.close();
  }
}

/** What is told of blocks: at most `countMax` extents, of which neighbours differ. */
async function ask(
  context: OpenContext,
  first: number,
  blockCount: number,
  countMax: number,
): Promise<{ count: number; isDirty: boolean }[]> {
  const told: { count: number; isDirty: boolean }[] = [];
  let left = blockCount;
  const errno = await new Promise<number>((complete) => {
    const range = { offsetBytes: first * BLOCK, lengthBytes: blockCount * BLOCK };
    context.blockStatus(
      { ...range, address: 0, isForceUnitAccess: false, complete },
      {
        add: (lengthBytes, flags) => {
          const count = lengthBytes / BLOCK;
          const isDirty = flags === 1;
          const last = told.at(-1);
          if (last?.isDirty === isDirty) last.count += count;
          else if (told.length === countMax) return false;
          else told.push({ count, isDirty });
          left -= count;
          return left > 0;
        },
      },
    );
  });
  equal(errno, 0);
  return told;
}

async function run(seed: number): Promise<void> {
  const prng = new Prng(seed);
  const settings = {
    segmentBytes: prng.pick([65536, 1 << 20]),
    checkpointChanges: prng.pick([64, 512, 1 << 20]),
  };
  const pool = await PoolRig.create(settings);
  if (prng.chance(0.5)) await pool.pool.setPolicy({ retention: NOTHING });
  await pool.pool.createVolume("db", BLOCKS * BLOCK);
  const rig = new Rig(seed, pool);
  for (let step = 0; step < 70; step++) await rig.step();
  for (let each = 0; each < 8; each++) await rig.look();
  deepEqual(rig.catalog.viewCount, 0);
  await pool.close();
}

test("an open context keeps its moment from going, and one that went is refused", async () => {
  const pool = await PoolRig.create({ segmentBytes: 65536 });
  await pool.pool.setPolicy({ retention: NOTHING });
  await pool.pool.createVolume("db", BLOCKS * BLOCK);
  const rig = new Rig(1, pool);
  const write = (block: number, byte: number): Promise<number> =>
    pool.write("db", block * BLOCK, new Uint8Array(BLOCK).fill(byte));
  for (const block of [1, 3]) equal(await write(block, 1), 0);
  const [named] = await pool.pool.snapshot([{ volume: "db", name: "v1" }]);
  const db = await rig.catalog.find("db");
  const context = await (await db.findContext(`${SINCE}v1`))?.open();
  ok(context !== undefined && named !== undefined);
  await pool.pool.removeSnapshot({ volume: "db", name: "v1" });
  for (let count = 0; count < 3; count++) {
    for (const block of [1, 2]) equal(await write(block, 2 + count), 0);
    await pool.pool.checkpoint();
    await pool.pool.collect({ isDryRun: false });
  }
  const expected = [
    { count: 1, isDirty: false },
    { count: 2, isDirty: true },
    { count: 7, isDirty: false },
  ];
  deepEqual(await ask(context, 0, 10, 10), expected);
  context.close();
  equal(await write(5, 1), 0);
  await pool.pool.checkpoint();
  await rejects(db.findContext(`${SINCE}#${named.lsn}`), (error) => hasCode(error, "MOMENT_GONE"));
  await pool.close();
});

test("the map of what changed is the model's, to the block, whoever asks for it how", async () => {
  await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), run), {
    numRuns: 4,
    endOnFailure: true,
  });
});
