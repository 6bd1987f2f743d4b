// SPDX-License-Identifier: Apache-2.0
//
// A document: a small object that is read whole (generation of the catalog, manifest of a point, progress of a session).
// It proves that it is whole, what it is and whose name it has; so one that was cut, flipped, or put in another's place
// is damage, and never read as something else.
//
//     | 0 "VARVEDOC" | 8 u16 version | 10 u8 sealed | 11 u8 kind | 12 u32 body bytes | 16 random bytes | 32 body | check 16 |
//
// Without a key the check is SHA-256 of header, name and body, cut to 16 bytes, and the body is there to be read; with one
// it is the tag of AES-256-GCM.

import { createHash } from "node:crypto";
import { must } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import { NONCE_BYTES, type Sealer } from "./sealing.ts";

export type DocumentKind = "catalog" | "point" | "session";

export interface DocumentName {
  readonly kind: DocumentKind;
  /** Of the object. */
  readonly name: string;
}

const MAGIC = "VARVEDOC";
const VERSION = 1;
const KINDS: readonly DocumentKind[] = ["catalog", "point", "session"];
export const DOCUMENT_HEADER_BYTES = 32;
const CHECK_BYTES = 16;

/** The parts of the object, to be put. */
export function sealDocument(
  options: DocumentName & { readonly sealer: Sealer; readonly random: Random },
  body: Uint8Array,
): Uint8Array[] {
  const { kind, name, sealer, random } = options;
  const header = new Uint8Array(DOCUMENT_HEADER_BYTES);
  const view = new DataView(header.buffer);
  header.set(Buffer.from(MAGIC, "latin1"));
  view.setUint16(8, VERSION, true);
  header[10] = sealer.isEncrypted ? 1 : 0;
  header[11] = KINDS.indexOf(kind);
  view.setUint32(12, body.length, true);
  const nonce = header.subarray(16);
  random.fill(nonce);
  const stored = sealer.seal({ kind, nonce, ordinal: 0, name }, body);
  return sealer.isEncrypted ? [header, stored] : [header, stored, plainCheck(header, name, stored)];
}

/** The body. Throws TARGET_CORRUPT, FORMAT_UNSUPPORTED. */
export function openDocument(
  options: DocumentName & { readonly sealer: Sealer },
  stored: Uint8Array,
): Uint8Array {
  const { kind, name, sealer } = options;
  const header = stored.subarray(0, DOCUMENT_HEADER_BYTES);
  const nonce = nonceOf(stored);
  if (nonce === undefined) throw damagedDocument(name, "it doesn't begin like one of a target");
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  const version = view.getUint16(8, true);
  if (version !== VERSION) {
    const what = `${name}: not read: it has version ${version}, this varve reads ${VERSION}`;
    throw new StorageError("FORMAT_UNSUPPORTED", what);
  }
  const isSealed = header[10] === 1;
  if (isSealed !== sealer.isEncrypted)
    throw damagedDocument(name, isSealed ? "it is encrypted" : "it isn't encrypted");
  if (header[11] !== KINDS.indexOf(kind)) throw damagedDocument(name, `it isn't a ${kind}`);
  const bodyBytes = view.getUint32(12, true);
  if (stored.length !== DOCUMENT_HEADER_BYTES + bodyBytes + CHECK_BYTES)
    throw damagedDocument(name, "it was cut, or something was added");
  const sealed = stored.subarray(DOCUMENT_HEADER_BYTES);
  if (sealer.isEncrypted) {
    const body = sealer.open({ kind, nonce, ordinal: 0, name }, sealed);
    if (body !== undefined) return body;
    throw damagedDocument(name, "it wasn't sealed with this key under this name, or bytes changed");
  }
  const body = sealed.subarray(0, bodyBytes);
  if (plainCheck(header, name, body).equals(sealed.subarray(bodyBytes))) return body;
  throw damagedDocument(name, "its check is wrong");
}

/** The random bytes of a document, as text: its id. `stored` may be its header alone. undefined: it is none. */
export function documentId(stored: Uint8Array | undefined): string | undefined {
  const nonce = nonceOf(stored ?? new Uint8Array(0));
  return nonce === undefined ? undefined : Buffer.from(nonce).toString("hex");
}

function nonceOf(stored: Uint8Array): Uint8Array | undefined {
  const isDocument =
    stored.length >= DOCUMENT_HEADER_BYTES &&
    Buffer.from(MAGIC, "latin1").equals(stored.subarray(0, MAGIC.length));
  return isDocument ? stored.slice(16, 16 + NONCE_BYTES) : undefined;
}

/** A document, or undefined where there is none. Throws TARGET_CORRUPT, FORMAT_UNSUPPORTED. */
export async function readDocument(
  options: DocumentName & {
    readonly store: ObjectStore;
    readonly sealer: Sealer;
    readonly bodyBytesMax: number;
  },
): Promise<{ readonly id: string; readonly body: Uint8Array } | undefined> {
  const { store, name, bodyBytesMax } = options;
  const bytesMax = DOCUMENT_HEADER_BYTES + bodyBytesMax + CHECK_BYTES;
  const stored = await store.get(name, { offset: 0, length: bytesMax + 1 });
  if (stored === undefined) return undefined;
  if (stored.length > bytesMax)
    throw damagedDocument(name, `it has more than ${bodyBytesMax} bytes`);
  const body = openDocument(options, stored);
  return { id: must(documentId(stored), "what opened is a document"), body };
}

/** `name` is that of the object; `why` is for people. */
export function damagedDocument(name: string, why: string, cause?: unknown): StorageError {
  return new StorageError("TARGET_CORRUPT", `${name}: damaged: ${why}`, {
    data: { object: name },
    ...(cause === undefined ? {} : { cause }),
  });
}

function plainCheck(header: Uint8Array, name: string, body: Uint8Array): Buffer {
  const digest = createHash("sha256").update(header).update(`${name}\0`).update(body).digest();
  return digest.subarray(0, CHECK_BYTES);
}
