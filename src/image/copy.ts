// SPDX-License-Identifier: Apache-2.0
//
// Copies a disk from a source to a sink: import, export and conversion are this one loop. A plan walks
// the source's extents in order and cuts them into steps; a few lanes take steps from it, each with one
// buffer, so that reads and writes overlap and memory is lanes times PIECE_BYTES.
//
//     plan:   zero ...... | data piece | data piece | zero ......
//     lane:   zero()        read, look for zeros, write() and zero()
//
// What the source calls data is still searched for zeros (a raw file knows no holes). Pieces are cut at
// the sink's granules, so a sink never sees half a cluster. The first failure, or an abort, ends all lanes
// after the step that each is in; nothing is retried or left out, and the sink is then not finished.

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import type { Extent, ImageSink, ImageSource, StreamSource } from "./image.ts";
import { zeroRuns } from "./zero.ts";

export const PIECE_BYTES: number = 1 << 20;
const LANE_COUNT_DEFAULT = 8;
/** A zero extent is handed over in steps of this, so that an abort is seen in between. */
const ZERO_STEP_BYTES: number = 1 << 30;

export interface CopyProgress {
  /** Of the disk: copied or known to be zero. */
  readonly doneBytes: number;
  /** Undefined while a stream of unknown length flows. */
  readonly totalBytes: number | undefined;
  /** Handed to the sink as data. */
  readonly writtenBytes: number;
}

export interface CopyOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: CopyProgress) => void) | undefined;
  /** Pieces under way at once, 1 to 64. */
  readonly laneCount?: number | undefined;
}

export interface CopyResult {
  readonly sizeBytes: number;
  readonly writtenBytes: number;
}

/**
 * Copies everything and finishes the sink. Throws the first error, with the byte it happened at, or the
 * signal's reason. The source stays open: it is its owner's.
 */
export function copyImage(
  source: ImageSource | StreamSource,
  sink: ImageSink,
  options: CopyOptions = {},
): Promise<CopyResult> {
  return new Copy(source, sink, options).run();
}

/** What a lane does next: [start, end) is zero, or is to be read (a stream has filled the buffer already). */
interface Step {
  readonly start: number;
  readonly end: number;
  readonly kind: "zero" | "read" | "filled";
  /** For sinks that want order: resolved when all earlier steps are delivered. */
  readonly turn: Promise<void>;
  readonly pass: () => void;
}

class Copy {
  readonly #source: ImageSource | StreamSource;
  readonly #sink: ImageSink;
  readonly #options: CopyOptions;
  readonly #pieceBytes: number;
  /** Where the plan is: everything below belongs to some step. */
  #planned = 0;
  #isPlanDone = false;
  /** The extent that the plan is in. */
  #extent: Extent | undefined;
  /** Lanes ask for steps one after the other. */
  #planTurn: Promise<unknown> = Promise.resolve();
  /** Resolved once the step planned last is delivered. */
  #lastTurn: Promise<void> = Promise.resolve();
  #failure: { readonly error: unknown } | undefined;
  #doneBytes = 0;
  #writtenBytes = 0;

  constructor(source: ImageSource | StreamSource, sink: ImageSink, options: CopyOptions) {
    this.#source = source;
    this.#sink = sink;
    this.#options = options;
    this.#pieceBytes = Math.max(PIECE_BYTES, sink.granuleBytes);
    assert(this.#pieceBytes % sink.granuleBytes === 0, "a piece is made of whole granules");
  }

  async run(): Promise<CopyResult> {
    this.#options.signal?.throwIfAborted();
    const laneCount = this.#options.laneCount ?? LANE_COUNT_DEFAULT;
    assert(laneCount >= 1 && laneCount <= 64, "a copy has 1 to 64 lanes");
    await Promise.all(Array.from({ length: laneCount }, () => this.#lane()));
    if (this.#failure) throw this.#failure.error;
    const sizeBytes = this.#planned;
    const where = { action: "finishing", start: sizeBytes, end: sizeBytes };
    await locate(where, () => this.#sink.finish(sizeBytes));
    return { sizeBytes, writtenBytes: this.#writtenBytes };
  }

  /** Takes steps until there are none, or something failed; never rejects. */
  async #lane(): Promise<void> {
    // Zero extents need none: an empty disk is copied without memory.
    let memory: Uint8Array | undefined;
    const buffer = (): Uint8Array => {
      memory ??= new Uint8Array(this.#pieceBytes);
      return memory;
    };
    try {
      while (!this.#failure) {
        this.#options.signal?.throwIfAborted();
        const step = await this.#nextStep(buffer);
        if (!step) return;
        try {
          await this.#perform(step, buffer);
        } finally {
          step.pass();
        }
      }
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  #nextStep(buffer: () => Uint8Array): Promise<Step | undefined> {
    const next = this.#planTurn.then(async () => {
      if (this.#isPlanDone || this.#failure) return undefined;
      const range = await this.#plan(buffer);
      if (!range) {
        this.#isPlanDone = true;
        return undefined;
      }
      assert(range.end > range.start && range.start === this.#planned, "a plan has no gaps");
      this.#planned = range.end;
      const turn = this.#lastTurn;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#lastTurn = promise;
      return { ...range, turn, pass: resolve };
    });
    this.#planTurn = next.catch(() => {});
    return next;
  }

  async #plan(buffer: () => Uint8Array): Promise<Omit<Step, "turn" | "pass"> | undefined> {
    const start = this.#planned;
    if (!("extentAt" in this.#source)) {
      const stream = this.#source;
      const where = { action: "reading", start, end: start + this.#pieceBytes };
      const target = buffer();
      const count = await this.#unlessAborted(locate(where, () => stream.readNext(target)));
      return count === 0 ? undefined : { start, end: start + count, kind: "filled" };
    }
    const source = this.#source;
    if (start >= source.sizeBytes) return undefined;
    const extent = await this.#extentAt(source, start);
    const granule = this.#sink.granuleBytes;
    // The granule at the end of a zero extent is data if anything in it is.
    const zeroEnd =
      extent.end >= source.sizeBytes ? source.sizeBytes : extent.end - (extent.end % granule);
    if (extent.kind === "zero" && zeroEnd > start) {
      return { start, end: Math.min(zeroEnd, start + ZERO_STEP_BYTES), kind: "zero" };
    }
    const dataEnd = Math.ceil(extent.end / granule) * granule;
    const end = Math.min(dataEnd, start + this.#pieceBytes, source.sizeBytes);
    return { start, end, kind: "read" };
  }

  /** What the source says about `start`; asked once per extent, however many steps that takes. */
  async #extentAt(source: ImageSource, start: number): Promise<Extent> {
    if (!this.#extent || start >= this.#extent.end) {
      const where = { action: "reading the extents of", start, end: source.sizeBytes };
      this.#extent = await locate(where, () => source.extentAt(start));
    }
    assert(this.#extent.end > start, "an extent isn't empty");
    return this.#extent;
  }

  async #perform(step: Step, buffer: () => Uint8Array): Promise<void> {
    const { start, end, kind } = step;
    if (kind === "read") {
      const source = this.#source as ImageSource;
      const where = { action: "reading", start, end };
      await locate(where, () => source.read(buffer().subarray(0, end - start), start));
    }
    if (this.#sink.isSequential) {
      await step.turn;
      // An earlier step failed: its bytes are missing, so these must not follow.
      if (this.#failure) return;
    }
    if (kind === "zero") await this.#zero(start, end);
    else await this.#deliver(buffer().subarray(0, end - start), start);
    this.#doneBytes += end - start;
    this.#options.onProgress?.({
      doneBytes: this.#doneBytes,
      totalBytes: this.#source.sizeBytes,
      writtenBytes: this.#writtenBytes,
    });
  }

  async #deliver(bytes: Uint8Array, start: number): Promise<void> {
    for (const run of zeroRuns(bytes, this.#sink.granuleBytes)) {
      if (run.isZero) await this.#zero(start + run.start, start + run.end);
      else await this.#write(bytes.subarray(run.start, run.end), start + run.start);
    }
  }

  async #write(bytes: Uint8Array, start: number): Promise<void> {
    const where = { action: "writing", start, end: start + bytes.length };
    const written = locate(where, () => this.#sink.write(bytes, start));
    await (this.#sink.isSequential ? this.#unlessAborted(written) : written);
    this.#writtenBytes += bytes.length;
  }

  async #zero(start: number, end: number): Promise<void> {
    const zeroed = locate({ action: "zeroing", start, end }, () => this.#sink.zero(start, end));
    await (this.#sink.isSequential ? this.#unlessAborted(zeroed) : zeroed);
  }

  /** A pipe may be silent for ever: there an abort doesn't wait. The buffer isn't used again. */
  #unlessAborted<T>(work: Promise<T>): Promise<T> {
    const signal = this.#options.signal;
    if (!signal) return work;
    return new Promise((resolve, reject) => {
      const abort = (): void => reject(signal.reason);
      if (signal.aborted) abort();
      signal.addEventListener("abort", abort, { once: true });
      work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
    });
  }
}

interface Where {
  readonly action: string;
  readonly start: number;
  readonly end: number;
}

async function locate<T>(where: Where, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw located(where, error);
  }
}

/** Says which bytes of the disk an error is about. */
function located({ action, start, end }: Where, error: unknown): unknown {
  if (!(error instanceof StorageError)) return error;
  const isFull = error.code === "DISK_FULL";
  return new StorageError(
    error.code,
    `copy: ${action} bytes ${start} to ${end} of the disk failed: ${error.message}`,
    {
      hint: isFull ? "free space where the image is written, then start again" : error.hint,
      data: { ...error.data, startBytes: start, endBytes: end },
      cause: error,
    },
  );
}
