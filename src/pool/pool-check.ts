// SPDX-License-Identifier: Apache-2.0
//
// Offline verification: is everything in this pool what it says it is? Reads the whole log once (chain, checksums,
// every frame), replays it into a plain map, and compares that, block by block, with what the index gives:
// checkpoints, runs, directories, leaves. Two independent readings must agree, but where the log changed a block after
// the checkpoint's cut: there the checkpoint has no say any more. So what came after it needs no memory of the index,
// however much it is. Changes nothing; the caller holds the pool's lock. Findings are results, not exceptions.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { BlockIndex, NOT_LOADED } from "../index/block-index.ts";
import { readCheckpoints } from "../index/checkpoint-loader.ts";
import { type PageDirectory, ZERO_CHUNK } from "../index/page-directory.ts";
import { runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { PlainState, type PlainVolume } from "../log/log-dump.ts";
import { PLAIN_CHUNK_PAGES, PLAIN_PAGE_BLOCKS, PlainMap } from "../log/plain-map.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { recoverLog } from "../log/recovery.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { segmentName } from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import { BLOCK_BYTES, BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { poolIdBytes, readIdentity } from "./identity.ts";
import { PoolContent } from "./pool-content.ts";

export interface CheckFinding {
  readonly code: string;
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface CheckReport {
  readonly poolId: string;
  readonly lsn: number;
  readonly volumes: number;
  readonly blocksCompared: number;
  readonly checkpoints: number;
  /** Why the log ends where it does, if a crash left a torn tail: no finding. */
  readonly tail: string;
  readonly findings: readonly CheckFinding[];
}

export interface CheckOptions {
  readonly root: Directory;
  readonly log: Directory;
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

const FINDINGS_MAX = 1000;
const OPEN_FILES_MAX = 64;

export async function checkPool(options: CheckOptions): Promise<CheckReport> {
  const identity = await readIdentity(options.root);
  const check = new PoolCheck(options, poolIdBytes(identity));
  return { poolId: identity.poolId, ...(await check.run()) };
}

class PoolCheck {
  readonly #options: CheckOptions;
  readonly #poolId: Uint8Array;
  readonly #memory: BlockMemory;
  readonly #findings: CheckFinding[] = [];
  readonly #plain = new PlainState();
  #blocksCompared = 0;

  constructor(options: CheckOptions, poolId: Uint8Array) {
    this.#options = options;
    this.#poolId = poolId;
    this.#memory = new BlockMemory(shapeOf(options.memoryBytes));
  }

  async run(): Promise<Omit<CheckReport, "poolId">> {
    let lsn = 0;
    let tail = "clean";
    let isLogWhole = false;
    await this.#guarded(async () => {
      const result = await recoverLog({
        memory: this.#memory,
        directory: this.#options.log,
        poolId: this.#poolId,
        start: LOG_BEGIN,
        isReadOnly: true,
        isEveryFrameVerified: true,
        onBatch: (_segment, _offset, header) =>
          this.#options.onProgress?.({ lsn: header.firstLsn }),
        onDamagedFrame: (frame) => this.#findFrame(frame),
        onRecord: (cursor) => this.#plain.apply(this.#memory, cursor),
      });
      isLogWhole = true;
      lsn = result.position.nextLsn;
      tail = result.tornReason ?? "clean";
    });
    let checkpoints = 0;
    // Only a log that was read to its end can be compared with the index.
    if (isLogWhole)
      await this.#guarded(async () => {
        checkpoints = await this.#compareCheckpoints();
      });
    return {
      lsn,
      volumes: this.#plain.volumes.size,
      blocksCompared: this.#blocksCompared,
      checkpoints,
      tail,
      findings: this.#findings,
    };
  }

  /** Each whole checkpoint must give what the log gives, where nothing changed since its cut. */
  async #compareCheckpoints(): Promise<number> {
    const runs = new FileStore(this.#options.log, runName, OPEN_FILES_MAX);
    const source = {
      memory: this.#memory,
      directory: this.#options.log,
      runs,
      poolId: this.#poolId,
    };
    const { checkpoints, problems } = await readCheckpoints(source);
    for (const problem of problems) this.#find("POOL_CORRUPT", problem, {});
    for (const { body } of checkpoints) {
      await this.#guarded(async () => {
        const content = new PoolContent(new BlockIndex(this.#memory, runs));
        await content.load(source, body);
        await this.#compare(content, await this.#readTail(content, body.cut));
      });
    }
    await runs.closeAll();
    return checkpoints.length;
  }

  /** What changed since the checkpoint: its catalog is brought up to date, changed blocks are marked. */
  async #readTail(content: PoolContent, start: ReplayStart): Promise<ChangedBlocks> {
    const changed = new ChangedBlocks(content);
    await recoverLog({
      memory: this.#memory,
      directory: this.#options.log,
      poolId: this.#poolId,
      start,
      isReadOnly: true,
      onRecord: (cursor) => changed.note(cursor),
    });
    return changed;
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
      if (constant !== undefined && constantOfChunk(directory, chunk) === constant)
        this.#blocksCompared += PLAIN_CHUNK_PAGES * PLAIN_PAGE_BLOCKS;
      else await this.#compareChunk(index, pair, chunk);
    }
  }

  async #compareChunk(index: BlockIndex, pair: Compared, chunk: number): Promise<void> {
    const { volume, directory, map, changed } = pair;
    for (let at = 0; at < PLAIN_CHUNK_PAGES; at++) {
      const page = chunk * PLAIN_CHUNK_PAGES + at;
      const wanted = map.page(page);
      const since = changed.page(page);
      for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
        if (since?.[block * 2 + 1] === CHANGED) continue;
        const lba = page * PLAIN_PAGE_BLOCKS + block;
        let low = index.lookup(directory, lba);
        if (low === NOT_LOADED) {
          await index.load(directory, lba);
          low = index.lookup(directory, lba);
        }
        const wantedLow = wanted?.[block * 2 + 1] ?? LOW_HOLE;
        const wantedSegment = wanted?.[block * 2] ?? 0;
        this.#blocksCompared += 1;
        if (low === wantedLow && index.foundSegment === wantedSegment) continue;
        const message = `volume "${volume.name}", block ${lba}: the index has ${formatReference(index.foundSegment, low)}, the log ${formatReference(wantedSegment, wantedLow)}`;
        this.#find("POOL_CORRUPT", message, { volume: volume.name, lba });
      }
    }
  }

  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      if (error.kind !== "corrupt") throw error;
      this.#find(error.code, error.message, error.data);
    }
  }

  #findFrame(frame: DamagedFrame): void {
    const { segmentNumber, offset, lsn, branch, lba, problem } = frame;
    const volume = [...this.#plain.volumes.values()].find(
      (candidate) => candidate.branch === branch,
    );
    const name = volume?.name ?? `of branch ${branch}`;
    this.#find(
      "FRAME_CORRUPT",
      `log: segment ${segmentName(segmentNumber)}, frame at ${offset}: ${problem}; it holds block ${lba} of volume "${name}" as of LSN ${lsn}`,
      { segment: segmentNumber, offset, volume: name, lba, lsn },
    );
  }

  #find(code: string, message: string, data: Readonly<Record<string, unknown>>): void {
    if (this.#findings.length < FINDINGS_MAX) this.#findings.push({ code, message, data });
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

function contradiction(lsn: number, what: string): StorageError {
  const message = `log: LSN ${lsn}: the record contradicts the catalog: ${what}`;
  return new StorageError("LOG_CORRUPT", message, { data: { lsn } });
}

/** The low word that all blocks of a chunk have in the index, where that is plain; undefined: look at each. */
function constantOfChunk(directory: PageDirectory, chunkIndex: number): number | undefined {
  const chunk = directory.chunks[chunkIndex];
  if (chunk === undefined) return LOW_HOLE;
  return chunk === ZERO_CHUNK ? LOW_ZERO : undefined;
}
