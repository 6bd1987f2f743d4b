// SPDX-License-Identifier: Apache-2.0
//
// `varve backups TARGET`: the points that can be restored, oldest first, and who is at work in the target. It reads the
// target itself: no daemon and no pool is needed, for one looks at backups most when these are gone.

import type { CatalogState, PointEntry } from "../../backup/catalog-state.ts";
import { newestFirst, timeOf } from "../../backup/keep-rules.ts";
import { formatSize, formatTime } from "../../base/units.ts";
import { openTargetOf } from "../backup-target.ts";
import { type CommandContext, required } from "../command.ts";
import type { Output } from "../output.ts";
import { counted, shortTime } from "../values.ts";

/** Digits of an id that are shown, and are enough to name it. */
const ID_DIGITS = 8;

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const path = required(context, "TARGET");
  const volume = context.option("volume");
  const { catalog, descriptor, sealer } = await openTargetOf(context, path);
  const { state, damage } = await catalog.readSound();
  if (damage !== undefined)
    output.note(`${damage.message}; this is what was before the last change`);
  const points = newestFirst(state.points)
    .reverse()
    .filter(({ volumes }) => volume === undefined || volumes.some(({ name }) => name === volume));
  if (context.isJson) {
    const { repositoryId } = descriptor;
    output.json({ repositoryId, isEncrypted: sealer.isEncrypted, ...jsonOf(state, points) });
    return;
  }
  if (points.length === 0)
    output.note(`there is no point${volume === undefined ? "" : ` of "${volume}"`}`);
  else printPoints(points, output);
  printUsers(state, output);
}

function printPoints(points: readonly PointEntry[], output: Output): void {
  output.table(
    ["POINT", "ID", "TIME", "VOLUMES", "SIZE", "NEW", "NOTES"],
    points.map((point) => [
      point.name,
      point.id.slice(0, ID_DIGITS),
      shortTime(formatTime(timeOf(point))),
      volumesText(point),
      formatSize(point.volumes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)),
      formatSize(point.newBytes),
      point.isProtected ? "protected" : "",
    ]),
  );
}

function printUsers({ sessions, leases }: CatalogState, output: Output): void {
  for (const { id, purpose, volumes, beganMicros, host } of sessions) {
    const what = volumes.length === 0 ? purpose : `${purpose} of ${volumesText({ volumes })}`;
    const since = shortTime(formatTime(beganMicros));
    output.note(`session ${id.slice(0, ID_DIGITS)} is open: ${what} on ${host}, since ${since}`);
  }
  if (leases.length > 0) output.note(`${counted(leases.length, "reader")} at work`);
}

/** "db, web". */
export function volumesText({
  volumes,
}: {
  volumes: readonly { readonly name: string }[];
}): string {
  return volumes.map(({ name }) => name).join(", ");
}

function jsonOf({ sessions, leases }: CatalogState, points: readonly PointEntry[]): object {
  return {
    points: points.map(pointJson),
    sessions: sessions.map(({ id, purpose, poolId, volumes, beganMicros, host }) => ({
      id,
      purpose,
      poolId,
      volumes,
      beganAt: formatTime(beganMicros),
      host,
    })),
    readers: leases.map(({ id, purpose, expiresMicros }) => ({
      id,
      purpose,
      expiresAt: formatTime(expiresMicros),
    })),
  };
}

export function pointJson(point: PointEntry): object {
  const { id, name, createdMicros, poolId, volumes, newBytes, isProtected } = point;
  return {
    id,
    name,
    at: formatTime(timeOf(point)),
    createdAt: formatTime(createdMicros),
    poolId,
    volumes: volumes.map(({ timeMicros, ...volume }) => ({
      ...volume,
      at: formatTime(timeMicros),
    })),
    newBytes,
    isProtected,
  };
}
