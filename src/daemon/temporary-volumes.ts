// SPDX-License-Identifier: Apache-2.0
//
// Clones for one use: removed when their last client has left, after at least one came, and when the daemon stops; those
// that a crash left, when it starts. What was written to them goes as that of any removed volume does: history has it for
// as long as it is promised.

import { StorageError } from "../base/errors.ts";
import type { VolumeSummary } from "../pool/types.ts";
import type { ClientRegistry } from "./clients.ts";
import type { EventLog } from "./event-log.ts";
import type { ServedPool } from "./served-pool.ts";

export interface TemporaryVolumesOptions {
  readonly pool: Pick<ServedPool, "volumes" | "removeVolume">;
  readonly clients: ClientRegistry;
  readonly events: EventLog;
}

export class TemporaryVolumes {
  readonly #options: TemporaryVolumesOptions;
  /** By volume. */
  readonly #going = new Map<number, Promise<void>>();

  constructor(options: TemporaryVolumesOptions) {
    this.#options = options;
  }

  /** A client of the live disk has left. */
  async left(volumeId: number): Promise<void> {
    const { pool, clients } = this.#options;
    const volume = pool.volumes().find(({ id }) => id === volumeId);
    if (volume?.isTemporary !== true || clients.countOf(volumeId) > 0) return;
    await this.#remove(volume);
  }

  /** The daemon starts, or stops: nobody has one of them open. */
  async removeAll(): Promise<void> {
    for (const volume of this.#options.pool.volumes())
      if (volume.isTemporary === true) await this.#remove(volume);
  }

  /** Once, whoever asks for it. */
  #remove(volume: VolumeSummary): Promise<void> {
    const going = this.#going.get(volume.id) ?? this.#removeNow(volume);
    this.#going.set(volume.id, going);
    return going.finally(() => this.#going.delete(volume.id));
  }

  /** What can't go now goes later, at the latest when the daemon starts again. */
  async #removeNow(volume: VolumeSummary): Promise<void> {
    const { pool, clients, events } = this.#options;
    try {
      await clients.keepOut(volume, () => pool.removeVolume(volume.name));
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      events.add("warn", "volume.temporary-kept", { volume: volume.name, reason: error.message });
    }
  }
}
