// SPDX-License-Identifier: Apache-2.0
//
// Both ways to have Zstandard keep to the port: what is compressed comes back, and what is no such thing gives nothing.

import { deepEqual, equal, ok } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { createParallelZstd, createZstd } from "./zstd.ts";

for (const [name, zstd] of [
  ["the daemon's", createZstd()],
  ["a parallel", createParallelZstd()],
] as const) {
  test(`${name} Zstandard gives back what it compressed, many pieces at once`, async () => {
    const pieces = [1, 63, 4096, 262_144].map((bytes) => Buffer.alloc(bytes, "varve "));
    pieces.push(randomBytes(262_144));
    await Promise.all(
      pieces.map(async (piece) => {
        const stored = await zstd.compress(piece);
        ok(stored.length < piece.length + 1024);
        deepEqual(await zstd.decompress(stored, piece.length), piece);
      }),
    );
  });

  test(`${name} Zstandard gives nothing for what is cut, too long or something else`, async () => {
    const stored = await zstd.compress(Buffer.alloc(100_000, 1));
    equal(await zstd.decompress(stored, 99_999), undefined);
    equal(await zstd.decompress(stored.subarray(0, stored.length - 1), 100_000), undefined);
    equal(await zstd.decompress(randomBytes(100), 100_000), undefined);
  });
}
