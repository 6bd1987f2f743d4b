// SPDX-License-Identifier: Apache-2.0
//
// The port to a store of objects: a directory or a bucket. It asks for as little as every such store can give, so that
// nothing that is built on it needs locks, renames, or a listing that can be trusted:
//
//   an object    is there whole or not at all; what a crash cuts short is no object
//   putIfAbsent  is the one thing that two programs can't both succeed in: all agreement is made of it
//   get          sees every put that resolved before it began
//   list         is a hint: it may miss objects that are there, and show some that are gone
//
// Names are paths of plain segments ("packs/3f/3f09…"); who takes a name out of bytes from outside checks it with
// isObjectName first. Failures are StorageErrors: TARGET_FULL, TARGET_UNAVAILABLE (gone, read-only, I/O error: an object
// that can't be reached never looks like one that isn't there) and TARGET_UNSUITABLE. Whether a put that failed took
// place is unknown.

export interface ObjectStore {
  /** What to call it in messages. */
  readonly label: string;
  /** Durable when it resolves. false: there is one of that name already, which is durable too; then nothing changed. */
  putIfAbsent(name: string, parts: readonly Uint8Array[]): Promise<boolean>;
  /** Durable when it resolves; replaces one of that name at once. */
  put(name: string, parts: readonly Uint8Array[]): Promise<void>;
  /** The bytes, fewer where the object ends earlier. undefined: there is none of that name. */
  get(name: string, range?: ObjectRange): Promise<Uint8Array | undefined>;
  /** undefined: there is none of that name. */
  sizeOf(name: string): Promise<number | undefined>;
  /** Objects whose names begin with `prefix`, in any order. */
  list(prefix: string): AsyncIterable<ListedObject>;
  /** Durable when it resolves. Of none: fine. */
  delete(name: string): Promise<void>;
  /** Puts that have not ended: those under way, and those that a crash cut short (temporary files, parts of uploads). */
  unfinished(): AsyncIterable<string>;
  /** Takes one of them away. Should it be under way after all, its put begins anew. */
  discard(unfinished: string): Promise<void>;
}

export interface ObjectRange {
  /** Negative: so many bytes before the end, or all of a shorter object. */
  readonly offset: number;
  readonly length: number;
}

export interface ListedObject {
  readonly name: string;
  readonly sizeBytes: number;
}

const SEGMENT = "[a-z0-9][a-z0-9._-]{0,99}";
const OBJECT_NAME = new RegExp(`^${SEGMENT}(?:/${SEGMENT}){0,3}$`);

/** One to four segments of small letters, digits, dot, dash and underscore; none begins with a dot. */
export function isObjectName(text: string): boolean {
  return OBJECT_NAME.test(text);
}

/** The part of an object of `sizeBytes` that a range means. */
export function rangeWithin(
  sizeBytes: number,
  range: ObjectRange | undefined,
): { start: number; end: number } {
  const { offset, length } = range ?? { offset: 0, length: sizeBytes };
  const start = Math.min(sizeBytes, offset < 0 ? Math.max(0, sizeBytes + offset) : offset);
  return { start, end: Math.min(sizeBytes, start + length) };
}
