// SPDX-License-Identifier: Apache-2.0
//
// Which objects points need: point → runs and histories → packs. A prune may delete only what is in no such set, and a
// backup may refer only to packs that are. So nothing is guessed: a manifest or a head that can't be read is thrown, with
// its name, and whoever asked stops.
//
// Points share nearly all runs, so each is read once; what it costs is a request for each run that there is.

import type { ObjectStore } from "../host/object-store.ts";
import { HistoryReader } from "./history-reader.ts";
import type { HistoryPart } from "./history-writer.ts";
import { readManifest, runsOf } from "./manifest.ts";
import { PackTable } from "./place.ts";
import { RunReader } from "./run-reader.ts";
import type { RunPart } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import type { Sealer } from "./sealing.ts";

/** Heads that are read at once. */
const LANES = 8;

export class Reachable {
  readonly #store: ObjectStore;
  readonly #sealer: Sealer;
  /** Takes the packs of all runs that are opened. */
  readonly #packTable: PackTable = new PackTable();
  readonly #runs: RunReader;
  readonly #histories: HistoryReader;
  /** Packs are in the table. */
  readonly #objects: Set<string> = new Set();

  constructor(store: ObjectStore, sealer: Sealer) {
    this.#store = store;
    this.#sealer = sealer;
    this.#runs = new RunReader({ store, sealer, packs: this.#packTable });
    this.#histories = new HistoryReader({ store, sealer, packs: this.#packTable });
  }

  /** Adds all that a point needs; `manifest` is the object's name. Throws what reading throws. */
  async add(manifest: string): Promise<void> {
    const { volumes } = await readManifest(this.#store, this.#sealer, manifest);
    await this.addParts(volumes.flatMap(runsOf).flatMap(({ parts }) => parts));
    await this.addHistory(volumes.flatMap(({ history }) => history?.parts ?? []));
    this.#objects.add(manifest);
  }

  /** The same for parts of runs that no manifest names yet: a session's. */
  addParts(parts: readonly RunPart[]): Promise<void> {
    return this.#open("run", parts, (part) => this.#runs.open(part));
  }

  /** And for parts of histories. */
  addHistory(parts: readonly HistoryPart[]): Promise<void> {
    return this.#open("history", parts, (part) => this.#histories.open(part));
  }

  /** By the object's name: "packs/ab/ab…", "runs/…", "points/…". */
  has(object: string): boolean {
    const hash = object.slice(object.lastIndexOf("/") + 1);
    return this.#objects.has(object) || (this.hasPack(hash) && objectPath("pack", hash) === object);
  }

  /** Whoever opens a part learns of its packs. */
  async #open<T extends { readonly name: string }>(
    kind: "run" | "history",
    parts: readonly T[],
    open: (part: T) => Promise<unknown>,
  ): Promise<void> {
    const waiting = parts.filter(({ name }) => !this.#objects.has(objectPath(kind, name)));
    const lane = async () => {
      for (let part = waiting.pop(); part !== undefined; part = waiting.pop()) {
        await open(part);
        this.#objects.add(objectPath(kind, part.name));
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  }

  hasPack(name: string): boolean {
    return this.#packTable.has(name);
  }

  /** Names of all packs, in no order that means anything. */
  packNames(): IterableIterator<string> {
    return this.#packTable.names();
  }
}
