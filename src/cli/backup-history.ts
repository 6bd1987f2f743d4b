// SPDX-License-Identifier: Apache-2.0
//
// The moments of a window before a backup's: what the volume was when it began, over the NBD door, and what happened since,
// out of the pool's own files, which can be read beside the daemon. A volume that is younger than the window, or went back
// in time within it, has less: from when it was made, or from its last rewind on; and so has one whose writes aren't kept
// that long.

import type { BackupVolume } from "../backup/backup-run.ts";
import type { HistoryEvent, VolumeHistory } from "../backup/history-backup.ts";
import { hasCode } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import { createClock } from "../host/node/clock.ts";
import { createZstd } from "../host/node/zstd.ts";
import { READER_MEMORY_BYTES } from "../log/log-dump.ts";
import { type PastSource, RecordedPast } from "../pool/recorded-past.ts";
import { tellEvents } from "../pool/volume-events.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { microsOf } from "./backup-pins.ts";
import { MomentSource } from "./backup-source.ts";
import type { CommandContext } from "./command.ts";
import type { DaemonClient } from "./daemon-client.ts";
import { openOfflinePool } from "./offline-pool.ts";

export interface OpenHistory {
  readonly history: VolumeHistory;
  close(): Promise<void>;
}

/** Of the last `windowMicros` before the volume's moment. `pinned`: VOLUME@NAME of that moment. */
export async function openHistory(
  context: CommandContext,
  daemon: DaemonClient,
  about: { readonly volume: BackupVolume; readonly pinned: string; readonly windowMicros: number },
): Promise<OpenHistory> {
  const { volume, pinned, windowMicros } = about;
  const { name, moment } = volume;
  // What is still on its way to the disk would be missing.
  await daemon.call("flush", {});
  const { log, poolId } = await openOfflinePool(await context.pool(), context.output);
  const source: PastSource = { memory: new BlockMemory(shapeOf(READER_MEMORY_BYTES)), log, poolId };
  const past = await RecordedPast.read(source);
  const nowMicros = createClock().wallMicros();
  const to = await past.resolve(name, { kind: "lsn", lsn: moment.lsn }, nowMicros);
  const begin = lineBegin(to.volume.states, moment.lsn);
  const wanted = await lsnAt(daemon, name, moment.timeMicros - windowMicros);
  const { everyWriteFrom } = await daemon.call("getHistory", { volume: name });
  const kept = everyWriteFrom?.lsn ?? moment.lsn;
  const fromLsn = Math.min(moment.lsn, Math.max(begin, wanted, kept));
  const found = await daemon.call("resolveMoment", { volume: name, moment: `#${fromLsn}` });
  if (fromLsn === kept && kept > Math.max(begin, wanted))
    context.output.note(
      `volume "${name}": its writes are kept from ${found.at} on: so the history of the backup begins there`,
    );
  const from = { lsn: found.lsn, branch: found.branch, timeMicros: microsOf(found.at) };
  const { snapshots } = await daemon.call("listSnapshots", { volume: name });
  // The pool's own names are of no use in another one.
  const names = snapshots
    .filter(({ lsn, name: label }) => lsn > fromLsn && lsn <= moment.lsn && !isPin(label))
    .map(({ lsn, name: label, at }) => ({ lsn, name: label, timeMicros: microsOf(at) }))
    .toSorted((a, b) => a.lsn - b.lsn);
  const atBegin = await MomentSource.open(daemon, `${name}@#${fromLsn}`);
  const history: VolumeHistory = {
    from,
    sizeBytes: found.sizeBytes,
    source: atBegin,
    pointWords: pinned,
    tell: async (take) => {
      const waiting = [...names];
      const takeNames = async (lsn: number): Promise<void> => {
        while (waiting[0] !== undefined && waiting[0].lsn < lsn)
          await take(namedEvent(waiting.shift() ?? { lsn: 0, name: "", timeMicros: 0 }));
      };
      const onEvent = async (event: HistoryEvent): Promise<void> => {
        await takeNames(event.lsn);
        await take(event);
      };
      await tellEvents({ ...source, zstd: createZstd(), past, fromLsn, to, onEvent });
      await takeNames(Number.POSITIVE_INFINITY);
    },
  };
  return { history, close: () => atBegin.close() };
}

function namedEvent(named: { lsn: number; name: string; timeMicros: number }): HistoryEvent {
  return { ...named, kind: "name", offsetBytes: 0, lengthBytes: 0, data: undefined };
}

function isPin(name: string): boolean {
  return /^backup-[0-9a-f]{8}-/.test(name);
}

/** Where the line of history that the moment is on begins. */
function lineBegin(
  states: readonly { readonly fromLsn: number; readonly branch: number }[],
  lsn: number,
): number {
  const before = states.filter(({ fromLsn }) => fromLsn <= lsn);
  const { branch } = before.at(-1) ?? { branch: 0 };
  let begin = before.at(-1)?.fromLsn ?? 0;
  for (const state of before.toReversed()) {
    if (state.branch !== branch) break;
    begin = state.fromLsn;
  }
  return begin;
}

/** 0 where the volume, or its history, is younger. */
async function lsnAt(daemon: DaemonClient, volume: string, timeMicros: number): Promise<number> {
  try {
    const at = formatTime(Math.max(0, timeMicros));
    return (await daemon.call("resolveMoment", { volume, moment: at })).lsn;
  } catch (error) {
    const isYounger =
      hasCode(error, "MOMENT_NOT_FOUND") ||
      hasCode(error, "MOMENT_GONE") ||
      hasCode(error, "VOLUME_NOT_FOUND");
    if (isYounger) return 0;
    throw error;
  }
}
