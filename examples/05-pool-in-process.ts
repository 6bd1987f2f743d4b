// SPDX-License-Identifier: Apache-2.0
//
// The pool without the daemon: the same code, opened by this process under the pool's lock. Payloads lie in
// the pool's own slab and requests are answered by complete(), so that the data path needs no copies and no
// promises; a few lines turn that into something to await.
//
//   node examples/05-pool-in-process.ts /tmp/some-new-directory

import {
  createClock,
  createLogger,
  createRandom,
  createZstd,
  DEFAULT_SETTINGS,
  openPool,
} from "../src/varve.ts";

const [directory = "example-pool"] = process.argv.slice(2);
const machine = {
  clock: createClock(),
  random: createRandom(),
  zstd: createZstd(),
  logger: createLogger({ level: "warn" }),
};
const BLOCK_BYTES = 4096;

async function open(): ReturnType<typeof openPool> {
  return await openPool(directory, DEFAULT_SETTINGS, machine);
}

const first = await open();
await first.pool.createVolume("db", 1024 * 1024);
const device = first.pool.device("db");
const { slab } = first.pool;
const address = slab.allocate(BLOCK_BYTES);
slab.bytes.fill(0x56, address, address + BLOCK_BYTES);
await new Promise<void>((resolve, reject) => {
  const complete = (errno: number): void =>
    errno === 0 ? resolve() : reject(new Error(`${errno}`));
  const place = { offsetBytes: 0, lengthBytes: BLOCK_BYTES, address };
  const request = { ...place, isForceUnitAccess: true, complete };
  if (!device.writeNow(request)) device.write(request);
});
slab.release(address);
await first.pool.close();
first.lock.release();

const second = await open();
console.log(second.pool.volumes().map(({ name, sizeBytes }) => `${name}: ${sizeBytes} bytes`));
console.log(`the log goes on at #${second.pool.stats().headLsn}`);
await second.pool.close();
second.lock.release();
