// SPDX-License-Identifier: Apache-2.0
//
// Clones and rewound disks read from a pool's files without the pool: by the log alone, and where garbage collection let
// its beginning go, from a checkpoint, its history and the records behind it.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { parseMoment } from "../../src/base/moment.ts";
import { readLogBegin } from "../../src/log/log-begin.ts";
import { catVolume } from "../../src/log/log-dump.ts";
import { giveContent } from "../../src/log/volume-content.ts";
import { poolIdBytes, readIdentity } from "../../src/pool/identity.ts";
import { salvagePool } from "../../src/pool/salvage.ts";
import { BlockMemory, shapeOf } from "../../src/reduce/block-memory.ts";
import {
  BLOCK,
  checkFiles,
  newHost,
  noise,
  type PoolFiles,
  PoolRig,
  sameBytes,
} from "./memory-rig.ts";

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const memory = new BlockMemory(shapeOf(24 * MIB));

/** What each volume holds: a seed of noise per block. */
type Wanted = Map<string, Map<number, number>>;

function contentOf(blocks: ReadonlyMap<number, number>): Uint8Array {
  const content = new Uint8Array(SIZE);
  for (const [block, seed] of blocks) content.set(noise(seed, BLOCK), block * BLOCK);
  return content;
}

/** The volumes as salvaging the files gives them. */
async function expectSalvaged(files: PoolFiles, wanted: Wanted): Promise<number | undefined> {
  const { root, log, zstd } = newHost(files);
  const poolId = poolIdBytes(await readIdentity(root));
  const { state, damage, cutLsn } = await salvagePool({ memory, log, poolId });
  equal(damage, undefined);
  for (const [name, blocks] of wanted) {
    const volume = state.volumeNamed(name);
    const found = new Uint8Array(volume.sizeBytes);
    await giveContent({
      ...{ memory, log, zstd, volume, map: state.mapOf(volume), moves: state.moves },
      onContent: (bytes, offset) => Promise.resolve(found.set(bytes, offset)),
    });
    sameBytes(found, contentOf(blocks), name);
  }
  equal(log.openCount, 0);
  return cutLsn;
}

/** Two clones and a rewind, of moments before and behind the newest checkpoint's cut; and what came after them. */
async function branched(rig: PoolRig): Promise<Wanted> {
  const at = parseMoment;
  const wanted: Wanted = new Map();
  const first = new Map<number, number>();
  await rig.pool.createVolume("a", SIZE);
  const put = async (name: string, block: number, seed: number): Promise<void> => {
    equal(await rig.write(name, block * BLOCK, noise(seed, BLOCK)), 0);
    wanted.get(name)?.set(block, seed);
  };
  wanted.set("a", first);
  for (let block = 0; block < 40; block++) await put("a", block * 40, block + 1);
  await rig.pool.snapshot([{ volume: "a", name: "v1" }]);
  const v1 = new Map(first);
  for (let block = 0; block < 40; block++) await put("a", block * 40 + 1, block + 101);
  await rig.pool.checkpoint();
  for (let round = 0; round < 3; round++)
    for (let block = 0; block < 40; block++) await put("a", block * 40, round * 100 + block + 201);
  await rig.pool.checkpoint();
  await rig.pool.collect({ isDryRun: false });
  await rig.pool.checkpoint();
  await rig.pool.clone("a", at("v1"), "early");
  wanted.set("early", new Map(v1));
  await put("early", 40, 900);
  await rig.pool.clone("early", at("now"), "copy");
  wanted.set("copy", new Map(wanted.get("early")));
  await put("early", 41, 901);
  await rig.pool.checkpoint();
  await put("copy", 3, 902);
  await rig.pool.checkpoint();
  await put("a", 7, 903);
  await rig.pool.clone("a", at("v1"), "late");
  wanted.set("late", new Map(v1));
  await put("late", 1599, 904);
  await rig.pool.rewind("early", at("now"));
  await put("early", 2, 905);
  await rig.pool.removeVolume("copy");
  wanted.delete("copy");
  await rig.flush("late");
  return wanted;
}

test("clones and rewound disks are given back by the log alone", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: null } });
  const wanted = await branched(rig);
  const files = rig.kill();
  deepEqual((await checkFiles(files)).findings, []);
  equal(await expectSalvaged(files, wanted), undefined);
  for (const [name, blocks] of wanted) {
    const { root, log, zstd } = newHost(files);
    const poolId = poolIdBytes(await readIdentity(root));
    const found = new Uint8Array(SIZE);
    const onContent = (bytes: Uint8Array, offset: number): Promise<void> =>
      Promise.resolve(found.set(bytes, offset));
    await catVolume({ log, poolId, zstd, volume: name, onContent });
    sameBytes(found, contentOf(blocks), name);
  }
});

test("where the log begins late they are given back with the history of a checkpoint", async () => {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros: 0 } });
  const wanted = await branched(rig);
  const files = rig.kill();
  const { root, log } = newHost(files);
  const poolId = poolIdBytes(await readIdentity(root));
  const { lateStart } = await readLogBegin({ memory, directory: log, poolId });
  ok(lateStart !== undefined, "the log begins late");
  const cutLsn = await expectSalvaged(files, wanted);
  ok(cutLsn !== undefined);
  const report = await checkFiles(files);
  deepEqual(report.findings, []);
  ok(report.blocksCompared > 150, `${report.blocksCompared}`);
});
