// SPDX-License-Identifier: Apache-2.0
//
// What a picture of a difference shows, and what a map of bytes says.

import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import type { DiffMomentJson } from "../api/diff.ts";
import { hasCode } from "../base/errors.ts";
import { ByteMap } from "./byte-map.ts";
import { DiffPicture } from "./diff-picture.ts";

const MIB = 1 << 20;

function disk(sizeBytes: number): DiffMomentJson {
  return { volume: "db", stableName: "db@#1", lsn: 1, at: "", sizeBytes };
}

test("cells are the darker the more of them differs, and the least of something can be seen", () => {
  const picture = new DiffPicture({ sizeBytes: 16 * MIB, columns: 32, isUnicode: true });
  // 256 cells of 64 KiB, 16 to a row.
  picture.add(0, 512);
  picture.add(64 << 10, 20 << 10);
  picture.add(128 << 10, 40 << 10);
  picture.add(192 << 10, 64 << 10);
  picture.add(16 * MIB - 512, 512);
  const lines = picture.lines();
  equal(lines.length, 17);
  equal(lines[0], "         0 │░▒▓█            │");
  equal(lines[1], "   1.0 MiB │                │");
  equal(lines[15], "  15.0 MiB │               ░│");
  match(lines[16] ?? "", /a cell is 64.0 KiB/);
});

test("a picture of any disk has at most sixteen rows, and counts every byte once", () => {
  for (const [sizeBytes, columns] of [
    [MIB, 200],
    [MIB + 512, 10],
    [2 ** 46, 80],
    [3 * 2 ** 40 + 512, 79],
  ] as const) {
    const picture = new DiffPicture({ sizeBytes, columns, isUnicode: false });
    picture.add(0, sizeBytes);
    const { changedBytes } = picture.toJson();
    equal(
      changedBytes.reduce((sum, bytes) => sum + bytes, 0),
      sizeBytes,
    );
    ok(picture.lines().length <= 17, `${picture.lines().length} lines`);
  }
});

test("a byte is the number of the last step in which its piece changed", () => {
  const map = new ByteMap(4096);
  map.begin(1, { from: disk(6 * 4096), to: disk(6 * 4096) });
  map.add(4096, 8192);
  map.add(5 * 4096 + 512, 512);
  map.begin(2, { from: disk(6 * 4096), to: disk(6 * 4096) });
  map.add(2 * 4096, 1);
  deepEqual([...map.bytes], [0, 1, 2, 0, 0, 1]);
  equal(map.changedCount, 3);
});

test("what a disk lost and got back counts as changed", () => {
  const map = new ByteMap(4096);
  map.begin(1, { from: disk(4 * 4096), to: disk(2 * 4096 + 512) });
  map.begin(2, { from: disk(2 * 4096 + 512), to: disk(4 * 4096) });
  deepEqual([...map.bytes], [0, 0, 2, 2]);
});

test("a map that would be too large is refused", () => {
  throws(
    () => new ByteMap(4096).begin(1, { from: disk(2 ** 46), to: disk(2 ** 46) }),
    (error) => hasCode(error, "USAGE"),
  );
});
