// SPDX-License-Identifier: Apache-2.0
//
// A table of moves against a map: entries in order, out of order, and in between; and the merge of two lists.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Prng } from "../sim/prng.ts";
import { ENTRY_WORDS, mergeEntries, RelocationTable } from "./relocation-table.ts";

type Entry = readonly [home: number, segment: number, low: number, storedBytes: number];

function flat(entries: Iterable<Entry>): Uint32Array {
  return Uint32Array.from([...entries].sort(([a], [b]) => a - b).flat());
}

const INPUT = new Uint32Array(2 + ENTRY_WORDS);
const OUTPUT = new Uint32Array(ENTRY_WORDS);

function put(table: RelocationTable, model: Map<number, Entry>, entry: Entry): void {
  INPUT.set(entry, 2);
  table.put(INPUT, 2);
  model.set(entry[0], entry);
}

function expectAll(table: RelocationTable, model: ReadonlyMap<number, Entry>, end: number): void {
  table.checkInvariants();
  equal(table.count, model.size);
  for (let home = 0; home < end; home++) {
    const wanted = model.get(home);
    equal(table.find(home, OUTPUT), wanted !== undefined);
    if (wanted !== undefined) deepEqual([...OUTPUT], wanted);
  }
}

const entry: fc.Arbitrary<Entry> = fc.tuple(
  fc.nat(60),
  fc.nat(9),
  fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  fc.nat(5000),
);

test("a table holds the newest entry of each home, whatever order they come in", () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 120 }), fc.nat(120), (entries, listAfter) => {
      const table = new RelocationTable();
      const model = new Map<number, Entry>();
      for (const [index, added] of entries.entries()) {
        put(table, model, added);
        if (index === listAfter) deepEqual(table.entries(), flat(model.values()));
      }
      expectAll(table, model, 62);
      deepEqual(table.entries(), flat(model.values()));
      expectAll(table, model, 62);
    }),
    { numRuns: 300 },
  );
});

test("tens of thousands of entries out of order are taken as quickly, and take 16 bytes each", () => {
  const prng = new Prng(3);
  const table = new RelocationTable();
  const model = new Map<number, Entry>();
  const homes = prng.shuffle(Array.from({ length: 40_000 }, (_, index) => index));
  for (const [index, home] of homes.entries()) put(table, model, [home, index, home * 5, index]);
  for (const home of homes.slice(0, 3000)) put(table, model, [home, 7, 7, 7]);
  expectAll(table, model, 40_010);
  ok(table.memoryBytes <= 2 * 16 * homes.length + 20_000, `${table.memoryBytes} bytes`);
  deepEqual(table.entries(), flat(model.values()));
});

test("of two lists the newer entry of a home counts, and none that names a dropped segment", () => {
  const entries = fc.array(entry, { maxLength: 50 });
  fc.assert(
    fc.property(entries, entries, fc.array(fc.nat(9), { maxLength: 3 }), (old, recent, dropped) => {
      const older = new Map(old.map((item) => [item[0], item]));
      const newer = new Map(recent.map((item) => [item[0], item]));
      const gone = new Set(dropped);
      const wanted = [...new Map([...older, ...newer]).values()].filter(([, at]) => !gone.has(at));
      const merged = mergeEntries(flat(older.values()), flat(newer.values()), gone);
      deepEqual(merged, flat(wanted));
    }),
    { numRuns: 300 },
  );
});
