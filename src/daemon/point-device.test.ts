// SPDX-License-Identifier: Apache-2.0
//
// A point of a backup behind the NBD door: read-only it is the point, with an overlay it is a disk like any other, and the
// point stays what it is.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BLOCK_BYTES } from "../backup/place.ts";
import { PointImage } from "../backup/point-image.ts";
import { objectPath } from "../backup/sealed-object.ts";
import type { StorageError } from "../base/errors.ts";
import type { BlockRequest } from "../nbd/block-device.ts";
import { MemorySlab } from "../sim/memory-device.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";
import { SmallTarget, smallVolume } from "../sim/small-target.ts";
import { PointDevice } from "./point-device.ts";

const BLOCKS = 40;
const SIZE = BLOCKS * BLOCK_BYTES - 512;

class Rig {
  readonly target: SmallTarget = new SmallTarget();
  readonly slab: MemorySlab = new MemorySlab(8);
  readonly reports: StorageError[] = [];
  readonly disk: Uint8Array = new Uint8Array(SIZE);

  async open(options: { hasOverlay: boolean }): Promise<PointDevice> {
    const changes = new Map<number, Uint8Array | "zero">([[7, "zero"]]);
    for (const lba of [0, 1, 2, 20, 21, BLOCKS - 1]) {
      const block = new Uint8Array(BLOCK_BYTES).fill(lba + 1);
      changes.set(lba, block);
      this.disk.set(
        block.subarray(0, Math.min(BLOCK_BYTES, SIZE - lba * BLOCK_BYTES)),
        lba * BLOCK_BYTES,
      );
    }
    const runs = await this.target.backup(changes, []);
    const volume = { ...smallVolume(BLOCKS, runs), sizeBytes: SIZE };
    const { slab, reports } = this;
    const directory = new MemoryDirectory("overlay");
    return new PointDevice({
      image: new PointImage(this.target.reader(), volume),
      slab,
      report: (error) => reports.push(error),
      ...(options.hasOverlay ? { overlay: await directory.open("overlay", "create") } : {}),
    });
  }

  /** A request, and the error number that it ended with. */
  request(
    offsetBytes: number,
    lengthBytes: number,
  ): { request: BlockRequest; done: Promise<number>; bytes: Uint8Array } {
    const address = this.slab.allocate(Math.max(4096, lengthBytes));
    const { promise: done, resolve } = Promise.withResolvers<number>();
    const request = {
      offsetBytes,
      lengthBytes,
      address,
      isForceUnitAccess: false,
      complete: resolve,
    };
    return { request, done, bytes: this.slab.bytes.subarray(address, address + lengthBytes) };
  }

  async read(device: PointDevice, offset: number, length: number): Promise<Uint8Array> {
    const { request, done, bytes } = this.request(offset, length);
    device.read(request);
    equal(await done, 0);
    const copy = bytes.slice();
    this.slab.release(request.address);
    return copy;
  }

  async status(device: PointDevice, offset: number, length: number): Promise<number[][]> {
    const extents: number[][] = [];
    const { request, done } = this.request(offset, 0);
    device.blockStatus(
      { ...request, lengthBytes: length },
      {
        add: (extentBytes, flags) => {
          extents.push([extentBytes / BLOCK_BYTES, flags]);
          return true;
        },
      },
    );
    equal(await done, 0);
    return extents;
  }
}

test("a point is served as it is, with its zeros and holes", async () => {
  const rig = new Rig();
  const device = await rig.open({ hasOverlay: false });
  equal(device.isReadOnly, true);
  deepEqual(await rig.read(device, 0, SIZE), rig.disk);
  deepEqual(await rig.read(device, 4000, 5000), rig.disk.slice(4000, 9000));
  deepEqual(await rig.status(device, 0, 20 * BLOCK_BYTES), [
    [3, 0],
    [4, 3],
    [1, 2],
    [12, 3],
  ]);
});

test("with an overlay it is a disk like any other, whatever is written in whatever order", async () => {
  const operation = fc.record({
    what: fc.constantFrom("write", "write", "zero", "trim", "read", "flush"),
    offset: fc.nat(SIZE - 1),
    length: fc.oneof(fc.constant(BLOCK_BYTES), fc.nat(30_000)),
    fill: fc.nat(255),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 25 }), async (operations) => {
      const rig = new Rig();
      const device = await rig.open({ hasOverlay: true });
      const disk = rig.disk.slice();
      const checks: Promise<void>[] = [];
      // All at once: each sees what was asked before it, and nothing of what comes later.
      for (const { what, offset, length, fill } of operations) {
        const end = Math.min(SIZE, offset + length);
        const { request, done, bytes } = rig.request(offset, end - offset);
        if (what === "read") {
          device.read(request);
          const expected = disk.slice(offset, end);
          checks.push(done.then((errno) => deepEqual([errno, bytes.slice()], [0, expected])));
          continue;
        }
        if (what === "write") {
          bytes.fill(fill);
          device.write(request);
          disk.fill(fill, offset, end);
        } else if (what === "zero") {
          device.writeZeroes(request, { isHoleForbidden: false });
          disk.fill(0, offset, end);
        } else if (what === "trim") {
          device.trim(request);
          disk.fill(0, offset, end);
        } else device.flush(request);
        checks.push(done.then((errno) => equal(errno, 0)));
      }
      await Promise.all(checks);
      deepEqual(await rig.read(device, 0, SIZE), disk);
      let blocks = 0;
      for (const [count, flags] of await rig.status(device, 0, SIZE)) {
        const part = disk.subarray(blocks * BLOCK_BYTES, (blocks + count!) * BLOCK_BYTES);
        if (flags !== 0) ok(part.every((byte) => byte === 0));
        blocks += count!;
      }
      equal(blocks * BLOCK_BYTES, SIZE);
    }),
    { numRuns: 60 },
  );
});

test("a change waits for the reads before it, also where the target is slow", async () => {
  const { promise: gate, resolve: open } = Promise.withResolvers<void>();
  let isSlow = false;
  const base = {
    sizeBytes: 4 * BLOCK_BYTES,
    read: async (target: Uint8Array) => {
      if (isSlow) await gate;
      target.fill(1);
    },
    visitExtents: () => Promise.resolve(),
  };
  const rig = new Rig();
  const overlay = await new MemoryDirectory("overlay").open("overlay", "create");
  const device = new PointDevice({ image: base, slab: rig.slab, overlay, report: () => {} });
  const write = (fill: number): Promise<number> => {
    const { request, done, bytes } = rig.request(BLOCK_BYTES, BLOCK_BYTES);
    bytes.fill(fill);
    device.write(request);
    return done;
  };
  await write(2);
  isSlow = true;
  const read = rig.request(0, 2 * BLOCK_BYTES);
  device.read(read.request);
  const written = write(3);
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
  open();
  deepEqual([await read.done, await written], [0, 0]);
  deepEqual([read.bytes[0], read.bytes[BLOCK_BYTES]], [1, 2]);
});

test("the point itself never changes", async () => {
  const rig = new Rig();
  const device = await rig.open({ hasOverlay: true });
  const before = new Map(
    [...rig.target.bucket.objects].map(([name, bytes]) => [name, bytes.slice()]),
  );
  const { request, done, bytes } = rig.request(0, 8192);
  bytes.fill(9);
  device.write(request);
  equal(await done, 0);
  deepEqual(rig.target.bucket.objects, before);
});

test("what is lost ends with an I/O error, and is told", async () => {
  const rig = new Rig();
  const device = await rig.open({ hasOverlay: true });
  rig.target.bucket.objects.delete(objectPath("pack", rig.target.packNames[0]!));
  const lost = rig.request(0, 4096);
  device.read(lost.request);
  equal(await lost.done, 5);
  deepEqual(
    rig.reports.map(({ code, data }) => [code, data.offsetBytes, data.lengthBytes]),
    [["TARGET_CORRUPT", 0, 4096]],
  );
  // Whoever overwrites it needs it no more.
  const healed = rig.request(0, 3 * BLOCK_BYTES);
  device.write(healed.request);
  equal(await healed.done, 0);
  equal((await rig.read(device, 0, 4096)).length, 4096);
});

test("a target that goes away ends requests, and one that comes back is read again", async () => {
  const rig = new Rig();
  const device = await rig.open({ hasOverlay: false });
  rig.target.bucket.isGone = true;
  const failed = rig.request(0, 4096);
  device.read(failed.request);
  ok((await failed.done) > 0);
  rig.target.bucket.isGone = false;
  deepEqual(await rig.read(device, 0, SIZE), rig.disk);
});
