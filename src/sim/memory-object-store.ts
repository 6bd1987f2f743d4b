// SPDX-License-Identifier: Apache-2.0
//
// A store of objects in memory, as bad as a real one is allowed to be. A bucket is what all programs share; each has a
// store of its own, whose operations wait at two gates that a test holds:
//
//     begin ──► (a crash here: a draft is left) ──► effect ──► (a crash here: done, but nobody knows) ──► answer
//
// A gate that never opens is the death of its program. What a gate answers is a fault: an operation that fails without
// effect, or with it. Listings are lies where the bucket says so: objects that are there are missing, deleted ones are
// shown. What get sees is never stale: no store that Varve is made for does that.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import {
  isObjectName,
  type ListedObject,
  type ObjectRange,
  type ObjectStore,
  rangeWithin,
} from "../host/object-store.ts";
import type { Prng } from "./prng.ts";

export interface StoreOperation {
  readonly kind:
    | "put-if-absent"
    | "put"
    | "get"
    | "size"
    | "list"
    | "delete"
    | "unfinished"
    | "discard";
  readonly name: string;
}

/** failed: an I/O error, nothing was done. unknown: an I/O error, but it was done. full: no space. */
export type StoreFault = "failed" | "unknown" | "full";

export interface StoreGates {
  /** Before the effect. */
  begin?(operation: StoreOperation): Promise<StoreFault | undefined>;
  /** Between the effect and the answer. */
  end?(operation: StoreOperation): Promise<void>;
}

const DELETED_MAX = 1000;

/** The objects, and how the store behaves to all of its programs. */
export class MemoryBucket {
  readonly objects: Map<string, Uint8Array> = new Map();
  readonly drafts: Set<string> = new Set();
  readonly deleted: string[] = [];
  capacityBytes: number = Number.POSITIVE_INFINITY;
  /** Nothing can be reached any more. */
  isGone = false;
  /** Listings lie, as this decides. */
  lies: Prng | undefined;
  /** Called after each change of an object. */
  onChange: ((name: string) => void) | undefined;
  #draftCount = 0;

  usedBytes(): number {
    let sum = 0;
    for (const bytes of this.objects.values()) sum += bytes.length;
    return sum;
  }

  beginDraft(name: string): string {
    this.#draftCount += 1;
    const draft = `${name}#${this.#draftCount}`;
    this.drafts.add(draft);
    return draft;
  }

  /** What a listing shows now. */
  listed(prefix: string): ListedObject[] {
    const { lies } = this;
    const names = [...this.objects.keys()].filter(() => !lies?.chance(0.2));
    if (lies !== undefined) names.push(...this.deleted.filter(() => lies.chance(0.1)));
    const found = [...new Set(names)].filter((name) => name.startsWith(prefix));
    return (lies?.shuffle(found) ?? found).map((name) => ({
      name,
      sizeBytes: this.objects.get(name)?.length ?? 1,
    }));
  }

  set(name: string, bytes: Uint8Array): void {
    this.objects.set(name, bytes);
    this.onChange?.(name);
  }

  remove(name: string): void {
    if (!this.objects.delete(name)) return;
    this.deleted.push(name);
    if (this.deleted.length > DELETED_MAX) this.deleted.shift();
    this.onChange?.(name);
  }
}

export class MemoryObjectStore implements ObjectStore {
  readonly label = "memory";
  readonly #bucket: MemoryBucket;
  readonly #gates: StoreGates;

  constructor(bucket: MemoryBucket, gates: StoreGates = {}) {
    this.#bucket = bucket;
    this.#gates = gates;
  }

  putIfAbsent(name: string, parts: readonly Uint8Array[]): Promise<boolean> {
    return this.#put({ kind: "put-if-absent", name }, parts);
  }

  async put(name: string, parts: readonly Uint8Array[]): Promise<void> {
    await this.#put({ kind: "put", name }, parts);
  }

  get(name: string, range?: ObjectRange): Promise<Uint8Array | undefined> {
    return this.#run({ kind: "get", name }, () => {
      const bytes = this.#bucket.objects.get(name);
      if (bytes === undefined) return undefined;
      const { start, end } = rangeWithin(bytes.length, range);
      return bytes.slice(start, end);
    });
  }

  sizeOf(name: string): Promise<number | undefined> {
    return this.#run({ kind: "size", name }, () => this.#bucket.objects.get(name)?.length);
  }

  async *list(prefix: string): AsyncGenerator<ListedObject> {
    yield* await this.#run({ kind: "list", name: prefix }, () => this.#bucket.listed(prefix));
  }

  delete(name: string): Promise<void> {
    return this.#run({ kind: "delete", name }, () => this.#bucket.remove(name));
  }

  async *unfinished(): AsyncGenerator<string> {
    yield* await this.#run({ kind: "unfinished", name: "" }, () => [...this.#bucket.drafts]);
  }

  discard(unfinished: string): Promise<void> {
    return this.#run({ kind: "discard", name: unfinished }, () => {
      this.#bucket.drafts.delete(unfinished);
    });
  }

  async #put(operation: StoreOperation, parts: readonly Uint8Array[]): Promise<boolean> {
    const bucket = this.#bucket;
    const { kind, name } = operation;
    // Copied at once: who waits for the end must not change what he gave, and a store that kept views would hide it.
    const bytes = new Uint8Array(Buffer.concat(parts));
    const draft = bucket.beginDraft(name);
    return this.#run(operation, (fault) => {
      bucket.drafts.delete(draft);
      if (fault === "failed") return false;
      if (kind === "put-if-absent" && bucket.objects.has(name)) return false;
      const replacedBytes = bucket.objects.get(name)?.length ?? 0;
      if (bucket.usedBytes() - replacedBytes + bytes.length > bucket.capacityBytes)
        throw new StorageError(
          "TARGET_FULL",
          `target "memory": put of "${name}" failed: it is full`,
        );
      bucket.set(name, bytes);
      return true;
    });
  }

  async #run<T>(operation: StoreOperation, effect: (fault?: StoreFault) => T): Promise<T> {
    const { kind, name } = operation;
    const isName = !["list", "unfinished", "discard"].includes(kind);
    assert(!isName || isObjectName(name), "an object has a plain name");
    const fault = await this.#gates.begin?.(operation);
    if (this.#bucket.isGone) throw this.#unavailable(operation, "it is gone");
    if (fault === "full") {
      throw new StorageError(
        "TARGET_FULL",
        `target "memory": ${kind} of "${name}" failed: it is full`,
      );
    }
    if (fault === "failed" && !kind.startsWith("put"))
      throw this.#unavailable(operation, "I/O error");
    const result = effect(fault);
    if (fault !== undefined) throw this.#unavailable(operation, "I/O error");
    await this.#gates.end?.(operation);
    return result;
  }

  #unavailable({ kind, name }: StoreOperation, why: string): StorageError {
    return new StorageError(
      "TARGET_UNAVAILABLE",
      `target "memory": ${kind} of "${name}" failed: ${why}`,
    );
  }
}
