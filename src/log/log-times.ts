// SPDX-License-Identifier: Apache-2.0
//
// From recorded time to LSN and back, and to the last flush, by the log itself: nothing is stored for it.
//
//   which segment   binary search over where each begins: its header and its first batch, some 4 KiB of a dozen
//                   segments, kept once they were read
//   which record    one footer's metas, decoded (segment-times.ts) and kept for the last few segments; of segments that
//                   have no footer yet, the metas that the writer keeps
//
// 10⁷ records are some 600 segments. A segment of which only the records are left serves as any. Where segments are
// gone, or can't be read, there is a hole: the answer is the nearest record below, and says so (`isBeforeHole`).

import { assert } from "../base/assert.ts";
import { hasCode } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import { type LogFiles, segmentNumbers, withSegment } from "./known-segments.ts";
import { RECORD_KIND, type RecordCursor } from "./record.ts";
import { SEGMENT_HEADER_BYTES, type SegmentHeader } from "./segment.ts";
import { isMissing, PEEK_WINDOW_BYTES, type SegmentReader } from "./segment-reader.ts";
import { type RecentSegment, SegmentTimes } from "./segment-times.ts";

export interface LogTimesOptions extends LogFiles {
  readonly clock: Clock;
  /** The segments that have no footer on disk yet, ascending; the last is being written. */
  readonly recentSegments: () => readonly RecentSegment[];
}

export interface LogMoment {
  readonly lsn: number;
  /** Recorded time. */
  readonly timeMicros: number;
}

/** The nearest that is known. */
export interface NearestMoment extends LogMoment {
  /** Records between it and what was asked for are gone: the right answer may have been among them. */
  readonly isBeforeHole: boolean;
}

/** A segment, as one lookup sees it. */
interface Piece {
  readonly number: number;
  /** Of one that has no footer yet. */
  readonly recent: SegmentTimes | undefined;
}

/** Where a segment begins in the log. */
interface Begin {
  readonly firstLsn: number;
  /** Recorded time of its first batch, or first record. */
  readonly micros: number;
}

interface StoredBegin extends Begin {
  readonly header: SegmentHeader;
}

/** Segments whose records are kept decoded: mostly an eighth of a mebibyte each. */
const TABLES_MAX = 4;
/** Garbage collection may let go of a segment between two looks, but not for ever. */
const LOOKS_MAX = 5;
const BUSY_RETRY_MS = 5;
const BUSY_RETRIES_MAX = 200;

export class LogTimes {
  readonly #options: LogTimesOptions;
  /** The segments on disk, ascending, when the log was last rolled over; undefined: to be listed. */
  #numbers: readonly number[] | undefined;
  #listedWhen = -1;
  /** undefined: it has no batch, or can't be read. */
  readonly #begins: Map<number, StoredBegin | undefined> = new Map();
  /** In order of use, oldest first. */
  readonly #tables: Map<number, Promise<SegmentTimes>> = new Map();
  /** Of segments without a footer: grown with them. */
  #recent: Map<number, SegmentTimes> = new Map();
  /** One segment is read at a time: what that takes of memory is bounded. */
  #reading: Promise<unknown> = Promise.resolve();

  constructor(options: LogTimesOptions) {
    this.#options = options;
  }

  /** The last record at or before a time; undefined: every record that is known is later. Throws DISK_IO. */
  atOrBefore(timeMicros: number): Promise<NearestMoment | undefined> {
    return this.#look(async (pieces) => {
      const found = await this.#lastPiece(pieces, ({ micros }) => micros <= timeMicros);
      let expectedLsn = await this.#firstLsnBehind(pieces, found);
      for (let at = found; at >= 0; at--) {
        const table = await this.#tableOf(pieces, at);
        const lsn = table.atOrBefore(timeMicros);
        if (lsn !== undefined) return nearest(table, lsn, expectedLsn);
        if (!table.isEmpty) expectedLsn = table.firstLsn;
      }
      return undefined;
    });
  }

  /** Recorded time of a record; undefined: it isn't there, or not any more. Throws DISK_IO. */
  timeOf(lsn: number): Promise<number | undefined> {
    return this.#look(async (pieces) => {
      const found = await this.#lastPiece(pieces, ({ firstLsn }) => firstLsn <= lsn);
      return found < 0 ? undefined : (await this.#tableOf(pieces, found)).timeOf(lsn);
    });
  }

  /** The last flush of a branch from `fromLsn` to `lsn`; undefined: none that is known. Throws DISK_IO. */
  lastFlush(options: {
    readonly branch: number;
    readonly fromLsn: number;
    readonly lsn: number;
  }): Promise<NearestMoment | undefined> {
    const { branch, fromLsn, lsn } = options;
    return this.#look(async (pieces) => {
      const found = await this.#lastPiece(pieces, ({ firstLsn }) => firstLsn <= lsn);
      let expectedLsn = Math.min(lsn + 1, await this.#firstLsnBehind(pieces, found));
      let isBeforeHole = false;
      for (let at = found; at >= 0; at--) {
        const table = await this.#tableOf(pieces, at);
        if (table.isEmpty) continue;
        isBeforeHole ||= table.nextLsn < expectedLsn;
        const flushLsn = table.lastFlush(branch, lsn);
        if (flushLsn !== undefined && flushLsn >= fromLsn)
          return { ...nearest(table, flushLsn, 0), isBeforeHole };
        if (table.firstLsn <= fromLsn) return undefined;
        expectedLsn = table.firstLsn;
      }
      return undefined;
    });
  }

  /** The first record that is known; behind it there may be holes. Throws DISK_IO. */
  firstKnown(): Promise<LogMoment | undefined> {
    return this.#look(async (pieces) => {
      for (let at = 0; at < pieces.length; at++) {
        const table = await this.#tableOf(pieces, at);
        if (!table.isEmpty) return nearest(table, table.firstLsn, 0);
      }
      return undefined;
    });
  }

  // ---- segments

  /** Looks again where a segment was let go meanwhile. */
  async #look<T>(find: (pieces: readonly Piece[]) => Promise<T>): Promise<T> {
    for (let lookCount = 1; ; lookCount++) {
      try {
        return await find(await this.#pieces());
      } catch (error) {
        if (!isMissing(error) || lookCount === LOOKS_MAX) throw error;
        this.#numbers = undefined;
      }
    }
  }

  /** All segments that there are now, ascending. */
  async #pieces(): Promise<readonly Piece[]> {
    const recent = this.#takeRecent();
    const writtenNumber = [...recent.keys()].pop() ?? Number.POSITIVE_INFINITY;
    if (this.#numbers === undefined || this.#listedWhen !== writtenNumber) {
      this.#numbers = await segmentNumbers(this.#options.directory);
      this.#listedWhen = writtenNumber;
      const present = new Set(this.#numbers);
      for (const number of this.#begins.keys())
        if (!present.has(number)) this.#begins.delete(number);
    }
    // The file of the next segment is made before it is begun.
    const onDisk = this.#numbers.filter((number) => number < writtenNumber && !recent.has(number));
    const pieces = [
      ...onDisk.map((number) => ({ number, recent: undefined })),
      ...[...recent].map(([number, times]) => ({ number, recent: times })),
    ];
    return pieces.sort((a, b) => a.number - b.number);
  }

  /** What the writer has in memory, in this turn. */
  #takeRecent(): ReadonlyMap<number, SegmentTimes> {
    const recent = new Map<number, SegmentTimes>();
    for (const { number, firstLsn, metas } of this.#options.recentSegments()) {
      const times = this.#recent.get(number) ?? new SegmentTimes(firstLsn);
      const problem = times.take(metas);
      assert(problem === undefined, "the writer's own records can be read");
      recent.set(number, times);
    }
    this.#recent = recent;
    return recent;
  }

  /** The last segment whose begin says yes, as all before it do; -1: none does. Those without a begin are passed over. */
  async #lastPiece(pieces: readonly Piece[], isBefore: (begin: Begin) => boolean): Promise<number> {
    let found = -1;
    let low = 0;
    let high = pieces.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const next = await this.#nextBegin(pieces, middle);
      if (next !== undefined && next.at <= high && isBefore(next.begin)) {
        found = next.at;
        low = next.at + 1;
      } else high = middle - 1;
    }
    return found;
  }

  /** What the log goes on with behind a segment; 0: nothing that is known. */
  async #firstLsnBehind(pieces: readonly Piece[], at: number): Promise<number> {
    return (await this.#nextBegin(pieces, at + 1))?.begin.firstLsn ?? 0;
  }

  /** The first segment from `from` on that has a begin. */
  async #nextBegin(
    pieces: readonly Piece[],
    from: number,
  ): Promise<{ readonly at: number; readonly begin: Begin } | undefined> {
    for (let at = from; at < pieces.length; at++) {
      const { number, recent } = pieces[at] as Piece;
      const begin = recent === undefined ? await this.#storedBegin(number) : beginOf(recent);
      if (begin !== undefined) return { at, begin };
    }
    return undefined;
  }

  // ---- reading

  async #storedBegin(number: number): Promise<StoredBegin | undefined> {
    if (this.#begins.has(number)) return this.#begins.get(number);
    const begin = await this.#peek(number, async (reader) => {
      const header = await reader.header();
      if (typeof header === "string") return undefined;
      const batch = await reader.firstBatch(header);
      if (typeof batch === "string") return undefined;
      return { header, firstLsn: header.firstLsn, micros: batch.recordedMicros };
    });
    this.#begins.set(number, begin);
    return begin;
  }

  #tableOf(pieces: readonly Piece[], at: number): Promise<SegmentTimes> | SegmentTimes {
    const { number, recent } = pieces[at] as Piece;
    if (recent !== undefined) return recent;
    const table = this.#tables.get(number) ?? this.#load(pieces, at);
    this.#tables.delete(number);
    this.#tables.set(number, table);
    for (const oldest of this.#tables.keys()) {
      if (this.#tables.size <= TABLES_MAX) break;
      this.#tables.delete(oldest);
    }
    return table;
  }

  #load(pieces: readonly Piece[], at: number): Promise<SegmentTimes> {
    const { number } = pieces[at] as Piece;
    const table = this.#reading.then(async () => {
      const begin = await this.#storedBegin(number);
      const endLsn = (await this.#firstLsnBehind(pieces, at)) || Number.POSITIVE_INFINITY;
      if (begin === undefined) return new SegmentTimes(0, 0);
      return (
        (await this.#readFooter(begin.header, endLsn)) ??
        (await this.#readBatches(begin.header, endLsn)) ??
        (await this.#readFooter(begin.header, endLsn)) ??
        new SegmentTimes(0, 0)
      );
    });
    this.#reading = table.catch(() => {
      if (this.#tables.get(number) === table) this.#tables.delete(number);
    });
    return table;
  }

  /** Undefined where the batches may tell more: there is no footer, or a damaged one. */
  #readFooter(
    { number, firstLsn }: SegmentHeader,
    endLsn: number,
  ): Promise<SegmentTimes | undefined> {
    return this.#peek(number, async (reader) => {
      const times = new SegmentTimes(firstLsn, endLsn);
      const trailer = await reader.trailer();
      const metas = typeof trailer === "string" ? trailer : await reader.metas(trailer);
      const problem = typeof metas === "string" ? metas : times.take(metas);
      return problem === undefined || reader.isRecords ? times : undefined;
    });
  }

  /**
   * Only of segments that a crash ended: reads all of it, as far as it is whole. Undefined where nothing but its records is
   * left since its footer was looked for: they have one.
   */
  async #readBatches(header: SegmentHeader, endLsn: number): Promise<SegmentTimes | undefined> {
    const { number, incarnation, firstLsn, chain } = header;
    const times = new SegmentTimes(firstLsn, endLsn);
    const walk = {
      from: SEGMENT_HEADER_BYTES,
      chain: { nextLsn: firstLsn, chain, recordedMicros: 0, durableLsn: 0 },
      verifyFromLsn: Number.POSITIVE_INFINITY,
      wasDurable: () => Promise.resolve(true),
      incarnation,
      endsAt: () => times.nextLsn >= endLsn,
      onRecord: ({ kind, branch, timeMicros }: RecordCursor) =>
        times.add(timeMicros, kind === RECORD_KIND.FLUSHED ? branch : -1),
    };
    let isRecords = false;
    try {
      await this.#whenFree(() =>
        withSegment(this.#options, number, async (reader) => {
          isRecords = reader.isRecords;
          if (!isRecords) await reader.walk(walk);
        }),
      );
    } catch (error) {
      if (!hasCode(error, "LOG_CORRUPT")) throw error;
    }
    return isRecords ? undefined : times;
  }

  /** Lends a reader that needs little memory. */
  #peek<T>(number: number, work: (reader: SegmentReader) => Promise<T>): Promise<T> {
    return this.#whenFree(() => withSegment(this.#options, number, work, PEEK_WINDOW_BYTES));
  }

  /** Staging memory comes back soon: nobody waits for anybody with it. */
  async #whenFree<T>(work: () => Promise<T>): Promise<T> {
    for (let retryCount = 0; ; retryCount++) {
      try {
        return await work();
      } catch (error) {
        if (!hasCode(error, "BUSY") || retryCount === BUSY_RETRIES_MAX) throw error;
        await new Promise<void>((resolve) => this.#options.clock.after(BUSY_RETRY_MS, resolve));
      }
    }
  }
}

function beginOf(recent: SegmentTimes): Begin | undefined {
  const { firstLsn } = recent;
  const micros = recent.timeOf(firstLsn);
  return micros === undefined ? undefined : { firstLsn, micros };
}

/** `expectedLsn`: what the log goes on with behind this segment. */
function nearest(table: SegmentTimes, lsn: number, expectedLsn: number): NearestMoment {
  const timeMicros = table.timeOf(lsn);
  assert(timeMicros !== undefined, "what was found in a segment is in it");
  const isLast = lsn + 1 === table.nextLsn;
  return { lsn, timeMicros, isBeforeHole: isLast && table.nextLsn < expectedLsn };
}
