// SPDX-License-Identifier: Apache-2.0
//
// The key of a target. A random repository key does all the work; it is stored in the descriptor, wrapped with a key that
// comes from what the user has: a file of 32 random bytes, or a passphrase. So a wrong key is known at once, before
// anything else is read, and another way to unlock can be given to a target without writing a byte of its data again.
//
// The descriptor is read before anything is proven: what it asks of scrypt is bounded, or it could ask for all memory.

import { createCipheriv, createDecipheriv, scryptSync } from "node:crypto";
import { StorageError } from "../base/errors.ts";
import type { Random } from "../host/ports.ts";
import { isCount } from "../pool/catalog-fields.ts";
import { derive, KEY_BYTES } from "./sealing.ts";

/** What the user has. */
export type TargetKey =
  | { readonly from: "key-file"; readonly bytes: Uint8Array }
  | { readonly from: "passphrase"; readonly text: string };

/** What the descriptor says about it. */
export interface WrappedKey {
  readonly cipher: "aes-256-gcm";
  readonly from: TargetKey["from"];
  /** Only for a passphrase. */
  readonly scrypt?: ScryptParameters;
  /** Nonce, repository key, tag. */
  readonly wrappedKey: string;
}

export interface ScryptParameters {
  /** The cost N is 2 to the power of this. */
  readonly logCost: number;
  readonly blockSize: number;
  readonly parallel: number;
  readonly salt: string;
}

/** 128 MiB and about a third of a second: a guess costs as much. */
const SCRYPT = { logCost: 17, blockSize: 8, parallel: 1 } as const;
const SCRYPT_MEMORY_MAX: number = 512 << 20;
const SCRYPT_PARALLEL_MAX = 16;
const SALT_BYTES = 16;
const GCM_NONCE_BYTES = 12;
const TAG_BYTES = 16;
const CIPHER = "aes-256-gcm";

/** Whether it may be unwrapped with bounded memory and time. */
export function isWrappedKey(value: unknown): value is WrappedKey {
  const { cipher, from, scrypt, wrappedKey } = (value ?? {}) as Record<string, unknown>;
  if (cipher !== CIPHER || !isHex(wrappedKey, GCM_NONCE_BYTES + KEY_BYTES + TAG_BYTES))
    return false;
  if (from === "key-file") return scrypt === undefined;
  return from === "passphrase" && isScrypt(scrypt);
}

function isScrypt(value: unknown): value is ScryptParameters {
  const { logCost, blockSize, parallel, salt } = (value ?? {}) as Record<string, unknown>;
  if (!isCount(logCost) || !isCount(blockSize) || !isCount(parallel)) return false;
  const isBounded =
    logCost >= 10 &&
    logCost <= 24 &&
    blockSize >= 1 &&
    parallel >= 1 &&
    parallel <= SCRYPT_PARALLEL_MAX &&
    128 * blockSize * 2 ** logCost <= SCRYPT_MEMORY_MAX;
  return isBounded && isHex(salt, SALT_BYTES);
}

export function isHex(value: unknown, byteCount: number): value is string {
  return typeof value === "string" && value.length === 2 * byteCount && /^[0-9a-f]*$/.test(value);
}

/** A new repository key, as the descriptor has it. */
export function wrapNewKey(
  key: TargetKey,
  options: { readonly repositoryId: string; readonly random: Random },
): WrappedKey {
  const { repositoryId, random } = options;
  const chance = (count: number): Uint8Array => {
    const bytes = new Uint8Array(count);
    random.fill(bytes);
    return bytes;
  };
  const repositoryKey = chance(KEY_BYTES);
  const scrypt = { ...SCRYPT, salt: Buffer.from(chance(SALT_BYTES)).toString("hex") };
  const nonce = chance(GCM_NONCE_BYTES);
  const wrapping = wrappingKey(key, { repositoryId, scrypt });
  const cipher = createCipheriv(CIPHER, wrapping, nonce).setAAD(Buffer.from(repositoryId));
  const sealed = [cipher.update(repositoryKey), cipher.final(), cipher.getAuthTag()];
  const wrappedKey = Buffer.concat([nonce, ...sealed]).toString("hex");
  const base = { cipher: CIPHER, from: key.from, wrappedKey } as const;
  return key.from === "passphrase" ? { ...base, scrypt } : base;
}

/** The repository key. Throws TARGET_KEY_WRONG. */
export function unwrapKey(
  key: TargetKey,
  { repositoryId, wrapped }: { readonly repositoryId: string; readonly wrapped: WrappedKey },
): Uint8Array {
  const { from, scrypt } = wrapped;
  if (key.from !== from) throw wrongKey(`it was made with a ${from}, not with a ${key.from}`);
  const bytes = Buffer.from(wrapped.wrappedKey, "hex");
  const end = bytes.length - TAG_BYTES;
  const nonce = bytes.subarray(0, GCM_NONCE_BYTES);
  const wrapping = wrappingKey(key, { repositoryId, scrypt });
  const cipher = createDecipheriv(CIPHER, wrapping, nonce)
    .setAAD(Buffer.from(repositoryId))
    .setAuthTag(bytes.subarray(end));
  const repositoryKey = cipher.update(bytes.subarray(GCM_NONCE_BYTES, end));
  try {
    cipher.final();
  } catch (cause) {
    throw wrongKey(`the ${from} isn't the one that it was made with`, cause);
  }
  return repositoryKey;
}

export function wrongKey(why: string, cause?: unknown): StorageError {
  return new StorageError("TARGET_KEY_WRONG", `target: not opened: ${why}`, { cause });
}

function wrappingKey(
  key: TargetKey,
  options: { readonly repositoryId: string; readonly scrypt: ScryptParameters | undefined },
): Uint8Array {
  const { repositoryId, scrypt } = options;
  if (key.from === "key-file") return derive(key.bytes, `varve backup: key file ${repositoryId}`);
  if (scrypt === undefined) throw wrongKey("its descriptor has no parameters for a passphrase");
  return scryptSync(key.text.normalize("NFC"), Buffer.from(scrypt.salt, "hex"), KEY_BYTES, {
    N: 2 ** scrypt.logCost,
    r: scrypt.blockSize,
    p: scrypt.parallel,
    maxmem: 2 * SCRYPT_MEMORY_MAX,
  });
}

/** 32 bytes, or 64 hexadecimal digits on a line. Throws TARGET_KEY_WRONG. */
export function parseKeyFile(bytes: Uint8Array): TargetKey {
  if (bytes.length === KEY_BYTES) return { from: "key-file", bytes };
  const text = Buffer.from(bytes).toString("latin1").trim().toLowerCase();
  if (isHex(text, KEY_BYTES)) return { from: "key-file", bytes: Buffer.from(text, "hex") };
  throw new StorageError(
    "TARGET_KEY_WRONG",
    `key file: refused: it has ${bytes.length} bytes, not 32 random ones or 64 hexadecimal digits`,
    { hint: "make one with: head -c 32 /dev/urandom > backup.key" },
  );
}
