// SPDX-License-Identifier: Apache-2.0
//
// Marked extents against a plain list of all that was ever marked: nothing that was marked is left out while a moment before
// it may be asked for, however many there are, and through JSON too.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MarkedExtents } from "./catalog-marks.ts";

const BLOCK = 4096;
const mark = fc.record({
  branch: fc.integer({ min: 1, max: 3 }),
  block: fc.nat(4000),
  count: fc.integer({ min: 1, max: 40 }),
});

/** Whether a difference over records (afterLsn, lsn] of the branch shows the block. */
function shows(marks: MarkedExtents, branch: number, range: [number, number], block: number) {
  return marks
    .of(branch)
    .some(
      ({ fromLsn, lsn, lba, end }) =>
        lsn > range[0] && fromLsn <= range[1] && block >= lba && block < end,
    );
}

test("what was marked is shown, by the record that marked it, while it fits exactly", () => {
  fc.assert(
    fc.property(fc.array(mark, { maxLength: 60 }), fc.nat(70), (list, keptLsn) => {
      let marks = new MarkedExtents();
      for (const [at, { branch, block, count }] of list.entries()) {
        const extents = [{ offsetBytes: block * BLOCK + 512, lengthBytes: count * BLOCK - 1024 }];
        ok(marks.marked({ extents }, branch, at + 1));
        const json = JSON.parse(JSON.stringify(marks.toJson()));
        marks = new MarkedExtents();
        ok(marks.take(json, () => true));
      }
      for (const [at, { branch, block, count }] of list.entries()) {
        for (const looked of [block - 1, block, block + count - 1, block + count]) {
          const wanted = list.some(
            (one, other) =>
              one.branch === branch &&
              other + 1 > keptLsn &&
              other <= at &&
              looked >= one.block &&
              looked < one.block + one.count,
          );
          equal(shows(marks, branch, [keptLsn, at + 1], looked), wanted);
        }
      }
    }),
  );
});

test("of many, none is left out, and what is remembered stays bounded", () => {
  fc.assert(
    fc.property(fc.array(mark, { minLength: 600, maxLength: 700 }), (list) => {
      const marks = new MarkedExtents();
      for (const [at, { block, count }] of list.entries()) {
        const extents = [{ offsetBytes: block * BLOCK, lengthBytes: count * BLOCK }];
        ok(marks.marked({ extents }, 1, at + 1));
      }
      equal(marks.of(1).length, 512);
      for (const [at, { block, count }] of list.entries())
        for (const looked of [block, block + count - 1]) ok(shows(marks, 1, [at, at + 1], looked));
    }),
    { numRuns: 5 },
  );
});

test("marks that no moment lies before are forgotten with the next, and a branch's with it", () => {
  const marks = new MarkedExtents();
  const extents = [{ offsetBytes: 0, lengthBytes: BLOCK }];
  for (const lsn of [5, 7, 9]) ok(marks.marked({ extents }, 1, lsn));
  ok(marks.marked({ extents, keptLsn: 7 }, 1, 11));
  deepEqual(
    marks.of(1).map(({ lsn }) => lsn),
    [9, 11],
  );
  marks.forgetBranch(1);
  deepEqual(marks.toJson(), []);
});

test("what makes no sense is refused as a whole", () => {
  const fine = { offsetBytes: 0, lengthBytes: BLOCK };
  for (const extents of [
    undefined,
    [],
    [fine, {}],
    [{ offsetBytes: -1, lengthBytes: BLOCK }],
    [{ offsetBytes: 0, lengthBytes: 0 }],
    [{ offsetBytes: 2 ** 46, lengthBytes: 1 }],
    [{ offsetBytes: 0.5, lengthBytes: 1 }],
  ]) {
    const marks = new MarkedExtents();
    equal(marks.marked({ extents }, 1, 3), false);
    deepEqual(marks.toJson(), []);
  }
  const stored = { branch: 1, fromLsn: 2, lsn: 3, lba: 4, end: 5 };
  const isOwn = (branch: number): boolean => branch === 1;
  for (const wrong of [{ branch: 2 }, { fromLsn: 4 }, { end: 4 }, { end: 2 ** 35 }, { lba: "4" }])
    equal(new MarkedExtents().take([{ ...stored, ...wrong }], isOwn), false);
  ok(new MarkedExtents().take([stored], isOwn));
});
