// SPDX-License-Identifier: Apache-2.0
//
// The check of what a pool keeps of its past: every base must be what the one before it and the change lists between say,
// every list what its records say, as far as the log still has them; and all that the promise shows must have its frames.
//
// What is promised is in the newest checkpoint, and no clock is asked. Of a moment that was named behind its cut the
// next check tells.

import type { ChangeListFile } from "../index/change-list.ts";
import { ChangeListReader } from "../index/change-list-reader.ts";
import type { HistoryBase } from "../index/checkpoint-body.ts";
import {
  type CheckpointSource,
  type LoadedCheckpoint,
  readBody,
} from "../index/checkpoint-loader.ts";
import { CHUNK_PAGES, type Origin, PAGE_BLOCKS } from "../index/page-directory.ts";
import { RecordedChanges } from "../index/recorded-changes.ts";
import { runName } from "../index/run-file.ts";
import type { LogBegin } from "../log/log-begin.ts";
import { readLogUntil } from "../log/log-range.ts";
import { isDamage, readLogReach } from "../log/log-reach.ts";
import type { PlainVolume } from "../log/plain-volumes.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { formatReference } from "../log/reference.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import { Catalog } from "./catalog.ts";
import { newestState, stateAt } from "./catalog-volume.ts";
import type { CheckFindings } from "./check-findings.ts";
import { CheckpointPast, type PageContent } from "./checkpoint-past.ts";
import { stateOfCatalog } from "./checkpoint-state.ts";
import { HistoryKeeper } from "./history-keeper.ts";
import { historyOf } from "./history-needs.ts";
import { promisesFrom } from "./history-promise.ts";
import { ListCheck } from "./list-check.ts";
import type { ReferenceCheck } from "./reference-check.ts";

export interface HistoryCheckOptions {
  readonly source: CheckpointSource;
  readonly findings: CheckFindings;
  readonly begin: LogBegin;
  /** Undefined: there is no checkpoint, and so nothing was let go. */
  readonly newest: LoadedCheckpoint | undefined;
}

/** Goes to the frame of a reference. */
export type PastFollower = Pick<ReferenceCheck, "followPast">;

export class HistoryCheck {
  readonly #options: HistoryCheckOptions;
  readonly #past: CheckpointPast | undefined;
  /** As the last record left it. */
  readonly #catalog: Catalog;
  readonly #keeper: HistoryKeeper;
  readonly #lists: ChangeListReader;

  /** Throws POOL_CORRUPT, DISK_IO. */
  static async open(options: HistoryCheckOptions): Promise<HistoryCheck> {
    const { source, newest } = options;
    const past = newest === undefined ? undefined : await CheckpointPast.load(source, newest);
    const check = new HistoryCheck(options, past);
    await check.#readTail();
    return check;
  }

  private constructor(options: HistoryCheckOptions, past: CheckpointPast | undefined) {
    const { source, newest } = options;
    this.#options = options;
    this.#past = past;
    this.#catalog = newest === undefined ? new Catalog() : Catalog.fromJson(newest.body.catalog);
    this.#keeper = new HistoryKeeper(
      { clock: { wallMicros: () => 0 }, catalog: () => this.#catalog, baseDistance: 0 },
      promisesFrom(newest?.body.promise ?? {}),
    );
    this.#lists = new ChangeListReader(source);
  }

  async #readTail(): Promise<void> {
    const { source, newest } = this.#options;
    const onRecord = ({ kind, json, lsn, timeMicros }: RecordCursor): void => {
      if (json === undefined || !this.#catalog.apply(kind, json, { lsn, timeMicros })) return;
      if (kind === RECORD_KIND.RETENTION_SET) this.#keeper.retentionSet(lsn);
    };
    await readLogReach({ ...source, start: newest?.body.cut ?? LOG_BEGIN, onRecord });
  }

  /** Whether a removed volume can still come back. */
  isRemovedKept(id: number): boolean {
    const volume = this.#catalog.volumes.get(id);
    return volume !== undefined && this.#keeper.isKept(volume, newestState(volume).fromLsn - 1);
  }

  /** Each base against the one before it. */
  async compareBases(): Promise<void> {
    const past = this.#past;
    if (past === undefined) return;
    for (const base of past.state.bases) {
      const other = past.without(base);
      if (!other.reaches(base.cut.nextLsn - 1)) continue;
      await this.#orToldAlready(async () => {
        const roots = (await readBody(this.#options.source, base.slot)).roots;
        const chunks = new Map(
          roots.map(({ branch, chunk }) => [`${branch}:${chunk}`, { branch, chunk }]),
        );
        for (const place of await this.#listedChunks(base))
          chunks.set(`${place.branch}:${place.chunk}`, place);
        for (const { branch, chunk } of chunks.values())
          await this.#orToldAlready(() => this.#compareChunk({ past, other, base }, branch, chunk));
      });
    }
  }

  /** Chunks that the lists in front of a base tell of. */
  async #listedChunks({ cut }: HistoryBase): Promise<{ branch: number; chunk: number }[]> {
    const found: { branch: number; chunk: number }[] = [];
    for (const list of this.#past?.state.lists ?? [])
      if (list.endLsn <= cut.nextLsn) found.push(...(await this.#lists.places(list)).chunks);
    return found;
  }

  async #compareChunk(
    { past, other, base }: { past: CheckpointPast; other: CheckpointPast; base: HistoryBase },
    branch: number,
    chunk: number,
  ): Promise<void> {
    const origin = { branch, lsn: base.cut.nextLsn - 1 };
    // One that was left by then only older checkpoints have.
    const volume = this.#catalog.volumes.get(this.#catalog.branches.get(branch)?.volume ?? 0);
    if (volume === undefined || stateAt(volume, origin.lsn)?.branch !== branch) return;
    const [mine, its] = [await past.chunk(origin, chunk), await other.chunk(origin, chunk)];
    if (mine === its) return;
    for (let at = 0; at < CHUNK_PAGES; at++) {
      const [content, otherContent] = [contentOf(mine, at), contentOf(its, at)];
      if (isSame(content, otherContent)) continue;
      const page = chunk * CHUNK_PAGES + at;
      const [found, wanted] = [
        await referencesOf(past, origin, page, content),
        await referencesOf(other, origin, page, otherContent),
      ];
      const block = found.findIndex((word, index) => word !== wanted[index]) >>> 1;
      if (block >= PAGE_BLOCKS) continue;
      const [a, b] = [found, wanted].map((words) =>
        formatReference(words[block * 2] as number, words[block * 2 + 1] as number),
      );
      this.#options.findings.add(
        "POOL_CORRUPT",
        `index: ${runName(base.slot.run)}, page ${page} of branch ${branch}, block ${block}: it has ${a}, the checkpoint before it and the changes since ${b}`,
        { run: base.slot.run, branch, page },
      );
    }
  }

  /** Each list against the records between its LSNs. */
  async compareLists(): Promise<void> {
    for (const list of this.#past?.state.lists ?? [])
      await this.#orToldAlready(() => this.#compareList(list));
  }

  async #compareList(list: ChangeListFile): Promise<void> {
    const { source, findings } = this.#options;
    const begin = await this.#beginFor(list);
    if (begin === undefined) return;
    const check = new ListCheck(list, this.#lists);
    const changes = new RecordedChanges(source.memory, begin.volumes, check);
    await readLogUntil({
      ...source,
      start: begin.start,
      endLsn: list.endLsn,
      onRecord: (cursor) => changes.apply(cursor),
      afterBatch: () => undefined,
    });
    await check.compare((problem) =>
      findings.add("POOL_CORRUPT", `index: ${runName(list.run)}, ${problem}`, { run: list.run }),
    );
  }

  /** The nearest place in front of a list from which on records are there, and the volumes that there were. */
  async #beginFor(
    list: ChangeListFile,
  ): Promise<{ start: ReplayStart; volumes: Map<number, PlainVolume> } | undefined> {
    const { source, begin } = this.#options;
    const base = this.#past?.state.bases.findLast(({ cut }) => cut.nextLsn <= list.fromLsn);
    if (base !== undefined && begin.known.numbers.includes(base.cut.segmentNumber)) {
      const { volumes } = stateOfCatalog(await readBody(source, base.slot));
      return { start: base.cut, volumes };
    }
    return begin.lateStart === undefined ? { start: LOG_BEGIN, volumes: new Map() } : undefined;
  }

  /** All that promised moments show. */
  async follow(references: PastFollower): Promise<void> {
    const { begin } = this.#options;
    const past = this.#past;
    const history =
      past === undefined
        ? ({ kind: "all" } as const)
        : historyOf({ catalog: this.#catalog, keeper: this.#keeper, state: past.state });
    if (history.kind === "all" || past === undefined) {
      if (begin.lateStart === undefined)
        await this.#followRecords(LOG_BEGIN, references, () => true);
      return;
    }
    const seen = new Set<string>();
    for (const { branch, lsn, chunkCount } of history.moments)
      for (let chunk = 0; chunk < chunkCount && lsn <= past.lsn; chunk++)
        await this.#options.findings.guard(() =>
          this.#followChunk({ past, references, seen }, { branch, lsn }, chunk),
        );
    if (history.start === undefined) return;
    await this.#followRecords(history.start, references, ({ branch, lsn }) => {
      const fromLsn = history.fromLsnOf(branch);
      return fromLsn !== undefined && lsn >= fromLsn;
    });
  }

  async #followChunk(
    {
      past,
      references,
      seen,
    }: { past: CheckpointPast; references: PastFollower; seen: Set<string> },
    origin: Origin,
    chunk: number,
  ): Promise<void> {
    const pages = await past.chunk(origin, chunk);
    for (let at = 0; at < CHUNK_PAGES; at++) {
      const content = contentOf(pages, at);
      if (content.kind === "constant") continue;
      const key = content.kind === "image" ? `${content.run}:${content.offset8}` : "";
      if (key !== "" && seen.has(key)) continue;
      if (key !== "") seen.add(key);
      const page = chunk * CHUNK_PAGES + at;
      await this.#orToldAlready(async () => {
        const words = await past.page(origin, page);
        for (let block = 0; block < PAGE_BLOCKS; block++)
          references.followPast(words[block * 2] as number, words[block * 2 + 1] as number, () =>
            this.#nameOf(origin, page * PAGE_BLOCKS + block),
          );
      });
    }
  }

  async #followRecords(
    start: ReplayStart,
    references: PastFollower,
    isKept: (cursor: RecordCursor) => boolean,
  ): Promise<void> {
    const { source } = this.#options;
    const { view } = source.memory;
    const onRecord = (cursor: RecordCursor): void => {
      const { kind, lsn, blockCount, referencesOffset } = cursor;
      if (kind !== RECORD_KIND.WROTE || !isKept(cursor)) return;
      for (let block = 0; block < blockCount; block++)
        references.followPast(
          view.getUint32(referencesOffset + block * 8, true),
          view.getUint32(referencesOffset + block * 8 + 4, true),
          () => `log: LSN ${lsn}, block ${block} of it`,
        );
    };
    await readLogReach({ ...source, start, onRecord });
  }

  #nameOf({ branch, lsn }: Origin, lba: number): string {
    const volume = this.#catalog.volumes.get(this.#catalog.branches.get(branch)?.volume ?? 0);
    return `volume "${volume?.name ?? branch}", block ${lba} as of LSN ${lsn}`;
  }

  /** Damage of runs the scan of those tells, and of the log the reading of it. */
  async #orToldAlready(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isDamage(error)) throw error;
    }
  }
}

function contentOf(pages: PageContent | readonly PageContent[], at: number): PageContent {
  return "kind" in pages ? pages : (pages[at] as PageContent);
}

function isSame(a: PageContent, b: PageContent): boolean {
  if (a.kind === "constant") return b.kind === "constant" && a.low === b.low;
  return a.kind === "image" && b.kind === "image" && a.run === b.run && a.offset8 === b.offset8;
}

async function referencesOf(
  past: CheckpointPast,
  origin: Origin,
  page: number,
  content: PageContent,
): Promise<Uint32Array> {
  if (content.kind !== "constant") return await past.page(origin, page);
  return Uint32Array.from({ length: PAGE_BLOCKS * 2 }, (_, at) => (at % 2 === 0 ? 0 : content.low));
}
