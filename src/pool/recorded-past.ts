// SPDX-License-Identifier: Apache-2.0
//
// A pool's past as its log alone tells it, for readers beside the daemon or without one: which volumes there
// were, where frames went, and which record a moment means. The log is read from its first record on; where
// garbage collection let the beginning go, nobody can say what the rest adds to, and it is refused.

import { StorageError } from "../base/errors.ts";
import { formatMoment, type Moment } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import type { Directory } from "../host/ports.ts";
import { readLogBegin } from "../log/log-begin.ts";
import { PlainMoves } from "../log/plain-moves.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { recoverLog } from "../log/recovery.ts";
import { LOG_BEGIN } from "../log/replay-start.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { Catalog } from "./catalog.ts";
import type { Volume, VolumeState } from "./catalog-volume.ts";

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

/** Tells every record of the log; `afterBatch` is awaited after each batch. */
export async function tellRecords(
  { memory, log, poolId }: PastSource,
  onRecord: (cursor: RecordCursor) => void,
  afterBatch?: () => Promise<void> | undefined,
): Promise<void> {
  await recoverLog({
    ...{ memory, directory: log, poolId, start: LOG_BEGIN, isReadOnly: true, onRecord },
    ...(afterBatch === undefined ? {} : { afterBatch }),
  });
}

export class RecordedPast {
  readonly catalog: Catalog = new Catalog();
  readonly moves: PlainMoves = new PlainMoves();
  readonly #source: PastSource;
  #lastLsn = 0;
  #firstMicros = 0;

  private constructor(source: PastSource) {
    this.#source = source;
  }

  /** Throws MOMENT_GONE, LOG_CORRUPT, DISK_IO, FORMAT_UNSUPPORTED. */
  static async read(source: PastSource): Promise<RecordedPast> {
    const { memory, log: directory, poolId } = source;
    const { lateStart } = await readLogBegin({ memory, directory, poolId });
    if (lateStart !== undefined) {
      throw new StorageError(
        "MOMENT_GONE",
        `log: not read: what came before #${lateStart.nextLsn} was let go`,
        { hint: 'keep more with "varve retention"; "varve export" gives the disk as it is' },
      );
    }
    const past = new RecordedPast(source);
    await tellRecords(source, (cursor) => past.#take(cursor));
    return past;
  }

  /** Throws MOMENT_NOT_FOUND. */
  async resolve(name: string, moment: Moment, nowMicros: number): Promise<PastMoment> {
    const lsn = await this.#lsnOf(name, moment, nowMicros);
    const found = this.catalog.volumeAt(name, lsn);
    if (found !== undefined) return { ...found, lsn };
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
    if (kind === RECORD_KIND.RELOCATED) this.moves.apply(this.#source.memory, cursor);
    if (json === undefined || this.catalog.apply(kind, json, { lsn, timeMicros })) return;
    throw new StorageError("LOG_CORRUPT", `log, record #${lsn}: it contradicts what is before it`);
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
    await tellRecords(this.#source, (cursor) => {
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
