// SPDX-License-Identifier: Apache-2.0
//
// What packs, runs, pack indexes and histories have in common: objects that are made once, of pieces, and that prove
// themselves from their name on.
//
//   | piece | piece | … | head | footer 32 |          kind/ab/abcdef….     name = SHA-256 of head and footer
//
// The head says what is in the object, and it has a check of each piece: so whoever names an object names every byte of
// it. The chain is point → run → pack → group → block, and a flipped bit anywhere is known for what it is. Pieces and
// head are sealed one by one (sealing.ts), with the object's own 16 random bytes: without a key that changes nothing,
// with one it makes each unreadable, and useless in any other place.
//
// These 16 bytes are in what the name hashes: no two objects ever have the same name, even of the same content. So an
// object that is condemned is never brought back by somebody who happens to write the same again.

import { hash } from "node:crypto";
import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import { NONCE_BYTES, type Piece, type Sealer } from "./sealing.ts";

export type ObjectKind = "pack" | "run" | "index" | "history";

const FOLDERS: Readonly<Record<ObjectKind, string>> = {
  pack: "packs",
  run: "runs",
  index: "index",
  history: "history",
};
const MAGIC: Readonly<Record<ObjectKind, string>> = {
  pack: "VARVPACK",
  run: "VARVRUNS",
  index: "VARVHOOK",
  history: "VARVHIST",
};

const OBJECT_VERSION = 1;
export const NAME_BYTES = 32;
export const CHECK_BYTES = 16;
export const FOOTER_BYTES = 32;
/** Of a head; the largest there is belongs to a run that names a million packs. */
const HEAD_BYTES_MAX = 64 << 20;
/** What is read at first of an object's end: all of nearly every head. */
const TAIL_READ_BYTES = 16 << 10;
const FLAG_SEALED = 1;
/** Pieces count from 0; the head is sealed in the last place there is. */
const HEAD_ORDINAL = 0xffffffff;
const NAME_PATTERN = /^[0-9a-f]{64}$/;

/** An object as a user can look for it. */
export function objectPath(kind: ObjectKind, name: string): string {
  return `${FOLDERS[kind]}/${name.slice(0, 2)}/${name}`;
}

export function isHashName(text: unknown): text is string {
  return typeof text === "string" && NAME_PATTERN.test(text);
}

export function nameToBytes(name: string): Uint8Array {
  return Buffer.from(name, "hex");
}

export function nameFromBytes(bytes: Uint8Array, at: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + at, NAME_BYTES).toString("hex");
}

/** An object of the target contradicts its name or itself. `why` is for people. */
export function damaged(kind: ObjectKind, name: string, why: string): StorageError {
  return new StorageError("TARGET_CORRUPT", `${objectPath(kind, name)}: damaged: ${why}`, {
    data: { object: objectPath(kind, name) },
  });
}

export function missing(kind: ObjectKind, name: string): StorageError {
  return new StorageError("TARGET_CORRUPT", `${objectPath(kind, name)}: it is missing`, {
    data: { object: objectPath(kind, name), isMissing: true },
  });
}

/** 16 bytes of SHA-256: what a head has of each piece, as it is stored. */
export function pieceCheck(stored: Uint8Array): Buffer {
  return hash("sha256", stored, "buffer").subarray(0, CHECK_BYTES);
}

function isPieceIntact(stored: Uint8Array, head: Uint8Array, checkAt: number): boolean {
  return pieceCheck(stored).equals(head.subarray(checkAt, checkAt + CHECK_BYTES));
}

/** Takes an object's pieces and head, and puts it under the name that follows from them. */
export class ObjectMaker {
  readonly #kind: ObjectKind;
  readonly #sealer: Sealer;
  readonly nonce: Uint8Array;

  constructor(kind: ObjectKind, sealer: Sealer, random: Random) {
    this.#kind = kind;
    this.#sealer = sealer;
    this.nonce = new Uint8Array(NONCE_BYTES);
    random.fill(this.nonce);
  }

  /** The piece as it is stored. Without a key these are the bytes themselves, not a copy. */
  seal(ordinal: number, bytes: Uint8Array): Uint8Array {
    return this.#sealer.seal(this.#piece(ordinal), bytes);
  }

  /** Durable when it resolves. */
  async put(
    store: ObjectStore,
    pieces: readonly Uint8Array[],
    head: Uint8Array,
  ): Promise<{ name: string; sizeBytes: number }> {
    const storedHead = this.seal(HEAD_ORDINAL, head);
    const footer = new Uint8Array(FOOTER_BYTES);
    const view = new DataView(footer.buffer);
    for (let at = 0; at < 8; at += 1) footer[at] = MAGIC[this.#kind].charCodeAt(at);
    view.setUint16(8, OBJECT_VERSION, true);
    view.setUint16(10, this.#sealer.isEncrypted ? FLAG_SEALED : 0, true);
    view.setUint32(12, storedHead.length, true);
    footer.set(this.nonce, 16);
    const tail = Buffer.concat([storedHead, footer]);
    const name = hash("sha256", tail, "hex");
    const parts = [...pieces, tail];
    // If there is one of that name already, an answer was lost on the way and this is the second try.
    await store.putIfAbsent(objectPath(this.#kind, name), parts);
    return { name, sizeBytes: parts.reduce((sum, part) => sum + part.length, 0) };
  }

  #piece(ordinal: number): Piece {
    return { kind: this.#kind, nonce: this.nonce, ordinal };
  }
}

/** An object whose head is known: gives its pieces. */
export interface OpenObject {
  readonly name: string;
  readonly head: Uint8Array;
  readonly nonce: Uint8Array;
  /** Of stored head and footer: what the object has behind its pieces. */
  readonly tailBytes: number;
}

/** Reads objects of one kind, believing nothing that their names don't prove. Throws TARGET_CORRUPT. */
export class ObjectOpener {
  readonly #kind: ObjectKind;
  readonly #store: ObjectStore;
  readonly #sealer: Sealer;

  constructor(kind: ObjectKind, store: ObjectStore, sealer: Sealer) {
    this.#kind = kind;
    this.#store = store;
    this.#sealer = sealer;
  }

  async open(name: string): Promise<OpenObject> {
    let tail = await this.#tail(name, TAIL_READ_BYTES);
    const headBytes = this.#headBytes(name, tail);
    const tailBytes = headBytes + FOOTER_BYTES;
    if (tail.length < tailBytes) tail = await this.#tail(name, tailBytes);
    if (tail.length < tailBytes) throw this.damaged(name, "it is cut");
    tail = tail.subarray(tail.length - tailBytes);
    if (hash("sha256", tail, "hex") !== name)
      throw this.damaged(name, "its head is not the one that its name is a hash of");
    // Only what is proven can be from a later version: anything else is damage.
    this.#checkFooter(name, tail.subarray(headBytes));
    const nonce = tail.slice(headBytes + 16, tailBytes);
    const head = this.#sealer.open(
      { kind: this.#kind, nonce, ordinal: HEAD_ORDINAL },
      tail.subarray(0, headBytes),
    );
    if (head === undefined) throw this.damaged(name, "its head was not sealed with this key");
    // A view of all that was read would keep all of it in memory.
    return { name, head: head.slice(), nonce, tailBytes };
  }

  /** Stored bytes of the object from `offset`; throws when there are fewer. */
  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const stored = await this.#store.get(objectPath(this.#kind, name), { offset, length });
    if (stored === undefined) throw missing(this.#kind, name);
    if (stored.length !== length) throw this.damaged(name, "it is cut");
    return stored;
  }

  /** The piece that is stored as `stored`; undefined when it is not what the head says. */
  piece(
    object: OpenObject,
    stored: Uint8Array,
    place: { ordinal: number; checkAt: number },
  ): Uint8Array | undefined {
    if (!isPieceIntact(stored, object.head, place.checkAt)) return undefined;
    return this.#sealer.open(
      { kind: this.#kind, nonce: object.nonce, ordinal: place.ordinal },
      stored,
    );
  }

  damaged(name: string, why: string): StorageError {
    return damaged(this.#kind, name, why);
  }

  async #tail(name: string, bytes: number): Promise<Uint8Array> {
    const range = { offset: -bytes, length: bytes };
    const tail = await this.#store.get(objectPath(this.#kind, name), range);
    if (tail === undefined) throw missing(this.#kind, name);
    return tail;
  }

  #headBytes(name: string, tail: Uint8Array): number {
    if (tail.length < FOOTER_BYTES) throw this.damaged(name, "it is cut");
    const footer = tail.subarray(tail.length - FOOTER_BYTES);
    const view = new DataView(footer.buffer, footer.byteOffset, FOOTER_BYTES);
    for (let at = 0; at < 8; at += 1)
      if (footer[at] !== MAGIC[this.#kind].charCodeAt(at))
        throw this.damaged(name, `its end is not that of a ${this.#kind}`);
    const headBytes = view.getUint32(12, true);
    if (headBytes > HEAD_BYTES_MAX) throw this.damaged(name, "its head is too large to be one");
    return headBytes;
  }

  #checkFooter(name: string, footer: Uint8Array): void {
    const view = new DataView(footer.buffer, footer.byteOffset, FOOTER_BYTES);
    const version = view.getUint16(8, true);
    if (version !== OBJECT_VERSION)
      throw new StorageError(
        "FORMAT_UNSUPPORTED",
        `${objectPath(this.#kind, name)}: not read: it has version ${version}, this program reads ${OBJECT_VERSION}`,
      );
    const isSealed = (view.getUint16(10, true) & FLAG_SEALED) !== 0;
    if (isSealed !== this.#sealer.isEncrypted)
      throw this.damaged(name, isSealed ? "it is encrypted" : "it is not encrypted");
  }
}
