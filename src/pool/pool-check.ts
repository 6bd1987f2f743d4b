// SPDX-License-Identifier: Apache-2.0
//
// Offline verification: is everything in this pool what it says it is? Reads the whole log once (chain, checksums,
// every frame), and, where its chain is broken, what lies behind that piece by piece; replays it into a plain map, and
// compares that, block by block, with what the index gives: checkpoints, runs, directories, leaves. Two independent readings must agree, but where the log changed a block after
// the checkpoint's cut: there the checkpoint has no say any more. So what came after it needs no memory of the index,
// however much it is. Changes nothing; the caller holds the pool's lock. Findings are results, not exceptions.

import type { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { BlockIndex, NOT_LOADED } from "../index/block-index.ts";
import { type CheckpointBody, readSlots, SLOT_NAMES } from "../index/checkpoint-body.ts";
import {
  type CheckpointSource,
  type LoadedCheckpoint,
  readCheckpoints,
  runsOf,
} from "../index/checkpoint-loader.ts";
import { type PageDirectory, ZERO_CHUNK } from "../index/page-directory.ts";
import { runName } from "../index/run-file.ts";
import { scanRun } from "../index/run-scan.ts";
import { FileStore } from "../log/file-store.ts";
import { type LogFiles, segmentCorrupt } from "../log/known-segments.ts";
import { PlainState, type PlainVolume } from "../log/log-dump.ts";
import { isDamage, type LogReach, type LogReading, readLogReach } from "../log/log-reach.ts";
import { PLAIN_CHUNK_PAGES, PLAIN_PAGE_BLOCKS, PlainMap } from "../log/plain-map.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { LOG_BEGIN } from "../log/replay-start.ts";
import {
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  segmentName,
  segmentNumberOf,
} from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import { checkSegmentEnds, type SegmentEnds, scanBatches } from "../log/segment-scan.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { poolIdBytes, readIdentity } from "./identity.ts";
import { contradiction, PoolContent } from "./pool-content.ts";
import { endsEarly } from "./salvage.ts";

export interface CheckFinding {
  readonly code: string;
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface CheckReport {
  readonly poolId: string;
  /** LSN behind the last record that could be read; where that is, and its time. */
  readonly lsn: number;
  readonly timeMicros: number;
  readonly segment: number;
  readonly offset: number;
  /** When the log was closed, if it ends there; else what was written after its end, if anything, is not here. */
  readonly closedMicros: number | undefined;
  /** The chain of the log is whole up to its end; else it must have gone on. */
  readonly isLogWhole: boolean;
  readonly volumes: number;
  /** Blocks that hold something, compared with the log; of the checkpoint that has most of them. */
  readonly blocksCompared: number;
  readonly checkpoints: number;
  /** "clean"; "broken", which is a finding; or why a crash left a torn tail, which is none. */
  readonly tail: string;
  readonly findings: readonly CheckFinding[];
}

export interface CheckOptions {
  readonly root: Directory;
  readonly log: Directory;
  /** For a pool whose pool.json is lost: who it is by its segments, and the finding. */
  readonly found?: { readonly poolId: Uint8Array; readonly problem: StorageError } | undefined;
  /** 64 MiB or more; plain maps take 8 bytes per mapped block, and per block changed since a checkpoint, besides. */
  readonly memoryBytes: number;
  readonly onProgress?: (done: { readonly lsn: number }) => void;
}

/** A volume by the log and by a checkpoint. */
interface Compared {
  readonly volume: PlainVolume;
  readonly directory: PageDirectory;
  readonly map: PlainMap;
  readonly changed: PlainMap;
}

/** Enough of a slot to see whether it was ever written. */
const SLOT_BYTES_READ = 4096;
const CHUNK_BLOCKS: number = PLAIN_CHUNK_PAGES * PLAIN_PAGE_BLOCKS;
const FINDINGS_MAX = 1000;
const OPEN_FILES_MAX = 64;

export async function checkPool(options: CheckOptions): Promise<CheckReport> {
  const { found, root } = options;
  const poolId = found?.poolId ?? poolIdBytes(await readIdentity(root));
  const report = await new PoolCheck(options, poolId).run();
  return { poolId: Buffer.from(poolId).toString("hex"), ...report };
}

class PoolCheck {
  readonly #options: CheckOptions;
  readonly #files: LogFiles;
  readonly #memory: BlockMemory;
  readonly #findings: CheckFinding[] = [];
  readonly #messages: Set<string> = new Set();
  #plain = new PlainState();
  #blocksCompared = 0;

  constructor(options: CheckOptions, poolId: Uint8Array) {
    this.#options = options;
    this.#memory = new BlockMemory(shapeOf(options.memoryBytes));
    this.#files = { memory: this.#memory, directory: options.log, poolId };
  }

  async run(): Promise<Omit<CheckReport, "poolId">> {
    if (this.#options.found !== undefined) this.#findError(this.#options.found.problem);
    const reach = await this.#readLog();
    await this.#scanSegments(reach);
    const { count, newestLsn } = await this.#checkCheckpoints(reach);
    const isClosed = newestLsn === reach.nextLsn;
    return {
      lsn: reach.nextLsn,
      timeMicros: reach.timeMicros,
      segment: reach.segmentNumber,
      offset: reach.offset,
      closedMicros: isClosed ? reach.markedMicros : undefined,
      isLogWhole: reach.damage === undefined,
      volumes: this.#plain.volumes.size,
      blocksCompared: this.#blocksCompared,
      checkpoints: count,
      tail: reach.damage === undefined ? (reach.tornReason ?? "clean") : "broken",
      findings: this.#findings,
    };
  }

  /** Reads the log into the plain state, as far as it goes; a break is a finding. */
  async #readLog(): Promise<LogReach> {
    const reading: LogReading = {
      ...this.#files,
      start: LOG_BEGIN,
      isEveryFrameVerified: true,
      onBatch: (_segment, _offset, header) => this.#options.onProgress?.({ lsn: header.firstLsn }),
      onDamagedFrame: (frame) => this.#findFrame(frame),
      onRecord: (cursor) => this.#plain.apply(this.#memory, cursor),
    };
    const reach = await readLogReach(reading);
    if (reach.damage === undefined) return reach;
    this.#findError(reach.damage);
    // A footer repeats a segment's records: with those, the log may go on behind a damaged batch.
    const whole = this.#plain;
    this.#plain = new PlainState();
    const byFooters = await readLogReach({ ...reading, isEveryFrameVerified: false });
    if (byFooters.nextLsn > reach.nextLsn) return { ...byFooters, damage: reach.damage };
    this.#plain = whole;
    return reach;
  }

  /** Headers and footers of all segments; batches and frames of those that the chain doesn't reach. */
  async #scanSegments(reach: LogReach): Promise<void> {
    const { log } = this.#options;
    const numbers = (await log.list()).map(segmentNumberOf).filter((number) => number > 0);
    const ends = new Map<number, SegmentEnds>();
    for (const number of numbers.sort((a, b) => a - b))
      await this.#guarded(async () => {
        const found = await checkSegmentEnds(this.#files, number);
        ends.set(number, found);
        for (const problem of found.problems) this.#findError(segmentCorrupt(number, problem));
      });
    const { damage } = reach;
    if (damage === undefined) return;
    // The damage may lie before the place that the footers have led to.
    const broken = { number: Number(damage.data.segment), offset: Number(damage.data.offset) };
    const isPlace = Number.isSafeInteger(broken.number) && Number.isSafeInteger(broken.offset);
    const first = isPlace ? broken : { number: reach.segmentNumber, offset: reach.offset };
    for (const number of numbers.filter((candidate) => candidate >= first.number)) {
      const isSucceeded = (header: SegmentHeader | undefined): boolean =>
        header?.previousNumber === number;
      const successor = [...ends.values()].find(({ header }) => isSucceeded(header))?.header;
      await this.#guarded(() =>
        scanBatches(this.#files, number, {
          from: number === first.number ? first.offset : SEGMENT_HEADER_BYTES,
          end: successor?.previousEnd ?? ends.get(number)?.end,
          onGap: (start, end) =>
            this.#findError(
              segmentCorrupt(number, `no whole batch from ${start} to ${end}`, { offset: start }),
            ),
          onDamagedFrame: (frame) => this.#findFrame(frame),
        }),
      );
    }
  }

  /** Slots, all runs that they need, and what they say about blocks. */
  async #checkCheckpoints(reach: LogReach): Promise<{ count: number; newestLsn: number }> {
    const runs = new FileStore(this.#options.log, runName, OPEN_FILES_MAX);
    const source = { ...this.#files, runs };
    let checkpoints: readonly LoadedCheckpoint[] = [];
    try {
      await this.#guarded(async () => {
        await this.#checkSlots();
        const found = await readCheckpoints(source);
        checkpoints = found.checkpoints;
        for (const problem of found.problems) this.#find("POOL_CORRUPT", problem, {});
      });
      const needed = new Map(checkpoints.flatMap(runsOf).map((run) => [run.number, run]));
      for (const run of needed.values())
        await this.#guarded(() =>
          scanRun(source, run, (problem) =>
            this.#find("POOL_CORRUPT", problem, { run: run.number }),
          ),
        );
      for (const { body } of checkpoints)
        await this.#guarded(() => this.#compareCheckpoint(source, body, reach));
    } finally {
      await runs.closeAll();
    }
    const [newest] = checkpoints;
    return { count: checkpoints.length, newestLsn: newest?.body.cut.nextLsn ?? 0 };
  }

  /** A slot that is there must be whole: one that was never written is empty. */
  async #checkSlots(): Promise<void> {
    const { directory, memory, poolId } = this.#files;
    const names = await directory.list();
    const slots = await readSlots(memory, directory, poolId);
    for (const [parity, name] of SLOT_NAMES.entries()) {
      if (!names.includes(name) || slots.some(({ sequence }) => sequence % 2 === parity)) continue;
      const file = await directory.open(name, "read");
      const bytes = new Uint8Array(Math.min(SLOT_BYTES_READ, await file.sizeBytes()));
      await file.read(bytes, 0);
      await file.close();
      if (bytes.some((byte) => byte !== 0))
        this.#find("POOL_CORRUPT", `index: ${name}: it is damaged`, { slot: name });
    }
  }

  /** A checkpoint must give what the log gives, where nothing changed since its cut. */
  async #compareCheckpoint(
    source: CheckpointSource & { readonly runs: FileStore },
    body: CheckpointBody,
    reach: LogReach,
  ): Promise<void> {
    const { cut } = body;
    const content = new PoolContent(new BlockIndex(this.#memory, source.runs));
    await content.load(source, body);
    if (cut.nextLsn > reach.nextLsn) {
      // Where the chain is broken that is known already.
      if (reach.damage === undefined) this.#findError(endsEarly(reach, cut));
      return;
    }
    const changed = new ChangedBlocks(content);
    const tail = await readLogReach({
      ...this.#files,
      start: cut,
      onRecord: (cursor) => changed.note(cursor),
    });
    if (tail.damage !== undefined && reach.damage === undefined) this.#findError(tail.damage);
    const before = this.#blocksCompared;
    this.#blocksCompared = 0;
    await this.#compare(content, changed);
    this.#blocksCompared = Math.max(before, this.#blocksCompared);
  }

  async #compare(content: PoolContent, changed: ChangedBlocks): Promise<void> {
    const { index, catalog } = content;
    for (const volume of this.#plain.volumes.values()) {
      const kept = catalog.volumes.get(volume.id);
      const isSame =
        kept !== undefined &&
        kept.name === volume.name &&
        kept.sizeBytes === volume.sizeBytes &&
        kept.branch === volume.branch;
      if (!isSame)
        this.#find(
          "POOL_CORRUPT",
          `volume "${volume.name}": the checkpoint's catalog differs from the log`,
          { volume: volume.name },
        );
      const directory = index.branches.get(volume.branch);
      const map = this.#plain.branches.get(volume.branch);
      if (directory !== undefined && map !== undefined)
        await this.#compareVolume(index, {
          volume,
          directory,
          map,
          changed: changed.of(volume.branch),
        });
    }
  }

  async #compareVolume(index: BlockIndex, pair: Compared): Promise<void> {
    const { directory, map, changed } = pair;
    const chunks = new Set([...map.chunkNumbers(), ...directory.chunks.keys()]);
    for (const chunk of chunks) {
      if (changed.constantOfChunk(chunk) === CHANGED) continue;
      const constant = map.constantOfChunk(chunk);
      if (constant === undefined || constantOfChunk(directory, chunk) !== constant)
        await this.#compareChunk(index, pair, chunk);
      else if (constant !== LOW_HOLE) {
        const endBlock = Math.ceil(pair.volume.sizeBytes / BLOCK_BYTES);
        const rest = endBlock - chunk * CHUNK_BLOCKS;
        this.#blocksCompared += Math.max(0, Math.min(CHUNK_BLOCKS, rest));
      }
    }
  }

  async #compareChunk(index: BlockIndex, pair: Compared, chunk: number): Promise<void> {
    for (let at = 0; at < PLAIN_CHUNK_PAGES; at++) {
      const page = chunk * PLAIN_CHUNK_PAGES + at;
      await this.#guarded(async () => {
        const first = page * PLAIN_PAGE_BLOCKS;
        if (index.lookup(pair.directory, first) === NOT_LOADED)
          await index.load(pair.directory, first);
        this.#comparePage(index, pair, page);
      });
    }
  }

  /** The page is in memory. */
  #comparePage(index: BlockIndex, pair: Compared, page: number): void {
    const { volume, directory, map, changed } = pair;
    const wanted = map.page(page);
    const since = changed.page(page);
    for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
      if (since?.[block * 2 + 1] === CHANGED) continue;
      const lba = page * PLAIN_PAGE_BLOCKS + block;
      const low = index.lookup(directory, lba);
      const wantedLow = wanted?.[block * 2 + 1] ?? LOW_HOLE;
      const wantedSegment = wanted?.[block * 2] ?? 0;
      if (low !== LOW_HOLE || wantedLow !== LOW_HOLE) this.#blocksCompared += 1;
      if (low === wantedLow && index.foundSegment === wantedSegment) continue;
      const message = `volume "${volume.name}", block ${lba}: the index has ${formatReference(index.foundSegment, low)}, the log ${formatReference(wantedSegment, wantedLow)}`;
      this.#find("POOL_CORRUPT", message, { volume: volume.name, lba });
    }
  }

  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.#findError(error);
    }
  }

  #findError({ code, message, data }: StorageError): void {
    this.#find(code, message, data);
  }

  #findFrame({ segmentNumber, offset, lsn, branch, lba, homes, problem }: DamagedFrame): void {
    const what = `log: segment ${segmentName(segmentNumber)}, frame at ${offset}: ${problem}`;
    const data = { segment: segmentNumber, offset, lsn };
    if (branch === undefined) {
      const born = (homes ?? []).map(({ segment, offset8 }) => `${segment}:${offset8 * 8}`);
      const message = `${what}; it holds what was born at ${born.join(", ")}, since LSN ${lsn}`;
      this.#find("FRAME_CORRUPT", message, { ...data, homes: born });
      return;
    }
    const volume = [...this.#plain.volumes.values()].find(
      (candidate) => candidate.branch === branch,
    );
    const name = volume?.name ?? `of branch ${branch}`;
    const message = `${what}; it holds block ${lba} of volume "${name}" as of LSN ${lsn}`;
    this.#find("FRAME_CORRUPT", message, { ...data, volume: name, lba });
  }

  #find(code: string, message: string, data: Readonly<Record<string, unknown>>): void {
    // What several readings meet is found once.
    if (this.#messages.has(message) || this.#findings.length >= FINDINGS_MAX) return;
    this.#messages.add(message);
    this.#findings.push({ code, message, data });
  }
}

/** The mark of a changed block. */
const CHANGED = LOW_ZERO;

/** What records behind a checkpoint's cut changed: its blocks, which are marked, and its catalog. */
class ChangedBlocks {
  readonly #content: PoolContent;
  readonly #maps: Map<number, PlainMap> = new Map();

  constructor(content: PoolContent) {
    this.#content = content;
  }

  of(branch: number): PlainMap {
    const map = this.#maps.get(branch) ?? new PlainMap();
    this.#maps.set(branch, map);
    return map;
  }

  /** Throws LOG_CORRUPT when the record contradicts the catalog. */
  note(cursor: RecordCursor): void {
    const { kind, lsn, branch, lba, blockCount, json, timeMicros } = cursor;
    const { catalog } = this.#content;
    const isRange = kind === RECORD_KIND.ZEROED || kind === RECORD_KIND.TRIMMED;
    if (kind === RECORD_KIND.WROTE || isRange) {
      if (!catalog.branches.has(branch)) throw contradiction(lsn, `branch ${branch} doesn't exist`);
      this.of(branch).fill(lba, blockCount, CHANGED);
      return;
    }
    if (json === undefined) return;
    const volume = catalog.volumes.get(json.id as number);
    const oldEnd = Math.ceil((volume?.sizeBytes ?? 0) / BLOCK_BYTES);
    if (!catalog.apply(kind, json, timeMicros)) throw contradiction(lsn, JSON.stringify(json));
    if (kind !== RECORD_KIND.VOLUME_RESIZED || volume === undefined) return;
    const end = Math.ceil((json.sizeBytes as number) / BLOCK_BYTES);
    if (end < oldEnd) this.of(volume.branch).fill(end, oldEnd - end, CHANGED);
  }
}

/** The low word that all blocks of a chunk have in the index, where that is plain; undefined: look at each. */
function constantOfChunk(directory: PageDirectory, chunkIndex: number): number | undefined {
  const chunk = directory.chunks[chunkIndex];
  if (chunk === undefined) return LOW_HOLE;
  return chunk === ZERO_CHUNK ? LOW_ZERO : undefined;
}
