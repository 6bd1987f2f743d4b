// SPDX-License-Identifier: Apache-2.0
//
// What a damaged pool still gives: the content up to the place where its log broke, or what a checkpoint behind that
// knows, without what was in the damaged places themselves. Never content that wasn't there at one moment.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { suite, test } from "node:test";
import { readCheckpoints } from "../../src/index/checkpoint-loader.ts";
import { runName } from "../../src/index/run-file.ts";
import { FileStore } from "../../src/log/file-store.ts";
import { readLogBegin } from "../../src/log/log-begin.ts";
import { catVolume, type DumpLine, dumpLog } from "../../src/log/log-dump.ts";
import { segmentName, segmentNumberOf } from "../../src/log/segment.ts";
import { giveContent, type LostRange } from "../../src/log/volume-content.ts";
import { poolIdBytes, readIdentity } from "../../src/pool/identity.ts";
import { type Salvage, salvagePool } from "../../src/pool/salvage.ts";
import { BlockMemory, shapeOf } from "../../src/reduce/block-memory.ts";
import { BLOCK, newHost, noise, type PoolFiles, PoolRig, sameBytes } from "./memory-rig.ts";
import { newestRun } from "./run-files.ts";

const MIB = 1 << 20;
const COUNT = 64;
const memory = new BlockMemory(shapeOf(64 * MIB));

/** A volume of which block N is noise(N), each flushed; a checkpoint behind block `checkpointAt`. */
async function makePool(checkpointAt = -1): Promise<PoolFiles> {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  for (let block = 0; block < COUNT; block++) {
    await rig.write("a", block * BLOCK, noise(block, BLOCK));
    await rig.flush("a");
    if (block === checkpointAt) await rig.pool.checkpoint();
  }
  return rig.kill();
}

interface Given extends Salvage {
  readonly content: Uint8Array;
  readonly lost: readonly LostRange[];
}

async function salvage(files: PoolFiles): Promise<Given> {
  const host = newHost(files);
  const { root, log } = host;
  const freeBytes = memory.staging.freeBytes;
  const found = await salvagePool({
    memory,
    log,
    poolId: poolIdBytes(await readIdentity(root)),
  });
  const volume = found.state.volumeNamed("a");
  const map = found.state.mapOf(volume);
  const content = new Uint8Array(volume.sizeBytes);
  const lost: LostRange[] = [];
  await giveContent({
    memory,
    log,
    zstd: host.zstd,
    volume,
    map,
    moves: found.state.moves,
    onContent: (bytes, offset) => Promise.resolve(content.set(bytes, offset)),
    onLost: (range) => lost.push(range),
  });
  deepEqual(log.files(), files.log, "salvaging changes nothing");
  equal(log.openCount, 0);
  equal(memory.staging.freeBytes, freeBytes, "no memory is kept");
  return { ...found, content, lost };
}

/** What the volume holds without these blocks. */
function contentWithout(isMissing: (block: number) => boolean): Uint8Array {
  const content = new Uint8Array(MIB);
  for (let block = 0; block < COUNT; block++)
    if (!isMissing(block)) content.set(noise(block, BLOCK), block * BLOCK);
  return content;
}

function segmentNames(files: PoolFiles): string[] {
  return [...files.log.keys()].filter((name) => segmentNumberOf(name) >= 0).sort();
}

/** Where a block's content is. */
function placeOf(files: PoolFiles, block: number): { name: string; offset: number } {
  for (const name of segmentNames(files)) {
    const offset = Buffer.from(files.log.get(name) as Uint8Array).indexOf(noise(block, BLOCK));
    if (offset >= 0) return { name, offset };
  }
  throw new Error(`block ${block} is in no segment`);
}

function flipped(files: PoolFiles, name: string, offset: number): PoolFiles {
  const bytes = (files.log.get(name) as Uint8Array).slice();
  bytes[offset] = (bytes[offset] as number) ^ 4;
  return { ...files, log: new Map([...files.log, [name, bytes]]) };
}

function without(files: PoolFiles, name: string): PoolFiles {
  return { ...files, log: new Map([...files.log].filter(([other]) => other !== name)) };
}

/** Of the batch that holds the block's frame: the frame's header is 24 bytes, the batch's 128. */
function headerOf(files: PoolFiles, block: number): { name: string; offset: number } {
  const { name, offset } = placeOf(files, block);
  return { name, offset: offset - 24 - 128 };
}

/** Its footer would tell the records as well: in a segment that isn't sealed there is none. */
const LAST = COUNT - 3;

suite("what is given back", () => {
  test("a damaged batch header ends the content before its records, and says where", async () => {
    const files = await makePool();
    const { name, offset } = headerOf(files, LAST);
    const given = await salvage(flipped(files, name, offset + 60));
    sameBytes(
      given.content,
      contentWithout((block) => block >= LAST),
    );
    deepEqual(given.lost, []);
    equal(given.damage?.code, "LOG_CORRUPT");
    equal(given.reach.segmentNumber, segmentNumberOf(name));
    equal(given.reach.offset, offset);
    equal(given.damage?.data.lsn, given.reach.nextLsn);
    ok(given.reach.timeMicros > 0);
  });

  test("a damaged record ends the content before its batch", async () => {
    const files = await makePool();
    const { name, offset } = placeOf(files, LAST);
    const given = await salvage(flipped(files, name, offset + BLOCK + 9));
    sameBytes(
      given.content,
      contentWithout((block) => block >= LAST),
    );
    equal(given.damage?.code, "LOG_CORRUPT");
  });

  test("a damaged frame is zeros, and all others are there", async () => {
    const files = await makePool();
    const { name, offset } = placeOf(files, 7);
    const given = await salvage(flipped(files, name, offset + 100));
    sameBytes(
      given.content,
      contentWithout((block) => block === 7),
    );
    deepEqual(given.lost, [{ start: 7 * BLOCK, end: 8 * BLOCK, reason: "wrong checksum" }]);
    equal(given.damage, undefined);
  });

  test("a missing segment in the middle ends the content before it", async () => {
    const files = await makePool();
    const gone = segmentNames(files)[2] as string;
    const given = await salvage(without(files, gone));
    const first = Array.from({ length: COUNT }, (_, block) => block).find(
      (block) => placeOf(files, block).name === gone,
    );
    sameBytes(
      given.content,
      contentWithout((block) => block >= (first as number)),
    );
    equal(given.damage?.code, "LOG_CORRUPT");
    equal(given.damage?.data.lsn, given.reach.nextLsn);
  });

  test("a missing segment below a checkpoint takes only the blocks that it held", async () => {
    const files = await makePool(COUNT - 8);
    const gone = segmentNames(files)[1] as string;
    const held = (block: number): boolean => placeOf(files, block).name === gone;
    const given = await salvage(without(files, gone));
    sameBytes(given.content, contentWithout(held));
    const lost = Array.from({ length: COUNT }, (_, block) => block).filter(held);
    deepEqual(given.lost, [
      {
        start: (lost[0] as number) * BLOCK,
        end: ((lost.at(-1) as number) + 1) * BLOCK,
        reason: `segment ${gone} is missing`,
      },
    ]);
    equal(given.damage?.code, "LOG_CORRUPT");
    equal(given.reach.damage, undefined);
    ok(given.cutLsn !== undefined);
  });

  test("the first segment may be the missing one", async () => {
    const files = await makePool(COUNT - 8);
    const [gone] = segmentNames(files);
    const given = await salvage(without(files, gone as string));
    sameBytes(
      given.content,
      contentWithout((block) => placeOf(files, block).name === gone),
    );
    match(given.damage?.message ?? "", /it is missing/);
  });

  test("a damaged page of that checkpoint is told, but for what was written since", async () => {
    const files = await makePool(COUNT - 8);
    const broken = flipped(files, newestRun(files), 4096 + 40);
    const given = await salvage(without(broken, segmentNames(files)[1] as string));
    sameBytes(
      given.content,
      contentWithout((block) => block <= COUNT - 8),
    );
    const reason = "its page of the index is damaged";
    deepEqual(given.lost, [
      { start: 0, end: (COUNT - 7) * BLOCK, reason },
      { start: COUNT * BLOCK, end: MIB, reason },
    ]);
  });

  test("a log that was cut off below a checkpoint is read from that", async () => {
    const files = await makePool(COUNT - 1);
    const { cut } = await newestBody(files);
    const isGone = (name: string): boolean => segmentNumberOf(name) >= cut.segmentNumber;
    const kept = segmentNames(files).filter(isGone).reduce(without, files);
    const given = await salvage(kept);
    sameBytes(
      given.content,
      contentWithout((block) => isGone(placeOf(files, block).name)),
    );
    ok(given.lost.length > 0);
    match(given.damage?.message ?? "", /cut off before LSN \d+: a checkpoint/);
    equal(given.reach.nextLsn, cut.nextLsn);
  });
});

suite("what is given back after garbage was collected", () => {
  /** Most of it is in every block: cold ones end up together in one frame. */
  function alike(seed: number): Uint8Array {
    const bytes = noise(1, BLOCK).slice();
    bytes.set(noise(seed + 1000, BLOCK / 4));
    return bytes;
  }

  interface Collected {
    readonly files: PoolFiles;
    readonly content: Uint8Array;
  }

  /** Blocks written several times, moved, and some written since the newest checkpoint. */
  async function collected(everyWriteMicros: number | null): Promise<Collected> {
    const rig = await PoolRig.create();
    await rig.pool.setPolicy({ retention: { everyWriteMicros } });
    await rig.pool.createVolume("a", MIB);
    const content = new Uint8Array(MIB);
    const write = async (block: number, seed: number): Promise<void> => {
      content.set(alike(seed), block * BLOCK);
      await rig.write("a", block * BLOCK, alike(seed));
      if (seed % 5 === 0) await rig.flush("a");
    };
    for (let seed = 0; seed < 300; seed++) await write((seed * 7) % 100, seed);
    await rig.pool.collect({ isDryRun: false });
    for (let seed = 300; seed < 330; seed++) await write((seed * 3) % 110, seed);
    await rig.pool.checkpoint();
    for (let seed = 330; seed < 340; seed++) await write(seed - 250, seed);
    await rig.flush("a");
    return { files: rig.kill(), content };
  }

  function segmentsIn(files: PoolFiles): number[] {
    return segmentNames(files).map(segmentNumberOf);
  }

  function withoutCheckpoints(files: PoolFiles): PoolFiles {
    const names = [...files.log.keys()].filter((name) => /^checkpoint-|run$/.test(name));
    return names.reduce(without, files);
  }

  test("the log gives all, from its beginning, where the records of gone segments stay", async () => {
    const { files, content } = await collected(null);
    ok([...files.log.keys()].filter((name) => name.endsWith(".rec")).length > 3);
    ok(!segmentsIn(files).includes(1));
    for (const each of [files, withoutCheckpoints(files)]) {
      const given = await salvage(each);
      sameBytes(given.content, content);
      deepEqual([given.lost, given.damage, given.cutLsn], [[], undefined, undefined]);
    }
    const { root, log, zstd } = newHost(files);
    const found = new Uint8Array(MIB);
    const onContent = (bytes: Uint8Array, offset: number): Promise<void> =>
      Promise.resolve(found.set(bytes, offset));
    const poolId = poolIdBytes(await readIdentity(root));
    await catVolume({ log, poolId, zstd, volume: "a", onContent });
    sameBytes(found, content);
  });

  test("a log that begins late gives all from a checkpoint on", async () => {
    const { files, content } = await collected(0);
    ok(!segmentsIn(files).includes(1));
    const given = await salvage(files);
    sameBytes(given.content, content);
    deepEqual([given.lost, given.damage], [[], undefined]);
    ok(given.cutLsn !== undefined);
  });

  test("a log that begins late is told from where it begins, with what is gone", async () => {
    const { files } = await collected(0);
    const { root, log } = newHost(files);
    const lines: DumpLine[] = [];
    const poolId = poolIdBytes(await readIdentity(root));
    await dumpLog({ log, poolId }, (line) => lines.push(line));
    const [first] = lines;
    ok(first?.type === "gap" && first.segment === segmentsIn(files)[0] && first.lsn > 1);
    const records = lines.flatMap((line) => (line.type === "record" ? [line.lsn] : []));
    ok(records.length > 50);
    equal(records[0], first.lsn);
    const shared = lines.find(
      (line) => line.type === "record" && (line.references?.length ?? 0) > 9,
    );
    ok(shared?.type === "record" && shared.kind === "relocated" && shared.place !== undefined);
  });

  test("its older checkpoint gives what the newest one lost", async () => {
    const { files, content } = await collected(0);
    const given = await salvage(flipped(files, newestRun(files), 4096 + 40));
    sameBytes(given.content, content);
    deepEqual([given.lost, given.damage], [[], undefined]);
    const none = await salvagePool(await sourceOf(withoutCheckpoints(files)));
    match(none.damage?.message ?? "", /^log: it begins at LSN \d+, and no checkpoint/);
    equal(none.state.volumes.size, 0);
  });

  test("a damaged frame that blocks share loses all of them, and no others", async () => {
    const { files, content } = await collected(null);
    const { root, log } = newHost(files);
    const lines: DumpLine[] = [];
    const poolId = poolIdBytes(await readIdentity(root));
    await dumpLog({ log, poolId }, (line) => lines.push(line));
    const moved = lines.filter(
      (line) => line.type === "record" && (line.references?.length ?? 0) > 9,
    );
    const [segment, offset] = ((moved.at(-1) as { place?: string }).place ?? "").split(":");
    const broken = flipped(files, segmentName(Number(segment)), Number(offset) + 300);
    const given = await salvage(broken);
    const lost = new Set<number>();
    for (const { start, end, reason } of given.lost) {
      equal(reason, "wrong checksum");
      for (let at = start; at < end; at += BLOCK) lost.add(at / BLOCK);
    }
    ok(lost.size > 0 && lost.size < 60, `${lost.size} blocks`);
    const wanted = content.slice();
    for (const block of lost) wanted.fill(0, block * BLOCK, (block + 1) * BLOCK);
    sameBytes(given.content, wanted);
    equal(given.damage, undefined);
  });

  test("a segment that nobody let go is missed, whatever was let go before it", async () => {
    const { files } = await collected(0);
    const numbers = segmentsIn(files);
    const { cut } = await newestBody(files);
    const letGo = await readLogBegin({
      memory,
      directory: newHost(files).log,
      poolId: (await sourceOf(files)).poolId,
    });
    ok(letGo.lateStart !== undefined && letGo.highestLetGo > 1);
    const missing = numbers.filter((number) => number >= cut.segmentNumber);
    for (const number of missing.slice(0, -1)) {
      ok(number > letGo.highestLetGo);
      const found = await salvagePool(await sourceOf(without(files, segmentName(number))));
      equal(found.damage?.code, "LOG_CORRUPT", `segment ${number}`);
    }
  });

  async function sourceOf(files: PoolFiles): Promise<Parameters<typeof salvagePool>[0]> {
    const { root, log } = newHost(files);
    return { memory, log, poolId: poolIdBytes(await readIdentity(root)) };
  }
});

async function newestBody(
  files: PoolFiles,
): Promise<{ cut: { segmentNumber: number; nextLsn: number } }> {
  const { root, log } = newHost(files);
  const runs = new FileStore(log, runName, 4);
  const poolId = poolIdBytes(await readIdentity(root));
  const { checkpoints } = await readCheckpoints({ memory, directory: log, runs, poolId });
  await runs.closeAll();
  const [newest] = checkpoints;
  if (newest === undefined) throw new Error("there is no checkpoint");
  return newest.body;
}
