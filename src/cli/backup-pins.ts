// SPDX-License-Identifier: Apache-2.0
//
// The names that backups give to their moments: "backup-1a2b3c4d-20261122T013415-9f3c", with the first digits of the
// target's id. A moment that has one stays, so the next backup can ask what changed since, whatever the retention and
// however often this one was interrupted. A volume has one per target, and for a while one more: the new one is made
// before the backup begins, the old one goes when it is committed. What a crash leaves in between is an extra name, which
// the next backup takes away.

import type { SnapshotJson } from "../api/types.ts";
import type { ManifestMoment } from "../backup/manifest.ts";
import { hasCode } from "../base/errors.ts";
import { parseTime } from "../base/moment-time.ts";
import { formatTime } from "../base/units.ts";
import type { Clock, Random } from "../host/ports.ts";
import type { DaemonClient } from "./daemon-client.ts";

/** Of backups that didn't end: their moments make the next one quicker, older ones only hold history. */
const INTERRUPTED_MAX = 3;

function prefixOf(targetId: string): string {
  return `backup-${targetId.slice(0, 8)}-`;
}

/** A name that no other backup has. */
export function newPinName(targetId: string, host: { clock: Clock; random: Random }): string {
  const time = formatTime(host.clock.wallMicros()).slice(0, 19).replaceAll(/[-:]/g, "");
  const chance = new Uint8Array(2);
  host.random.fill(chance);
  return `${prefixOf(targetId)}${time}-${Buffer.from(chance).toString("hex")}`;
}

/** Those of a volume for one target, oldest moment first. */
async function pinsOf(
  daemon: DaemonClient,
  volume: string,
  targetId: string,
): Promise<SnapshotJson[]> {
  const { snapshots } = await daemon.call("listSnapshots", { volume });
  return snapshots.filter(({ name }) => name.startsWith(prefixOf(targetId)));
}

/** The backup named `pin` is committed: no other is needed. */
export async function forgetFormerPins(
  daemon: DaemonClient,
  { volume, targetId, pin }: { volume: string; targetId: string; pin: string },
): Promise<void> {
  for (const { name } of await pinsOf(daemon, volume, targetId))
    if (name !== pin) await forget(daemon, volume, name);
}

/** Before a backup: names of others that didn't end are bounded. `isNeeded`: a point is as of this moment. */
export async function tidyPins(
  daemon: DaemonClient,
  options: { volume: string; targetId: string; isNeeded: (lsn: number) => boolean },
): Promise<void> {
  const { volume, targetId, isNeeded } = options;
  const extra = (await pinsOf(daemon, volume, targetId)).filter(({ lsn }) => !isNeeded(lsn));
  for (const { name } of extra.slice(0, -INTERRUPTED_MAX)) await forget(daemon, volume, name);
}

async function forget(daemon: DaemonClient, volume: string, snapshot: string): Promise<void> {
  try {
    await daemon.call("setSnapshot", { volume, snapshot, isProtected: false });
    await daemon.call("removeSnapshot", { volume, snapshot });
  } catch (error) {
    if (!hasCode(error, "MOMENT_NOT_FOUND")) throw error;
  }
}

/** The words for a moment of an earlier backup of the volume; undefined: it isn't there any more. */
export async function findMoment(
  daemon: DaemonClient,
  volume: { readonly name: string; readonly id: number },
  moment: ManifestMoment,
): Promise<string | undefined> {
  const { snapshots } = await daemon.call("listSnapshots", { volume: volume.name });
  const named = snapshots.filter(({ lsn }) => lsn === moment.lsn).map(({ name }) => name);
  // By its number only while the volume has the name that it had then.
  for (const words of [...named, `#${moment.lsn}`]) {
    const found = await resolveOrNot(daemon, volume.name, words);
    // A pool that was put back to an earlier state counts again from there: the time tells.
    const isSame =
      found?.volumeId === volume.id &&
      found.lsn === moment.lsn &&
      found.branch === moment.branch &&
      microsOf(found.at) === moment.timeMicros;
    if (isSame) return `${volume.name}@${words}`;
  }
  return undefined;
}

async function resolveOrNot(daemon: DaemonClient, volume: string, moment: string) {
  try {
    return await daemon.call("resolveMoment", { volume, moment });
  } catch (error) {
    if (
      hasCode(error, "MOMENT_NOT_FOUND") ||
      hasCode(error, "MOMENT_GONE") ||
      hasCode(error, "VOLUME_NOT_FOUND")
    )
      return undefined;
    throw error;
  }
}

/** Of a time that the daemon spelled. */
export function microsOf(at: string): number {
  const micros = parseTime(at);
  return typeof micros === "number" ? micros : 0;
}
