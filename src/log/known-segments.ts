// SPDX-License-Identifier: Apache-2.0
//
// The headers of all segments from a position on, read before recovery walks any of them: they say where each
// earlier segment ended, and what had been durable by then. A segment of which only the records are left counts as any.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { recordsNumberOf, type SegmentHeader, segmentName, segmentNumberOf } from "./segment.ts";
import { SegmentReader } from "./segment-reader.ts";

/** What segments are read with. */
export interface LogFiles {
  readonly memory: BlockMemory;
  readonly directory: Directory;
  readonly poolId: Uint8Array;
}

/** The numbers of all segments of which anything is there, ascending. */
export async function segmentNumbers(directory: Directory): Promise<number[]> {
  const numbers = new Set<number>();
  for (const name of await directory.list()) {
    numbers.add(segmentNumberOf(name));
    numbers.add(recordsNumberOf(name));
  }
  return [...numbers].filter((number) => number > 0).sort((a, b) => a - b);
}

/** Opens a segment, lends its reader to `work`, and closes it whatever happens. */
export async function withSegment<T>(
  files: LogFiles,
  number: number,
  work: (reader: SegmentReader) => Promise<T>,
  windowBytes?: number,
): Promise<T> {
  const { memory, directory, poolId } = files;
  const reader = await SegmentReader.open(memory, directory, number, poolId, windowBytes);
  try {
    return await work(reader);
  } finally {
    await reader.close();
  }
}

export class KnownSegments {
  /** Every segment there is, ascending. */
  readonly numbers: readonly number[];
  /** Of those whose header can be read. */
  readonly #headers: ReadonlyMap<number, SegmentHeader>;
  /** What is wrong with the other headers. */
  readonly #problems: ReadonlyMap<number, string>;

  private constructor(
    numbers: readonly number[],
    headers: ReadonlyMap<number, SegmentHeader>,
    problems: ReadonlyMap<number, string>,
  ) {
    this.numbers = numbers;
    this.#headers = headers;
    this.#problems = problems;
  }

  /** Reads the headers of `first` and all later segments. Throws LOG_CORRUPT when `first` has none. */
  static async read(files: LogFiles, first: number): Promise<KnownSegments> {
    const known = await KnownSegments.#readFrom(files, first);
    if (known.numbers[0] !== first) throw segmentCorrupt(first, "it is missing");
    const problem = known.#problems.get(first);
    if (problem !== undefined) throw segmentCorrupt(first, problem);
    return known;
  }

  /** Reads the headers of all segments there are. */
  static all(files: LogFiles): Promise<KnownSegments> {
    return KnownSegments.#readFrom(files, 1);
  }

  static async #readFrom(files: LogFiles, first: number): Promise<KnownSegments> {
    const all = await segmentNumbers(files.directory);
    const numbers = all.filter((number) => number >= first);
    const headers = new Map<number, SegmentHeader>();
    const problems = new Map<number, string>();
    for (const number of numbers) {
      const header = await withSegment(files, number, (reader) => reader.header());
      if (typeof header === "string") problems.set(number, header);
      else headers.set(number, header);
    }
    return new KnownSegments(numbers, headers, problems);
  }

  header(number: number): SegmentHeader | undefined {
    return this.#headers.get(number);
  }

  get highest(): number {
    return this.numbers[this.numbers.length - 1] as number;
  }

  get incarnation(): number {
    return this.#maximum((header) => header.incarnation);
  }

  /** The highest durable LSN that a header claims. */
  get durableLsn(): number {
    return this.#maximum((header) => header.durableLsn);
  }

  /** The headers that say that they continue `number`. */
  successorsOf(number: number): readonly SegmentHeader[] {
    return [...this.#headers.values()].filter(
      (header) => header.number > number && header.previousNumber === number,
    );
  }

  #maximum(claim: (header: SegmentHeader) => number): number {
    return [...this.#headers.values()].reduce(
      (highest, header) => Math.max(highest, claim(header)),
      0,
    );
  }
}

/** The one among `successors` that continues exactly at this point of the chain. */
export function successorAt(
  successors: readonly SegmentHeader[],
  end: number,
  checksum: bigint,
): SegmentHeader | undefined {
  return successors.find((header) => header.previousEnd === end && header.chain === checksum);
}

/** LOG_CORRUPT about one segment. */
export function segmentCorrupt(
  number: number,
  problem: string,
  data: Readonly<Record<string, unknown>> = {},
): StorageError {
  return new StorageError("LOG_CORRUPT", `log: segment ${segmentName(number)}: ${problem}`, {
    data: { segment: number, ...data },
  });
}
