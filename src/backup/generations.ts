// SPDX-License-Identifier: Apache-2.0
//
// The chain of generations: where all who use a target agree, without locks and without a listing that can be trusted.
//
//     catalog/0000000000000041 ◄─ …42 ◄─ …43        each is the whole catalog, and names the one before by its id
//     catalog/hint                                  a number: where to begin to look for the newest
//     catalog/trimmed                               generation 1 may be gone
//
// A commit is putIfAbsent of the next number; who loses begins anew with what the winner wrote. Old generations are
// deleted, in ascending order, or they would pile up. That alone would be unsafe: a program that slept for a week with
// generation 42 in hand could put 43 anew, long after 43 was deleted, and believe that it had committed. Hence the rule:
//
//     a generation counts only if the one that it names as its parent is still there (I18)
//
// 42 is always deleted before 43. So if 42 is there after 43 was put, 43 had never been deleted, and the put was the true
// one. (The parent is recognised by its id, which is random: a sleeper could have put 42 anew, too.) Generation 1 has no
// parent; it counts while nothing was trimmed. Committers look after their put, readers after their get.

import { must } from "../base/assert.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Random } from "../host/ports.ts";
import {
  DOCUMENT_HEADER_BYTES,
  damagedDocument,
  documentId,
  readDocument,
  sealDocument,
} from "./document.ts";
import { NONCE_BYTES, type Sealer } from "./sealing.ts";
import { isHex } from "./target-key.ts";

const FOLDER = "catalog/";
const HINT = "catalog/hint";
const TRIMMED = "catalog/trimmed";
const NUMBER_DIGITS = 16;
const NUMBER_PATTERN = /^catalog\/(\d{16})$/;
const HINT_BYTES_MAX = 32;
/** The parent's id and a line end stand before the body. */
const PARENT_BYTES: number = 2 * NONCE_BYTES + 1;
const NO_PARENT = "0".repeat(2 * NONCE_BYTES);
const SEARCHES_MAX = 8;

export interface Generation {
  readonly number: number;
  /** Random, of this generation alone. */
  readonly id: string;
  readonly parentId: string;
  readonly body: Uint8Array;
}

export interface GenerationsOptions {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly random: Random;
  readonly bodyBytesMax: number;
}

export class Generations {
  readonly #options: GenerationsOptions;
  readonly #store: ObjectStore;
  /** The newest that was seen. */
  #known: Generation | undefined;

  constructor(options: GenerationsOptions) {
    this.#options = options;
    this.#store = options.store;
  }

  /** Makes generation 1, unless there is one, or ever was. */
  async begin(body: Uint8Array): Promise<void> {
    if ((await this.#isThere(1)) || (await this.#isTrimmed())) return;
    await this.#put({ number: 1, parentId: NO_PARENT, body });
  }

  /** The newest generation. Throws TARGET_CORRUPT, TARGET_UNAVAILABLE. */
  async newest(): Promise<Generation> {
    try {
      return await this.#search();
    } catch (error) {
      throw hasCode(error, "TARGET_CORRUPT") ? damagedNewest(error) : error;
    }
  }

  /**
   * The newest generation that can be read, for who only reads; `damage` is what is wrong with the newest. Each is the
   * whole catalog: all that one more commit had changed is missing.
   */
  async newestReadable(): Promise<{
    readonly generation: Generation;
    readonly damage?: StorageError;
  }> {
    try {
      return { generation: await this.newest() };
    } catch (error) {
      const before = hasCode(error, "TARGET_CORRUPT") ? await this.#beforeDamage() : undefined;
      if (before === undefined) throw error;
      return { generation: before, damage: error as StorageError };
    }
  }

  /**
   * Puts what was before in the place of a newest generation that can't be read: the last commit is undone. Nothing else
   * is lost by that, whichever commit it was: what it deleted had been condemned before, and what it added is garbage.
   */
  async undoDamaged(): Promise<void> {
    const { generation, damage } = await this.newestReadable();
    if (damage === undefined) return;
    const number = generation.number + 1;
    const { parts } = this.#seal({ number, parentId: generation.id, body: generation.body });
    await this.#store.put(nameOf(number), parts);
  }

  async #search(): Promise<Generation> {
    for (let search = 1; search <= SEARCHES_MAX; search += 1) {
      const start = await this.#start(search);
      if (start === undefined) continue;
      const number = await this.#climb(start);
      const found = this.#known?.number === number ? this.#known : await this.#read(number);
      if (found !== undefined && (await this.#counts(found))) {
        this.#known = found;
        return found;
      }
      // It was trimmed meanwhile, or somebody who slept put it: begin from elsewhere.
      this.#known = undefined;
    }
    const what = `target "${this.#store.label}": the newest generation of its catalog wasn't found`;
    throw new StorageError("TARGET_UNAVAILABLE", `${what} in ${SEARCHES_MAX} searches`, {
      hint: 'start it again; if that doesn\'t help, "varve verify TARGET" says what is lost',
    });
  }

  /** Puts the generation behind `parent`; undefined when there is one already. Whether it did is unknown when it throws. */
  async append(parent: Generation, body: Uint8Array): Promise<Generation | undefined> {
    const next = { number: parent.number + 1, parentId: parent.id, body };
    const made = await this.#put(next);
    if (made === undefined) return undefined;
    this.#known = made;
    // Who doesn't find it searches longer.
    await this.#store.put(HINT, [Buffer.from(`${made.number}\n`)]).catch(() => {});
    return made;
  }

  /**
   * Deletes the generations from `oldest` to before `end`, one after the other. Those before `oldest` are gone, and `end`
   * is at or before the newest.
   */
  async trim(oldest: number, end: number): Promise<void> {
    if (oldest >= end) return;
    await this.#store.putIfAbsent(TRIMMED, []);
    for (let number = oldest; number < end; number += 1) await this.#store.delete(nameOf(number));
  }

  /** The one below a newest generation that can't be read. Undefined: that can't be read either. */
  async #beforeDamage(): Promise<Generation | undefined> {
    const start = await this.#start(1);
    const newest = start === undefined ? 1 : await this.#climb(start);
    if (newest === 1) return undefined;
    try {
      return await this.#read(newest - 1);
    } catch (error) {
      if (hasCode(error, "TARGET_CORRUPT")) return undefined;
      throw error;
    }
  }

  #seal(generation: Omit<Generation, "id">): { id: string; parts: Uint8Array[] } {
    const { number, parentId, body } = generation;
    const document = { kind: "catalog", name: nameOf(number) } as const;
    const whole = Buffer.concat([Buffer.from(`${parentId}\n`), body]);
    const parts = sealDocument({ ...this.#options, ...document }, whole);
    return { id: must(documentId(parts[0]), "what was sealed is a document"), parts };
  }

  async #put(generation: Omit<Generation, "id">): Promise<Generation | undefined> {
    const { number } = generation;
    const name = nameOf(number);
    const { id, parts } = this.#seal(generation);
    let isOurs = false;
    try {
      isOurs = await this.#store.putIfAbsent(name, parts);
    } catch (error) {
      // The answer may have been lost, not the generation.
      if ((await this.#idAt(number)) !== id) throw error;
      isOurs = true;
    }
    if (!isOurs && (await this.#idAt(number)) !== id) return undefined;
    const made = { ...generation, id };
    if (await this.#counts(made)) return made;
    await this.#store.delete(name);
    this.#known = undefined;
    return undefined;
  }

  /** Whether it is part of the chain: its parent is there. */
  async #counts({ number, parentId }: Generation): Promise<boolean> {
    if (number === 1) return !(await this.#isTrimmed());
    return (await this.#idAt(number - 1)) === parentId;
  }

  /** A generation that is there, to begin the search at. */
  async #start(search: number): Promise<number | undefined> {
    if (this.#known !== undefined) return this.#known.number;
    // A hint that led nowhere may lead somewhere the next time but one.
    if (search % 2 === 1) {
      const hinted = await this.#hinted();
      if (hinted !== undefined) return hinted;
    }
    const listed = await this.#listed();
    if (listed !== undefined) return listed;
    return (await this.#isThere(1)) ? 1 : undefined;
  }

  async #hinted(): Promise<number | undefined> {
    const bytes = await this.#store.get(HINT, { offset: 0, length: HINT_BYTES_MAX });
    const text = Buffer.from(bytes ?? []).toString("latin1");
    const number = /^[1-9]\d{0,14}\n?$/.test(text) ? Number(text) : undefined;
    return number !== undefined && (await this.#isThere(number)) ? number : undefined;
  }

  /** The largest one that is listed, and there. */
  async #listed(): Promise<number | undefined> {
    const numbers: number[] = [];
    for await (const { name } of this.#store.list(FOLDER)) {
      const digits = NUMBER_PATTERN.exec(name)?.[1];
      if (digits !== undefined && Number.isSafeInteger(Number(digits)))
        numbers.push(Number(digits));
    }
    numbers.sort((one, other) => other - one);
    for (const number of numbers.slice(0, SEARCHES_MAX))
      if (await this.#isThere(number)) return number;
    return undefined;
  }

  /** The last of the unbroken row that begins at `start`, in steps that double, then halve. */
  async #climb(start: number): Promise<number> {
    let there = start;
    let step = 1;
    while (await this.#isThere(there + step)) {
      there += step;
      step *= 2;
    }
    let missing = there + step;
    while (missing - there > 1) {
      const middle = Math.floor((there + missing) / 2);
      if (await this.#isThere(middle)) there = middle;
      else missing = middle;
    }
    return there;
  }

  async #isThere(number: number): Promise<boolean> {
    return (await this.#store.sizeOf(nameOf(number))) !== undefined;
  }

  async #isTrimmed(): Promise<boolean> {
    return (await this.#store.sizeOf(TRIMMED)) !== undefined;
  }

  async #idAt(number: number): Promise<string | undefined> {
    const range = { offset: 0, length: DOCUMENT_HEADER_BYTES };
    const header = await this.#store.get(nameOf(number), range);
    return documentId(header);
  }

  async #read(number: number): Promise<Generation | undefined> {
    const { bodyBytesMax, sealer } = this.#options;
    const name = nameOf(number);
    const document = { store: this.#store, sealer, kind: "catalog", name } as const;
    const bytesMax = bodyBytesMax + PARENT_BYTES;
    const found = await readDocument({ ...document, bodyBytesMax: bytesMax });
    if (found === undefined) return undefined;
    const parentId = Buffer.from(found.body.subarray(0, PARENT_BYTES - 1)).toString("latin1");
    if (!isHex(parentId, NONCE_BYTES)) throw damagedDocument(name, "it names no parent");
    return { number, id: found.id, parentId, body: found.body.subarray(PARENT_BYTES) };
  }
}

function damagedNewest(error: StorageError): StorageError {
  return new StorageError("TARGET_CORRUPT", error.message, {
    hint: 'points are found without it; "varve prune TARGET --repair" takes the last change of the catalog back',
    data: error.data,
    cause: error,
  });
}

function nameOf(number: number): string {
  return `${FOLDER}${String(number).padStart(NUMBER_DIGITS, "0")}`;
}
