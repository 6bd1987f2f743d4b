// SPDX-License-Identifier: Apache-2.0
//
// A point of a backup as a block device: served over NBD without being restored, read-only, or with an overlay that takes
// what is written and is thrown away (backup/overlaid-image.ts).
//
// Everything waits for the target, so nothing is answered at once. Reads run side by side; a change waits for all that was
// asked before it, and what is asked after it waits for the change. That is the order of the calls, as the door demands,
// and more than clients of a throw-away disk need.

import { type OverlaidBase, OverlaidImage } from "../backup/overlaid-image.ts";
import { AssertionError } from "../base/assert.ts";
import { StorageError, spell } from "../base/errors.ts";
import type { DiskFile } from "../host/ports.ts";
import {
  ALLOCATION,
  type BlockDevice,
  type BlockRequest,
  type ExtentSink,
  type Slab,
  type ZeroOptions,
} from "../nbd/block-device.ts";

/** A block-status answer looks no further, a million blocks: the client asks on from there. */
const STATUS_BYTES_MAX: number = 4 * 2 ** 30;

export interface PointDeviceOptions {
  readonly image: OverlaidBase;
  readonly slab: Slab;
  /** Takes what is written: an empty file that nobody else has. undefined: the disk is read-only. */
  readonly overlay?: DiskFile;
  /** A request failed for a reason that somebody should see. */
  readonly report: (error: StorageError) => void;
}

export class PointDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly canMultiConnect = true;
  readonly #image: OverlaidBase;
  readonly #overlaid: OverlaidImage | undefined;
  readonly #slab: Slab;
  readonly #report: (error: StorageError) => void;
  /** The end of the last change. */
  #changed: Promise<void> = Promise.resolve();
  /** Reads under way. */
  readonly #reads: Set<Promise<void>> = new Set();

  constructor({ image, slab, overlay, report }: PointDeviceOptions) {
    this.sizeBytes = image.sizeBytes;
    this.isReadOnly = overlay === undefined;
    this.#overlaid = overlay === undefined ? undefined : new OverlaidImage(image, overlay);
    this.#image = this.#overlaid ?? image;
    this.#slab = slab;
    this.#report = report;
  }

  readNow(): boolean {
    return false;
  }

  read(request: BlockRequest): void {
    const { address, offsetBytes, lengthBytes } = request;
    const target = this.#slab.bytes.subarray(address, address + lengthBytes);
    this.#look(request, () => this.#image.read(target, offsetBytes));
  }

  writeNow(): boolean {
    return false;
  }

  write(request: BlockRequest): void {
    const { address, offsetBytes, lengthBytes } = request;
    const source = this.#slab.bytes.subarray(address, address + lengthBytes);
    this.#change(request, (image) => image.write(source, offsetBytes));
  }

  /** Nothing outlives the program: there is nothing to make durable, only to wait for. */
  flush(request: BlockRequest): void {
    this.#change(request, () => Promise.resolve());
  }

  trim(request: BlockRequest): void {
    this.#zero(request);
  }

  writeZeroes(request: BlockRequest, _options: ZeroOptions): void {
    this.#zero(request);
  }

  /** The image reads ahead by itself. */
  cache(request: BlockRequest): void {
    request.complete(0);
  }

  blockStatus(request: BlockRequest, sink: ExtentSink): void {
    const start = request.offsetBytes;
    const end = Math.min(start + request.lengthBytes, start + STATUS_BYTES_MAX);
    this.#look(request, async () => {
      // Neighbours of one kind go as one.
      let [from, flags] = [start, -1];
      let goesOn = true;
      await this.#image.visitExtents(start, end, {
        extent: (extentStart, _end, kind) => {
          const next = flagsOf(kind);
          if (flags >= 0 && next !== flags) {
            goesOn = sink.add(extentStart - from, flags);
            from = extentStart;
          }
          flags = next;
          return goesOn;
        },
      });
      if (goesOn) sink.add(end - from, flags);
    });
  }

  #zero(request: BlockRequest): void {
    const { offsetBytes, lengthBytes } = request;
    this.#change(request, (image) => image.zero(offsetBytes, offsetBytes + lengthBytes));
  }

  /** Runs beside other reads, after the last change. */
  #look(request: BlockRequest, act: () => Promise<void>): void {
    const read = this.#end(request, this.#changed.then(act)).finally(() => {
      this.#reads.delete(read);
    });
    this.#reads.add(read);
  }

  /** Runs alone. A disk without an overlay has nothing to change: the door lets no change through to it. */
  #change(request: BlockRequest, act: (image: OverlaidImage) => Promise<void>): void {
    const before = Promise.all([this.#changed, ...this.#reads]);
    const overlaid = this.#overlaid;
    const change = before.then(() => (overlaid === undefined ? undefined : act(overlaid)));
    this.#changed = this.#end(request, change);
  }

  /** Resolves when the request has its answer, whatever that is. */
  async #end(request: BlockRequest, act: Promise<void>): Promise<void> {
    let errno = 0;
    try {
      await act;
    } catch (error) {
      if (error instanceof AssertionError || !(error instanceof StorageError)) throw error;
      this.#report(error);
      errno = spell(error.code, "nbd");
    }
    request.complete(errno);
  }
}

function flagsOf(kind: "data" | "zero" | "hole"): number {
  if (kind === "data") return 0;
  return kind === "hole" ? ALLOCATION.HOLE | ALLOCATION.ZERO : ALLOCATION.ZERO;
}
