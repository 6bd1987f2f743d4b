// SPDX-License-Identifier: Apache-2.0
//
// Damage that a running pool has met since it was opened: what an operator must hear of before the disk gets worse.
// A place counts once, however often it is read. The counts don't go down when a block is written anew or a page
// rebuilt: the disk that lost it is still the same.

import type { StorageError } from "../base/errors.ts";
import type { Clock } from "../host/ports.ts";
import type { Leaf } from "../index/leaf-repair.ts";
import type { DamagedFrame } from "../log/segment-reader.ts";
import { BoundedEvents, type Tell } from "./bounded-events.ts";
import type { DamageStatistics, ScrubProblem } from "./types.ts";

/** Beyond so many places damage isn't counted any more: the disk is lost by then. */
const PLACES_MAX = 1 << 16;

export class Damage {
  readonly #blocks: Set<string> = new Set();
  readonly #pages: Set<string> = new Set();
  readonly #events: BoundedEvents;
  #failedRequestCount = 0;

  constructor(clock: Clock, tell: Tell) {
    this.#events = new BoundedEvents(clock, tell);
  }

  /** A request for `volume` failed for a reason that is not the client's. */
  requestFailed(error: StorageError, volume: string): void {
    const { code, message, data } = error;
    if (code === "DISK_IO" || error.kind === "corrupt") this.#failedRequestCount += 1;
    if (code === "FRAME_CORRUPT") addPlace(this.#blocks, `${data.segment}:${data.offset}`);
    this.#events.tell("error", "request.failed", { code, message, volume, ...data });
  }

  /** The replay found a frame that isn't what its batch says. */
  frameDamaged(frame: DamagedFrame): void {
    addPlace(this.#blocks, `${frame.segmentNumber}:${frame.offset}`);
    this.#events.tell("error", "log.frame-damaged", { ...frame });
  }

  /** A scrub found damage other than a frame's. */
  scrubFound({ code, message, data }: ScrubProblem): void {
    if (typeof data.run === "number") {
      const offset = typeof data.offset === "number" ? data.offset : 0;
      addPlace(this.#pages, `${data.run}:${offset / 8}`);
    }
    this.#events.tell("error", "scrub.problem", { code, message, ...data });
  }

  /** The image of an index page can't be read. */
  pageDamaged({ branch, page, run, offset8 }: Leaf, { code, message }: StorageError): void {
    addPlace(this.#pages, `${run}:${offset8}`);
    this.#events.tell("error", "index.page-damaged", { branch, page, code, message });
  }

  /** The list of where a segment's frames were moved can't be read. */
  relocationsDamaged(homeSegment: number, { code, message }: StorageError): void {
    addPlace(this.#pages, `moved from ${homeSegment}`);
    this.#events.tell("error", "index.relocations-damaged", {
      segment: homeSegment,
      code,
      message,
    });
  }

  /** What a change list says of a branch can't be read. */
  listDamaged(run: number, branch: number, { code, message }: StorageError): void {
    addPlace(this.#pages, `list ${run}:${branch}`);
    this.#events.tell("error", "index.changes-damaged", { run, branch, code, message });
  }

  listRebuilt(run: number, branch: number): void {
    this.#events.tell("warn", "index.changes-rebuilt", { run, branch });
  }

  relocationsRebuilt(homeSegment: number): void {
    this.#events.tell("warn", "index.relocations-rebuilt", { segment: homeSegment });
  }

  pagesRebuilt(pageCount: number): void {
    this.#events.tell("warn", "index.pages-rebuilt", { pages: pageCount });
  }

  get statistics(): DamageStatistics {
    return {
      damagedBlockCount: this.#blocks.size,
      damagedPageCount: this.#pages.size,
      failedRequestCount: this.#failedRequestCount,
    };
  }

  /** Tells what was held back. */
  close(): void {
    this.#events.close();
  }
}

function addPlace(places: Set<string>, place: string): void {
  if (places.size < PLACES_MAX) places.add(place);
}
