// SPDX-License-Identifier: Apache-2.0
//
// Files that the user names: a wrong name is a wrong argument, a sick disk stays one.

import { equal, match, rejects } from "node:assert/strict";
import { test } from "node:test";
import { type ErrorCode, StorageError } from "../base/errors.ts";
import { diskError } from "../host/disk-error.ts";
import { opening } from "./named-file.ts";

async function answerTo(errno: string): Promise<StorageError> {
  const failure = diskError({ operation: "open", path: "/x" }, errno);
  const error = await opening('image "x": not read', () => Promise.reject(failure)).catch(
    (thrown: unknown) => thrown,
  );
  if (error instanceof StorageError) return error;
  throw new Error("it isn't an error of ours", { cause: error });
}

const WRONG_NAMES: readonly (readonly [string, ErrorCode])[] = [
  ["ENOENT", "IMAGE_NOT_FOUND"],
  ["ENOTDIR", "IMAGE_NOT_FOUND"],
  ["EISDIR", "IMAGE_UNSUPPORTED"],
  ["EACCES", "ACCESS_DENIED"],
  ["EPERM", "ACCESS_DENIED"],
];

for (const [errno, code] of WRONG_NAMES) {
  test(`${errno} of a file that the user named is ${code}, without advice about the disk`, async () => {
    const error = await answerTo(errno);
    equal(error.code, code);
    match(error.message, /^image "x": not read: /);
    equal(/smartctl|owns the pool/.test(error.hint), false);
  });
}

test("an I/O error of such a file stays one of the disk", async () => {
  equal((await answerTo("EIO")).code, "DISK_IO");
  equal((await answerTo("ENOSPC")).code, "DISK_FULL");
});

test("a bug passes unchanged", async () => {
  const bug = new TypeError("a bug");
  await rejects(
    opening("", () => Promise.reject(bug)),
    bug,
  );
});
