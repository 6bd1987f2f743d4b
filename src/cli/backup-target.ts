// SPDX-License-Identifier: Apache-2.0
//
// The backup target that a command names, opened with the key that it is given. A new one is encrypted only when that is
// asked for in so many words: a key that is lost takes all backups with it, so nobody should get one by the way.

import { openOrMakeTarget, openTarget, type Target } from "../backup/target.ts";
import { parseKeyFile, type TargetKey } from "../backup/target-key.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { createClock } from "../host/node/clock.ts";
import { makeDirectoryStore, openDirectoryStore } from "../host/node/directory-object-store.ts";
import { createRandom } from "../host/node/random.ts";
import { readText } from "../host/node/text-file.ts";
import type { CommandContext } from "./command.ts";
import { opening, openNamed } from "./named-file.ts";

/** Longer key files are no key files. */
const KEY_FILE_BYTES_MAX = 4096;
const PASSPHRASE_LENGTH_MIN = 8;

/** Throws TARGET_NOT_FOUND, TARGET_KEY_WRONG and what reading the target throws. */
export async function openTargetOf(context: CommandContext, path: string): Promise<Target> {
  const key = await keyOf(context);
  return openTarget({ store: await openDirectoryStore(path), key, ...host() });
}

/** The same, and makes it where there is none. */
export async function openOrMakeTargetOf(context: CommandContext, path: string): Promise<Target> {
  const key = await keyOf(context);
  const isEncrypted = context.flag("encrypt");
  if (isEncrypted && key === undefined) {
    throw new StorageError("USAGE", 'option "--encrypt": refused: there is no key', {
      hint: "make one with: head -c 32 /dev/urandom > backup.key; then add --key-file backup.key",
    });
  }
  const found = await openIfThere(path, key);
  if (found !== undefined) return found;
  if (key !== undefined && !isEncrypted) {
    const what = `target "${path}": not made: a key is given, and not that it is to be encrypted`;
    throw new StorageError("USAGE", what, { hint: "add --encrypt, or leave the key out" });
  }
  const target = await openOrMakeTarget({ store: await makeDirectoryStore(path), key, ...host() });
  if (isEncrypted) {
    const file = context.option("key-file") ?? context.option("passphrase-file");
    context.output.note(
      `target "${path}": made, and encrypted: WITHOUT "${file}" NOBODY CAN EVER READ IT AGAIN. Keep a copy of it in another place, now.`,
    );
  }
  return target;
}

async function openIfThere(path: string, key: TargetKey | undefined): Promise<Target | undefined> {
  try {
    return await openTarget({ store: await openDirectoryStore(path), key, ...host() });
  } catch (error) {
    if (hasCode(error, "TARGET_NOT_FOUND")) return undefined;
    throw error;
  }
}

function host() {
  return { clock: createClock(), random: createRandom() };
}

async function keyOf(context: CommandContext): Promise<TargetKey | undefined> {
  const keyFile = context.option("key-file");
  const passphraseFile = context.option("passphrase-file");
  if (keyFile !== undefined && passphraseFile !== undefined) {
    throw new StorageError("USAGE", "target: refused: it has a key or a passphrase, not both");
  }
  if (keyFile !== undefined) return parseKeyFile(await readKey(keyFile));
  return passphraseFile === undefined ? undefined : await readPassphrase(passphraseFile);
}

async function readKey(path: string): Promise<Uint8Array> {
  const file = await openNamed(path);
  try {
    const bytes = new Uint8Array(KEY_FILE_BYTES_MAX);
    return bytes.subarray(0, await file.read(bytes, 0));
  } finally {
    await file.close();
  }
}

async function readPassphrase(path: string): Promise<TargetKey> {
  const what = `passphrase file "${path}": not read`;
  const text = (await opening(what, () => readText(path)))?.replace(/\r?\n$/, "");
  if (text !== undefined && text.length >= PASSPHRASE_LENGTH_MIN && !text.includes("\n"))
    return { from: "passphrase", text };
  const why =
    text === undefined
      ? "there is no such file"
      : text.includes("\n")
        ? "it has several lines"
        : `it has fewer than ${PASSPHRASE_LENGTH_MIN} characters`;
  throw new StorageError(text === undefined ? "IMAGE_NOT_FOUND" : "USAGE", `${what}: ${why}`);
}
