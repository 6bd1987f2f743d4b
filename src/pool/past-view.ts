// SPDX-License-Identifier: Apache-2.0
//
// A moment of a volume as a disk: a branch that begins there and that nobody writes. It keeps its moment from being let go
// until it is closed.

import type { PageDirectory } from "../index/page-directory.ts";
import { type DevicePool, VolumeDevice } from "../volume/volume-device.ts";
import type { HistoryKeeper } from "./history-keeper.ts";
import { chunkCountOf } from "./history-needs.ts";
import { viewGone } from "./missing-moment.ts";
import type { ReachedHistory } from "./reached-history.ts";
import type { ResolvedMoment } from "./types.ts";

export interface PastViewOptions {
  readonly pool: DevicePool;
  readonly history: ReachedHistory;
  readonly keeper: HistoryKeeper;
}

export class PastView {
  readonly device: VolumeDevice;
  readonly #pool: DevicePool;
  readonly #directory: PageDirectory;
  readonly #unpin: () => void;

  /** Nothing is read yet. Throws MOMENT_GONE when the moment was let go since it was resolved. */
  constructor({ pool, history, keeper }: PastViewOptions, moment: ResolvedMoment) {
    const { branch, lsn, sizeBytes } = moment;
    if (!history.isReachable(branch, lsn)) throw viewGone(moment, history);
    this.#pool = pool;
    this.#unpin = keeper.pin({ branch, lsn, chunkCount: chunkCountOf(sizeBytes) });
    this.#directory = pool.index.addView({ branch, lsn });
    this.device = new VolumeDevice(pool, this.#directory, { sizeBytes, isReadOnly: true });
  }

  /** Once. What is still being read of it ends with an error. */
  close(): void {
    this.#pool.index.removeView(this.#directory);
    this.#unpin();
  }
}
