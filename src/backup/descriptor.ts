// SPDX-License-Identifier: Apache-2.0
//
// varve-backup.json: what makes a place a backup target, who it is, and how it is encrypted. Put once; of two programs
// that make the same target at once one wins, and the other uses what it finds. It is plain JSON, so that a person who
// finds the directory knows what it is; `check` is the beginning of the SHA-256 of all the rest, as JSON without spaces.

import { hash } from "node:crypto";
import { StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import { isCount, isListOf, isText } from "../pool/catalog-fields.ts";
import { damagedDocument } from "./document.ts";
import { isHex, isWrappedKey, type WrappedKey } from "./target-key.ts";

export const DESCRIPTOR_NAME = "varve-backup.json";
const FORMAT = "varve-backup";
const FORMAT_VERSION = 1;
const DESCRIPTOR_BYTES_MAX = 65536;
const CHECK_BYTES = 16;
export const ID_BYTES = 16;

export interface Descriptor {
  readonly repositoryId: string;
  readonly createdMicros: number;
  readonly encryption: "none" | WrappedKey;
}

export function encodeDescriptor(descriptor: Descriptor): Uint8Array {
  const { repositoryId, createdMicros, encryption } = descriptor;
  const body = {
    format: FORMAT,
    formatVersion: FORMAT_VERSION,
    repositoryId,
    createdMicros,
    // What a reader must know to read this target at all.
    requires: [] as string[],
    encryption,
  };
  return Buffer.from(`${JSON.stringify({ ...body, check: checkOf(body) }, undefined, 2)}\n`);
}

/** undefined: there is none. Throws TARGET_CORRUPT, NOT_A_TARGET, FORMAT_UNSUPPORTED. */
export async function readDescriptor(store: ObjectStore): Promise<Descriptor | undefined> {
  const range = { offset: 0, length: DESCRIPTOR_BYTES_MAX + 1 };
  const bytes = await store.get(DESCRIPTOR_NAME, range);
  return bytes === undefined ? undefined : decodeDescriptor(bytes);
}

/** Throws TARGET_CORRUPT, NOT_A_TARGET, FORMAT_UNSUPPORTED. */
export function decodeDescriptor(bytes: Uint8Array): Descriptor {
  const { check, ...body } = parse(bytes);
  if (body.format !== FORMAT) {
    const what = `target: not opened: ${DESCRIPTOR_NAME} isn't that of a backup target`;
    throw new StorageError("NOT_A_TARGET", what);
  }
  if (check !== checkOf(body)) throw damagedDocument(DESCRIPTOR_NAME, "its check is wrong");
  const { formatVersion, requires, repositoryId, createdMicros, encryption } = body;
  if (formatVersion !== FORMAT_VERSION) {
    const versions = `format version ${String(formatVersion)}, this varve reads ${FORMAT_VERSION}`;
    throw new StorageError("FORMAT_UNSUPPORTED", `target: not opened: ${versions}`);
  }
  if (!isListOf(requires, isText)) throw damagedDocument(DESCRIPTOR_NAME, "requires is no list");
  if (requires.length > 0) {
    const what = `target: not opened: it needs ${requires.join(", ")}, which this varve doesn't know`;
    throw new StorageError("FORMAT_UNSUPPORTED", what);
  }
  if (!isHex(repositoryId, ID_BYTES) || !isCount(createdMicros))
    throw damagedDocument(DESCRIPTOR_NAME, "it has no identity");
  if (encryption !== "none" && !isWrappedKey(encryption))
    throw damagedDocument(DESCRIPTOR_NAME, "what it says about encryption makes no sense");
  return { repositoryId, createdMicros, encryption };
}

function parse(bytes: Uint8Array): Readonly<Record<string, unknown>> {
  if (bytes.length > DESCRIPTOR_BYTES_MAX) throw damagedDocument(DESCRIPTOR_NAME, "it is too long");
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString());
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch (error) {
    throw damagedDocument(DESCRIPTOR_NAME, "it isn't JSON", error);
  }
  throw damagedDocument(DESCRIPTOR_NAME, "it isn't a JSON object");
}

function checkOf(body: Readonly<Record<string, unknown>>): string {
  return hash("sha256", JSON.stringify(body), "hex").slice(0, 2 * CHECK_BYTES);
}
