// SPDX-License-Identifier: Apache-2.0
//
// Rebuilds what a damaged change list says of a branch, from the records that it tells of, as long as the log has them. It
// is kept in memory only: a list is never written again, and goes when history lets go of it.

import { StorageError } from "../base/errors.ts";
import { RecentMap } from "../base/recent-map.ts";
import type { Clock } from "../host/ports.ts";
import { readLogUntil } from "../log/log-range.ts";
import type { PlainVolume } from "../log/plain-volumes.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { type ChangeListFile, LIST_ENTRY_WORDS } from "./change-list.ts";
import type { CheckpointBody } from "./checkpoint-body.ts";
import { type CheckpointSource, readBody } from "./checkpoint-loader.ts";
import type { CheckpointState } from "./kept-checkpoints.ts";
import { CHUNK_PAGES } from "./page-directory.ts";
import {
  type ChangeTaker,
  type RecordedChange,
  RecordedChanges,
  type RecordedRange,
} from "./recorded-changes.ts";

export interface ListRepairOptions {
  readonly log: CheckpointSource;
  readonly clock: Clock;
  readonly state: () => Readonly<CheckpointState>;
  /** A checkpoint's volumes. Throws POOL_CORRUPT. */
  readonly volumesOf: (body: CheckpointBody) => Map<number, PlainVolume>;
  /** A list can't be read, and what it says of a branch is about to be rebuilt. */
  readonly onDamaged: (list: ChangeListFile, branch: number, cause: StorageError) => void;
  readonly onRebuilt: (list: ChangeListFile, branch: number) => void;
}

/** What a list says of a branch, in the words of its nodes (change-list.ts). */
export interface ListPart {
  /** In place of where a page's changes are: 0. */
  changedPages(chunk: number): Uint32Array;
  changes(page: number): Uint32Array;
  readonly ranges: Uint32Array;
}

/** Each takes 16 bytes a change: at most what the ring takes. */
const PARTS_MAX = 2;
/** Earlier checkpoints that are tried with the records behind them. */
const STARTS_MAX = 4;
/** Batches between two turns of the event loop. */
const SLICE_BATCHES = 64;
const NOTHING: Uint32Array = new Uint32Array(0);

export class ListRepair {
  readonly #options: ListRepairOptions;
  readonly #parts: RecentMap<string, ListPart> = new RecentMap(PARTS_MAX);
  readonly #underWay: Map<string, Promise<ListPart>> = new Map();

  constructor(options: ListRepairOptions) {
    this.#options = options;
  }

  /** Throws POOL_CORRUPT when the log doesn't give it either. */
  async part(list: ChangeListFile, branch: number, cause: StorageError): Promise<ListPart> {
    const key = `${list.run}:${branch}`;
    const known = this.#parts.get(key);
    if (known !== undefined) return known;
    let rebuilding = this.#underWay.get(key);
    if (rebuilding === undefined) {
      this.#options.onDamaged(list, branch, cause);
      rebuilding = this.#rebuild(list, branch).finally(() => this.#underWay.delete(key));
      this.#underWay.set(key, rebuilding);
    }
    const part = await rebuilding;
    this.#parts.set(key, part);
    return part;
  }

  async #rebuild(list: ChangeListFile, branch: number): Promise<ListPart> {
    const { log, state, volumesOf } = this.#options;
    const bases = state().bases.filter(({ cut }) => cut.nextLsn <= list.fromLsn);
    for (const base of bases.slice(-STARTS_MAX).reverse()) {
      try {
        const volumes = volumesOf(await readBody(log, base.slot));
        return await this.#collect(list, branch, { start: base.cut, volumes });
      } catch (error) {
        if (!(error instanceof StorageError)) throw error; // an earlier one, or the log's beginning
      }
    }
    try {
      return await this.#collect(list, branch, { start: LOG_BEGIN, volumes: new Map() });
    } catch (error) {
      throw notRebuilt(list, branch, error);
    }
  }

  async #collect(
    list: ChangeListFile,
    branch: number,
    { start, volumes }: { readonly start: ReplayStart; readonly volumes: Map<number, PlainVolume> },
  ): Promise<ListPart> {
    const { log, clock, onRebuilt } = this.#options;
    const rows = new BranchRows(list.fromLsn, branch);
    const changes = new RecordedChanges(log.memory, volumes, rows);
    let batchCount = 0;
    await readLogUntil({
      ...log,
      start,
      endLsn: list.endLsn,
      onRecord: (cursor) => changes.apply(cursor),
      afterBatch: () => {
        batchCount += 1;
        if (batchCount % SLICE_BATCHES !== 0) return undefined;
        return new Promise((resolve) => clock.afterInput(resolve));
      },
    });
    onRebuilt(list, branch);
    return rows.part();
  }
}

/** Collects one branch's. */
class BranchRows implements ChangeTaker {
  readonly #fromLsn: number;
  readonly #branch: number;
  readonly #pages: Map<number, number[]> = new Map();
  readonly #ranges: number[] = [];

  constructor(fromLsn: number, branch: number) {
    this.#fromLsn = fromLsn;
    this.#branch = branch;
  }

  change(branch: number, page: number, { lsn, blocks, segment, low }: RecordedChange): void {
    if (branch !== this.#branch || lsn < this.#fromLsn) return;
    let rows = this.#pages.get(page);
    if (rows === undefined) {
      rows = [];
      this.#pages.set(page, rows);
    }
    rows.push(lsn - this.#fromLsn, blocks, segment, low);
  }

  range(branch: number, { lsn, low, firstPage, endPage }: RecordedRange): void {
    if (branch !== this.#branch || lsn < this.#fromLsn) return;
    this.#ranges.push(lsn - this.#fromLsn, low, firstPage, endPage);
  }

  part(): ListPart {
    const pages = new Map<number, Uint32Array>();
    for (const [page, rows] of this.#pages) pages.set(page, Uint32Array.from(rows));
    const ascending = [...pages.keys()].sort((a, b) => a - b);
    return {
      ranges: Uint32Array.from(this.#ranges),
      changes: (page) => pages.get(page) ?? NOTHING,
      changedPages: (chunk) =>
        Uint32Array.from(
          ascending
            .filter((page) => Math.floor(page / CHUNK_PAGES) === chunk)
            .flatMap((page) => {
              const rows = pages.get(page) as Uint32Array;
              const last = rows[rows.length - LIST_ENTRY_WORDS] as number;
              return [page % CHUNK_PAGES, 0, rows[0] as number, last];
            }),
        ),
    };
  }
}

function notRebuilt(list: ChangeListFile, branch: number, error: unknown): unknown {
  if (!(error instanceof StorageError)) return error;
  const { run, fromLsn, endLsn } = list;
  return new StorageError(
    "POOL_CORRUPT",
    `index: changes of branch ${branch} from LSN ${fromLsn} to ${endLsn}: damaged, and not rebuilt from the log: ${error.message}`,
    { data: { run, branch }, cause: error },
  );
}
