// SPDX-License-Identifier: Apache-2.0
//
// What the records make of a pool: the catalog and the index, and the one place where a record takes effect on
// them. Live operations append a record and apply it here; recovery, long replays and `varve check` apply the same
// records again. So what a crash leaves and what was there before it can't differ by a second implementation.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { BlockIndex } from "../index/block-index.ts";
import type { CheckpointBody } from "../index/checkpoint-body.ts";
import {
  type CheckpointSource,
  readDirectories,
  readRelocationTables,
} from "../index/checkpoint-loader.ts";
import type { PageDirectory } from "../index/page-directory.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { LOW_HOLE } from "../log/reference.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import { ActivityFeed } from "../volume/activity-feed.ts";
import { ActivityTimeline } from "../volume/activity-timeline.ts";
import type { Suspicion } from "../volume/activity-watch.ts";
import { Catalog } from "./catalog.ts";
import type { RecordPlace } from "./catalog-fields.ts";
import type { Branch, Volume } from "./catalog-volume.ts";

/** What is remembered of what happened when. */
const ACTIVITY_BYTES_MAX = 1 << 20;

export class PoolContent {
  readonly index: BlockIndex;
  readonly activity: ActivityFeed;
  catalog: Catalog = new Catalog();
  /** Told when a record has set what is retained. */
  onRetention: ((lsn: number) => void) | undefined;

  constructor(index: BlockIndex, onSuspicious: (suspicion: Suspicion) => void = () => undefined) {
    this.index = index;
    const options = { bytesMax: ACTIVITY_BYTES_MAX, onSuspicious };
    this.activity = new ActivityFeed(index, new ActivityTimeline(index.memory.words, options));
  }

  /** Begins from a checkpoint. Throws POOL_CORRUPT, DISK_IO; then nothing has changed. */
  async load(source: CheckpointSource, body: CheckpointBody): Promise<void> {
    const catalog = Catalog.fromJson(body.catalog);
    const chunks = await readDirectories(source, body);
    const tables = await readRelocationTables(source, body);
    const stray = chunks.find(({ root }) => !catalog.branches.has(root.branch));
    if (stray !== undefined)
      throw new StorageError(
        "POOL_CORRUPT",
        `index: checkpoint: branch ${stray.root.branch} is in no catalog`,
      );
    // Everything is read: only now anything changes.
    this.catalog = catalog;
    this.index.relocations.begin(tables);
    for (const branch of catalog.branches.keys()) this.#addBranch(branch);
    for (const { root, chunk } of chunks) {
      const directory = this.index.branches.get(root.branch);
      directory?.put(root.chunk, chunk);
      directory?.locations.set(root.chunk, { run: root.run, offset8: root.offset8 });
    }
  }

  /** Goes on from what a checkpoint kept of what happened when. False when the bytes are no such thing: it begins empty. */
  restoreActivity(bytes: Uint8Array): boolean {
    const { timeline } = this.activity;
    const isRestored = timeline.restore(bytes);
    for (const { branch, isCompressed } of this.catalog.volumes.values())
      if (!isCompressed) timeline.compressionSet(branch, false);
    return isRestored;
  }

  /** Applies a record of the log. Throws LOG_CORRUPT when it contradicts what came before. */
  replay(cursor: RecordCursor): void {
    switch (cursor.kind) {
      case RECORD_KIND.WROTE:
        this.activity.wrote(this.#branchOf(cursor), cursor, 0);
        return;
      case RECORD_KIND.ZEROED:
        this.activity.zeroed(this.#branchOf(cursor), cursor);
        return;
      case RECORD_KIND.TRIMMED:
        this.activity.trimmed(this.#branchOf(cursor), cursor);
        return;
      case RECORD_KIND.FLUSHED:
        if (this.index.branches.has(cursor.branch))
          this.activity.timeline.flushed(cursor.branch, cursor.lsn, cursor.timeMicros);
        return;
      case RECORD_KIND.RELOCATED:
        this.activity.timeline.frameMoved(cursor.placeOffset8);
        if (this.index.relocations.apply(cursor)) return;
        throw misfit(cursor.lsn, "more frames of a segment were moved than it can have");
      default:
        if (cursor.json === undefined || this.apply(cursor.kind, cursor.json, cursor)) return;
        throw contradiction(cursor.lsn, JSON.stringify(cursor.json));
    }
  }

  /** Applies a record with JSON. False when it contradicts what is there; then nothing has changed. */
  apply(kind: number, body: Readonly<Record<string, unknown>>, at: RecordPlace): boolean {
    if (kind === RECORD_KIND.SEGMENT_DROPPED) return this.#segmentDropped(body);
    if (kind === RECORD_KIND.CLOCK_STEPPED && Number.isSafeInteger(body.stepMicros))
      this.activity.timeline.clockStepped(at.lsn, at.timeMicros, body.stepMicros as number);
    const before = this.#volumeOf(body);
    const oldBytes = before?.sizeBytes ?? 0;
    const wasCompressed = before?.isCompressed;
    if (!this.catalog.apply(kind, body, at)) return false;
    if (kind === RECORD_KIND.VOLUME_MADE || kind === RECORD_KIND.BRANCHED)
      this.#addBranch(body.branch as number);
    if (kind === RECORD_KIND.BRANCHED)
      this.activity.timeline.branched(body.branch as number, body.parent as number);
    if (kind === RECORD_KIND.RETENTION_SET) this.onRetention?.(at.lsn);
    if (kind === RECORD_KIND.BRANCHES_FORGOTTEN) this.#dropBranches();
    const volume = this.#volumeOf(body);
    if (kind === RECORD_KIND.VOLUME_SET && volume !== undefined)
      if (volume.isCompressed !== wasCompressed)
        this.activity.timeline.compressionSet(volume.branch, volume.isCompressed);
    if (kind === RECORD_KIND.VOLUME_RESIZED && volume !== undefined)
      this.#cutOff(volume, oldBytes, at.lsn);
    return true;
  }

  directoryOf(volume: Volume): PageDirectory {
    const directory = this.index.branches.get(volume.branch);
    assert(directory !== undefined, "a volume's branch is in the index");
    return directory;
  }

  #volumeOf(body: Readonly<Record<string, unknown>>): Volume | undefined {
    return typeof body.id === "number" ? this.catalog.volumes.get(body.id) : undefined;
  }

  #branchOf(cursor: RecordCursor): PageDirectory {
    const directory = this.index.branches.get(cursor.branch);
    if (directory === undefined) throw misfit(cursor.lsn, `branch ${cursor.branch} doesn't exist`);
    return directory;
  }

  #segmentDropped({ segment, keepsRecords }: Readonly<Record<string, unknown>>): boolean {
    const isSegment = Number.isSafeInteger(segment) && (segment as number) > 0;
    if (!isSegment || (segment as number) >= 2 ** 32 || typeof keepsRecords !== "boolean")
      return false;
    this.index.relocations.segmentDropped(segment as number);
    return true;
  }

  #addBranch(branch: number): void {
    const { parent, parentLsn } = this.catalog.branches.get(branch) as Branch;
    this.index.addBranch(branch, parent === 0 ? undefined : { branch: parent, lsn: parentLsn });
  }

  /** Those that the catalog doesn't know any more. */
  #dropBranches(): void {
    for (const [branch, directory] of [...this.index.branches]) {
      if (this.catalog.branches.has(branch)) continue;
      this.index.removeBranch(directory);
      this.activity.timeline.forget(branch);
    }
  }

  /** A shrink is a trim of what it cuts off: a volume that grows again reads zeros there. */
  #cutOff(volume: Volume, oldBytes: number, lsn: number): void {
    const lba = Math.ceil(volume.sizeBytes / BLOCK_BYTES);
    const blockCount = Math.ceil(oldBytes / BLOCK_BYTES) - lba;
    if (blockCount > 0)
      this.index.applyConstant(this.directoryOf(volume), { lba, blockCount }, LOW_HOLE, lsn);
  }
}

/** LOG_CORRUPT: a record doesn't fit what came before it. */
export function contradiction(lsn: number, what: string): StorageError {
  return misfit(lsn, `the record contradicts the catalog: ${what}`);
}

function misfit(lsn: number, what: string): StorageError {
  return new StorageError("LOG_CORRUPT", `log: LSN ${lsn}: ${what}`, { data: { lsn } });
}
