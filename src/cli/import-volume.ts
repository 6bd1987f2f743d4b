// SPDX-License-Identifier: Apache-2.0
//
// The volume that an import fills: whether it is there, how large a new one must be, and its end when the
// import failed.

import { VOLUME_BYTES_MIN, VOLUME_BYTES_STEP } from "../api/schemas.ts";
import type { OperationTypes } from "../api/types.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import type { DaemonClient } from "./daemon-client.ts";

/** Undefined where there is none of that name. */
export async function findVolume(
  daemon: DaemonClient,
  name: string,
): Promise<OperationTypes["getVolume"]["output"] | undefined> {
  try {
    return await daemon.call("getVolume", { volume: name });
  } catch (error) {
    if (hasCode(error, "VOLUME_NOT_FOUND")) return undefined;
    throw error;
  }
}

/** The smallest size of a volume that holds so many bytes. */
export function fitting(bytes: number): number {
  const whole = Math.ceil(bytes / VOLUME_BYTES_STEP) * VOLUME_BYTES_STEP;
  return Math.max(VOLUME_BYTES_MIN, whole);
}

/** Takes a half-made volume away; the first error is the one to tell. */
export async function discard(daemon: DaemonClient, name: string): Promise<void> {
  try {
    await daemon.call("removeVolume", { volume: name });
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
  }
}

export function notOverwritten(name: string, hint: string): StorageError {
  return new StorageError("VOLUME_EXISTS", `volume "${name}": not overwritten: it holds data`, {
    hint,
  });
}
