// SPDX-License-Identifier: Apache-2.0
//
// Requests of one connection that overlap take effect in the order of sending, also when parts of blocks,
// which must be read and merged, lie between whole ones. The protocol doesn't ask for it; Varve promises it.

import { equal } from "node:assert/strict";
import { test } from "node:test";
import { NbdConnection } from "./nbd-connection.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server } from "./server.ts";

const BLOCK_BYTES = 4096;
const ROUNDS = 500;
const skip = KIND_UNDER_TEST !== "varve" && "only Varve promises an order among requests in flight";

test("overlapping writes in flight end up in the order they were sent in", { skip }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: 16 * 1024 * 1024 });
  const connection = await NbdConnection.open(server.socket, "db");
  for (let round = 0; round < ROUNDS; round++) {
    const start = round * BLOCK_BYTES;
    await Promise.all([
      connection.write(start + 512, Buffer.alloc(512, "a")),
      connection.write(start, Buffer.alloc(BLOCK_BYTES, "b")),
      connection.write(start + 1024, Buffer.alloc(512, "c")),
      connection.write(start + 1535, Buffer.alloc(2, "d")),
    ]);
    const block = (await connection.read(start, BLOCK_BYTES)).toString("latin1");
    equal(block, `${"b".repeat(1024)}${"c".repeat(511)}dd${"b".repeat(BLOCK_BYTES - 1537)}`);
  }
  await connection.close();
});
