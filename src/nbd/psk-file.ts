// SPDX-License-Identifier: Apache-2.0
//
// Files of pre-shared keys as GnuTLS's psktool writes and nbdkit reads them: one "identity:hexkey" per
// line. Empty lines and lines that begin with "#" are skipped. A key is at least 128 bits: shorter ones
// can be guessed from a recorded handshake.

import { StorageError } from "../base/errors.ts";

const KEY_BYTES_MIN = 16;

/** Keys by identity. Throws CONFIG_INVALID, which names the line but never the key. */
export function parsePskFile(text: string): ReadonlyMap<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of text.split("\n").entries()) {
    const trimmed = line.trim();
    if (trimmed === "" || trimmed.startsWith("#")) continue;
    const colon = trimmed.lastIndexOf(":");
    const identity = trimmed.slice(0, colon);
    const digits = trimmed.slice(colon + 1);
    if (colon <= 0) throw invalid(index, 'it is not "identity:hexkey"');
    if (!/^(?:[0-9a-fA-F]{2})+$/.test(digits)) throw invalid(index, "the key is not hexadecimal");
    if (digits.length / 2 < KEY_BYTES_MIN) {
      throw invalid(index, `a key of ${digits.length / 2} bytes, ${KEY_BYTES_MIN} are wanted`);
    }
    if (keys.has(identity)) throw invalid(index, `identity "${identity}" is there twice`);
    keys.set(identity, Uint8Array.from(Buffer.from(digits, "hex")));
  }
  return keys;
}

function invalid(index: number, why: string): StorageError {
  return new StorageError("CONFIG_INVALID", `pre-shared keys: line ${index + 1} refused: ${why}`, {
    hint: "make a key with: psktool -u NAME -p FILE",
  });
}
