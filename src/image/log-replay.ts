// SPDX-License-Identifier: Apache-2.0
//
// Applies the changes of another system's log to a disk, in order, so that each of them is a moment of that
// disk. Changes are sent one behind the other without waiting, in groups; at the end of a group all of it is
// done. A flush is a group of its own: it covers what came before it and nothing else.
//
// Whoever asks the disk's log for its position between two groups knows the moment at the end of each. If
// the position has moved by as many records as were sent, nothing came in between, and each change of the
// group has its own.
//
//   read, send, send, send … wait   position   flush, wait   position   read, send …

import type { DiskFile } from "../host/ports.ts";
import type { ChangeKind, LoggedChange, SeedLog } from "./seed-log.ts";
import { logChanged } from "./seed-log.ts";

/** One write: the most that the disk's log has as one record. */
const PIECE_BYTES: number = 1 << 20;
const GROUP_BYTES_MAX: number = 8 << 20;
const GROUP_COUNT_MAX = 256;
/** A trim of parts of blocks may leave them as they are; zeroes may not. */
const BLOCK_BYTES = 4096;

/** The disk. Calls take effect in the order in which they are made; the bytes don't change until they are done. */
export interface ReplayTarget {
  write(
    offsetBytes: number,
    bytes: Uint8Array,
    options: { isForceUnitAccess: boolean },
  ): Promise<void>;
  writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: { isHoleForbidden: boolean; isForceUnitAccess: boolean },
  ): Promise<void>;
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  flush(): Promise<void>;
}

/** A change that was applied, and the LSN of its last record where it is known. */
export interface ReplayedChange {
  readonly change: LoggedChange;
  readonly lsn: number | undefined;
}

export interface ReplayOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((doneBytes: number) => void) | undefined;
  /** LSN of the disk's log that comes next. Asked between groups, if somebody wants to know the moments. */
  readonly nextLsn?: (() => Promise<number>) | undefined;
  /** Told of each group when it is done, in order. */
  readonly onReplayed?: ((changes: readonly ReplayedChange[]) => Promise<void>) | undefined;
}

export interface ReplayResult {
  readonly counts: Readonly<Record<ChangeKind, number>>;
  readonly writtenBytes: number;
}

/** Throws the first error; then the changes before the group that it was in are done, of that group any. */
export function replayLog(
  log: SeedLog,
  target: ReplayTarget,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  return new Replay(log, target, options).run();
}

class Replay {
  readonly #log: SeedLog;
  readonly #target: ReplayTarget;
  readonly #options: ReplayOptions;
  readonly #counts: Record<ChangeKind, number> = { write: 0, zero: 0, trim: 0, flush: 0 };
  #writtenBytes = 0;
  /** The group: what was sent, after how many requests each change ended, and the answers to come. */
  readonly #changes: LoggedChange[] = [];
  readonly #ends: number[] = [];
  #sentCount = 0;
  #answers: Promise<void>[] = [];
  /** Of the writes that aren't answered. */
  #openBytes = 0;
  /** LSN that came next when the group began, if it is asked for. */
  #groupLsn = 0;

  constructor(log: SeedLog, target: ReplayTarget, options: ReplayOptions) {
    this.#log = log;
    this.#target = target;
    this.#options = options;
  }

  async run(): Promise<ReplayResult> {
    const { signal, nextLsn } = this.#options;
    signal?.throwIfAborted();
    this.#groupLsn = (await nextLsn?.()) ?? 0;
    try {
      for await (const change of this.#log.changes()) {
        signal?.throwIfAborted();
        if (this.#isBorder(change)) await this.#endGroup();
        await this.#send(change);
      }
      await this.#endGroup();
    } catch (error) {
      // What is under way comes to its end, whichever it is: the first error is the one to tell.
      await Promise.allSettled(this.#answers);
      throw error;
    }
    return { counts: this.#counts, writtenBytes: this.#writtenBytes };
  }

  /** The group is full, or the change must not be in one with what came before. */
  #isBorder(change: LoggedChange): boolean {
    const last = this.#changes.at(-1);
    if (last === undefined) return false;
    if (change.kind === "flush" || last.kind === "flush") return true;
    if (this.#options.nextLsn !== undefined) {
      if (change.timeMicros !== last.timeMicros || isRagged(change) || isRagged(last)) return true;
    }
    return this.#sentCount >= GROUP_COUNT_MAX || this.#openBytes >= GROUP_BYTES_MAX;
  }

  async #endGroup(): Promise<void> {
    const last = this.#changes.at(-1);
    if (last === undefined) return;
    await this.#settle();
    const { nextLsn, onReplayed, onProgress } = this.#options;
    const next = await nextLsn?.();
    // Told before the next group is sent: whoever writes it down is never behind.
    await onReplayed?.(this.#changes.map((change, at) => ({ change, lsn: this.#lsnOf(at, next) })));
    onProgress?.(last.doneBytes);
    this.#groupLsn = next ?? 0;
    this.#changes.length = 0;
    this.#ends.length = 0;
    this.#sentCount = 0;
  }

  /** Of a change of the group; `next` is the LSN that comes behind all of them. */
  #lsnOf(at: number, next: number | undefined): number | undefined {
    if (next === undefined) return undefined;
    const isOneRecordEach = next - this.#groupLsn === this.#sentCount;
    if (isOneRecordEach) return this.#groupLsn + (this.#ends[at] as number) - 1;
    return at === this.#changes.length - 1 ? next - 1 : undefined;
  }

  /** Waits for all answers. */
  async #settle(): Promise<void> {
    await Promise.all(this.#answers);
    this.#answers = [];
    this.#openBytes = 0;
  }

  async #send(change: LoggedChange): Promise<void> {
    const { kind, offsetBytes, lengthBytes, isHoleForbidden, isForceUnitAccess } = change;
    this.#changes.push(change);
    this.#counts[kind] += 1;
    if (kind === "flush") this.#under(this.#target.flush());
    else if (lengthBytes > 0 && kind === "write") await this.#write(change);
    else if (lengthBytes > 0) {
      const isTrim = kind === "trim" && !isRagged(change);
      if (isTrim) this.#under(this.#target.trim(offsetBytes, lengthBytes));
      else {
        const options = { isHoleForbidden, isForceUnitAccess };
        this.#under(this.#target.writeZeroes(offsetBytes, lengthBytes, options));
      }
    }
    this.#ends.push(this.#sentCount);
  }

  async #write(change: LoggedChange): Promise<void> {
    const { offsetBytes, lengthBytes, isForceUnitAccess, file, dataPosition } = change;
    for (let done = 0; done < lengthBytes; ) {
      const offset = offsetBytes + done;
      const pieceBytes = Math.min(PIECE_BYTES - (offset % BLOCK_BYTES), lengthBytes - done);
      const bytes = new Uint8Array(pieceBytes);
      await this.#read(file, bytes, dataPosition + done, change.place);
      // A write may be larger than what is let under way at once.
      if (this.#openBytes >= GROUP_BYTES_MAX) await this.#settle();
      this.#under(this.#target.write(offset, bytes, { isForceUnitAccess }));
      this.#openBytes += pieceBytes;
      this.#writtenBytes += pieceBytes;
      done += pieceBytes;
    }
  }

  async #read(file: DiskFile, bytes: Uint8Array, position: number, place: string): Promise<void> {
    this.#options.signal?.throwIfAborted();
    const count = await file.read(bytes, position);
    if (count < bytes.length) throw logChanged(place);
  }

  #under(answer: Promise<void>): void {
    // Whoever waits for the group gets the error; until then nobody may complain that nobody did.
    answer.catch(() => undefined);
    this.#answers.push(answer);
    this.#sentCount += 1;
  }
}

/** A range with parts of blocks at its ends, which take records of their own. */
function isRagged({ kind, offsetBytes, lengthBytes }: LoggedChange): boolean {
  const isRange = kind === "zero" || kind === "trim";
  return isRange && (offsetBytes % BLOCK_BYTES !== 0 || lengthBytes % BLOCK_BYTES !== 0);
}
