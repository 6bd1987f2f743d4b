// SPDX-License-Identifier: Apache-2.0
//
// The pool as a store that remembers, for lives that look back (src/sim/history-life.ts).

import type { Moment } from "../../src/base/moment.ts";
import type { Pool } from "../../src/pool/pool.ts";
import type { PoolSettings } from "../../src/pool/types.ts";
import type {
  Branching,
  HistoryDriver,
  HistoryUnderTest,
  MomentFound,
  NameFound,
  NameTarget,
  RetentionSpans,
  StoreHead,
  ViewUnderTest,
  VolumeFound,
} from "../../src/sim/history-under-test.ts";
import type { StoreHost } from "../../src/sim/machine.ts";
import { openOrCreate, PoolAdapter, SIM_SETTINGS } from "./pool-driver.ts";

/** A pool of which every moment is looked at; `wrap` may break it. */
export function historyDriver(
  settings: Partial<PoolSettings> = {},
  wrap: (store: HistoryUnderTest) => HistoryUnderTest = (store) => store,
): HistoryDriver {
  const all = { ...SIM_SETTINGS, ...settings };
  return {
    name: "pool and its past",
    volumeBytesMin: 1 << 20,
    ack: all.ack,
    start: async (host) => wrap(new HistoryAdapter(await openOrCreate(host, all), host)),
  };
}

class HistoryAdapter extends PoolAdapter implements HistoryUnderTest {
  readonly #clock: StoreHost["clock"];

  constructor(pool: Pool, host: StoreHost) {
    super(pool, host);
    this.#clock = host.clock;
  }

  get head(): StoreHead {
    const { log } = this.pool;
    return { lsn: log.nextLsn - 1, timeMicros: log.newestMicros };
  }

  get recoveredLsn(): number {
    return (this.pool.recovery?.position.nextLsn ?? 1) - 1;
  }

  get wallMicros(): number {
    return this.#clock.wallMicros();
  }

  get retention(): RetentionSpans {
    return this.pool.policy.retention;
  }

  allVolumes(): VolumeFound[] {
    return this.pool.volumes({ includesRemoved: true }).map((volume) => ({
      id: volume.id,
      name: volume.name,
      sizeBytes: volume.sizeBytes,
      isRemoved: volume.removedMicros !== undefined,
      retention: volume.retention,
    }));
  }

  names(): NameFound[] {
    return this.pool.snapshots().map(({ volumeId, name, lsn }) => ({ volumeId, name, lsn }));
  }

  resolve(volume: string, moment: Moment): Promise<MomentFound> {
    return this.pool.resolve(volume, moment);
  }

  async openView(moment: MomentFound): Promise<ViewUnderTest> {
    const stableName = `${moment.volume}@#${moment.lsn}`;
    const view = await this.pool.openView({ ...moment, stableName, isRelative: false });
    return {
      submit: (request, done) => this.submitTo(view.device, request, done),
      close: () => view.close(),
    };
  }

  async diff(
    from: MomentFound,
    to: MomentFound,
    tell: (offsetBytes: number, lengthBytes: number) => void,
  ): Promise<void> {
    const extent = (offsetBytes: number, lengthBytes: number): boolean => {
      tell(offsetBytes, lengthBytes);
      return true;
    };
    const range = { offsetBytes: 0, lengthBytes: to.sizeBytes };
    const { untoldBytes } = await this.pool.diff(from, to, range, { extent });
    if (untoldBytes > 0) throw new Error(`${untoldBytes} bytes of a sound disk can't be compared`);
  }

  async setRetention(volume: string | undefined, spans: RetentionSpans | undefined): Promise<void> {
    if (volume !== undefined) await this.pool.setVolumeRetention(volume, spans);
    else if (spans !== undefined) await this.pool.setPolicy({ retention: spans });
  }

  nameMoment(
    targets: readonly NameTarget[],
    options: { readonly at?: Moment | undefined; readonly keepMicros?: number | undefined },
  ): Promise<readonly NameFound[]> {
    return this.pool.snapshot(targets, options);
  }

  async renameMoment(target: NameTarget, name: string): Promise<void> {
    await this.pool.renameSnapshot(target, name);
  }

  async forgetMoment(target: NameTarget): Promise<void> {
    await this.pool.removeSnapshot(target);
  }

  async collect(): Promise<void> {
    await this.pool.collect({ isDryRun: false });
  }

  readonly branching: Branching = {
    clone: async (volume, moment, name) => {
      await this.pool.clone(volume, moment, name);
    },
    rewind: async (volume, moment) => {
      await this.pool.rewind(volume, moment);
    },
    undo: async (volume) => {
      await this.pool.undo(volume);
    },
  };
}
