// SPDX-License-Identifier: Apache-2.0
//
// The two ways an image is refused. Unsupported: it may be fine, but not here, and the hint says how to
// get it in. Corrupt: it contradicts itself or its own length, so nothing it says can be trusted.

import { StorageError } from "../base/errors.ts";

export function unsupported(path: string, why: string, hint?: string): StorageError {
  return new StorageError(
    "IMAGE_UNSUPPORTED",
    `image "${path}": not read: ${why}`,
    hint === undefined ? {} : { hint },
  );
}

export function corrupt(path: string, why: string, cause?: unknown): StorageError {
  return new StorageError("IMAGE_CORRUPT", `image "${path}": damaged: ${why}`, { cause });
}

/** A name from an image, for a message: what would steer a terminal is shown as "?". */
export function printable(name: string): string {
  return name.replace(/[^\P{C}]/gu, "?");
}
