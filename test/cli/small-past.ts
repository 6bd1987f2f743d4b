// SPDX-License-Identifier: Apache-2.0
//
// The past of a small pool: moments without content. Every record is a microsecond; "now" and "-10m" are
// another moment each time they are asked for, as in a pool that is written. Views can be held up on their
// way, or fail, and are counted.

import { StorageError } from "../../src/base/errors.ts";
import { isRelative, type Moment, stableName } from "../../src/base/moment.ts";
import type { PastView, ServedPast } from "../../src/daemon/served-pool.ts";
import type {
  DiffKind,
  DiffMoment,
  DiffRange,
  DiffSummary,
  DiffVisitor,
  ResolvedMoment,
  SnapshotSummary,
  VolumeSummary,
} from "../../src/pool/types.ts";
import type { SmallPool } from "./small-pool.ts";

/** When the pool's first record was written. */
const START_MICROS = 1e15;

export class SmallPast implements ServedPast {
  /** The newest record. */
  headLsn = 1000;
  readonly named: SnapshotSummary[] = [];
  /** Awaited before a view is there; tests replace it. */
  beforeOpen: () => Promise<void> = () => Promise.resolve();
  resolveCount = 0;
  openedCount = 0;
  closedCount = 0;
  /** What volumes were called once, by that name. */
  readonly formerNames: Map<string, number> = new Map();
  readonly #pool: SmallPool;

  constructor(pool: SmallPool) {
    this.#pool = pool;
  }

  get openCount(): number {
    return this.openedCount - this.closedCount;
  }

  async resolve(name: string, moment: Moment): Promise<ResolvedMoment> {
    this.resolveCount += 1;
    const { id, sizeBytes } = this.#volume(name);
    const lsn = this.#lsnOf(name, moment);
    if (lsn > this.headLsn) {
      throw new StorageError(
        "MOMENT_NOT_FOUND",
        `moment "#${lsn}" of volume "${name}": not found: the newest is #${this.headLsn}`,
      );
    }
    return {
      volumeId: id,
      volume: name,
      branch: id,
      lsn,
      timeMicros: START_MICROS + lsn,
      sizeBytes,
      stableName: stableName(name, lsn),
      isRelative: isRelative(moment),
    };
  }

  async openView({ volumeId, sizeBytes }: ResolvedMoment): Promise<PastView> {
    await this.beforeOpen();
    this.openedCount += 1;
    const volumes = this.#pool.volumes({ includesRemoved: true });
    const { name } = volumes.find(({ id }) => id === volumeId) as VolumeSummary;
    const device = { ...this.#pool.device(name), sizeBytes, isReadOnly: true };
    let isOpen = true;
    const close = (): void => {
      if (!isOpen) throw new Error("a view is closed twice");
      isOpen = false;
      this.closedCount += 1;
    };
    return { device, close };
  }

  /** As many blocks as there are records between, each of another kind. */
  async diff(
    from: DiffMoment,
    to: DiffMoment,
    { offsetBytes, lengthBytes }: DiffRange,
    visitor: DiffVisitor,
  ): Promise<DiffSummary> {
    await visitor.room?.();
    const sums = { data: 0, zero: 0, hole: 0 };
    const count = Math.min(Math.abs(to.lsn - from.lsn), Math.floor(lengthBytes / 8192));
    for (let at = 0; at < count; at++) {
      const kind = (["data", "zero", "hole"] as const)[at % 3] as DiffKind;
      sums[kind] += 4096;
      if (!visitor.extent(offsetBytes + at * 8192, 4096, kind)) break;
      await visitor.room?.();
    }
    return {
      fromSizeBytes: from.sizeBytes,
      toSizeBytes: to.sizeBytes,
      extentCount: count,
      dataBytes: sums.data,
      zeroBytes: sums.zero,
      holeBytes: sums.hole,
      untoldBytes: 0,
      nextOffsetBytes: undefined,
    };
  }

  snapshots(): readonly SnapshotSummary[] {
    return this.named;
  }

  #lsnOf(volume: string, moment: Moment): number {
    switch (moment.kind) {
      case "now":
      case "ago":
        this.headLsn += 1;
        return this.headLsn;
      case "lsn":
        return moment.lsn;
      case "time":
        return moment.micros - START_MICROS;
      case "flush":
        return this.#lsnOf(volume, moment.at);
      case "name": {
        const { name } = moment;
        const found = this.named.find((one) => one.volume === volume && one.name === name);
        if (found !== undefined) return found.lsn;
        throw new StorageError(
          "MOMENT_NOT_FOUND",
          `moment "${name}" of volume "${volume}": not found: no snapshot has that name`,
        );
      }
    }
  }

  #volume(name: string): VolumeSummary {
    const volumes = this.#pool.volumes({ includesRemoved: true });
    const id = this.formerNames.get(name);
    const found = volumes.findLast((one) => one.id === id || one.name === name);
    if (found === undefined)
      throw new StorageError("VOLUME_NOT_FOUND", `volume "${name}": not found`);
    return found;
  }
}
