// SPDX-License-Identifier: Apache-2.0
//
// Views that clients have open. A moment of a branch is one disk, however it was named and by however many
// it is read: the pool opens it for the first client, all who come meanwhile share it, and it is let go
// with the last. An open view is a claim on history, so nothing here outlives its clients: not an open
// that failed, nor one whose clients were gone before it was done.
//
//   nobody ── first open ── opening ── open ── last close ── nobody
//                              └ failed: all who wait are told why, the next one tries anew

import { assert } from "../base/assert.ts";
import { StorageError } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import type { BlockDevice } from "../nbd/block-device.ts";
import type { ResolvedMoment } from "../pool/types.ts";
import type { EventLog } from "./event-log.ts";
import type { PastView, ServedPast } from "./served-pool.ts";

/** Moments that are open at once, in one pool: each holds history and a part of the index in memory. */
export const VIEWS_MAX = 256;

/** A view as one client has it. */
export interface HeldView {
  readonly device: BlockDevice;
  /** A second call does nothing. */
  close(): void;
}

interface SharedView {
  readonly key: string;
  readonly moment: ResolvedMoment;
  readonly view: Promise<PastView>;
  holderCount: number;
}

export class SharedViews {
  readonly #past: Pick<ServedPast, "openView">;
  readonly #events: EventLog;
  readonly #views = new Map<string, SharedView>();

  constructor(past: Pick<ServedPast, "openView">, events: EventLog) {
    this.#past = past;
    this.#events = events;
  }

  /** Open, and being opened. */
  get count(): number {
    return this.#views.size;
  }

  /** Throws BUSY, and what the pool throws. */
  async open(moment: ResolvedMoment): Promise<HeldView> {
    const shared = this.#views.get(keyOf(moment)) ?? this.#begin(moment);
    shared.holderCount += 1;
    const view = await shared.view;
    let isHeld = true;
    const close = (): void => {
      if (isHeld) this.#leave(shared, view);
      isHeld = false;
    };
    return { device: view.device, close };
  }

  #begin(moment: ResolvedMoment): SharedView {
    if (this.#views.size >= VIEWS_MAX) {
      throw new StorageError(
        "BUSY",
        `view "${moment.stableName}": not opened: ${VIEWS_MAX} moments are open, and that is the limit`,
        {
          hint: 'disconnect clients of other moments; "varve info VOLUME" lists them',
          data: { viewCountMax: VIEWS_MAX },
        },
      );
    }
    const key = keyOf(moment);
    const view = this.#openNow(moment);
    const shared = { key, moment, view, holderCount: 0 };
    this.#views.set(key, shared);
    // Before anybody who waits is told: the next one tries anew.
    view.catch(() => this.#views.delete(key));
    return shared;
  }

  async #openNow(moment: ResolvedMoment): Promise<PastView> {
    const view = await this.#past.openView(moment);
    assert(view.device.isReadOnly, "nobody writes the past");
    this.#tell("view.opened", moment);
    return view;
  }

  #leave(shared: SharedView, view: PastView): void {
    shared.holderCount -= 1;
    assert(shared.holderCount >= 0, "a view is left as often as it was opened");
    if (shared.holderCount > 0) return;
    this.#views.delete(shared.key);
    view.close();
    this.#tell("view.closed", shared.moment);
  }

  #tell(event: string, { volume, stableName, timeMicros, sizeBytes }: ResolvedMoment): void {
    const fields = { volume, moment: stableName, at: formatTime(timeMicros), sizeBytes };
    this.#events.add("info", event, fields);
  }
}

function keyOf({ branch, lsn }: ResolvedMoment): string {
  return `${branch}#${lsn}`;
}
