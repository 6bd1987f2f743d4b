// SPDX-License-Identifier: Apache-2.0
//
// The directory suite over the real file system, and what only a real one can show: the kernel's own
// failures (/dev/full answers ENOSPC, /proc/self/mem answers EIO), permissions, durable new directories.

import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { mkdir, mkdtemp, rm, stat, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { hasCode, StorageError } from "../../src/base/errors.ts";
import { makeDirectory, openDirectory, pathKind } from "../../src/host/node/directory.ts";
import { directorySuite, hasErrno } from "./directory.ts";

async function temporary(): Promise<string> {
  return mkdtemp(join(tmpdir(), "varve-directory-"));
}

directorySuite("the real file system", async () => {
  const path = await temporary();
  return {
    directory: await openDirectory(path),
    dispose: () => rm(path, { recursive: true }),
  };
});

test("a full disk is DISK_FULL and says file, position and length", async () => {
  const directory = await openDirectory("/dev");
  const file = await directory.open("full", "write");
  const isFull = (error: unknown): boolean => hasCode(error, "DISK_FULL");
  throws(() => file.writeSync(new Uint8Array(512), 4096), isFull);
  throws(
    () => file.writeSync(new Uint8Array(512), 4096),
    /"\/dev\/full": write of 512 bytes at 4096/,
  );
  await rejects(file.write(new Uint8Array(512), 4096), isFull);
  await file.close();
});

test("an I/O error is DISK_IO and says file, position, length and reason", async () => {
  const directory = await openDirectory("/proc/self");
  const file = await directory.open("mem", "read");
  const pattern = /^"\/proc\/self\/mem": read of 512 bytes at 0 failed: i\/o error \(EIO\)$/;
  await rejects(file.read(new Uint8Array(512), 0), { code: "DISK_IO", message: pattern });
  throws(() => file.readSync(new Uint8Array(512), 0), { code: "DISK_IO", message: pattern });
  await file.close();
});

test("a failed datasync is final: later ones fail with the same error", async () => {
  const directory = await openDirectory("/dev");
  const file = await directory.open("full", "write");
  const failures = await Promise.allSettled([file.datasync(), file.datasync()]);
  const later = await file.datasync().catch((error: unknown) => error);
  ok(later instanceof StorageError && hasCode(later, "DISK_IO"));
  for (const failure of failures) {
    equal(failure.status === "rejected" && failure.reason, later);
  }
  await file.close();
});

test("a write that the system cuts short is an error, never half a success", () => {
  // At the limit on a file's size the kernel writes what still fits and says so, then refuses.
  const module = new URL("../../src/host/node/directory.ts", import.meta.url).href;
  const script = `
    process.on("SIGXFSZ", () => {});
    const { openDirectory } = await import(${JSON.stringify(module)});
    const file = await (await openDirectory(process.argv[1])).open("a", "create");
    const codes = [];
    try { file.writeSync(new Uint8Array(4096), 2048); } catch (error) { codes.push(error.data.errno); }
    await file.write(new Uint8Array(4096), 2048).catch((error) => codes.push(error.data.errno));
    process.stdout.write(codes.join() + " " + await file.sizeBytes());`;
  const path = mkdtempSync(join(tmpdir(), "varve-directory-"));
  const node = [process.execPath, "--input-type=module", "-e", script, path];
  const run = spawnSync("prlimit", ["--fsize=4096", ...node], { encoding: "utf8" });
  rmSync(path, { recursive: true });
  equal(run.stdout, "EFBIG,EFBIG 4096", run.stderr);
});

test("a pool's files are private to its owner", async () => {
  const path = await temporary();
  const directory = await makeDirectory(join(path, "one/two"));
  await (await directory.open("a", "create")).close();
  equal((await stat(join(path, "one/two/a"))).mode & 0o777, 0o600);
  await rm(path, { recursive: true });
});

test("a directory is made with its parents, and one that exists is taken as it is", async () => {
  const path = await temporary();
  const first = await makeDirectory(join(path, "one/two/three"));
  await (await first.open("a", "create")).close();
  const second = await makeDirectory(join(path, "one/two/three"));
  deepEqual(await second.list(), ["a"]);
  await rm(path, { recursive: true });
});

test("what isn't a directory isn't opened as one", async () => {
  const path = await temporary();
  await (await (await openDirectory(path)).open("file", "create")).close();
  await rejects(openDirectory(join(path, "file")), hasErrno("ENOTDIR"));
  await rejects(openDirectory(join(path, "missing")), hasErrno("ENOENT"));
  await rejects(makeDirectory(join(path, "file")), hasErrno("EEXIST"));
  equal(await pathKind(join(path, "file")), "other");
  equal(await pathKind(join(path, "missing")), "missing");
  equal(await pathKind(path), "directory");
  await rm(path, { recursive: true });
});

test("only plain files are listed", async () => {
  const path = await temporary();
  await mkdir(join(path, "folder"));
  await symlink("nowhere", join(path, "link"));
  deepEqual(await (await openDirectory(path)).list(), []);
  await rm(path, { recursive: true });
});
