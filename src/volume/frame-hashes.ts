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

/** References whose frames are in one segment. */
interface Group {
  readonly segment: number;
  readonly which: Uint32Array;
  /** Some of them are in frames that several blocks share. */
  readonly isSharing: boolean;
}

/** What one group is read with. */
interface Readers {
  readonly rows: SegmentRows;
  readonly headers: FrameHeaders;
}

const SEGMENTS_AT_ONCE = 4;
/** Of so many in one segment reading its rows is quicker than reading their headers. */
const ROWS_MIN = 8;
/** References that are located between two turns of the event loop. */
const SLICE_REFERENCES = 8192;

export class FrameHashes {
  readonly #options: FrameHashesOptions;
  readonly #readers: readonly Readers[];
  /** By reference: where its frame is in its segment; and its group and one, 0: it is nowhere that helps. */
  #lows: Uint32Array = new Uint32Array(0);
  #groupOf: Uint32Array = new Uint32Array(0);

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
    const groups = await this.#locateAll(wanted);
    for (let first = 0; first < groups.length; first += SEGMENTS_AT_ONCE) {
      const some = groups.slice(first, first + SEGMENTS_AT_ONCE);
      await Promise.all(
        some.map((group, turn) => this.#readGroup(wanted, group, this.#readers[turn] as Readers)),
      );
      await this.#options.pause();
    }
  }

  /** Finds out where the frames are, and which of them lie in one segment. */
  async #locateAll({ references, count }: WantedHashes): Promise<readonly Group[]> {
    const { places, pause } = this.#options;
    if (this.#lows.length < count) {
      this.#lows = new Uint32Array(count);
      this.#groupOf = new Uint32Array(count);
    }
    const lows = this.#lows;
    const groupOf = this.#groupOf;
    const ids = new Map<number, number>();
    const counts: number[] = [];
    const isSharing: boolean[] = [];
    let previous = 0;
    let id = 0;
    for (let at = 0; at < count; at++) {
      if (at % SLICE_REFERENCES === SLICE_REFERENCES - 1) await pause();
      const segment = references[at * 2] as number;
      const low = references[at * 2 + 1] as number;
      let found = places.locate(segment, low);
      if (found === LOCATED.NOT_LOADED) found = await this.#load(segment, low);
      groupOf[at] = 0;
      if (found !== LOCATED.HERE) continue;
      if (places.segment !== previous) {
        previous = places.segment;
        id = ids.get(previous) ?? -1;
        if (id < 0) {
          id = counts.push(0) - 1;
          isSharing.push(false);
          ids.set(previous, id);
        }
      }
      lows[at] = places.low;
      groupOf[at] = id + 1;
      counts[id] = (counts[id] as number) + 1;
      if (stateOf(places.low) === PLACE_STATE.SHARED) isSharing[id] = true;
    }
    const groups = [...ids.keys()].map((segment, each) => ({
      segment,
      which: new Uint32Array(counts[each] as number),
      isSharing: isSharing[each] as boolean,
    }));
    counts.fill(0);
    for (let at = 0; at < count; at++) {
      if (at % (8 * SLICE_REFERENCES) === 8 * SLICE_REFERENCES - 1) await pause();
      const each = (groupOf[at] as number) - 1;
      if (each < 0) continue;
      const place = counts[each] as number;
      (groups[each] as Group).which[place] = at;
      counts[each] = place + 1;
    }
    return groups;
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
  async #readGroup(wanted: WantedHashes, group: Group, { rows, headers }: Readers): Promise<void> {
    const { segment, which } = group;
    const isMany = which.length >= ROWS_MIN;
    let hasRows = false;
    try {
      if (group.isSharing && isMany) await this.#readShared(wanted, group);
      hasRows = isMany && (await this.#findRows(segment, rows));
    } catch (error) {
      if (!(error instanceof StorageError)) throw error; // damaged, or collected meanwhile
    }
    const { hashes, known } = wanted;
    const lows = this.#lows;
    const untold: number[] = [];
    for (let each = 0; each < which.length; each++) {
      const at = which[each] as number;
      const low = lows[at] as number;
      if (group.isSharing && stateOf(low) === PLACE_STATE.SHARED) continue;
      if (hasRows && rows.find(offset8Of(low), hashes, at * 2)) known[at] = 1;
      else untold.push(at);
    }
    if (untold.length > 0) await headers.read(segment, untold, lows, wanted);
  }

  async #readShared(wanted: WantedHashes, { segment, which }: Group): Promise<void> {
    const isShared = (at: number): boolean =>
      stateOf(this.#lows[at] as number) === PLACE_STATE.SHARED;
    const sharing = which.filter(isShared);
    if (sharing.length >= ROWS_MIN) await this.#options.shared.read(segment, sharing, wanted);
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
