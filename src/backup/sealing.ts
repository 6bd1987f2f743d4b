// SPDX-License-Identifier: Apache-2.0
//
// What a key does to a target: each piece of an object is unreadable without it, useless in any other place, and a block
// is known by an id that says nothing about it. Without a key pieces are stored as they are, and ids are plain hashes.
//
//     repository key ─ HKDF ─┬─ ids:      HMAC-SHA256(block), the first 24 bytes
//                            └─ objects:  HMAC-SHA256(kind, 16 random bytes of the object) = the object's own key
//                                           └─ piece: AES-256-GCM, nonce = ordinal, authenticated with kind, ordinal, name
//
// An object's key is used for that object only, and each ordinal in it once: so no nonce is ever used twice, however
// large the repository grows, and none has to be stored. A piece that is moved to another place, object or kind, or under
// another name, doesn't open.

import { createCipheriv, createDecipheriv, createHmac, hash, hkdfSync } from "node:crypto";
import { assert } from "../base/assert.ts";
import { BLOCK_BYTES } from "./place.ts";

export const CONTENT_ID_BYTES = 24;
/** The random bytes that an object has in the clear. */
export const NONCE_BYTES = 16;
export const KEY_BYTES = 32;

export type PieceKind = "pack" | "run" | "index" | "history" | "point" | "catalog" | "session";

export interface Piece {
  readonly kind: PieceKind;
  /** Of the object: 16 random bytes, made anew for each object that is written. */
  readonly nonce: Uint8Array;
  /** Which piece of the object, below 2^32. One ordinal of one object is sealed once. */
  readonly ordinal: number;
  /** The object's name, where it isn't the hash of what is in it. */
  readonly name?: string;
}

export interface Sealer {
  readonly isEncrypted: boolean;
  /** What sealing adds to a piece. */
  readonly overheadBytes: number;
  /** Writes the block's id, 24 bytes, to `target` at `at`. */
  contentId(block: Uint8Array, target: Uint8Array, at: number): void;
  /** The piece as it is stored; without a key these are the bytes themselves, not a copy. */
  seal(piece: Piece, bytes: Uint8Array): Uint8Array;
  /** What was sealed; undefined when it wasn't sealed with this key, as this piece, or is damaged. */
  open(piece: Piece, stored: Uint8Array): Uint8Array | undefined;
}

/** Of a target without encryption. */
export const PLAIN_SEALER: Sealer = {
  isEncrypted: false,
  overheadBytes: 0,
  contentId: (block, target, at) => {
    target.set(hash("sha256", block, "buffer").subarray(0, CONTENT_ID_BYTES), at);
  },
  seal: (_piece, bytes) => bytes,
  open: (_piece, stored) => stored,
};

/** HMAC (RFC 2104): what the hash works in, and what the key is mixed with. */
const HASH_BLOCK_BYTES = 64;
const HASH_BYTES = 32;
const INNER_PAD = 0x36;
const OUTER_PAD = 0x5c;
const CIPHER = "aes-256-gcm";
const GCM_NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** Keys of the objects that were used last: pieces of a pack are sealed and opened one after the other. */
const KEYS_MAX = 64;

export class KeySealer implements Sealer {
  readonly isEncrypted = true;
  readonly overheadBytes: number = TAG_BYTES;
  // HMAC by its definition, of two hashes: the runtime's own object for it takes three times as long for each block.
  readonly #innerHash: Uint8Array;
  readonly #outerHash: Uint8Array;
  readonly #objectKey: Uint8Array;
  readonly #keys: Map<string, Uint8Array> = new Map();
  readonly #gcmNonce: Uint8Array = new Uint8Array(GCM_NONCE_BYTES);

  constructor(repositoryKey: Uint8Array) {
    assert(repositoryKey.length === KEY_BYTES, "a repository key has 32 bytes");
    const idKey = derive(repositoryKey, "varve backup: content ids");
    this.#innerHash = keyPad(idKey, INNER_PAD, BLOCK_BYTES);
    this.#outerHash = keyPad(idKey, OUTER_PAD, HASH_BYTES);
    this.#objectKey = derive(repositoryKey, "varve backup: objects");
  }

  contentId(block: Uint8Array, target: Uint8Array, at: number): void {
    assert(block.length === BLOCK_BYTES, "whole blocks have ids");
    this.#innerHash.set(block, HASH_BLOCK_BYTES);
    this.#outerHash.set(hash("sha256", this.#innerHash, "buffer"), HASH_BLOCK_BYTES);
    target.set(hash("sha256", this.#outerHash, "buffer").subarray(0, CONTENT_ID_BYTES), at);
  }

  seal(piece: Piece, bytes: Uint8Array): Uint8Array {
    const cipher = createCipheriv(CIPHER, this.#keyOf(piece), this.#nonceOf(piece));
    cipher.setAAD(placeOf(piece));
    const sealed = cipher.update(bytes);
    cipher.final();
    return Buffer.concat([sealed, cipher.getAuthTag()]);
  }

  open(piece: Piece, stored: Uint8Array): Uint8Array | undefined {
    const length = stored.length - TAG_BYTES;
    if (length < 0) return undefined;
    const cipher = createDecipheriv(CIPHER, this.#keyOf(piece), this.#nonceOf(piece));
    cipher.setAAD(placeOf(piece));
    cipher.setAuthTag(stored.subarray(length));
    const bytes = cipher.update(stored.subarray(0, length));
    try {
      cipher.final();
    } catch {
      return undefined;
    }
    return bytes;
  }

  #keyOf({ kind, nonce }: Piece): Uint8Array {
    assert(nonce.length === NONCE_BYTES, "an object has 16 random bytes");
    const label = `${kind} ${Buffer.from(nonce).toString("latin1")}`;
    const known = this.#keys.get(label);
    if (known !== undefined) return known;
    const key = createHmac("sha256", this.#objectKey).update(label, "latin1").digest();
    if (this.#keys.size >= KEYS_MAX) this.#keys.clear();
    this.#keys.set(label, key);
    return key;
  }

  #nonceOf({ ordinal }: Piece): Uint8Array {
    assert(ordinal >= 0 && ordinal < 2 ** 32, "a piece's ordinal has 32 bits");
    new DataView(this.#gcmNonce.buffer).setUint32(GCM_NONCE_BYTES - 4, ordinal);
    return this.#gcmNonce;
  }
}

/** The key, padded to a block of the hash, and room for so many bytes. */
function keyPad(key: Uint8Array, pad: number, bytes: number): Uint8Array {
  const padded = new Uint8Array(HASH_BLOCK_BYTES + bytes).fill(pad, 0, HASH_BLOCK_BYTES);
  for (const [index, byte] of key.entries()) padded[index] = byte ^ pad;
  return padded;
}

/** What a piece is authenticated with beside its bytes. */
function placeOf({ kind, ordinal, name = "" }: Piece): Uint8Array {
  return Buffer.from(`${kind} ${ordinal} ${name}`);
}

/** A key for one purpose. */
export function derive(key: Uint8Array, purpose: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", key, new Uint8Array(0), purpose, KEY_BYTES));
}
