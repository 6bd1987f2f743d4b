// SPDX-License-Identifier: Apache-2.0
//
// Compares what a checkpoint gives, by the index's own code, with a plain reading of the log: block by block, and where
// moved frames are. What the log changed after the checkpoint's cut is left out: there the checkpoint has no say any
// more. So what came after it needs no memory of the index, however much it is.

import { BlockIndex, NOT_LOADED } from "../index/block-index.ts";
import type { CheckpointBody } from "../index/checkpoint-body.ts";
import type { CheckpointSource } from "../index/checkpoint-loader.ts";
import {
  CHUNK_WORDS,
  INHERITED,
  type PageDirectory,
  WORD_RUN,
  ZERO_CHUNK,
} from "../index/page-directory.ts";
import type { PlainState, PlainVolume } from "../log/log-dump.ts";
import { type LogReach, readLogReach } from "../log/log-reach.ts";
import { PLAIN_CHUNK_PAGES, PLAIN_PAGE_BLOCKS, PlainMap } from "../log/plain-map.ts";
import { newPlainPlace, PlainMoves, type PlainPlace } from "../log/plain-moves.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { LOW_LOST } from "../log/volume-content.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import type { CheckFindings } from "./check-findings.ts";
import { readMoves } from "./checkpoint-state.ts";
import { contradiction, PoolContent } from "./pool-content.ts";
import { endsEarly } from "./salvage.ts";

const CHUNK_BLOCKS: number = PLAIN_CHUNK_PAGES * PLAIN_PAGE_BLOCKS;

export interface ComparisonOptions {
  readonly source: CheckpointSource;
  readonly body: CheckpointBody;
  /** What the log says, as far as it reaches. */
  readonly plain: PlainState;
  readonly reach: LogReach;
  /** Segments whose frames are there. */
  readonly isThere: (segment: number) => boolean;
  readonly findings: CheckFindings;
}

/** A volume by the log and by a checkpoint. */
interface Compared {
  readonly volume: PlainVolume;
  readonly directory: PageDirectory;
  readonly map: PlainMap;
  readonly changed: PlainMap;
}

/** Blocks that hold something, compared. Throws POOL_CORRUPT, LOG_CORRUPT, DISK_IO, when there is nothing to compare. */
export async function compareCheckpoint(options: ComparisonOptions): Promise<number> {
  const { source, body, reach, findings } = options;
  const content = new PoolContent(new BlockIndex(source.memory, source.runs));
  await content.load(source, body);
  if (body.cut.nextLsn > reach.nextLsn) {
    // Where the chain is broken that is known already.
    if (reach.damage === undefined) findings.addError(endsEarly(reach, body.cut));
    return 0;
  }
  const changed = new ChangedBlocks(source.memory, content);
  const tail = await readLogReach({
    ...source,
    start: body.cut,
    onRecord: (cursor) => changed.note(cursor),
  });
  if (tail.damage !== undefined && reach.damage === undefined) findings.addError(tail.damage);
  const comparison = new CheckpointComparison(options, content, changed);
  await comparison.compareMoves();
  await comparison.compareVolumes();
  return comparison.blocksCompared;
}

class CheckpointComparison {
  readonly #options: ComparisonOptions;
  readonly #content: PoolContent;
  readonly #changed: ChangedBlocks;
  blocksCompared = 0;

  constructor(options: ComparisonOptions, content: PoolContent, changed: ChangedBlocks) {
    this.#options = options;
    this.#content = content;
    this.#changed = changed;
  }

  /** The index and the log must say the same of where frames are, but where nothing is any more. */
  async compareMoves(): Promise<void> {
    const { source, plain, isThere } = this.#options;
    const moves = new PlainMoves();
    for (const [segment, table] of this.#content.index.relocations.storedTables())
      await readMoves(source, segment, table, moves); // what can't be read, the scan of its run tells
    const changed = this.#changed.moves;
    const other = newPlainPlace();
    moves.forEach((segment, offset8, place) => {
      if (changed.find(segment, offset8, other)) return;
      const isKnown = plain.moves.find(segment, offset8, other);
      if (!isKnown) this.#findMove(segment, offset8, { index: place });
      else if (!isSamePlace(place, other))
        this.#findMove(segment, offset8, { index: place, log: other });
    });
    plain.moves.forEach((segment, offset8, place) => {
      const isForgotten = plain.dropped.has(place.segment) || !isThere(place.segment);
      if (isForgotten || changed.find(segment, offset8, other)) return;
      if (!moves.find(segment, offset8, other)) this.#findMove(segment, offset8, { log: place });
    });
  }

  async compareVolumes(): Promise<void> {
    const { plain, findings } = this.#options;
    const { index, catalog } = this.#content;
    for (const volume of plain.volumes.values()) {
      const kept = catalog.volumes.get(volume.id);
      const isSame =
        kept !== undefined &&
        kept.name === volume.name &&
        kept.sizeBytes === volume.sizeBytes &&
        kept.branch === volume.branch;
      if (!isSame)
        findings.add(
          "POOL_CORRUPT",
          `volume "${volume.name}": the checkpoint's catalog differs from the log`,
          { volume: volume.name },
        );
      const directory = index.branches.get(volume.branch);
      const map = plain.branches.get(volume.branch);
      const changed = this.#changed.of(volume.branch);
      if (directory !== undefined && map !== undefined)
        await this.#compareVolume({ volume, directory, map, changed });
    }
  }

  async #compareVolume(pair: Compared): Promise<void> {
    const { directory, map, changed } = pair;
    const chunks = new Set([...map.chunkNumbers(), ...directory.chunks.keys()]);
    for (const chunk of chunks) {
      if (changed.constantOfChunk(chunk) === CHANGED || isInherited(directory, chunk)) continue;
      const constant = map.constantOfChunk(chunk);
      if (constant === undefined || constantOfChunk(directory, chunk) !== constant)
        await this.#compareChunk(pair, chunk);
      else if (constant !== LOW_HOLE) {
        const endBlock = Math.ceil(pair.volume.sizeBytes / BLOCK_BYTES);
        const rest = endBlock - chunk * CHUNK_BLOCKS;
        this.blocksCompared += Math.max(0, Math.min(CHUNK_BLOCKS, rest));
      }
    }
  }

  async #compareChunk(pair: Compared, chunk: number): Promise<void> {
    const { index } = this.#content;
    for (let at = 0; at < PLAIN_CHUNK_PAGES; at++) {
      const page = chunk * PLAIN_CHUNK_PAGES + at;
      if (isInherited(pair.directory, chunk, at)) continue;
      await this.#options.findings.guard(async () => {
        const first = page * PLAIN_PAGE_BLOCKS;
        if (index.lookup(pair.directory, first) === NOT_LOADED)
          await index.load(pair.directory, first);
        this.#comparePage(pair, page);
      });
    }
  }

  /** The page is in memory. */
  #comparePage(pair: Compared, page: number): void {
    const { index } = this.#content;
    const { volume, directory, map, changed } = pair;
    const wanted = map.page(page);
    const since = changed.page(page);
    for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
      if (since?.[block * 2 + 1] === CHANGED) continue;
      const lba = page * PLAIN_PAGE_BLOCKS + block;
      const low = index.lookup(directory, lba);
      const wantedLow = wanted?.[block * 2 + 1] ?? LOW_HOLE;
      const wantedSegment = wanted?.[block * 2] ?? 0;
      if (wantedLow === LOW_LOST) continue;
      if (low !== LOW_HOLE || wantedLow !== LOW_HOLE) this.blocksCompared += 1;
      if (low === wantedLow && index.foundSegment === wantedSegment) continue;
      const message = `volume "${volume.name}", block ${lba}: the index has ${formatReference(index.foundSegment, low)}, the log ${formatReference(wantedSegment, wantedLow)}`;
      this.#options.findings.add("POOL_CORRUPT", message, { volume: volume.name, lba });
    }
  }

  #findMove(
    segment: number,
    offset8: number,
    { index, log }: { readonly index?: PlainPlace; readonly log?: PlainPlace },
  ): void {
    const home = `${segment}:${offset8 * 8}`;
    this.#options.findings.add(
      "POOL_CORRUPT",
      `frame ${home}: the index has it ${formatPlace(index)}, the log ${formatPlace(log)}`,
      { frame: home },
    );
  }
}

function isSamePlace(a: PlainPlace, b: PlainPlace): boolean {
  return (
    a.segment === b.segment &&
    a.offset8 === b.offset8 &&
    a.slot === b.slot &&
    a.isShared === b.isShared &&
    a.storedBytes === b.storedBytes
  );
}

/** "at 17:4096/3", or "at home" */
function formatPlace(place: PlainPlace | undefined): string {
  if (place === undefined) return "at home";
  const { segment, offset8, slot, isShared, storedBytes } = place;
  return `at ${segment}:${offset8 * 8}${isShared ? `/${slot}` : ""} in ${storedBytes} bytes`;
}

/** The mark of a changed block. */
const CHANGED = LOW_ZERO;

/** What records behind a checkpoint's cut changed: its blocks, which are marked, its catalog, and where frames are. */
class ChangedBlocks {
  readonly #memory: BlockMemory;
  readonly #content: PoolContent;
  readonly #maps: Map<number, PlainMap> = new Map();
  readonly moves: PlainMoves = new PlainMoves();

  constructor(memory: BlockMemory, content: PoolContent) {
    this.#memory = memory;
    this.#content = content;
  }

  of(branch: number): PlainMap {
    const map = this.#maps.get(branch) ?? new PlainMap();
    this.#maps.set(branch, map);
    return map;
  }

  /** Throws LOG_CORRUPT when the record contradicts the catalog. */
  note(cursor: RecordCursor): void {
    const { kind, lsn, branch, lba, blockCount, json } = cursor;
    const { catalog } = this.#content;
    const isRange = kind === RECORD_KIND.ZEROED || kind === RECORD_KIND.TRIMMED;
    if (kind === RECORD_KIND.WROTE || isRange) {
      if (!catalog.branches.has(branch)) throw contradiction(lsn, `branch ${branch} doesn't exist`);
      this.of(branch).fill(lba, blockCount, CHANGED);
    } else if (kind === RECORD_KIND.RELOCATED) this.moves.apply(this.#memory, cursor);
    else if (json !== undefined && kind !== RECORD_KIND.SEGMENT_DROPPED)
      this.#noteCatalog(cursor, json);
  }

  #noteCatalog(
    { kind, lsn, timeMicros }: RecordCursor,
    json: Readonly<Record<string, unknown>>,
  ): void {
    const { catalog } = this.#content;
    const volume = catalog.volumes.get(json.id as number);
    const oldEnd = Math.ceil((volume?.sizeBytes ?? 0) / BLOCK_BYTES);
    if (!catalog.apply(kind, json, { lsn, timeMicros }))
      throw contradiction(lsn, JSON.stringify(json));
    if (kind !== RECORD_KIND.VOLUME_RESIZED || volume === undefined) return;
    const end = Math.ceil((json.sizeBytes as number) / BLOCK_BYTES);
    if (end < oldEnd) this.of(volume.branch).fill(end, oldEnd - end, CHANGED);
  }
}

/** What a branch began with, and hasn't changed, the checkpoint leaves to the history of its origin. */
function isInherited(directory: PageDirectory, chunkIndex: number, page?: number): boolean {
  if (directory.origin === undefined) return false;
  const chunk = directory.chunks[chunkIndex];
  if (chunk === undefined || page === undefined) return chunk === undefined;
  return chunk[page * CHUNK_WORDS + WORD_RUN] === INHERITED;
}

/** The low word that all blocks of a chunk have in the index, where that is plain; undefined: look at each. */
function constantOfChunk(directory: PageDirectory, chunkIndex: number): number | undefined {
  const chunk = directory.chunks[chunkIndex];
  if (chunk === undefined) return LOW_HOLE;
  return chunk === ZERO_CHUNK ? LOW_ZERO : undefined;
}
