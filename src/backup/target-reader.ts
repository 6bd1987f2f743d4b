// SPDX-License-Identifier: Apache-2.0
//
// What all readers of one target share within a program: which packs are known under which ordinals, and the caches of
// runs and packs. A program has one, for all the points that it reads.

import type { ObjectStore } from "../host/object-store.ts";
import type { Zstd } from "../host/ports.ts";
import { HistoryReader } from "./history-reader.ts";
import { PackReader } from "./pack-reader.ts";
import { PackTable } from "./place.ts";
import { RunReader } from "./run-reader.ts";
import type { Sealer } from "./sealing.ts";

/** For decompressed groups: 256 of them. */
const CACHE_BYTES: number = 64 << 20;

export class TargetReader {
  readonly store: ObjectStore;
  readonly sealer: Sealer;
  readonly packTable: PackTable = new PackTable();
  readonly packs: PackReader;
  readonly runs: RunReader;
  readonly histories: HistoryReader;

  constructor(options: {
    readonly store: ObjectStore;
    readonly sealer: Sealer;
    readonly zstd: Zstd;
    /** 64 MiB unless given. */
    readonly cacheBytes?: number;
  }) {
    const { store, sealer, zstd, cacheBytes = CACHE_BYTES } = options;
    this.store = store;
    this.sealer = sealer;
    const packs = this.packTable;
    this.packs = new PackReader({ store, sealer, zstd, packs, cacheBytes });
    this.runs = new RunReader({ store, sealer, packs });
    this.histories = new HistoryReader({ store, sealer, packs });
  }
}
