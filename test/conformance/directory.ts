// SPDX-License-Identifier: Apache-2.0
//
// What every Directory and DiskFile does, real or simulated (host/ports.ts). The log is proven over the
// simulated disk and runs on the real one; this suite is what makes the first say something about the
// second. Failures that only a simulator can cause are tested with the simulator.

import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { describe, test } from "node:test";
import { hasCode, StorageError } from "../../src/base/errors.ts";
import type { Directory } from "../../src/host/ports.ts";

/** Gives each test an empty directory; `dispose` is called when the test ends. */
export type DirectoryFactory = () => Promise<{
  readonly directory: Directory;
  readonly dispose: () => Promise<void>;
}>;

/** True for an error that says which way the system refused ("EEXIST"). */
export function hasErrno(errno: string): (error: unknown) => boolean {
  return (error) =>
    error instanceof StorageError && hasCode(error, "DISK_IO") && error.data.errno === errno;
}

export function directorySuite(implementation: string, factory: DirectoryFactory): void {
  const claim = (title: string, run: (directory: Directory) => Promise<void>): void => {
    test(title, async () => {
      const { directory, dispose } = await factory();
      try {
        await run(directory);
      } finally {
        await dispose();
      }
    });
  };

  describe(`${implementation}: a directory`, () => {
    claim("is empty at first and lists what was created in it", async (directory) => {
      deepEqual(await directory.list(), []);
      for (const name of ["b.seg", "a.seg", ".hidden"]) {
        await (await directory.open(name, "create")).close();
      }
      deepEqual((await directory.list()).sort(), [".hidden", "a.seg", "b.seg"]);
    });

    claim("refuses to create what exists, and leaves it as it is", async (directory) => {
      await writeFile(directory, "a", "content");
      await rejects(directory.open("a", "create"), hasErrno("EEXIST"));
      equal(await readFile(directory, "a"), "content");
    });

    claim("refuses to open what doesn't exist", async (directory) => {
      await rejects(directory.open("a", "read"), hasErrno("ENOENT"));
      await rejects(directory.open("a", "write"), hasErrno("ENOENT"));
      deepEqual(await directory.list(), []);
    });

    claim("says path and operation when it refuses", async (directory) => {
      await rejects(directory.open("missing.seg", "read"), /missing\.seg": open .*ENOENT/);
    });

    claim("forgets what is removed, and refuses to remove it again", async (directory) => {
      await writeFile(directory, "a", "content");
      await directory.remove("a");
      deepEqual(await directory.list(), []);
      await rejects(directory.remove("a"), hasErrno("ENOENT"));
      await (await directory.open("a", "create")).close();
      equal(await readFile(directory, "a"), "");
    });

    claim("lets a file that is removed while open be read to its end", async (directory) => {
      await writeFile(directory, "a", "content");
      const file = await directory.open("a", "read");
      await directory.remove("a");
      const target = new Uint8Array(7);
      equal(await file.read(target, 0), 7);
      equal(text(target), "content");
      await file.close();
    });

    claim("renames a file over another one", async (directory) => {
      await writeFile(directory, "a", "new");
      await writeFile(directory, "b", "old");
      await directory.rename("a", "b");
      deepEqual(await directory.list(), ["b"]);
      equal(await readFile(directory, "b"), "new");
      await rejects(directory.rename("a", "c"), hasErrno("ENOENT"));
    });

    claim("can be synced at any time", async (directory) => {
      await directory.sync();
      await writeFile(directory, "a", "content");
      await Promise.all([directory.sync(), directory.sync()]);
    });

    claim("tells its free bytes as a whole number", async (directory) => {
      const free = await directory.freeBytes();
      ok(Number.isSafeInteger(free) && free >= 0);
    });
  });

  describe(`${implementation}: a file`, () => {
    claim("reads up to its end and not beyond", async (directory) => {
      await writeFile(directory, "a", "0123456789");
      const file = await directory.open("a", "read");
      for (const [position, count] of [
        [0, 8],
        [2, 8],
        [3, 7],
        [9, 1],
        [10, 0],
        [1 << 20, 0],
      ] as const) {
        const target = new Uint8Array(8).fill(0xee);
        equal(await file.read(target, position), count, `asynchronous read at ${position}`);
        const targetSync = new Uint8Array(8).fill(0xee);
        equal(file.readSync(targetSync, position), count, `synchronous read at ${position}`);
        deepEqual(targetSync, target);
        equal(text(target.subarray(0, count)), "0123456789".slice(position, position + count));
        ok(
          target.subarray(count).every((byte) => byte === 0xee),
          "the rest is untouched",
        );
      }
      await file.close();
    });

    claim("keeps its contents when it is opened for writing", async (directory) => {
      await writeFile(directory, "a", "0123456789");
      const file = await directory.open("a", "write");
      await file.write(bytes("ab"), 4);
      file.writeSync(bytes("cd"), 6);
      await file.close();
      equal(await readFile(directory, "a"), "0123abcd89");
    });

    claim("reads zeros where a gap was left", async (directory) => {
      const file = await directory.open("a", "create");
      file.writeSync(bytes("end"), 1 << 20);
      equal(await file.sizeBytes(), (1 << 20) + 3);
      const target = new Uint8Array(4096).fill(0xee);
      equal(await file.read(target, 8192), 4096);
      ok(target.every((byte) => byte === 0));
      await file.close();
    });

    claim("shows a write to every handle at once", async (directory) => {
      const writer = await directory.open("a", "create");
      const reader = await directory.open("a", "read");
      const target = new Uint8Array(5);
      writer.writeSync(bytes("first"), 0);
      equal(reader.readSync(target, 0), 5);
      equal(text(target), "first");
      await writer.write(bytes("later"), 0);
      equal(await reader.read(target, 0), 5);
      equal(text(target), "later");
      await Promise.all([writer.close(), reader.close()]);
    });

    claim("writes exactly the bytes of a view, also of shared memory", async (directory) => {
      const memory = new Uint8Array(new SharedArrayBuffer(64)).fill(0x2e);
      memory.set(bytes("view"), 10);
      const file = await directory.open("a", "create");
      file.writeSync(memory.subarray(10, 14), 0);
      await file.write(memory.subarray(10, 14), 4);
      equal(await file.sizeBytes(), 8);
      equal(await file.read(memory.subarray(20, 28), 0), 8);
      equal(text(memory.subarray(19, 29)), ".viewview.");
      equal(file.readSync(memory.subarray(30, 38), 0), 8);
      equal(text(memory.subarray(29, 39)), ".viewview.");
      await file.close();
    });

    claim("isn't changed by a write of nothing", async (directory) => {
      const file = await directory.open("a", "create");
      file.writeSync(new Uint8Array(0), 100);
      await file.write(new Uint8Array(0), 100);
      equal(await file.sizeBytes(), 0);
      equal(await file.read(new Uint8Array(0), 0), 0);
      await file.close();
    });

    claim("carries megabytes in one call", async (directory) => {
      const source = new Uint8Array(3 << 20).map((_, index) => (index * 31) ^ (index >> 12));
      const file = await directory.open("a", "create");
      await file.write(source, 1);
      const target = new Uint8Array(source.length);
      equal(file.readSync(target, 1), source.length);
      ok(Buffer.compare(source, target) === 0);
      await file.close();
    });

    claim("is cut and grown by truncate, growing with zeros", async (directory) => {
      await writeFile(directory, "a", "0123456789");
      const file = await directory.open("a", "write");
      await file.truncate(4);
      equal(await file.sizeBytes(), 4);
      await file.truncate(8);
      const target = new Uint8Array(10);
      equal(await file.read(target, 0), 8);
      equal(text(target.subarray(0, 8)), "0123\0\0\0\0");
      await file.close();
    });

    claim("can be synced before, between and during writes", async (directory) => {
      const file = await directory.open("a", "create");
      await file.datasync();
      file.writeSync(bytes("x"), 0);
      await Promise.all([file.datasync(), file.write(bytes("y"), 1), file.datasync()]);
      await file.datasync();
      await file.close();
      equal(await readFile(directory, "a"), "xy");
    });

    claim("refuses writes when it was opened for reading", async (directory) => {
      await writeFile(directory, "a", "content");
      const file = await directory.open("a", "read");
      throws(() => file.writeSync(bytes("x"), 0), hasErrno("EBADF"));
      await rejects(file.write(bytes("x"), 0), hasErrno("EBADF"));
      await file.close();
      equal(await readFile(directory, "a"), "content");
    });

    claim("closes after what was begun before", async (directory) => {
      const file = await directory.open("a", "create");
      const written = file.write(bytes("content"), 0);
      const synced = file.datasync();
      await file.close();
      await Promise.all([written, synced]);
      equal(await readFile(directory, "a"), "content");
    });
  });
}

async function writeFile(directory: Directory, name: string, content: string): Promise<void> {
  const file = await directory.open(name, "create");
  await file.write(bytes(content), 0);
  await file.close();
}

async function readFile(directory: Directory, name: string): Promise<string> {
  const file = await directory.open(name, "read");
  const target = new Uint8Array(await file.sizeBytes());
  equal(await file.read(target, 0), target.length);
  await file.close();
  return text(target);
}

function bytes(content: string): Uint8Array {
  return new Uint8Array(Buffer.from(content, "latin1"));
}

function text(content: Uint8Array): string {
  return Buffer.from(content).toString("latin1");
}
