// SPDX-License-Identifier: Apache-2.0
//
// The transmission phase, request by request, in each of the three kinds of headers: what is answered,
// what reaches the device, and what waits for what.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { NBD_ERROR } from "../base/errors.ts";
import type { MemorySocket } from "../sim/memory-socket.ts";
import { type DoorOptions, NbdDoorInMemory } from "../sim/nbd-door.ts";
import { NbdClient, type NbdClientOptions } from "./client.ts";
import { HEADERS, type Headers } from "./codec.ts";
import { COMMAND, COMMAND_FLAG, REPLY_TYPE } from "./constants.ts";

const KIB = 1024;
const MIB = 1 << 20;
const ALL_HEADERS = Object.entries(HEADERS) as [string, Headers][];

let door: NbdDoorInMemory;

function open(options: Partial<DoorOptions> = {}): NbdDoorInMemory {
  door = new NbdDoorInMemory({ soon: queueMicrotask, ...options });
  return door;
}

describe("a session", () => {
  /** Whatever a test did: no memory is lost, and nothing of it is left behind. */
  afterEach(async () => {
    door.device.faults.isHolding = false;
    door.device.releaseHeld();
    const closed = door.server.close({ graceMs: 10 });
    await turn();
    door.clock.advance(5000);
    await closed;
    equal(door.server.counts.open, 0);
    equal(door.catalog.openCount, door.catalog.closeCount);
    equal(door.slab.freeBytes, door.slab.bytes.length, "pieces of slab were lost");
  });

  async function client(options: Partial<NbdClientOptions> = {}): Promise<NbdClient> {
    return await NbdClient.open(door.connectStream(), { exportName: "db", ...options });
  }

  function pattern(lengthBytes: number, seed = 1): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    for (let index = 0; index < lengthBytes; index++) bytes[index] = (index * 7 + seed * 31) % 251;
    return bytes;
  }

  /** Like deepEqual, but fast for millions of bytes. */
  function same(actual: Uint8Array, wanted: Uint8Array): void {
    equal(Buffer.compare(actual, wanted), 0, "the bytes differ");
  }

  async function refused(promise: Promise<unknown>, errno: number): Promise<void> {
    await rejects(promise, (error: { data?: { errno?: number } }) => {
      equal(error.data?.errno, errno);
      return true;
    });
  }

  for (const [name, headers] of ALL_HEADERS) {
    test(`${name}: what was written is read back, at any offset and length`, async () => {
      open();
      const nbd = await client({ headers });
      equal(nbd.agreement.headers, headers);
      for (const [offset, length] of [
        [0, 1],
        [511, 513],
        [4096, 4096],
        [100_000, 65_536],
        [200_001, 65_537],
        [1 * MIB, MIB],
        [3 * MIB + 5, MIB + 1],
        [8 * MIB - 4095, 5 * MIB + 77],
        [20 * MIB, 32 * MIB],
      ] as const) {
        const bytes = pattern(length, offset);
        await nbd.write(offset, bytes);
        same(door.device.contents(offset, length), bytes);
        same(await nbd.read(offset, length), bytes);
      }
      await nbd.close();
    });

    test(`${name}: a device that answers late and in another order is answered for`, async () => {
      open();
      const late = new NbdDoorInMemory({ soon: queueMicrotask, device: { lateBy: door.clock } });
      door = late;
      const nbd = await client({ headers });
      const writes = Array.from({ length: 40 }, (_, index) =>
        nbd.write(index * 5000, pattern(5000, index)),
      );
      await Promise.all(writes);
      const reads = await Promise.all(
        Array.from({ length: 40 }, (_, index) => nbd.read(index * 5000, 5000)),
      );
      for (const [index, bytes] of reads.entries()) same(bytes, pattern(5000, index));
      same(await nbd.read(0, 3 * MIB), door.device.contents(0, 3 * MIB));
      await nbd.write(77, pattern(3 * MIB));
      same(await nbd.read(77, 3 * MIB), pattern(3 * MIB));
      await nbd.close();
    });

    test(`${name}: flush, trim, cache and write zeroes reach the device`, async () => {
      open();
      const nbd = await client({ headers });
      await nbd.write(0, pattern(16 * KIB));
      await nbd.flush();
      await nbd.cache(0, 4096);
      await nbd.trim(0, 4096);
      await nbd.writeZeroes(8192, 4096, { isFast: true });
      await nbd.writeZeroes(12_288, 100, { isHoleForbidden: true, isForceUnitAccess: true });
      same(await nbd.read(0, 4096), new Uint8Array(4096));
      same(await nbd.read(4096, 4096), pattern(16 * KIB).slice(4096, 8192));
      deepEqual(door.device.calls, {
        flush: 1,
        cache: 1,
        trim: 1,
        writeZeroes: 1,
        "writeZeroes no hole": 1,
      });
      await nbd.close();
    });

    test(`${name}: an error of the device is the answer to that request alone`, async () => {
      open();
      const nbd = await client({ headers });
      Object.assign(door.device.faults, { errno: NBD_ERROR.EIO, start: MIB, end: MIB + 1 });
      await refused(nbd.read(MIB, 10), NBD_ERROR.EIO);
      await refused(nbd.read(MIB - 5, 6), NBD_ERROR.EIO);
      await refused(nbd.read(0, 100 * KIB + MIB), NBD_ERROR.EIO);
      await refused(nbd.read(512, 4 * MIB), NBD_ERROR.EIO);
      await refused(nbd.write(MIB, pattern(10)), NBD_ERROR.EIO);
      await refused(nbd.write(0, pattern(3 * MIB)), NBD_ERROR.EIO);
      await refused(nbd.trim(0, 2 * MIB), NBD_ERROR.EIO);
      await nbd.write(0, pattern(MIB));
      same(await nbd.read(0, MIB), pattern(MIB));
      await nbd.close();
    });

    test(`${name}: a flag that a command doesn't take is EINVAL`, async () => {
      open();
      const nbd = await client({ headers });
      const { READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES } = COMMAND;
      const { NO_HOLE, DF, REQ_ONE, FAST_ZERO } = COMMAND_FLAG;
      for (const [command, flags] of [
        [READ, NO_HOLE],
        [READ, 0x8000],
        [FLUSH, DF],
        [TRIM, FAST_ZERO],
        [CACHE, REQ_ONE],
        [WRITE_ZEROES, DF],
      ] as const) {
        const lengthBytes = command === FLUSH ? 0 : 512;
        await refused(
          nbd.submit({ command, flags, offsetBytes: 0, lengthBytes }),
          NBD_ERROR.EINVAL,
        );
      }
      const payload = pattern(300_000);
      const request = { command: WRITE, offsetBytes: 0, lengthBytes: payload.length, payload };
      await refused(nbd.submit({ ...request, flags: NO_HOLE }), NBD_ERROR.EINVAL);
      deepEqual(door.device.calls, {}, "nothing of this reached the device");
      await nbd.write(0, payload); // the refused payload was read past
      await nbd.close();
    });

    test(`${name}: FUA is taken on every command`, async () => {
      open();
      const nbd = await client({ headers });
      for (const command of [
        COMMAND.READ,
        COMMAND.FLUSH,
        COMMAND.TRIM,
        COMMAND.CACHE,
        COMMAND.WRITE_ZEROES,
      ]) {
        const lengthBytes = command === COMMAND.FLUSH ? 0 : 512;
        await nbd.submit({
          command,
          flags: COMMAND_FLAG.FUA,
          offsetBytes: 0,
          lengthBytes,
          target: new Uint8Array(lengthBytes),
        });
      }
      await nbd.write(0, pattern(512), { isForceUnitAccess: true });
      await nbd.close();
    });

    test(`${name}: an unknown command is EINVAL`, async () => {
      open();
      const nbd = await client({ headers });
      for (const command of [8, 99, 0xffff]) {
        await refused(nbd.submit({ command, offsetBytes: 0, lengthBytes: 0 }), NBD_ERROR.EINVAL);
      }
      await nbd.close();
    });

    test(`${name}: beyond the end, writing is ENOSPC and everything else EINVAL`, async () => {
      open();
      const nbd = await client({ headers });
      const { sizeBytes } = nbd;
      const { READ, WRITE, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = COMMAND;
      const far = [sizeBytes - 511, sizeBytes, sizeBytes + 4096, 2 ** 53 - 512, 2 ** 53, 2 ** 63];
      for (const offsetBytes of [...far, 2 ** 64 - 2048]) {
        for (const command of [READ, TRIM, CACHE, BLOCK_STATUS]) {
          await refused(nbd.submit({ command, offsetBytes, lengthBytes: 512 }), NBD_ERROR.EINVAL);
        }
        const zeroes = { command: WRITE_ZEROES, offsetBytes, lengthBytes: 512 };
        await refused(nbd.submit(zeroes), NBD_ERROR.ENOSPC);
        const payload = pattern(512);
        const write = { command: WRITE, offsetBytes, lengthBytes: 512, payload };
        await refused(nbd.submit(write), NBD_ERROR.ENOSPC);
      }
      await nbd.write(sizeBytes - 512, pattern(512));
      deepEqual(door.device.calls, {});
      await nbd.close();
    });

    test(`${name}: a read-only export refuses changes with EPERM`, async () => {
      open({ device: { isReadOnly: true } });
      const nbd = await client({ headers });
      ok(nbd.isReadOnly && !nbd.canTrim && !nbd.canWriteZeroes);
      await refused(nbd.write(0, pattern(512)), NBD_ERROR.EPERM);
      await refused(nbd.write(0, pattern(3 * MIB)), NBD_ERROR.EPERM);
      await refused(nbd.trim(0, 512), NBD_ERROR.EPERM);
      await refused(nbd.writeZeroes(0, 512), NBD_ERROR.EPERM);
      await nbd.flush();
      equal((await nbd.read(0, 512)).length, 512);
      await nbd.close();
    });

    test(`${name}: a flush with an offset or a length is EINVAL`, async () => {
      open();
      const nbd = await client({ headers });
      const { FLUSH } = COMMAND;
      await refused(
        nbd.submit({ command: FLUSH, offsetBytes: 0, lengthBytes: 1 }),
        NBD_ERROR.EINVAL,
      );
      await refused(
        nbd.submit({ command: FLUSH, offsetBytes: 1, lengthBytes: 0 }),
        NBD_ERROR.EINVAL,
      );
      await nbd.close();
    });

    test(`${name}: a read of more than 32 MiB is refused and the connection goes on`, async () => {
      open();
      const nbd = await client({ headers });
      const errno = headers === HEADERS.SIMPLE ? NBD_ERROR.EINVAL : NBD_ERROR.EOVERFLOW;
      const lengthBytes = 32 * MIB + 1;
      await refused(nbd.submit({ command: COMMAND.READ, offsetBytes: 0, lengthBytes }), errno);
      equal((await nbd.read(0, 512)).length, 512);
      await nbd.close();
    });

    test(`${name}: requests of no bytes succeed and reach no device`, async () => {
      open();
      const nbd = await client({ headers });
      equal((await nbd.read(0, 0)).length, 0);
      await nbd.write(0, new Uint8Array(0));
      await nbd.trim(0, 0);
      await nbd.writeZeroes(0, 0);
      await nbd.cache(0, 0);
      deepEqual(door.device.calls, {});
      await nbd.close();
    });

    test(`${name}: block status without a selected context is EINVAL`, async () => {
      open();
      const nbd = await client({ headers });
      await refused(nbd.blockStatus(0, 4096), NBD_ERROR.EINVAL);
      await nbd.close();
    });
  }

  for (const headers of [HEADERS.STRUCTURED, HEADERS.EXTENDED] as const) {
    const name = headers === HEADERS.EXTENDED ? "EXTENDED" : "STRUCTURED";

    test(`${name}: block status tells extents of every context that was selected`, async () => {
      open({ device: { extraContexts: ["qemu:dirty-bitmap:x"] } });
      const contexts = ["base:allocation", "qemu:dirty-bitmap:x", "no:such"];
      const nbd = await client({ headers, contexts });
      deepEqual(nbd.contexts, ["base:allocation", "qemu:dirty-bitmap:x"]);
      await nbd.write(8192, pattern(8192));
      const status = await nbd.blockStatus(4096, 16_384);
      deepEqual(status.get("base:allocation"), [
        { offsetBytes: 4096, lengthBytes: 4096, flags: 3 },
        { offsetBytes: 8192, lengthBytes: 8192, flags: 0 },
        { offsetBytes: 16_384, lengthBytes: 4096, flags: 3 },
      ]);
      deepEqual(status.get("qemu:dirty-bitmap:x"), [
        { offsetBytes: 4096, lengthBytes: 4096, flags: 0 },
        { offsetBytes: 8192, lengthBytes: 8192, flags: 1 },
        { offsetBytes: 16_384, lengthBytes: 4096, flags: 0 },
      ]);
      const one = await nbd.blockStatus(4096, 16_384, { isOne: true });
      for (const extents of one.values()) equal(extents.length, 1);
      await refused(nbd.blockStatus(0, 0), NBD_ERROR.EINVAL);
      await nbd.close();
    });

    test(`${name}: a status of very many extents ends where its memory does, and goes on from there`, async () => {
      open({ device: { sizeBytes: 2 ** 31 } });
      const nbd = await client({ headers, contexts: ["base:allocation"] });
      // A hole in every second block: more extents than any piece of slab holds.
      const single = new Uint8Array(4096).fill(1);
      const blocks = 200_000;
      for (let block = 0; block < blocks; block += 2) door.device.put(block * 4096, single);
      const seen: number[] = [];
      let offset = 0;
      let requests = 0;
      while (offset < blocks * 4096) {
        const extents =
          (await nbd.blockStatus(offset, blocks * 4096 - offset)).get("base:allocation") ?? [];
        ok(extents.length > 0 && extents.length <= 1 << 20);
        for (const extent of extents) {
          equal(extent.offsetBytes, offset);
          seen.push(extent.flags);
          offset += extent.lengthBytes;
        }
        requests += 1;
      }
      equal(offset, blocks * 4096);
      ok(requests > 1);
      ok(seen.every((flags, index) => index === 0 || flags !== seen[index - 1]) || requests > 1);
      await nbd.close();
    });

    test(`${name}: a large read gets its holes as holes`, async () => {
      open();
      const stream = door.connectStream();
      const nbd = await NbdClient.open(stream, { exportName: "db", headers });
      await nbd.write(5 * MIB, pattern(4096));
      let sentBytes = 0;
      const forward = stream.socket.onSent;
      stream.socket.onSent = (bytes) => {
        sentBytes += bytes.length;
        forward?.(bytes);
      };
      same(await nbd.read(MIB, 16 * MIB), door.device.contents(MIB, 16 * MIB));
      ok(sentBytes < 3 * MIB, `${sentBytes} bytes were sent`);
      await nbd.close();
    });

    test(`${name}: DF gets one data chunk, holes included`, async () => {
      open();
      const socket = await rawClient(headers);
      for (const length of [4096, 100_000, 3 * MIB]) {
        socket.takeSent();
        socket.feed(request({ headers, command: COMMAND.READ, flags: COMMAND_FLAG.DF, length }));
        await turn();
        const chunks = chunksOf(socket.takeSent(), headers);
        deepEqual(
          chunks.map(({ type, length: size }) => [type, size]),
          [[REPLY_TYPE.OFFSET_DATA, length + 8]],
        );
      }
      socket.feedEnd();
    });

    test(`${name}: errors carry a sentence for the human`, async () => {
      open();
      const nbd = await client({ headers });
      await rejects(nbd.read(nbd.sizeBytes, 1), /EINVAL: beyond the end of the export/);
      await nbd.close();
    });
  }

  test("SIMPLE: DF is refused, since it wasn't offered", async () => {
    open();
    const nbd = await client({ headers: HEADERS.SIMPLE });
    const read = { command: COMMAND.READ, offsetBytes: 0, lengthBytes: 512 };
    await refused(nbd.submit({ ...read, flags: COMMAND_FLAG.DF }), NBD_ERROR.EINVAL);
    await nbd.close();
  });

  test("EXTENDED: effects may be longer than 32 bits", async () => {
    const sizeBytes = 16 * 2 ** 40;
    open({ device: { sizeBytes } });
    const nbd = await client({ contexts: ["base:allocation"] });
    equal(nbd.sizeBytes, sizeBytes);
    await nbd.write(4096, pattern(4096));
    await nbd.trim(0, sizeBytes);
    await nbd.writeZeroes(0, sizeBytes);
    await nbd.cache(0, sizeBytes);
    deepEqual((await nbd.blockStatus(0, sizeBytes)).get("base:allocation"), [
      { offsetBytes: 0, lengthBytes: sizeBytes, flags: 3 },
    ]);
    await nbd.close();
  });

  test("EXTENDED: block status may be narrowed to contexts by their ids", async () => {
    open({ device: { extraContexts: ["x-a:b"] } });
    const socket = await rawClient(HEADERS.EXTENDED, ["base:allocation", "x-a:b"]);
    const ask = (...ids: number[]): { type: number; length: number }[] => {
      const payload = new Uint8Array(8 + 4 * ids.length);
      const view = new DataView(payload.buffer);
      view.setUint32(4, 8192);
      for (const [index, id] of ids.entries()) view.setUint32(8 + 4 * index, id);
      const flags = COMMAND_FLAG.PAYLOAD_LEN;
      socket.takeSent();
      socket.feed(
        request({ headers: HEADERS.EXTENDED, command: COMMAND.BLOCK_STATUS, flags, payload }),
      );
      return chunksOf(socket.takeSent(), HEADERS.EXTENDED);
    };
    const status = { type: REPLY_TYPE.BLOCK_STATUS_EXT, length: 24 };
    const end = { type: REPLY_TYPE.NONE, length: 0 };
    deepEqual(ask(2), [status, end]);
    deepEqual(ask(2, 1), [status, status, end]);
    for (const ids of [[3], [1, 1], [0], []]) equal(ask(...ids)[0]?.type, REPLY_TYPE.ERROR);
    equal(
      ask(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)[0]?.type,
      REPLY_TYPE.ERROR,
    );
    deepEqual(ask(1), [status, end], "the refused payloads were read past");
    socket.feedEnd();
  });

  test("EXTENDED: a payload on a command that takes none is read past and refused", async () => {
    open();
    const nbd = await client();
    for (const command of [COMMAND.READ, COMMAND.TRIM, COMMAND.FLUSH, COMMAND.CACHE, 77]) {
      const payload = pattern(500_000);
      const misuse = { command, offsetBytes: 0, lengthBytes: payload.length, payload };
      await refused(nbd.submit(misuse), NBD_ERROR.EINVAL);
    }
    await nbd.write(0, pattern(512));
    deepEqual(door.device.calls, {});
    await nbd.close();
  });

  test("EXTENDED: a write without its payload flag has a payload all the same, as QEMU's has", async () => {
    open();
    const socket = await rawClient(HEADERS.EXTENDED);
    const write = request({
      headers: HEADERS.EXTENDED,
      command: COMMAND.WRITE,
      payload: pattern(512),
    });
    write.writeUInt16BE(0, 4);
    socket.feed(write);
    socket.feed(request({ headers: HEADERS.EXTENDED, command: COMMAND.FLUSH }));
    const chunks = chunksOf(socket.takeSent(), HEADERS.EXTENDED);
    deepEqual(
      chunks.map((chunk) => chunk.type),
      [REPLY_TYPE.NONE, REPLY_TYPE.NONE],
    );
    same(door.device.contents(0, 512), pattern(512));
    socket.feedEnd();
  });

  test("STRUCTURED: the answer to block status is chunks to its end", async () => {
    open();
    const socket = await rawClient(HEADERS.STRUCTURED, ["base:allocation"]);
    const { BLOCK_STATUS } = COMMAND;
    socket.feed(request({ headers: HEADERS.STRUCTURED, command: BLOCK_STATUS, length: 4096 }));
    const sent = Buffer.from(socket.takeSent());
    equal(sent.toString("hex", 0, 4), "668e33ef");
    deepEqual(chunksOf(sent, HEADERS.STRUCTURED), [
      { type: REPLY_TYPE.BLOCK_STATUS, length: 12 },
      { type: REPLY_TYPE.NONE, length: 0 },
    ]);
    equal(sent.toString("hex", 24, 32), "0000100000000003");
    socket.feedEnd();
  });

  test("a large read has no chunks for small holes", async () => {
    open();
    for (let offset = 0; offset < 2 * MIB; offset += 8192) door.device.put(offset, pattern(4096));
    const socket = await rawClient(HEADERS.STRUCTURED);
    socket.feed(request({ headers: HEADERS.STRUCTURED, command: COMMAND.READ, length: 2 * MIB }));
    await turn();
    const chunks = chunksOf(socket.takeSent(), HEADERS.STRUCTURED);
    ok(chunks.length < 10, `${chunks.length} chunks`);
    equal(chunks.filter((chunk) => chunk.type === REPLY_TYPE.OFFSET_HOLE).length, 0);
    socket.feedEnd();
  });

  test("a large write is cut on blocks of the export", async () => {
    open();
    const nbd = await client();
    await nbd.write(1000, pattern(4 * MIB));
    deepEqual(door.device.writeOffsets, [1000, MIB, 2 * MIB, 3 * MIB]);
    await nbd.close();
  });

  test("behind a long write the next head is read alone, so that the next payload goes to its place", async () => {
    open();
    const socket = await rawClient(HEADERS.SIMPLE);
    const { WRITE, FLUSH } = COMMAND;
    ok(socket.targetBytes > 200 * KIB);
    socket.feed(request({ headers: HEADERS.SIMPLE, command: WRITE, payload: pattern(300 * KIB) }));
    equal(socket.targetBytes, 28);
    const next = request({ headers: HEADERS.SIMPLE, command: WRITE, payload: pattern(300 * KIB) });
    socket.feed(next.subarray(0, 28));
    equal(socket.targetBytes, 300 * KIB);
    socket.feed(next.subarray(28));
    socket.feed(request({ headers: HEADERS.SIMPLE, command: FLUSH }));
    ok(socket.targetBytes > 200 * KIB);
    equal(socket.takeSent().length, 3 * 16);
    socket.feedEnd();
  });

  test("behind a long write the payload of a refused one is read past in large bites", async () => {
    open();
    const headers = HEADERS.SIMPLE;
    const socket = await rawClient(headers);
    const { WRITE } = COMMAND;
    socket.feed(request({ headers, command: WRITE, payload: pattern(300 * KIB) }));
    const refusedWrite = request({
      headers,
      command: WRITE,
      offset: 2 ** 40,
      payload: pattern(300 * KIB),
    });
    socket.feed(refusedWrite.subarray(0, 28));
    ok(socket.targetBytes > 200 * KIB);
    socket.feed(refusedWrite.subarray(28));
    const sent = Buffer.from(socket.takeSent());
    equal(sent.length, 2 * 16);
    equal(sent.readUInt32BE(16 + 4), NBD_ERROR.ENOSPC);
    socket.feedEnd();
  });

  test("a burst whose replies need several output pieces is answered in order, with one send", async () => {
    open();
    door.device.put(0, pattern(MIB));
    const socket = await rawClient(HEADERS.SIMPLE);
    const { READ } = COMMAND;
    const reads = Array.from({ length: 200 }, (_, index) =>
      request({ headers: HEADERS.SIMPLE, command: READ, offset: index * 4096, length: 4096 }),
    );
    socket.feed(Buffer.concat(reads));
    const sent = socket.takeSent();
    equal(sent.length, 200 * (16 + 4096));
    for (let index = 0; index < 200; index++) {
      const at = index * (16 + 4096) + 16;
      same(sent.subarray(at, at + 4096), pattern(MIB).subarray(index * 4096, (index + 1) * 4096));
    }
    socket.feedEnd();
  });

  test("two requests with the same cookie are both answered", async () => {
    open();
    const socket = await rawClient(HEADERS.SIMPLE);
    const flush = request({ headers: HEADERS.SIMPLE, command: COMMAND.FLUSH });
    socket.feed(Buffer.concat([flush, flush]));
    equal(socket.takeSent().length, 32);
    socket.feedEnd();
  });

  test("requests are understood byte by byte as they are whole", async () => {
    for (const headers of Object.values(HEADERS)) {
      open();
      const requests = Buffer.concat([
        request({ headers, command: COMMAND.WRITE, offset: 100, payload: pattern(3000) }),
        request({ headers, command: COMMAND.READ, offset: 50, length: 3100 }),
        request({ headers, command: COMMAND.WRITE, offset: 2 ** 40, payload: pattern(700) }),
        request({ headers, command: COMMAND.TRIM, offset: 100, length: 512 }),
        request({ headers, command: COMMAND.READ, offset: 0, length: 4096 }),
      ]);
      const whole = await rawClient(headers);
      whole.feed(requests);
      const wanted = Buffer.from(whole.takeSent()).toString("hex");
      const bites = await rawClient(headers, [], { biteBytes: 1 });
      bites.feed(requests);
      equal(Buffer.from(bites.takeSent()).toString("hex"), wanted);
      whole.feedEnd();
      bites.feedEnd();
      await turn();
    }
  });

  test("DISC waits for what is in flight, answers it, and hangs up", async () => {
    open();
    const socket = await rawClient(HEADERS.SIMPLE);
    door.device.faults.isHolding = true;
    socket.feed(
      request({ headers: HEADERS.SIMPLE, command: COMMAND.WRITE, payload: pattern(512) }),
    );
    socket.feed(request({ headers: HEADERS.SIMPLE, command: COMMAND.DISC }));
    await turn();
    equal(socket.isEnded, false);
    door.device.faults.isHolding = false;
    door.device.releaseHeld();
    await turn();
    equal(socket.takeSent().length, 16);
    equal(socket.isEnded, true);
  });
});

// Lower-level means, for what our client wouldn't do

interface RawRequest {
  readonly headers: Headers;
  readonly command: number;
  readonly flags?: number;
  readonly offset?: number;
  readonly length?: number;
  readonly payload?: Uint8Array;
}

function request(raw: RawRequest): Buffer {
  const { headers, command, flags = 0, offset = 0, payload = new Uint8Array(0) } = raw;
  const isExtended = headers === HEADERS.EXTENDED;
  const head = Buffer.alloc(isExtended ? 32 : 28);
  const length = raw.length ?? payload.length;
  const payloadFlag = isExtended && payload.length > 0 ? COMMAND_FLAG.PAYLOAD_LEN : 0;
  head.writeUInt32BE(isExtended ? 0x21e41c71 : 0x25609513, 0);
  head.writeUInt16BE(flags | payloadFlag, 4);
  head.writeUInt16BE(command, 6);
  head.writeBigUInt64BE(0xc0de_c0de_0000_0001n, 8);
  head.writeBigUInt64BE(BigInt(offset), 16);
  if (isExtended) head.writeBigUInt64BE(BigInt(length), 24);
  else head.writeUInt32BE(length, 24);
  return Buffer.concat([head, payload]);
}

async function rawClient(
  headers: Headers,
  contexts: readonly string[] = [],
  options: { biteBytes?: number } = {},
): Promise<MemorySocket> {
  const socket = door.connect(options);
  const option = (code: number, data: Buffer): Buffer => {
    const head = Buffer.from("IHAVEOPT0000____");
    head.writeUInt32BE(code, 8);
    head.writeUInt32BE(data.length, 12);
    return Buffer.concat([head, data]);
  };
  const sized = (text: string): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    return Buffer.concat([length, Buffer.from(text)]);
  };
  socket.feed(Buffer.from([0, 0, 0, 3]));
  if (headers !== HEADERS.SIMPLE) {
    socket.feed(option(headers === HEADERS.EXTENDED ? 11 : 8, Buffer.alloc(0)));
  }
  if (contexts.length > 0) {
    const count = Buffer.from([0, 0, 0, contexts.length]);
    socket.feed(option(10, Buffer.concat([sized("db"), count, ...contexts.map(sized)])));
    await turn();
  }
  socket.feed(option(7, Buffer.concat([sized("db"), Buffer.alloc(2)])));
  await turn();
  socket.takeSent();
  return socket;
}

function chunksOf(sent: Uint8Array, headers: Headers): { type: number; length: number }[] {
  const bytes = Buffer.from(sent);
  const isExtended = headers === HEADERS.EXTENDED;
  const chunks = [];
  for (let at = 0; at < bytes.length; ) {
    const length = isExtended
      ? Number(bytes.readBigUInt64BE(at + 24))
      : bytes.readUInt32BE(at + 16);
    chunks.push({ type: bytes.readUInt16BE(at + 6), length });
    at += (isExtended ? 32 : 20) + length;
  }
  return chunks;
}
