// SPDX-License-Identifier: Apache-2.0
//
// The object store suite over a directory and over the simulated bucket; and what only one of them can show: a real full
// disk, a target that is unmounted, read-only, or of two file systems; a simulated store that lies and forgets answers.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ErrorCode, hasCode } from "../../src/base/errors.ts";
import {
  linkDraft,
  makeDirectoryStore,
  openDirectoryStore,
} from "../../src/host/node/directory-object-store.ts";
import {
  MemoryBucket,
  MemoryObjectStore,
  type StoreFault,
  type StoreOperation,
} from "../../src/sim/memory-object-store.ts";
import { Prng } from "../../src/sim/prng.ts";
import { run } from "../interop/command.ts";
import { requires } from "../interop/requires.ts";
import { Scratch } from "../interop/scratch.ts";
import { objectStoreSuite } from "./object-store.ts";

objectStoreSuite("a directory", async () => {
  const path = await mkdtemp(join(tmpdir(), "varve-store-"));
  let leftCount = 0;
  return {
    door: () => openDirectoryStore(path),
    leaveUnfinished: async (name) => {
      leftCount += 1;
      const folder = join(path, name, "..");
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, `.put-${String(leftCount).padStart(16, "0")}`), "half");
    },
    dispose: () => rm(path, { recursive: true }),
  };
});

objectStoreSuite("a simulated bucket", async () => {
  const bucket = new MemoryBucket();
  return {
    door: async () => new MemoryObjectStore(bucket),
    leaveUnfinished: async (name) => {
      const dying = new MemoryObjectStore(bucket, { begin: () => new Promise(() => {}) });
      void dying.putIfAbsent(name, [new Uint8Array(4)]);
    },
    dispose: async () => {},
  };
});

const one = [new Uint8Array(4096)];
const has = (code: ErrorCode) => (error: unknown) => hasCode(error, code);
const isRoot = { what: "root", isMet: process.getuid?.() === 0 };
const needsMount = requires(isRoot, "mount --version");

/** A file system of 1 MiB of its own, mounted at `path`. */
async function mountSmall(scratch: Scratch, path: string): Promise<void> {
  await mkdir(path, { recursive: true });
  await run("mount", ["-t", "tmpfs", "-o", "size=1m", "varve-test", path]);
  scratch.defer(path, async () => spawnSync("umount", [path]));
}

test("a directory that isn't there, or is a file, is no target", async () => {
  await using scratch = await Scratch.create();
  await writeFile(scratch.path("file"), "");
  for (const name of ["none", "file", "file/below"]) {
    await rejects(openDirectoryStore(scratch.path(name)), has("TARGET_NOT_FOUND"));
  }
  await rejects(makeDirectoryStore(scratch.path("file/below")), has("TARGET_UNAVAILABLE"));
});

test("a directory is made with its parents, and what is put in it is private", async () => {
  await using scratch = await Scratch.create();
  const store = await makeDirectoryStore(scratch.path("one/two"));
  await store.putIfAbsent("packs/ab/one", one);
  equal((await stat(scratch.path("one/two/packs/ab/one"))).mode & 0o777, 0o600);
  equal((await stat(scratch.path("one/two/packs"))).mode & 0o777, 0o700);
});

test("what isn't an object's name is neither listed nor taken away", async () => {
  await using scratch = await Scratch.create();
  const store = await openDirectoryStore(scratch.directory);
  await mkdir(scratch.path("lost+found"));
  await writeFile(scratch.path("lost+found/a"), "");
  await writeFile(scratch.path("README"), "");
  await writeFile(scratch.path(".put-mine"), "");
  await store.put("packs/a", one);
  const names = [];
  for await (const { name } of store.list("")) names.push(name);
  deepEqual(names, ["packs/a"]);
  for await (const name of store.unfinished()) ok(false, `${name} isn't a draft`);
});

test("a folder goes with its last object, and others put into it meanwhile", async () => {
  await using scratch = await Scratch.create();
  const [store, other] = [
    await openDirectoryStore(scratch.directory),
    await openDirectoryStore(scratch.directory),
  ];
  await store.put("sessions/a/1", one);
  await store.put("sessions/a/2", one);
  await store.delete("sessions/a/1");
  ok((await stat(scratch.path("sessions/a"))).isDirectory());
  await store.delete("sessions/a/2");
  await rejects(stat(scratch.path("sessions/a")), { code: "ENOENT" });
  ok((await stat(scratch.path("sessions"))).isDirectory());
  const lane = async (door: typeof store, name: string): Promise<void> => {
    for (let round = 0; round < 40; round += 1) {
      equal(await door.putIfAbsent(`sessions/b/${name}`, one), true);
      await door.delete(`sessions/b/${name}`);
    }
  };
  await Promise.all([lane(store, "1"), lane(other, "2"), lane(store, "3")]);
  await rejects(stat(scratch.path("sessions/b")), { code: "ENOENT" });
});

test("a full disk is TARGET_FULL, and leaves nothing behind", { skip: needsMount }, async () => {
  await using scratch = await Scratch.create();
  await mountSmall(scratch, scratch.path("target"));
  const store = await openDirectoryStore(scratch.path("target"));
  const large = [new Uint8Array(700_000), new Uint8Array(700_000)];
  await rejects(store.putIfAbsent("packs/a", large), has("TARGET_FULL"));
  await rejects(store.put("packs/a", large), /put of "packs\/a" failed: no space left on device/);
  equal(await store.sizeOf("packs/a"), undefined);
  for await (const name of store.unfinished()) ok(false, `${name} was left`);
  equal(await store.putIfAbsent("packs/a", one), true);
});

test("a target that is unmounted is TARGET_UNAVAILABLE, and nothing looks missing", {
  skip: needsMount,
}, async () => {
  await using scratch = await Scratch.create();
  await mountSmall(scratch, scratch.path("target"));
  const store = await openDirectoryStore(scratch.path("target"));
  await store.putIfAbsent("packs/a", one);
  await run("umount", [scratch.path("target")]);
  const isLost = has("TARGET_UNAVAILABLE");
  await rejects(store.get("packs/a"), isLost);
  await rejects(store.sizeOf("packs/a"), isLost);
  await rejects(store.putIfAbsent("packs/b", one), isLost);
  await rejects(store.put("packs/b", one), /lost: another directory is in its place/);
  await rejects(store.delete("packs/a"), isLost);
  await rejects(async () => {
    for await (const { name } of store.list("packs/")) ok(false, name);
  }, isLost);
  await rejects(stat(scratch.path("target/packs")), { code: "ENOENT" });
});

test("a target that is moved away is TARGET_UNAVAILABLE, and isn't made anew", async () => {
  await using scratch = await Scratch.create();
  const store = await makeDirectoryStore(scratch.path("target"));
  await rename(scratch.path("target"), scratch.path("elsewhere"));
  await rejects(store.get("a"), /lost: its directory is gone/);
  await rejects(store.putIfAbsent("packs/ab/one", one), has("TARGET_UNAVAILABLE"));
  await rejects(store.put("one", one), has("TARGET_UNAVAILABLE"));
  await rejects(stat(scratch.path("target")), { code: "ENOENT" });
});

test("a read-only target can be read, and says why it can't be written", {
  skip: needsMount,
}, async () => {
  await using scratch = await Scratch.create();
  await mountSmall(scratch, scratch.path("target"));
  const store = await openDirectoryStore(scratch.path("target"));
  await store.putIfAbsent("a", one);
  await run("mount", ["-o", "remount,ro", scratch.path("target")]);
  equal((await store.get("a"))?.length, 4096);
  await rejects(store.putIfAbsent("b", one), (error: unknown) => {
    ok(hasCode(error, "TARGET_UNAVAILABLE"));
    ok(error.hint.includes("read-only"));
    return true;
  });
});

test("a part of a target may lie on another file system", { skip: needsMount }, async () => {
  await using scratch = await Scratch.create();
  const store = await makeDirectoryStore(scratch.path("target"));
  await mountSmall(scratch, scratch.path("target/packs"));
  equal(await store.putIfAbsent("packs/ab/one", one), true);
  equal(await store.putIfAbsent("packs/ab/one", one), false);
  await store.put("packs/ab/one", one);
});

test("a file system that makes no hard links is refused, and left as it was", async () => {
  // Two file systems refuse to share a file as one does that knows no links.
  await using scratch = await Scratch.create();
  await using other = await Scratch.create("/dev/shm");
  await writeFile(scratch.path("draft"), "");
  await rejects(linkDraft(scratch.path("draft"), other.path("a")), has("TARGET_UNSUITABLE"));
  await rejects(stat(scratch.path("draft")), { code: "ENOENT" });
});

/** A door whose next operation of a kind has a fault. */
function faulty(
  bucket: MemoryBucket,
  kind: StoreOperation["kind"],
  fault: StoreFault,
): MemoryObjectStore {
  return new MemoryObjectStore(bucket, {
    begin: async (operation) => (operation.kind === kind ? fault : undefined),
  });
}

test("simulated: an operation fails without effect, or with it", async () => {
  const bucket = new MemoryBucket();
  const sound = new MemoryObjectStore(bucket);
  await rejects(
    faulty(bucket, "put-if-absent", "failed").putIfAbsent("a", one),
    has("TARGET_UNAVAILABLE"),
  );
  equal(await sound.sizeOf("a"), undefined);
  await rejects(
    faulty(bucket, "put-if-absent", "unknown").putIfAbsent("a", one),
    has("TARGET_UNAVAILABLE"),
  );
  equal(await sound.sizeOf("a"), 4096);
  await rejects(faulty(bucket, "put", "full").put("b", one), has("TARGET_FULL"));
  await rejects(faulty(bucket, "delete", "failed").delete("a"), has("TARGET_UNAVAILABLE"));
  equal(await sound.sizeOf("a"), 4096);
  await rejects(faulty(bucket, "delete", "unknown").delete("a"), has("TARGET_UNAVAILABLE"));
  equal(await sound.sizeOf("a"), undefined);
  bucket.capacityBytes = 4096;
  equal(await sound.putIfAbsent("a", one), true);
  await rejects(sound.put("b", one), has("TARGET_FULL"));
  await sound.put("a", one);
  bucket.isGone = true;
  await rejects(sound.get("a"), has("TARGET_UNAVAILABLE"));
});

test("simulated: a listing misses objects and shows deleted ones, and get never does", async () => {
  const bucket = new MemoryBucket();
  const store = new MemoryObjectStore(bucket);
  for (let index = 0; index < 100; index += 1) await store.put(`packs/${index}`, one);
  for (let index = 0; index < 50; index += 1) await store.delete(`packs/${index}`);
  bucket.lies = new Prng(7);
  const seen = new Set<number>();
  for await (const { name } of store.list("packs/")) seen.add(Number(name.slice(6)));
  const ghosts = [...seen].filter((index) => index < 50).length;
  ok(ghosts > 0 && seen.size - ghosts < 50, `${ghosts} ghosts among ${seen.size}`);
  equal(await store.get("packs/3"), undefined);
  equal((await store.get("packs/99"))?.length, 4096);
});
