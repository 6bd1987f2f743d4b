// SPDX-License-Identifier: Apache-2.0
//
// Times, LSNs and flushes of a pool that is written, left open, flushed, killed and opened again under a wall clock that
// jumps, against the plain list of its records; then again when some of its segments are gone, kept as records only, or
// damaged.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BLOCK, noise, PoolRig, turns } from "../../test/crash/memory-rig.ts";
import { keepRecords } from "../gc/kept-records.ts";
import { readSegmentFrames } from "../gc/segment-frames.ts";
import type { Clock, Directory } from "../host/ports.ts";
import type { Pool } from "../pool/pool.ts";
import { MemoryDirectory, type MemoryHost } from "../sim/memory-host.ts";
import { FileStore } from "./file-store.ts";
import type { LogFiles } from "./known-segments.ts";
import { readLogReach } from "./log-reach.ts";
import { LogTimes } from "./log-times.ts";
import { RECORD_KIND } from "./record.ts";
import { LOG_BEGIN } from "./replay-start.ts";
import { SEGMENT_TRAILER_BYTES, segmentName, segmentNumberOf, TRAILER_MAGIC } from "./segment.ts";
import { type RecentSegment, SegmentTimes } from "./segment-times.ts";

interface PlainRecord {
  readonly lsn: number;
  readonly timeMicros: number;
  /** -1: it is no flush. */
  readonly flushedBranch: number;
  readonly segment: number;
}

type Step =
  | { readonly kind: "trims"; readonly count: number; readonly volume: "a" | "b" }
  | { readonly kind: "writes"; readonly count: number }
  | { readonly kind: "flush"; readonly volume: "a" | "b" }
  | { readonly kind: "pass"; readonly micros: number }
  | { readonly kind: "jump"; readonly micros: number }
  | { readonly kind: "seal" }
  | { readonly kind: "kill" }
  | { readonly kind: "ask" };

const SECOND = 1_000_000;
const MIB = 1 << 20;
const volume = fc.constantFrom("a", "b");
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("trims" as const), count: fc.nat(40), volume }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("writes" as const), count: fc.nat(12) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("flush" as const), volume }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("pass" as const), micros: fc.nat(3 * SECOND) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("jump" as const),
      micros: fc.integer({ min: -20 * SECOND, max: 20 * SECOND }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom("seal" as const, "kill" as const, "ask" as const),
    }),
  },
);

/** What happens to a segment in the end. */
const fate = fc.constantFrom("stays", "stays", "goes", "records", "header", "footer");
const question = fc.record({
  place: fc.double({ min: 0, max: 1, noNaN: true }),
  shift: fc.integer({ min: -1, max: 1 }),
  branch: fc.integer({ min: 1, max: 3 }),
  span: fc.nat(40),
});
const story = fc.record({
  steps: fc.array(step, { minLength: 5, maxLength: 40 }),
  fates: fc.array(fate, { minLength: 1, maxLength: 12 }),
  questions: fc.array(question, { minLength: 4, maxLength: 12 }),
});
type Question = typeof question extends fc.Arbitrary<infer Q> ? Q : never;

test("times, LSNs and flushes are those of the plain list of records, also with holes in it", async () => {
  let holeCount = 0;
  await fc.assert(
    fc.asyncProperty(story, async ({ steps, fates, questions }) => {
      const rig = await live(steps, questions);
      const { pool, host } = rig;
      const all = await recordsOf(rig);
      const { openCount } = host.log;
      await compare(pool.times, { all, known: all }, questions);
      const lost = await decide(rig, all, fates);
      const known = all.filter(({ segment }) => !lost.has(segment));
      holeCount += lost.size;
      await compare(fresh(rig), { all, known }, questions);
      equal(host.log.openCount, openCount, "no file stays open");
      rig.kill();
    }),
    { numRuns: 100 },
  );
  ok(holeCount > 20, `${holeCount} segments were lost`);
});

/** A pool that went through all of it. */
async function live(steps: readonly Step[], questions: readonly Question[]): Promise<PoolRig> {
  let rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.pool.createVolume("b", MIB);
  let seed = 0;
  for (const step of steps) {
    const { clock } = rig.host;
    if (step.kind === "flush") await rig.flush(step.volume);
    else if (step.kind === "pass") clock.nowMicros += step.micros;
    else if (step.kind === "jump") clock.wallOffsetMicros += step.micros;
    else if (step.kind === "seal") await rig.pool.log.sealSegment();
    else if (step.kind === "kill") rig = await PoolRig.open(rig.kill());
    else if (step.kind === "ask") await ask(rig, questions);
    else
      for (let at = 0; at < step.count; at++) {
        clock.nowMicros += at;
        if (step.kind === "trims") await rig.trim(step.volume, (at % 64) * BLOCK, BLOCK);
        else await rig.write("a", (at % 64) * BLOCK, noise(seed++, BLOCK));
      }
  }
  await rig.pool.flush();
  await turns(20); // footers
  return rig;
}

async function ask(rig: PoolRig, questions: readonly Question[]): Promise<void> {
  rig.pool.log.recentSegments(); // closes the batch: the files have it
  await turns(5);
  const all = await recordsOf(rig);
  await compare(rig.pool.times, { all, known: all }, questions);
}

async function compare(
  times: LogTimes,
  { all, known }: { readonly all: readonly PlainRecord[]; readonly known: readonly PlainRecord[] },
  questions: readonly Question[],
): Promise<void> {
  const lsns = new Set(known.map(({ lsn }) => lsn));
  const isGone = ({ lsn }: PlainRecord): boolean => !lsns.has(lsn);
  const [first] = known as readonly [PlainRecord];
  deepEqual(await times.firstKnown(), { ...plain(first), isBeforeHole: false });
  for (const { place, shift, branch, span } of questions) {
    const near = all[Math.floor(place * (all.length - 1))] as PlainRecord;
    const micros = near.timeMicros + shift;
    const before = known.findLast(({ timeMicros }) => timeMicros <= micros);
    const next = all[all.findIndex(({ lsn }) => lsn === before?.lsn) + 1];
    deepEqual(
      await times.atOrBefore(micros),
      before && { ...plain(before), isBeforeHole: next !== undefined && isGone(next) },
      `at ${micros}`,
    );
    const asked = near.lsn + shift;
    equal(await times.timeOf(asked), known.find(({ lsn }) => lsn === asked)?.timeMicros);
    const range = { branch, fromLsn: asked - span, lsn: asked };
    const flush = known.findLast(
      ({ lsn, flushedBranch }) =>
        flushedBranch === branch && lsn <= range.lsn && lsn >= range.fromLsn,
    );
    const isBeforeHole = all.some(
      (record) => record.lsn > (flush?.lsn ?? 0) && record.lsn <= range.lsn && isGone(record),
    );
    deepEqual(await times.lastFlush(range), flush && { ...plain(flush), isBeforeHole });
  }
}

function plain({ lsn, timeMicros }: PlainRecord): { lsn: number; timeMicros: number } {
  return { lsn, timeMicros };
}

/** Every record, as it is read from the log's beginning. */
async function recordsOf({ host, pool }: PoolRig): Promise<PlainRecord[]> {
  const records: PlainRecord[] = [];
  let segment = 0;
  const reach = await readLogReach({
    ...filesOf(pool, new MemoryDirectory("copy", host.log.files()), host),
    start: LOG_BEGIN,
    onBatch: (number) => {
      segment = number;
    },
    onRecord: ({ kind, branch, lsn, timeMicros }) => {
      const flushedBranch = kind === RECORD_KIND.FLUSHED ? branch : -1;
      records.push({ lsn, timeMicros, flushedBranch, segment });
    },
  });
  equal(reach.damage, undefined);
  equal(reach.nextLsn, pool.log.nextLsn);
  return records;
}

function filesOf(pool: Pool, directory: Directory, host: MemoryHost): LogFiles & { clock: Clock } {
  const bytes = host.root.files().get("pool.json");
  const { poolId } = JSON.parse(new TextDecoder().decode(bytes)) as { poolId: string };
  const { memory } = pool;
  return {
    memory,
    directory,
    clock: host.clock,
    poolId: Uint8Array.from(Buffer.from(poolId, "hex")),
  };
}

/** One that has read nothing yet. */
function fresh({ pool, host }: PoolRig): LogTimes {
  const files = filesOf(pool, host.log, host);
  return new LogTimes({ ...files, recentSegments: () => pool.log.recentSegments() });
}

/**
 * Sealed segments meet their fate, but for the one with the last record: each hole has an end. Gives those of which
 * nothing can be read any more.
 */
async function decide(
  { host, pool }: PoolRig,
  all: readonly PlainRecord[],
  fates: readonly string[],
): Promise<Set<number>> {
  const lost = new Set<number>();
  const { log } = host;
  const written = new Set(pool.log.recentSegments().map(({ number }) => number));
  const numbers = [...log.files().keys()].map(segmentNumberOf);
  const last = (all[all.length - 1] as PlainRecord).segment;
  const decided = numbers.filter((number) => number > 0 && number < last);
  for (const [at, number] of decided.entries()) {
    const name = segmentName(number);
    const fate = fates[at % fates.length];
    if (written.has(number) || fate === "stays") continue;
    const bytes = log.files().get(name) as Uint8Array;
    if (fate === "header") await damage(log, name, 50);
    if (fate === "footer" && hasFooter(bytes)) await damage(log, name, bytes.length - 30);
    if (fate === "records") {
      const files = filesOf(pool, log, host);
      const store = new FileStore(log, segmentName, 1);
      await keepRecords(files, store, await readSegmentFrames(files, number));
      await store.closeAll();
    }
    if (fate === "goes" || fate === "records") await log.remove(name);
    if (fate === "goes" || fate === "header") lost.add(number);
  }
  return lost;
}

function hasFooter(bytes: Uint8Array): boolean {
  const magic = bytes.subarray(bytes.length - SEGMENT_TRAILER_BYTES).subarray(0, 8);
  return new TextDecoder().decode(magic) === TRAILER_MAGIC;
}

async function damage(directory: Directory, name: string, at: number): Promise<void> {
  const file = await directory.open(name, "write");
  const byte = new Uint8Array(1);
  await file.read(byte, at);
  byte[0] = ~(byte[0] as number);
  await file.write(byte, at);
  await file.close();
}

test("metas with wrong bytes are refused with a sentence, or taken as far as they are right", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  for (let at = 0; at < 4; at++) {
    await rig.write("a", at * BLOCK, noise(at, BLOCK));
    await rig.trim("a", 0, BLOCK);
    await rig.flush("a");
  }
  const [{ firstLsn, metas }] = rig.pool.log.recentSegments() as readonly [RecentSegment];
  const good = new SegmentTimes(firstLsn);
  equal(good.take(metas), undefined);
  equal(good.nextLsn, rig.pool.log.nextLsn);
  const edit = fc.record({ at: fc.nat(metas.length - 1), byte: fc.nat(255) });
  let refusedCount = 0;
  fc.assert(
    fc.property(fc.array(edit, { maxLength: 4 }), fc.nat(metas.length), (edits, lengthBytes) => {
      const wrong = metas.slice(0, lengthBytes);
      for (const { at, byte } of edits) if (at < lengthBytes) wrong[at] = byte;
      const times = new SegmentTimes(firstLsn);
      const problem = times.take(wrong);
      if (problem !== undefined) refusedCount += 1;
      ok(times.nextLsn <= firstLsn + lengthBytes / 16, "no more records than fit");
      if (edits.length === 0)
        for (let lsn = firstLsn; lsn < times.nextLsn; lsn++)
          equal(times.timeOf(lsn), good.timeOf(lsn));
    }),
    { numRuns: 1000 },
  );
  ok(refusedCount > 300, `${refusedCount} were refused`);
  rig.kill();
});
