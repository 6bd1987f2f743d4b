// SPDX-License-Identifier: Apache-2.0
//
// Histories: what is told is what was written, over pages and parts; whatever was changed is refused.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StorageError } from "../base/errors.ts";
import { isName } from "../base/names.ts";
import { SmallTarget } from "../sim/small-target.ts";
import { EXTENT_KIND, ExtentBatch } from "./extents.ts";
import { decodeHistoryPage, type HistoryVisitor, historyBatch } from "./history-page.ts";
import { HistoryReader } from "./history-reader.ts";
import { type HistoryPart, HistoryWriter } from "./history-writer.ts";
import { LBA_END_MAX, PACK_SLOTS_MAX, PackTable } from "./place.ts";
import { objectPath } from "./sealed-object.ts";
import { KeySealer, PLAIN_SEALER } from "./sealing.ts";

interface Extent {
  readonly lba: number;
  readonly blockCount: number;
  readonly kind: number;
  readonly place: number;
}

interface Entry {
  readonly lsn: number;
  readonly timeMicros: number;
  readonly extents?: Extent[];
  readonly name?: string;
}

const EXTENTS = fc
  .array(
    fc.record({
      gap: fc.oneof(fc.nat(10), fc.nat(2 ** 31 - 1)),
      blockCount: fc.integer({ min: 1, max: 200 }),
      kind: fc.constantFrom(0, 0, 1, 2),
      slot: fc.nat(PACK_SLOTS_MAX - 201),
      pack: fc.nat(2),
    }),
    { minLength: 1, maxLength: 5 },
  )
  .map((steps) => {
    let lba = 0;
    return steps.map(({ gap, blockCount, kind, slot, pack }) => {
      const place = kind === EXTENT_KIND.frames ? pack * PACK_SLOTS_MAX + slot : 0;
      const extent = { lba: lba + gap, blockCount, kind, place };
      lba += gap + blockCount;
      return extent;
    });
  });

const ENTRIES = fc
  .array(
    fc.record({
      lsn: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 1_000_000 })),
      time: fc.nat(5_000_000),
      what: fc.oneof(
        EXTENTS.map((extents) => ({ extents })),
        fc.constant({}),
        fc.constantFrom("v1", "before-upgrade", "x".repeat(63)).map((name) => ({ name })),
      ),
    }),
    { minLength: 1, maxLength: 300 },
  )
  .map((steps) => {
    let [lsn, timeMicros] = [1000, 1_700_000_000_000_000];
    return steps.map((step): Entry => {
      lsn += step.lsn;
      timeMicros += step.time;
      return { lsn, timeMicros, ...step.what };
    });
  });

function toBytes(numbers: readonly number[]): Uint8Array {
  return Uint8Array.from(numbers);
}

function batchOf(extents: readonly Extent[]): ExtentBatch {
  const batch = new ExtentBatch(extents.length);
  for (const { lba, blockCount, kind, place } of extents) batch.push(lba, blockCount, kind, place);
  return batch;
}

class Rig {
  readonly target: SmallTarget;
  readonly packs: PackTable = new PackTable();

  constructor(isEncrypted = false) {
    this.target = new SmallTarget(isEncrypted ? new KeySealer(new Uint8Array(32)) : PLAIN_SEALER);
    for (const name of ["a", "b", "c"]) this.packs.ordinalOf(name.repeat(64));
  }

  writer(): HistoryWriter {
    const { store, sealer, random } = this.target;
    return new HistoryWriter({ store, sealer, random, packs: this.packs });
  }

  async write(entries: readonly Entry[], breaks: readonly number[] = []): Promise<HistoryPart[]> {
    const writer = this.writer();
    const parts: HistoryPart[] = [];
    for (const [index, entry] of entries.entries()) {
      if (breaks.includes(index))
        parts.push(...[await writer.finishPart()].filter((part) => part !== undefined));
      if (entry.extents !== undefined) writer.changed(entry, batchOf(entry.extents), false);
      else if (entry.name !== undefined) writer.named(entry, entry.name);
      else writer.flushed(entry);
    }
    parts.push(...[await writer.finishPart()].filter((part) => part !== undefined));
    return parts;
  }

  async read(parts: readonly HistoryPart[]): Promise<Entry[]> {
    const { store, sealer } = this.target;
    const reader = new HistoryReader({ store, sealer, packs: this.packs });
    const told = new Told();
    for (const part of parts) await reader.read(part, told);
    return told.entries;
  }
}

/** Puts changes together that came in several entries. */
class Told implements HistoryVisitor {
  readonly entries: Entry[] = [];
  #more: Entry | undefined;

  changed(lsn: number, timeMicros: number, batch: ExtentBatch, hasMore: boolean): undefined {
    const entry = this.#more ?? { lsn, timeMicros, extents: [] };
    equal(entry.lsn, lsn);
    for (let index = 0; index < batch.length; index += 1)
      entry.extents!.push({
        lba: batch.lbas[index]!,
        blockCount: batch.blockCounts[index]!,
        kind: batch.kinds[index]!,
        place: batch.places[index]!,
      });
    if (this.#more === undefined) this.entries.push(entry);
    this.#more = hasMore ? entry : undefined;
  }

  flushed(lsn: number, timeMicros: number): undefined {
    this.entries.push({ lsn, timeMicros });
  }

  named(lsn: number, timeMicros: number, name: string): undefined {
    this.entries.push({ lsn, timeMicros, name });
  }
}

test("a history is told as it was written, in any number of parts", async () => {
  await fc.assert(
    fc.asyncProperty(
      ENTRIES,
      fc.array(fc.nat(300), { maxLength: 3 }),
      fc.boolean(),
      async (entries, breaks, isEncrypted) => {
        const rig = new Rig(isEncrypted);
        const parts = await rig.write(entries, breaks);
        deepEqual(await rig.read(parts), entries);
        equal(parts.reduce((sum, { entryCount }) => sum + entryCount, 0) >= entries.length, true);
        equal(parts[0]!.firstLsn, entries[0]!.lsn);
        equal(parts.at(-1)!.endLsn, entries.at(-1)!.lsn + 1);
      },
    ),
    { numRuns: 60 },
  );
});

test("a change larger than a page, and one larger than a part, is told as one", async () => {
  const rig = new Rig();
  const writer = rig.writer();
  const entry = { lsn: 7, timeMicros: 9 };
  const parts: HistoryPart[] = [];
  const expected: Extent[] = [];
  for (let batch = 0; batch < 20; batch += 1) {
    const extents = Array.from({ length: 4096 }, (_, index) => ({
      lba: (batch * 4096 + index) * 5,
      blockCount: 1,
      kind: EXTENT_KIND.frames,
      place: (index * 977) % PACK_SLOTS_MAX,
    }));
    expected.push(...extents);
    writer.changed(entry, batchOf(extents), batch < 19);
    if (batch === 9) parts.push((await writer.finishPart())!);
  }
  parts.push((await writer.finishPart())!);
  deepEqual(
    parts.map(({ firstLsn, endLsn }) => [firstLsn, endLsn]),
    [
      [7, 8],
      [7, 8],
    ],
  );
  deepEqual(await rig.read(parts), [{ ...entry, extents: expected }]);
});

test("a write of one block somewhere costs about ten bytes", async () => {
  const rig = new Rig();
  const entries = Array.from({ length: 20_000 }, (_, index) => ({
    lsn: 1 + index,
    timeMicros: index * 1000,
    extents: [
      {
        lba: (index * 7919) % 25_000_000,
        blockCount: 1,
        kind: EXTENT_KIND.frames,
        place: index % PACK_SLOTS_MAX,
      },
    ],
  }));
  const [part] = await rig.write(entries);
  ok(part!.sizeBytes / entries.length < 11, `${part!.sizeBytes / entries.length}`);
});

test("a flipped bit anywhere is refused", async () => {
  const rig = new Rig();
  const parts = await rig.write([
    { lsn: 5, timeMicros: 6, extents: [{ lba: 3, blockCount: 2, kind: 0, place: 9 }] },
    { lsn: 6, timeMicros: 8, name: "v1" },
    { lsn: 9, timeMicros: 9 },
  ]);
  const bytes = rig.target.bucket.objects.get(objectPath("history", parts[0]!.name))!;
  for (let at = 0; at < bytes.length; at += 1) {
    bytes[at]! ^= 8;
    await rejects(rig.read(parts), StorageError, `byte ${at}`);
    bytes[at]! ^= 8;
  }
  await rejects(rig.read([{ ...parts[0]!, endLsn: 11 }]), { code: "TARGET_CORRUPT" });
});

test("whatever a page says, it is told within bounds or refused", async () => {
  const told: HistoryVisitor = {
    changed: (lsn, timeMicros, extents) => {
      ok(Number.isSafeInteger(lsn) && Number.isSafeInteger(timeMicros));
      for (let index = 0; index < extents.length; index += 1)
        ok(extents.lbas[index]! + extents.blockCounts[index]! <= LBA_END_MAX);
      return undefined;
    },
    flushed: () => undefined,
    named: (_lsn, _time, name) => {
      ok(isName(name));
      return undefined;
    },
  };
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.uint8Array({ maxLength: 100 }),
        // Small numbers make more sense; 15 names three bytes.
        fc
          .array(fc.oneof(fc.nat(20), fc.constant(15), fc.nat(127)), { maxLength: 100 })
          .map(toBytes),
      ),
      fc.integer({ min: 1, max: 5 }),
      fc.nat(100),
      async (bytes, entryCount, lsns) => {
        const claim = { firstLsn: 5, endLsn: 6 + lsns, entryCount, ordinals: Float64Array.of(4) };
        const problem = await decodeHistoryPage(bytes, claim, told, historyBatch());
        ok(problem === undefined || problem.length > 0);
      },
    ),
    { numRuns: 1000 },
  );
});
