// SPDX-License-Identifier: Apache-2.0
//
// The session against chance: any sequence of requests, right and wrong, cut into any pieces, over a
// device that answers now, late or not at all, for a client that reads or doesn't. Every request gets one
// answer, a flat array agrees with what is read, and no memory is lost.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import { NbdDoorInMemory } from "../sim/nbd-door.ts";
import { NbdClient } from "./client.ts";
import { HEADERS } from "./codec.ts";
import { COMMAND } from "./constants.ts";

const SIZE = 6 << 20;

const place = fc.tuple(
  fc.oneof(fc.nat(SIZE), fc.nat(64 * 1024), fc.constantFrom(0, 4096, 1 << 20, SIZE - 4096)),
  fc.oneof(
    fc.nat(9000),
    fc.nat(200_000),
    fc.constantFrom(512, 4096, 65_536, 65_537, 1 << 20, 3 << 20),
  ),
);

const action = fc.oneof(
  fc.record({ kind: fc.constantFrom("read", "write", "trim", "zero"), place, seed: fc.nat(250) }),
  fc.record({ kind: fc.constant("misuse"), place, seed: fc.nat(250) }),
  fc.record({ kind: fc.constant("settle"), place, seed: fc.nat(250) }),
);

test("every request is answered once, and reads agree with a flat array", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(action, { maxLength: 30 }),
      fc.constantFrom(...Object.values(HEADERS)),
      fc.boolean(),
      fc.constantFrom(1, 27, 4096, 100_000, 1 << 20),
      async (actions, headers, isLate, biteBytes) => {
        // Byte by byte is slow: small requests only.
        const limit = biteBytes < 100 ? 3000 : 3 << 20;
        let door = new NbdDoorInMemory({ soon: queueMicrotask });
        const { clock } = door;
        door = new NbdDoorInMemory({
          soon: queueMicrotask,
          device: { sizeBytes: SIZE, ...(isLate ? { lateBy: clock } : {}) },
        });
        const stream = door.connectStream({ biteBytes });
        const nbd = await NbdClient.open(stream, { exportName: "db", headers });
        const model = new Uint8Array(SIZE);
        const pending: Promise<unknown>[] = [];
        for (const { kind, place: where, seed } of actions) {
          const offset = Math.min(where[0], SIZE);
          const length = Math.min(where[1], limit, SIZE - offset);
          // Requests in flight have no order: one at a time where they could overlap.
          if (kind !== "misuse") await Promise.all(pending.splice(0));
          if (kind === "write") {
            const bytes = new Uint8Array(length).fill(seed + 1);
            model.set(bytes, offset);
            pending.push(nbd.write(offset, bytes));
          } else if (kind === "read") {
            const wanted = model.slice(offset, offset + length);
            pending.push(
              nbd.read(offset, length).then((bytes) => equal(Buffer.compare(bytes, wanted), 0)),
            );
          } else if (kind === "trim" || kind === "zero") {
            model.fill(0, offset, offset + length);
            const done =
              kind === "trim" ? nbd.trim(offset, length) : nbd.writeZeroes(offset, length);
            pending.push(done);
          } else if (kind === "misuse") {
            const payload = new Uint8Array(Math.min(length, limit)).fill(seed);
            const request = { offsetBytes: SIZE - 5, lengthBytes: payload.length + 6 };
            const write = {
              ...request,
              lengthBytes: payload.length + 6,
              payload: new Uint8Array(payload.length + 6),
            };
            const misuse =
              seed % 2 === 0
                ? nbd.submit({ command: COMMAND.READ, ...request })
                : nbd.submit({ command: COMMAND.WRITE, ...write });
            pending.push(
              misuse.then(
                () => ok(false, "a misuse was accepted"),
                () => {},
              ),
            );
          }
        }
        await Promise.all(pending);
        deepEqual(Buffer.compare(await nbd.read(0, SIZE), model), 0);
        await nbd.close();
        await turn();
        equal(door.server.counts.open, 0);
        equal(door.catalog.closeCount, 1);
      },
    ),
    { numRuns: 60 },
  );
});

test("no bytes in the transmission phase break the door, and no memory is lost", async () => {
  const request = fc
    .tuple(
      fc.constantFrom(0x25609513, 0x25609513, 0x25609513, 0x21e41c71, 1),
      fc.constantFrom(0, 0, 0, 1, 2, 4, 8, 16, 32, 0x8000),
      fc.nat(9),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.oneof(
        fc.bigInt({ min: 0n, max: BigInt(2 * SIZE) }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      ),
      fc.oneof(fc.nat(5000), fc.nat(SIZE), fc.nat(0xffffffff)),
      fc.nat(5000),
    )
    .map(([magic, flags, type, cookie, offset, length, sentBytes]) => {
      const isExtended = magic === 0x21e41c71;
      const head = Buffer.alloc(isExtended ? 32 : 28);
      head.writeUInt32BE(magic, 0);
      head.writeUInt16BE(flags, 4);
      head.writeUInt16BE(type, 6);
      head.writeBigUInt64BE(cookie, 8);
      head.writeBigUInt64BE(offset, 16);
      if (isExtended) head.writeBigUInt64BE(BigInt(length), 24);
      else head.writeUInt32BE(length, 24);
      return Buffer.concat([head, Buffer.alloc(type === 1 ? Math.min(length, sentBytes) : 0)]);
    });
  await fc.assert(
    fc.asyncProperty(
      fc.array(request, { maxLength: 12 }),
      fc.constantFrom(8, 11, 0),
      fc.constantFrom(1, 100, 1 << 20),
      fc.boolean(),
      fc.boolean(),
      async (requests, headersOption, biteBytes, isSlow, isHolding) => {
        const door = new NbdDoorInMemory({ soon: queueMicrotask, device: { sizeBytes: SIZE } });
        const socket = door.connect({ biteBytes });
        const option = Buffer.from("IHAVEOPT\0\0\0\0\0\0\0\0");
        option[11] = headersOption;
        const go = Buffer.from("IHAVEOPT\0\0\0\u0007\0\0\0\b\0\0\0\u0002db\0\0");
        socket.feed(
          Buffer.concat([
            Buffer.from([0, 0, 0, 3]),
            headersOption === 0 ? Buffer.alloc(0) : option,
            go,
          ]),
        );
        await turn();
        socket.isHoldingSends = isSlow;
        door.device.faults.isHolding = isHolding;
        for (const bytes of requests) socket.feed(bytes);
        await turn();
        socket.release();
        door.device.faults.isHolding = false;
        door.device.releaseHeld();
        await turn();
        socket.cut();
        await turn();
        equal(door.server.counts.open, 0);
        equal(door.catalog.openCount, door.catalog.closeCount);
        await door.server.close({ graceMs: 10 });
        equal(door.slab.freeBytes, door.slab.bytes.length, "pieces of slab were lost");
      },
    ),
    { numRuns: 400 },
  );
});
