// SPDX-License-Identifier: Apache-2.0
//
// Speed comes from having many requests under way: the pool packs whatever is there into one batch of its
// log, and one flush at the end makes all of them durable.
//
//   node examples/02-many-at-once.ts varve-pool/nbd.sock example

import { connectStream, NbdClient } from "../src/varve.ts";

const BLOCK_BYTES = 4096;
const BLOCK_COUNT = 2000;

const [path = "varve-pool/nbd.sock", exportName = "example"] = process.argv.slice(2);
const disk = await NbdClient.open(await connectStream({ kind: "unix", path }), { exportName });

async function timed(what: string, work: () => Promise<unknown>): Promise<void> {
  const start = performance.now();
  await work();
  console.log(`${what}: ${Math.round(performance.now() - start)} ms`);
}

function block(number: number): Uint8Array {
  return Buffer.alloc(BLOCK_BYTES, `block ${number} `);
}

await timed(`${BLOCK_COUNT} blocks, one after the other`, async () => {
  for (let number = 0; number < BLOCK_COUNT; number++)
    await disk.write(number * BLOCK_BYTES, block(number));
});
await timed(`${BLOCK_COUNT} blocks, all at once`, async () => {
  const numbers = Array.from({ length: BLOCK_COUNT }, (_, number) => number);
  await Promise.all(numbers.map((number) => disk.write(number * BLOCK_BYTES, block(number))));
});
await timed("one flush for all of them", () => disk.flush());

await disk.close();
