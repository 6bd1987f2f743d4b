// SPDX-License-Identifier: Apache-2.0
//
// What happened to a volume between two moments, record by record and with the content that was written: the
// same to the disk at the first as all that its clients sent until the second. Read from the log alone.
//
// Zeros in a write are told as zeroes of their own, so that they stay cheap. A volume that shrinks loses what
// lay behind its new end: that is told as a trim, for it may grow again.

import { StorageError } from "../base/errors.ts";
import { stableName } from "../base/moment.ts";
import type { Zstd } from "../host/ports.ts";
import { BlockContent } from "../log/block-content.ts";
import { RECORD_KIND, type RecordCursor } from "../log/record.ts";
import { formatReference, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { PastMoment, PastSource, RecordedPast } from "./recorded-past.ts";

export interface VolumeEvent {
  readonly kind: "write" | "zero" | "trim" | "flush";
  readonly lsn: number;
  readonly timeMicros: number;
  /** 0 for a flush, as is the length. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** write: its bytes, valid during the call. */
  readonly data: Uint8Array | undefined;
}

export interface EventsOptions extends PastSource {
  readonly zstd: Zstd;
  readonly past: RecordedPast;
  /** Records behind `fromLsn`, up to that of `to`. */
  readonly fromLsn: number;
  readonly to: PastMoment;
  readonly onEvent: (event: VolumeEvent) => Promise<void>;
}

/** Throws FRAME_CORRUPT, MOMENT_GONE, MOMENT_NOT_FOUND when the volume went back in time between the two. */
export async function tellEvents(options: EventsOptions): Promise<void> {
  refuseOtherBranch(options);
  options.past.checkKept(options.to.state.name, options.fromLsn);
  const { memory, log, zstd, past } = options;
  const blocks = await BlockContent.open({
    ...{ memory, log, zstd, moves: past.moves, isDamageTold: false },
  });
  try {
    await new EventTeller(options, blocks).run();
  } finally {
    await blocks.close();
  }
}

/** What a rewind changes no record says. */
function refuseOtherBranch({ past, fromLsn, to }: EventsOptions): void {
  const { volume, lsn } = to;
  const begin = past.catalog.stateAt(volume, fromLsn);
  let { branch } = begin ?? to.state;
  for (const state of volume.states) {
    if (state.fromLsn <= fromLsn || state.fromLsn > lsn) continue;
    if (state.branch !== branch) {
      throw new StorageError(
        "MOMENT_NOT_FOUND",
        `volume "${to.state.name}": not exported: at #${state.fromLsn} it went back in time, which is no record of a log`,
        {
          hint: `export up to #${state.fromLsn - 1}, and from #${state.fromLsn} on, each by itself`,
        },
      );
    }
    branch = state.branch;
  }
}

/** A record, taken out of the memory that the next batch is read into. */
interface Taken {
  readonly kind: number;
  readonly lsn: number;
  readonly timeMicros: number;
  readonly lba: number;
  readonly blockCount: number;
  /** wrote: two words a block. */
  readonly references: Uint32Array | undefined;
}

class EventTeller {
  readonly #options: EventsOptions;
  readonly #blocks: BlockContent;
  readonly #branch: number;
  /** Of the batch that is read. */
  readonly #taken: Taken[] = [];
  /** The longest record's blocks, and more if there is one. */
  #buffer = new Uint8Array(257 * BLOCK_BYTES);

  constructor(options: EventsOptions, blocks: BlockContent) {
    this.#options = options;
    this.#blocks = blocks;
    this.#branch = options.to.state.branch;
  }

  async run(): Promise<void> {
    await this.#options.past.tellRecords(
      (cursor) => this.#take(cursor),
      () => (this.#taken.length === 0 ? undefined : this.#tellTaken()),
    );
    await this.#tellTaken();
  }

  #take(cursor: RecordCursor): void {
    const { fromLsn, to, memory } = this.#options;
    const { kind, lsn, timeMicros, lba, blockCount, json } = cursor;
    if (lsn <= fromLsn || lsn > to.lsn) return;
    const isResize = kind === RECORD_KIND.VOLUME_RESIZED && json?.id === to.volume.id;
    const isChange = DATA_KINDS.has(kind) && cursor.branch === this.#branch;
    if (!isResize && !isChange) return;
    let references: Uint32Array | undefined;
    if (kind === RECORD_KIND.WROTE) {
      references = new Uint32Array(blockCount * 2);
      for (let at = 0; at < references.length; at += 1)
        references[at] = memory.view.getUint32(cursor.referencesOffset + at * 4, true);
    }
    this.#taken.push({ kind, lsn, timeMicros, lba, blockCount, references });
  }

  async #tellTaken(): Promise<void> {
    for (const taken of this.#taken) await this.#tell(taken);
    this.#taken.length = 0;
  }

  async #tell(taken: Taken): Promise<void> {
    const { lba, blockCount, references } = taken;
    switch (taken.kind) {
      case RECORD_KIND.WROTE:
        await this.#tellWrite(taken, references ?? new Uint32Array(0));
        return;
      case RECORD_KIND.FLUSHED:
        await this.#options.onEvent(eventOf(taken, "flush", 0, 0));
        return;
      case RECORD_KIND.VOLUME_RESIZED:
        await this.#tellResize(taken);
        return;
      default: {
        const kind = taken.kind === RECORD_KIND.ZEROED ? "zero" : "trim";
        await this.#tellRange(taken, kind, { lba, blockCount });
      }
    }
  }

  /** Runs of blocks with content, and runs of zeros. */
  async #tellWrite(taken: Taken, references: Uint32Array): Promise<void> {
    const { lba, blockCount } = taken;
    for (let start = 0; start < blockCount; ) {
      const isZero = isZeroAt(references, start);
      let end = start + 1;
      while (end < blockCount && isZeroAt(references, end) === isZero) end += 1;
      const range = { lba: lba + start, blockCount: end - start };
      if (isZero) await this.#tellRange(taken, "zero", range);
      else await this.#tellRange(taken, "write", range, references.subarray(start * 2, end * 2));
      start = end;
    }
  }

  async #tellRange(
    taken: Taken,
    kind: VolumeEvent["kind"],
    { lba, blockCount }: { lba: number; blockCount: number },
    references?: Uint32Array,
  ): Promise<void> {
    const offsetBytes = lba * BLOCK_BYTES;
    // The last block may reach beyond the end of the volume.
    const end = Math.min(offsetBytes + blockCount * BLOCK_BYTES, this.#sizeAt(taken.lsn));
    const lengthBytes = end - offsetBytes;
    if (lengthBytes <= 0) return;
    const event = eventOf(taken, kind, offsetBytes, lengthBytes);
    if (references === undefined) return await this.#options.onEvent(event);
    await this.#load(taken, lba, references);
    await this.#options.onEvent({ ...event, data: this.#buffer.subarray(0, lengthBytes) });
  }

  async #tellResize(taken: Taken): Promise<void> {
    const oldBytes = this.#sizeAt(taken.lsn - 1);
    const newBytes = this.#sizeAt(taken.lsn);
    if (newBytes < oldBytes)
      await this.#options.onEvent(eventOf(taken, "trim", newBytes, oldBytes - newBytes));
  }

  async #load({ lsn }: Taken, lba: number, references: Uint32Array): Promise<void> {
    const blockCount = references.length / 2;
    if (blockCount * BLOCK_BYTES > this.#buffer.length)
      this.#buffer = new Uint8Array(blockCount * BLOCK_BYTES);
    for (let block = 0; block < blockCount; block += 1) {
      const segment = references[block * 2] as number;
      const low = references[block * 2 + 1] as number;
      const problem = await this.#blocks.load(segment, low);
      if (problem !== undefined) {
        throw this.#unreadable(lsn, (lba + block) * BLOCK_BYTES, { segment, low, problem });
      }
      this.#buffer.set(this.#blocks.bytes, block * BLOCK_BYTES);
    }
  }

  #unreadable(
    lsn: number,
    offset: number,
    { segment, low, problem }: { segment: number; low: number; problem: string },
  ): StorageError {
    const { past, to } = this.#options;
    const { name } = to.state;
    const subject = `volume "${name}", record #${lsn}, byte ${offset}: not exported`;
    const data = { volume: name, lsn, offset };
    if (past.isLetGo(segment)) {
      const hint = `its content isn't kept any more: begin at ${stableName(name, lsn)} or later`;
      return new StorageError("MOMENT_GONE", `${subject}: what was written was let go`, {
        hint,
        data,
      });
    }
    return new StorageError(
      "FRAME_CORRUPT",
      `${subject}: frame ${formatReference(segment, low)}: ${problem}`,
      {
        hint: 'a daemon may have been collecting garbage: start again; else see "varve check"',
        data,
      },
    );
  }

  #sizeAt(lsn: number): number {
    const { past, to } = this.#options;
    return past.catalog.stateAt(to.volume, lsn)?.sizeBytes ?? 0;
  }
}

const DATA_KINDS: ReadonlySet<number> = new Set([
  RECORD_KIND.WROTE,
  RECORD_KIND.ZEROED,
  RECORD_KIND.TRIMMED,
  RECORD_KIND.FLUSHED,
]);

function isZeroAt(references: Uint32Array, block: number): boolean {
  const state = stateOf(references[block * 2 + 1] as number);
  return state === REFERENCE_STATE.ZERO || state === REFERENCE_STATE.HOLE;
}

function eventOf(
  { lsn, timeMicros }: Taken,
  kind: VolumeEvent["kind"],
  offsetBytes: number,
  lengthBytes: number,
): VolumeEvent {
  return { kind, lsn, timeMicros, offsetBytes, lengthBytes, data: undefined };
}
