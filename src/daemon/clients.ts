// SPDX-License-Identifier: Apache-2.0
//
// Who has which volume open. The catalog registers every export that a client opens; resize and remove
// ask here before they pull a disk from under somebody, and `varve list`, `info` and `top` show it. By
// the volume's id, not its name, because a volume can be renamed while it is in use. Who reads the past of
// a volume is listed with it but isn't in the way of anything: no change touches a view.

import { StorageError } from "../base/errors.ts";
import type { ClientIdentity } from "../nbd/block-device.ts";
import type { ResolvedMoment } from "../pool/types.ts";
import type { CountedDevice } from "./counted-device.ts";

export interface OpenClient {
  readonly id: number;
  readonly identity: ClientIdentity;
  /** Ends its connection; the client leaves this register when the last of its requests is done. */
  readonly hangUp: (reason: string) => void;
  /** As the client named it. */
  readonly exportName: string;
  readonly volumeId: number;
  /** What a view shows; undefined: the live disk. */
  readonly moment?: ResolvedMoment;
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

  /** Clients of the live disk. */
  countOf(volumeId: number): number {
    return this.#countByVolume.get(volumeId) ?? 0;
  }

  list(): Iterable<OpenClient> {
    return this.#open.values();
  }

  /** Those that a change of the live disk touches. */
  live(volumeId: number): OpenClient[] {
    return [...this.#open.values()].filter(
      (client) => client.volumeId === volumeId && client.moment === undefined,
    );
  }

  /**
   * Registers an open export, or throws VOLUME_BUSY while the volume is being changed. The returned
   * function takes the client off again; a second call does nothing.
   */
  add(client: Omit<OpenClient, "id">): () => void {
    if (client.moment !== undefined) return this.#addToView(client);
    if (this.#keptOut.has(client.volumeId)) {
      throw new StorageError(
        "VOLUME_BUSY",
        `export "${client.exportName}": not opened: its volume is being changed`,
        {
          hint: "connect again in a moment",
        },
      );
    }
    const { volumeId } = client;
    const id = this.#list(client);
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

  #addToView(client: Omit<OpenClient, "id">): () => void {
    const id = this.#list(client);
    return () => {
      this.#open.delete(id);
    };
  }

  #list(client: Omit<OpenClient, "id">): number {
    this.#lastId += 1;
    this.#open.set(this.#lastId, { id: this.#lastId, ...client });
    return this.#lastId;
  }

  /** Resolves when nobody has the live disk open; combine it with `keepOut`, or others may come. */
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
