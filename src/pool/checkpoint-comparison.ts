// SPDX-License-Identifier: Apache-2.0
//
// Compares what a checkpoint gives, by the index's own code, with a plain reading of the log: every branch, block by block,
// and where moved frames are. What the log changed after the checkpoint's cut is left out: there the checkpoint has no say
// any more. So what came after it needs no memory of the index, however much it is.

import type { CheckpointSource, LoadedCheckpoint } from "../index/checkpoint-loader.ts";
import { type LogReach, readLogReach } from "../log/log-reach.ts";
import { PLAIN_CHUNK_PAGES, PLAIN_PAGE_BLOCKS, PlainMap } from "../log/plain-map.ts";
import { newPlainPlace, PlainMoves, type PlainPlace } from "../log/plain-moves.ts";
import type { PlainState } from "../log/plain-state.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { LOW_LOST } from "../log/volume-content.ts";
import { BLOCK_BYTES, type BlockMemory } from "../reduce/block-memory.ts";
import type { CheckFindings } from "./check-findings.ts";
import { CheckpointPast, type PageContent } from "./checkpoint-past.ts";
import { readMoves } from "./checkpoint-state.ts";
import { contradiction, type PoolContent } from "./pool-content.ts";
import { endsEarly } from "./salvage.ts";

const CHUNK_BLOCKS: number = PLAIN_CHUNK_PAGES * PLAIN_PAGE_BLOCKS;

export interface ComparisonOptions {
  readonly source: CheckpointSource;
  readonly checkpoint: LoadedCheckpoint;
  /** What the log says, as far as it reaches. */
  readonly plain: PlainState;
  readonly reach: LogReach;
  /** Segments whose frames are there. */
  readonly isThere: (segment: number) => boolean;
  readonly findings: CheckFindings;
}

/** A branch by the log. */
interface Compared {
  readonly branch: number;
  readonly volume: string;
  /** The branch's name: a volume may have gone on with another. */
  readonly name: string;
  readonly sizeBytes: number;
  readonly map: PlainMap;
  readonly changed: PlainMap;
}

/** Blocks that hold something, compared. Throws POOL_CORRUPT, LOG_CORRUPT, DISK_IO, when there is nothing to compare. */
export async function compareCheckpoint(options: ComparisonOptions): Promise<number> {
  const { source, checkpoint, reach, findings } = options;
  const { cut } = checkpoint.body;
  const past = await CheckpointPast.load(source, checkpoint);
  if (cut.nextLsn > reach.nextLsn) {
    // Where the chain is broken that is known already.
    if (reach.damage === undefined) findings.addError(endsEarly(reach, cut));
    return 0;
  }
  // Those that were left by then only older checkpoints have.
  const { catalog } = past.content;
  const branches = [...catalog.branches.keys()].filter((branch) => catalog.isCurrent(branch));
  const changed = new ChangedBlocks(source.memory, past.content);
  const tail = await readLogReach({
    ...source,
    start: cut,
    onRecord: (cursor) => changed.note(cursor),
  });
  if (tail.damage !== undefined && reach.damage === undefined) findings.addError(tail.damage);
  const comparison = new CheckpointComparison(options, past, changed);
  await comparison.compareMoves();
  comparison.compareVolumes();
  for (const branch of branches) await comparison.compareBranch(branch);
  return comparison.blocksCompared;
}

class CheckpointComparison {
  readonly #options: ComparisonOptions;
  readonly #past: CheckpointPast;
  readonly #changed: ChangedBlocks;
  /** Images of runs that were the same as a page of the log's: branches share both. */
  readonly #same: Map<string, Uint32Array> = new Map();
  blocksCompared = 0;

  constructor(options: ComparisonOptions, past: CheckpointPast, changed: ChangedBlocks) {
    this.#options = options;
    this.#past = past;
    this.#changed = changed;
  }

  /** The index and the log must say the same of where frames are, but where nothing is any more. */
  async compareMoves(): Promise<void> {
    const { source, plain, isThere } = this.#options;
    const moves = new PlainMoves();
    for (const [segment, table] of this.#past.content.index.relocations.storedTables())
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

  compareVolumes(): void {
    const { plain, findings } = this.#options;
    const { catalog } = this.#past.content;
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
    }
  }

  /** One that the checkpoint knows. */
  async compareBranch(branch: number): Promise<void> {
    const { plain, findings } = this.#options;
    const map = plain.branches.get(branch);
    if (map === undefined) return;
    const id = this.#past.content.catalog.branches.get(branch)?.volume ?? 0;
    const volume = plain.volumes.get(id);
    const isNewest = volume?.branch === branch;
    const { name: volumeName = `${id}`, sizeBytes = 0 } = volume ?? {};
    const name = `volume "${volumeName}"${isNewest ? "" : `, branch ${branch}`}`;
    const changed = this.#changed.of(branch);
    const compared = { branch, volume: volumeName, name, sizeBytes, map, changed };
    const chunks = new Set([
      ...map.chunkNumbers(),
      ...Array(this.#past.chunkCountOf(branch)).keys(),
    ]);
    for (const chunk of chunks) {
      if (compared.changed.constantOfChunk(chunk) === CHANGED) continue;
      await findings.guard(() => this.#compareChunk(compared, chunk));
    }
  }

  async #compareChunk(compared: Compared, chunk: number): Promise<void> {
    const { branch, sizeBytes, map } = compared;
    const found = await this.#past.chunk({ branch, lsn: this.#past.lsn }, chunk);
    const isConstant = "kind" in found && found.kind === "constant";
    if (isConstant && map.constantOfChunk(chunk) === found.low) {
      const rest = Math.ceil(sizeBytes / BLOCK_BYTES) - chunk * CHUNK_BLOCKS;
      if (found.low !== LOW_HOLE) this.blocksCompared += Math.max(0, Math.min(CHUNK_BLOCKS, rest));
      return;
    }
    for (let at = 0; at < PLAIN_CHUNK_PAGES; at++) {
      const content = "kind" in found ? found : (found[at] as PageContent);
      const page = chunk * PLAIN_CHUNK_PAGES + at;
      await this.#options.findings.guard(() => this.#comparePage(compared, page, content));
    }
  }

  async #comparePage(compared: Compared, page: number, content: PageContent): Promise<void> {
    const { branch, map, changed } = compared;
    const wanted = map.page(page);
    const since = changed.page(page);
    if (content.kind === "constant" && content.low === LOW_HOLE && wanted === undefined) return;
    const key = content.kind === "image" ? `${content.run}:${content.offset8}` : "";
    if (key !== "" && wanted !== undefined && this.#same.get(key) === wanted) return;
    const found =
      content.kind === "constant"
        ? undefined
        : await this.#past.page({ branch, lsn: this.#past.lsn }, page);
    const constant = content.kind === "constant" ? content.low : LOW_HOLE;
    let isSame = key !== "" && since === undefined;
    for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
      if (since?.[block * 2 + 1] === CHANGED) continue;
      const segment = found?.[block * 2] ?? 0;
      const low = found?.[block * 2 + 1] ?? constant;
      const wantedSegment = wanted?.[block * 2] ?? 0;
      const wantedLow = wanted?.[block * 2 + 1] ?? LOW_HOLE;
      if (wantedLow === LOW_LOST) continue;
      if (low !== LOW_HOLE || wantedLow !== LOW_HOLE) this.blocksCompared += 1;
      if (low === wantedLow && segment === wantedSegment) continue;
      isSame = false;
      const lba = page * PLAIN_PAGE_BLOCKS + block;
      const message = `${compared.name}, block ${lba}: the index has ${formatReference(segment, low)}, the log ${formatReference(wantedSegment, wantedLow)}`;
      this.#options.findings.add("POOL_CORRUPT", message, { volume: compared.volume, lba });
    }
    if (isSame && wanted !== undefined) this.#same.set(key, wanted);
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
