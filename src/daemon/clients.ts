// SPDX-License-Identifier: Apache-2.0
//
// Who has which volume open. The catalog registers every export that a client opens; resize and remove
// ask here before they pull a disk from under somebody, and `varve list`, `info` and `top` show it. By
// the volume's id, not its name, because a volume can be renamed while it is in use.

import { StorageError } from "../base/errors.ts";
import type { ClientIdentity } from "../nbd/block-device.ts";
import type { CountedDevice } from "./counted-device.ts";

export interface OpenClient {
  readonly id: number;
  readonly identity: ClientIdentity;
  /** As the client named it. */
  readonly exportName: string;
  readonly volumeId: number;
  readonly connectedMicros: number;
  readonly device: CountedDevice;
}

export class ClientRegistry {
  /** In the order of connecting. */
  readonly #open = new Map<number, OpenClient>();
  readonly #countByVolume = new Map<number, number>();
  /** Volumes that are being changed in a way that no client may see half of. */
  readonly #keptOut = new Set<number>();
  /** Who waits for a volume's last client to go. */
  readonly #whenNone = new Map<number, (() => void)[]>();
  #lastId = 0;

  get count(): number {
    return this.#open.size;
  }

  countOf(volumeId: number): number {
    return this.#countByVolume.get(volumeId) ?? 0;
  }

  list(): Iterable<OpenClient> {
    return this.#open.values();
  }

  /**
   * Registers an open export, or throws VOLUME_BUSY while the volume is being changed. The returned
   * function takes the client off again; a second call does nothing.
   */
  add(client: Omit<OpenClient, "id">): () => void {
    if (this.#keptOut.has(client.volumeId)) {
      throw new StorageError(
        "VOLUME_BUSY",
        `export "${client.exportName}": not opened: its volume is being changed`,
        {
          hint: "connect again in a moment",
        },
      );
    }
    this.#lastId += 1;
    const id = this.#lastId;
    const { volumeId } = client;
    this.#open.set(id, { id, ...client });
    this.#countByVolume.set(volumeId, this.countOf(volumeId) + 1);
    return () => {
      if (!this.#open.delete(id)) return;
      const left = this.countOf(volumeId) - 1;
      if (left > 0) {
        this.#countByVolume.set(volumeId, left);
        return;
      }
      this.#countByVolume.delete(volumeId);
      for (const resolve of this.#whenNone.get(volumeId) ?? []) resolve();
      this.#whenNone.delete(volumeId);
    };
  }

  /** Resolves when nobody has the volume open; combine it with `keepOut`, or others may come. */
  async none(volumeId: number): Promise<void> {
    if (this.countOf(volumeId) === 0) return;
    await new Promise<void>((resolve) => {
      this.#whenNone.set(volumeId, [...(this.#whenNone.get(volumeId) ?? []), resolve]);
    });
  }

  /** Runs a change of a volume and lets no client in meanwhile. */
  async keepOut<T>(
    volume: { readonly id: number; readonly name: string },
    change: () => Promise<T>,
  ): Promise<T> {
    if (this.#keptOut.has(volume.id)) {
      throw new StorageError(
        "VOLUME_BUSY",
        `volume "${volume.name}": not changed: another change is under way`,
        {
          hint: "try again in a moment",
        },
      );
    }
    this.#keptOut.add(volume.id);
    try {
      return await change();
    } finally {
      this.#keptOut.delete(volume.id);
    }
  }
}
