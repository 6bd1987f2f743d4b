// SPDX-License-Identifier: Apache-2.0
//
// Offline verification: is everything in this pool what it says it is? Reads the whole log once (chain, checksums,
// every frame), replays it into a plain map, and compares that, block by block, with what the index gives:
// checkpoints, runs, directories, leaves. Two independent readings must agree. Changes nothing; the caller holds
// the pool's lock. Findings are results, not exceptions.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import { BlockIndex, NOT_LOADED } from "../index/block-index.ts";
import { readCheckpoints } from "../index/checkpoint-loader.ts";
import { type PageDirectory, ZERO_CHUNK } from "../index/page-directory.ts";
import { runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { PlainState, type PlainVolume } from "../log/log-dump.ts";
import { PLAIN_CHUNK_PAGES, PLAIN_PAGE_BLOCKS, type PlainMap } from "../log/plain-map.ts";
import { recoverLog } from "../log/recovery.ts";
import { formatReference, LOW_HOLE, LOW_ZERO } from "../log/reference.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { segmentName } from "../log/segment.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import { BlockMemory, DELTAS_MAX, shapeOf } from "../reduce/block-memory.ts";
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
  /** 64 MiB or more; the plain map takes 8 bytes per mapped block besides. */
  readonly memoryBytes: number;
  readonly onProgress?: (done: { readonly lsn: number }) => void;
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
    this.#memory = new BlockMemory({ ...shapeOf(options.memoryBytes), deltaCount: DELTAS_MAX });
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

  /** Each whole checkpoint, brought up to date, must give what the log gives. */
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
        await this.#replayTail(content, body.cut);
        await this.#compare(content);
      });
    }
    await runs.closeAll();
    return checkpoints.length;
  }

  async #replayTail(content: PoolContent, start: ReplayStart): Promise<void> {
    await recoverLog({
      memory: this.#memory,
      directory: this.#options.log,
      poolId: this.#poolId,
      start,
      isReadOnly: true,
      onRecord: (cursor) => content.replay(cursor),
    });
  }

  async #compare(content: PoolContent): Promise<void> {
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
        await this.#compareVolume(index, { volume, directory, map });
    }
  }

  async #compareVolume(
    index: BlockIndex,
    pair: { volume: PlainVolume; directory: PageDirectory; map: PlainMap },
  ): Promise<void> {
    const { volume, directory, map } = pair;
    const chunks = new Set([...map.chunkNumbers(), ...directory.chunks.keys()]);
    for (const chunk of chunks) {
      const constant = map.constantOfChunk(chunk);
      if (constant !== undefined && constantOfChunk(directory, chunk) === constant)
        this.#blocksCompared += PLAIN_CHUNK_PAGES * PLAIN_PAGE_BLOCKS;
      else await this.#compareChunk(index, { volume, directory, map, chunk });
    }
  }

  async #compareChunk(
    index: BlockIndex,
    pair: { volume: PlainVolume; directory: PageDirectory; map: PlainMap; chunk: number },
  ): Promise<void> {
    const { volume, directory, map, chunk } = pair;
    for (let at = 0; at < PLAIN_CHUNK_PAGES; at++) {
      const page = chunk * PLAIN_CHUNK_PAGES + at;
      const wanted = map.page(page);
      for (let block = 0; block < PLAIN_PAGE_BLOCKS; block++) {
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

/** The low word that all blocks of a chunk have in the index, where that is plain; undefined: look at each. */
function constantOfChunk(directory: PageDirectory, chunkIndex: number): number | undefined {
  const chunk = directory.chunks[chunkIndex];
  if (chunk === undefined) return LOW_HOLE;
  return chunk === ZERO_CHUNK ? LOW_ZERO : undefined;
}
