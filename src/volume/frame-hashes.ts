// SPDX-License-Identifier: Apache-2.0
//
// The hashes of many stored blocks, without their content. Each frame says the hash of its block in its header, and each
// segment those of all its frames in its footer; of blocks that were compressed together the records say them that moved
// them there, which the footer repeats.
//
//   references ── located ──► by segment   many in one: its rows, or its records where blocks share frames
//                                          few, or no footer: their headers
//
// What isn't told, or can't be read, is for the caller to find out by the bytes: a hash is only ever a hint.

import { StorageError } from "../base/errors.ts";
import type { FileStore } from "../log/file-store.ts";
import type { LogWriter } from "../log/log-writer.ts";
import { offset8Of, stateOf } from "../log/reference.ts";
import { SegmentRows } from "../log/segment-rows.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { FrameHeaders } from "./frame-headers.ts";
import { type FramePlaces, LOCATED, PLACE_STATE } from "./frame-places.ts";
import type { SharedHashes } from "./shared-hashes.ts";

export interface FrameHashesOptions {
  readonly memory: BlockMemory;
  readonly log: Pick<LogWriter, "recentAddress" | "rowsOf">;
  readonly segments: FileStore;
  readonly places: FramePlaces;
  readonly shared: SharedHashes;
  /** Requests come between. */
  readonly pause: () => Promise<void>;
}

/** What is asked of the first `count` references, two words each. */
export interface WantedHashes {
  readonly references: Uint32Array;
  readonly count: number;
  /** Two words each. */
  readonly hashes: Uint32Array;
  /** 1: the hash is told. */
  readonly known: Uint8Array;
}

/** Where they are, and which lie in one segment. */
interface Located {
  /** By reference; 0: nowhere that helps. */
  readonly segments: Uint32Array;
  readonly lows: Uint32Array;
  readonly groups: readonly Group[];
}

/** References whose frames are in one segment. */
interface Group {
  readonly segment: number;
  readonly which: Uint32Array;
}

/** What one group is read with. */
interface Readers {
  readonly rows: SegmentRows;
  readonly headers: FrameHeaders;
}

const NONE = new Uint32Array(0);
const SEGMENTS_AT_ONCE = 4;
/** Of so many in one segment reading its rows is quicker than reading their headers. */
const ROWS_MIN = 8;
/** References that are located between two turns of the event loop. */
const SLICE_REFERENCES = 8192;

export class FrameHashes {
  readonly #options: FrameHashesOptions;
  readonly #readers: readonly Readers[];

  constructor(options: FrameHashesOptions) {
    this.#options = options;
    const { memory, segments } = options;
    this.#readers = Array.from({ length: SEGMENTS_AT_ONCE }, () => ({
      rows: new SegmentRows(memory, segments),
      headers: new FrameHeaders(options),
    }));
  }

  /** One at a time. */
  async read(wanted: WantedHashes): Promise<void> {
    wanted.known.fill(0, 0, wanted.count);
    const located = await this.#locateAll(wanted);
    const { groups } = located;
    for (let first = 0; first < groups.length; first += SEGMENTS_AT_ONCE) {
      const some = groups.slice(first, first + SEGMENTS_AT_ONCE);
      await Promise.all(
        some.map((group, turn) =>
          this.#readGroup(wanted, located, group, this.#readers[turn] as Readers),
        ),
      );
      await this.#options.pause();
    }
  }

  async #locateAll({ references, count }: WantedHashes): Promise<Located> {
    const { places, pause } = this.#options;
    const segments = new Uint32Array(count);
    const lows = new Uint32Array(count);
    const groupOf = new Uint32Array(count);
    const ids = new Map<number, number>();
    const counts: number[] = [];
    for (let at = 0; at < count; at++) {
      if (at % SLICE_REFERENCES === SLICE_REFERENCES - 1) await pause();
      const segment = references[at * 2] as number;
      const low = references[at * 2 + 1] as number;
      let found = places.locate(segment, low);
      if (found === LOCATED.NOT_LOADED) found = await this.#load(segment, low);
      if (found !== LOCATED.HERE) continue;
      segments[at] = places.segment;
      lows[at] = places.low;
      let id = ids.get(places.segment);
      if (id === undefined) {
        id = counts.length;
        counts.push(0);
        ids.set(places.segment, id);
      }
      groupOf[at] = id;
      counts[id] = (counts[id] as number) + 1;
    }
    const groups = [...ids.keys()].map((segment, id) => {
      const which = new Uint32Array(counts[id] as number);
      counts[id] = 0;
      return { segment, which };
    });
    for (let at = 0; at < count; at++) {
      if (segments[at] === 0) continue;
      const id = groupOf[at] as number;
      const place = counts[id] as number;
      (groups[id] as Group).which[place] = at;
      counts[id] = place + 1;
    }
    return { segments, lows, groups };
  }

  async #load(segment: number, low: number): Promise<number> {
    const { places } = this.#options;
    try {
      for (;;) {
        await places.load(segment, low);
        const found = places.locate(segment, low);
        if (found !== LOCATED.NOT_LOADED) return found;
      }
    } catch (error) {
      if (error instanceof StorageError) return LOCATED.GONE; // as far as we can tell
      throw error;
    }
  }

  /** Tells what the segment knows of the group. */
  async #readGroup(
    wanted: WantedHashes,
    { lows }: Located,
    { segment, which }: Group,
    { rows, headers }: Readers,
  ): Promise<void> {
    const isShared = (at: number): boolean => stateOf(lows[at] as number) === PLACE_STATE.SHARED;
    const isMany = which.length >= ROWS_MIN;
    try {
      const sharing = isMany ? which.filter(isShared) : NONE;
      if (sharing.length >= ROWS_MIN) await this.#options.shared.read(segment, sharing, wanted);
      if (sharing.length === which.length) return;
      if (isMany && (await this.#findRows(segment, rows))) {
        const { hashes, known } = wanted;
        for (const at of which)
          if (!isShared(at) && rows.find(offset8Of(lows[at] as number), hashes, at * 2))
            known[at] = 1;
      }
    } catch (error) {
      if (!(error instanceof StorageError)) throw error; // damaged, or collected meanwhile
    }
    const untold: number[] = [];
    for (const at of which) if (wanted.known[at] !== 1 && !isShared(at)) untold.push(at);
    if (untold.length > 0) await headers.read(segment, untold, lows, wanted);
  }

  /** The rows of the segment, until the next turn; false: there are none. */
  async #findRows(segment: number, rows: SegmentRows): Promise<boolean> {
    const { memory, log } = this.#options;
    if (log.rowsOf(segment) === undefined) return await rows.read(segment);
    const open = log.rowsOf(segment);
    if (open !== undefined) rows.use(memory.words, open.address >>> 2, open.count);
    return open !== undefined;
  }
}
