// SPDX-License-Identifier: Apache-2.0
//
// Damage in what is kept of the past: nodes of every kind in every run and change list, turned over one at a time. Volumes, clones
// and moments are what they were, or an error that names the place; and while the log is whole there is no error.

import { equal, match, ok } from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../../src/base/errors.ts";
import { parseMoment } from "../../src/base/moment.ts";
import { BLOCK, noise, type PoolFiles, PoolRig, sameBytes } from "./memory-rig.ts";
import { nodesOf } from "./run-files.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;
const EIO = 5;
const SIZE = 8 * MIB;
const PAGE_BYTES = 2 * MIB;
const KINDS = [1, 2, 3, 4, 5, 6, 7, 8, 9];
const LIST_KINDS = [6, 7, 8, 9];
const PLACE = /^index: (page \d+ of branch|changes of branch|[0-9a-f]{16}\.run, offset) \d+/;

interface Remembered {
  readonly volume: string;
  /** "now", or a snapshot. */
  readonly moment: string;
  readonly content: Uint8Array;
}

interface History {
  readonly files: PoolFiles;
  readonly moments: readonly Remembered[];
}

/** Volumes and what they held: written, trimmed, cloned, rewound and checkpointed, with some hours between. */
async function makeHistory(everyWriteMicros: number | null): Promise<History> {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({ retention: { everyWriteMicros } });
  await rig.pool.createVolume("a", SIZE);
  const contents = new Map([["a", new Uint8Array(SIZE)]]);
  const moments: Remembered[] = [];
  let seed = 0;
  const put = async (volume: string, block: number): Promise<void> => {
    seed += 1;
    await rig.write(volume, block * BLOCK, noise(seed, BLOCK));
    contents.get(volume)?.set(noise(seed, BLOCK), block * BLOCK);
  };
  const remember = async (volume: string): Promise<void> => {
    const moment = `v${moments.length + 1}`;
    await rig.pool.snapshot([{ volume, name: moment }]);
    moments.push({ volume, moment, content: (contents.get(volume) as Uint8Array).slice() });
  };
  const branch = async (volume: string, from: Remembered, isClone: boolean): Promise<void> => {
    const moment = parseMoment(from.moment);
    if (isClone) await rig.pool.clone(from.volume, moment, volume);
    else await rig.pool.rewind(volume, moment);
    contents.set(volume, from.content.slice());
  };
  const checkpoint = async (): Promise<void> => {
    rig.host.clock.wallOffsetMicros += 2 * HOUR;
    await rig.flush("a");
    await rig.pool.checkpoint();
  };
  for (let step = 0; step < 6; step++) {
    // One page is never changed again, one only by trims, the others each time.
    if (step === 0) for (const block of [1600, 1601, 1100]) await put("a", block);
    for (let block = 0; block < 4; block++) await put("a", block * 130 + step);
    if (step % 2 === 1) await remember("a");
    await rig.trim("a", PAGE_BYTES + step * 16 * BLOCK, PAGE_BYTES + 8 * BLOCK);
    const content = contents.get("a") as Uint8Array;
    const start = PAGE_BYTES + step * 16 * BLOCK;
    content.fill(0, start, start + PAGE_BYTES + 8 * BLOCK);
    await put("a", 700 + step);
    if (step === 2) await branch("b", moments[0] as Remembered, true);
    if (step === 3) {
      await put("b", 131);
      await remember("b");
      await branch("c", moments.at(-1) as Remembered, true);
      await put("c", 1603);
    }
    if (step === 4) await branch("a", moments[1] as Remembered, false);
    await checkpoint();
  }
  await put("a", 9);
  await put("c", 9);
  await rig.flush("c");
  for (const [volume, content] of contents) moments.push({ volume, moment: "now", content });
  return { files: rig.kill(), moments };
}

/** One byte turned over in the first or last node of each of these kinds, of each run. */
function* damages(
  files: PoolFiles,
  kinds: readonly number[],
): Generator<{ what: string; damaged: PoolFiles }> {
  for (const name of [...files.log.keys()].filter((each) => each.endsWith(".run")).sort())
    for (const kind of kinds)
      for (const node of ends(nodesOf(files, name, kind))) {
        const bytes = (files.log.get(name) as Uint8Array).slice();
        bytes[node + 24] = (bytes[node + 24] as number) ^ 4;
        const damaged = { ...files, log: new Map(files.log).set(name, bytes) };
        yield { what: `${name}, kind ${kind} at ${node}`, damaged };
      }
}

function ends(nodes: readonly number[]): number[] {
  return nodes.filter((_, at) => at === 0 || at === nodes.length - 1);
}

interface Outcome {
  readonly right: number;
  readonly errors: readonly string[];
  readonly events: ReadonlySet<string>;
}

/** Reads every page of every moment. */
async function judge(files: PoolFiles, moments: readonly Remembered[]): Promise<Outcome> {
  const rig = await PoolRig.open(files, { memoryBytes: 32 * MIB });
  const errors: string[] = [];
  const events = new Set<string>();
  rig.pool.onEvent(({ event, fields }) => {
    events.add(event);
    if (event === "request.failed") errors.push(String(fields.message));
  });
  let right = 0;
  let failed = 0;
  for (const { volume, moment, content } of moments) {
    const what = `${volume}@${moment}`;
    const view =
      moment === "now"
        ? undefined
        : await rig.pool.openView(await rig.pool.resolve(volume, parseMoment(moment)));
    const device = view?.device ?? rig.pool.device(volume);
    for (let at = 0; at < SIZE; at += PAGE_BYTES / 2) {
      const found = await rig.readDevice(device, at, PAGE_BYTES / 2);
      if (found === EIO) failed += 1;
      else {
        sameBytes(found, content.subarray(at, at + PAGE_BYTES / 2), `${what} at ${at}`);
        right += 1;
      }
    }
    view?.close();
  }
  ok(failed === 0 || errors.length > 0, "an error is told");
  // Its last checkpoint needs what has changed.
  await rig.pool.close().catch((error: StorageError) => errors.push(error.message));
  rig.host.stop();
  return { right, errors, events };
}

test("whatever node of whatever run or list is damaged, a whole log gives every moment", async () => {
  const { files, moments } = await makeHistory(null);
  const sound = await judge(files, moments);
  equal(sound.errors.length, 0);
  const seen = new Set<string>();
  let count = 0;
  for (const { what, damaged } of damages(files, KINDS)) {
    count += 1;
    const { right, errors, events } = await judge(damaged, moments);
    equal(right, sound.right, `${what}: ${errors.join("\n")}`);
    for (const event of events) seen.add(event);
  }
  ok(count > 40, `${count} nodes`);
  for (const event of ["index.pages-rebuilt", "index.changes-rebuilt"]) ok(seen.has(event), event);
});

test("lists that are damaged all at once are given by the log as well", async () => {
  const { files, moments } = await makeHistory(null);
  const log = new Map(files.log);
  for (const name of [...log.keys()].filter((each) => each.endsWith(".run"))) {
    const bytes = (log.get(name) as Uint8Array).slice();
    for (const kind of LIST_KINDS)
      for (const node of nodesOf(files, name, kind))
        bytes[node + 24] = (bytes[node + 24] as number) ^ 4;
    log.set(name, bytes);
  }
  const { errors, events } = await judge({ ...files, log }, moments);
  equal(errors.length, 0, errors.join("\n"));
  ok(events.has("index.changes-rebuilt"));
});

test("behind a log that begins late a damaged node costs nothing, or gives an error with the place", async () => {
  const { files, moments } = await makeHistory(0);
  const rig = await PoolRig.open(files);
  for (let round = 0; round < 2; round++) {
    await rig.pool.checkpoint();
    await rig.pool.collect({ isDryRun: false });
  }
  const collected = rig.kill();
  ok(!collected.log.has("0000000000000001.seg"));
  const sound = await judge(collected, moments);
  equal(sound.errors.length, 0);
  let [whole, partial, refused] = [0, 0, 0];
  for (const { what, damaged } of damages(collected, KINDS)) {
    const outcome = await judge(damaged, moments).catch((error: unknown) => error);
    // A directory that both checkpoints have: nothing else says where pages, or moved frames, are.
    if (outcome instanceof StorageError) {
      match(what, /kind [25] /);
      equal(outcome.code, "LOG_CORRUPT");
      refused += 1;
      continue;
    }
    if (outcome instanceof Error) throw outcome;
    const { right, errors } = outcome as Outcome;
    if (right === sound.right) whole += 1;
    else {
      partial += 1;
      for (const error of errors) match(error, PLACE, what);
    }
  }
  ok(whole > 10 && partial > 0, `${whole} whole, ${partial} with errors, ${refused} refused`);
  ok(refused < whole, `${refused}`);
});
