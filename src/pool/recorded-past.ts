// SPDX-License-Identifier: Apache-2.0
//
// A pool's past as its files tell it, for readers beside the daemon or without one: which volumes there were,
// where frames went, and which record a moment means. The log is read from its first record on. Where garbage
// collection let its beginning go, the newest checkpoint says what there was and where frames went, and the
// records that are left can be told: of the moments before them nothing is known here.

import { StorageError } from "../base/errors.ts";
import { formatMoment, type Moment, stableName } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import type { Directory } from "../host/ports.ts";
import { readCheckpoints, readRelocationTables } from "../index/checkpoint-loader.ts";
import { runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { readLogBegin } from "../log/log-begin.ts";
import { PlainMoves } from "../log/plain-moves.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { recoverLog } from "../log/recovery.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { Catalog } from "./catalog.ts";
import type { Volume, VolumeState } from "./catalog-volume.ts";
import { readMoves } from "./checkpoint-state.ts";

export interface PastSource {
  readonly memory: BlockMemory;
  readonly log: Directory;
  readonly poolId: Uint8Array;
}

/** A volume as it was at a record. */
export interface PastMoment {
  readonly volume: Volume;
  readonly state: VolumeState;
  readonly lsn: number;
}

const OPEN_FILES_MAX = 16;

export class RecordedPast {
  readonly moves: PlainMoves = new PlainMoves();
  #catalog: Catalog = new Catalog();
  readonly #source: PastSource;
  /** Where the records begin that are left. */
  readonly #start: ReplayStart;
  /** Records below are in the catalog and the moves already. */
  #knownLsn = 0;
  /** Segments of which only records are left, at most. */
  readonly #dropped: Set<number> = new Set();
  #lastLsn = 0;
  #firstMicros = 0;

  private constructor(source: PastSource, start: ReplayStart) {
    this.#source = source;
    this.#start = start;
  }

  /** Throws MOMENT_GONE, LOG_CORRUPT, POOL_CORRUPT, DISK_IO, FORMAT_UNSUPPORTED. */
  static async read(source: PastSource): Promise<RecordedPast> {
    const { memory, log: directory, poolId } = source;
    const { lateStart } = await readLogBegin({ memory, directory, poolId });
    const past = new RecordedPast(source, lateStart ?? LOG_BEGIN);
    if (lateStart !== undefined) await past.#beginLate();
    await past.tellRecords((cursor) => past.#take(cursor));
    return past;
  }

  get catalog(): Catalog {
    return this.#catalog;
  }

  /** Tells every record that is left; `afterBatch` is awaited after each batch. */
  async tellRecords(
    onRecord: (cursor: RecordCursor) => void,
    afterBatch?: () => Promise<void> | undefined,
  ): Promise<void> {
    const { memory, log: directory, poolId } = this.#source;
    await recoverLog({
      ...{ memory, directory, poolId, start: this.#start, isReadOnly: true, onRecord },
      ...(afterBatch === undefined ? {} : { afterBatch }),
    });
  }

  /** Throws MOMENT_GONE when records behind the moment were let go. */
  checkKept(name: string, lsn: number): void {
    const first = this.#start.nextLsn;
    if (lsn >= first - 1) return;
    throw new StorageError(
      "MOMENT_GONE",
      `moment "${stableName(name, lsn)}": gone: the records before #${first} were let go`,
      { hint: `begin at ${stableName(name, first - 1)}, or keep more with "varve retention"` },
    );
  }

  /** Whether frames that were born there, and not moved, were let go. */
  isLetGo(segment: number): boolean {
    return segment < this.#start.segmentNumber || this.#dropped.has(segment);
  }

  /** Throws MOMENT_NOT_FOUND. */
  async resolve(name: string, moment: Moment, nowMicros: number): Promise<PastMoment> {
    const lsn = await this.#lsnOf(name, moment, nowMicros);
    const found = this.catalog.volumeAt(name, lsn);
    if (found !== undefined) {
      this.checkKept(name, lsn);
      return { ...found, lsn };
    }
    const first = this.#volumesNamed(name)
      .at(-1)
      ?.states.find((state) => state.name === name);
    const why =
      first === undefined
        ? `no volume was ever named "${name}"`
        : `no volume was named "${name}" at #${lsn}, the first was from #${first.fromLsn} on`;
    throw notFound(name, moment, why);
  }

  #take(cursor: RecordCursor): void {
    const { kind, lsn, timeMicros, json } = cursor;
    if (this.#lastLsn === 0) this.#firstMicros = timeMicros;
    this.#lastLsn = lsn;
    if (kind === RECORD_KIND.SEGMENT_DROPPED && typeof json?.segment === "number")
      this.#dropped.add(json.segment);
    if (lsn < this.#knownLsn) return;
    if (kind === RECORD_KIND.RELOCATED) this.moves.apply(this.#source.memory, cursor);
    if (json === undefined || this.catalog.apply(kind, json, { lsn, timeMicros })) return;
    throw new StorageError("LOG_CORRUPT", `log, record #${lsn}: it contradicts what is before it`);
  }

  /** Takes what the newest checkpoint says of all that was before it. */
  async #beginLate(): Promise<void> {
    const { memory, log: directory, poolId } = this.#source;
    const runs = new FileStore(directory, runName, OPEN_FILES_MAX);
    const index = { memory, directory, runs, poolId };
    try {
      const [newest] = (await readCheckpoints(index)).checkpoints;
      if (newest === undefined || newest.body.cut.nextLsn < this.#start.nextLsn)
        throw new StorageError("POOL_CORRUPT", "index: no checkpoint says what the log began with");
      this.#catalog = Catalog.fromJson(newest.body.catalog);
      this.#knownLsn = newest.body.cut.nextLsn;
      const tables = await readRelocationTables(index, newest.body);
      for (const [segment, table] of tables) {
        if ((await readMoves(index, segment, table, this.moves)) === 0) continue;
        throw new StorageError(
          "POOL_CORRUPT",
          `index: a list of moved frames of segment ${segment} can't be read`,
        );
      }
    } finally {
      await runs.closeAll();
    }
  }

  async #lsnOf(name: string, moment: Moment, nowMicros: number): Promise<number> {
    switch (moment.kind) {
      case "now":
        return this.#lastLsn;
      case "lsn":
        if (moment.lsn <= this.#lastLsn) return moment.lsn;
        throw notFound(name, moment, `the log goes up to #${this.#lastLsn}`);
      case "time":
      case "ago":
        return await this.#lsnAtTime(name, moment, nowMicros);
      case "flush":
        return await this.#lsnOfFlush(name, moment, nowMicros);
      case "name": {
        for (const { id } of this.#volumesNamed(name)) {
          const named = this.catalog.moments.find({ volume: id, name: moment.name });
          if (named !== undefined) return named.lsn;
        }
        throw notFound(name, moment, "it has no snapshot of that name");
      }
    }
  }

  async #lsnAtTime(
    name: string,
    moment: Extract<Moment, { kind: "time" | "ago" }>,
    nowMicros: number,
  ): Promise<number> {
    const micros = moment.kind === "time" ? moment.micros : nowMicros - moment.micros;
    if (micros > nowMicros) throw notFound(name, moment, "it is in the future");
    const lsn = await this.#last((cursor) => cursor.timeMicros <= micros);
    if (lsn !== undefined) return lsn;
    throw notFound(name, moment, `history begins at ${formatTime(this.#firstMicros)}`);
  }

  async #lsnOfFlush(
    name: string,
    moment: Extract<Moment, { kind: "flush" }>,
    nowMicros: number,
  ): Promise<number> {
    const at = await this.resolve(name, moment.at, nowMicros);
    const lsn = await this.#last(
      ({ kind, branch, lsn }) =>
        kind === RECORD_KIND.FLUSHED && branch === at.state.branch && lsn <= at.lsn,
    );
    if (lsn !== undefined) return lsn;
    throw notFound(name, moment, `no flush came before #${at.lsn}`);
  }

  /** The last record that matches. */
  async #last(matches: (cursor: RecordCursor) => boolean): Promise<number | undefined> {
    let found: number | undefined;
    await this.tellRecords((cursor) => {
      if (matches(cursor)) found = cursor.lsn;
    });
    return found;
  }

  /** All that ever had the name, newest first. */
  #volumesNamed(name: string): Volume[] {
    return [...this.catalog.volumes.values()]
      .filter(({ states }) => states.some((state) => state.name === name))
      .reverse();
  }
}

function notFound(name: string, moment: Moment, why: string): StorageError {
  return new StorageError(
    "MOMENT_NOT_FOUND",
    `moment "${name}@${formatMoment(moment)}": not found: ${why}`,
  );
}
