// SPDX-License-Identifier: Apache-2.0
//
// `varve snapshots`: moments that have names, oldest first, of one volume or of all. Each is printed as it is typed
// elsewhere, db@v1, because that is what the list is looked at for.

import type { SnapshotJson } from "../../api/types.ts";
import { formatSize } from "../../base/units.ts";
import type { CommandContext } from "../command.ts";
import { shortTime } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = context.argument("VOLUME");
  const daemon = await context.daemon();
  const answer = await daemon.call("listSnapshots", volume === undefined ? {} : { volume });
  if (context.isJson) {
    output.json(answer);
    return;
  }
  if (answer.snapshots.length === 0) {
    const whose = volume ?? "VOLUME";
    output.note(`there is no snapshot; take one with "varve snapshot ${whose}@NAME"`);
    return;
  }
  output.table(
    ["NAME", "SIZE", "MOMENT", "TIME", "EXPIRES", "NOTES"],
    answer.snapshots.map((snapshot) => [
      `${snapshot.volume}@${snapshot.name}`,
      formatSize(snapshot.sizeBytes),
      `#${snapshot.lsn}`,
      shortTime(snapshot.at),
      snapshot.expiresAt === undefined ? "never" : shortTime(snapshot.expiresAt),
      notesOf(snapshot),
    ]),
  );
}

function notesOf({ isProtected, description }: SnapshotJson): string {
  return [isProtected ? "protected" : "", description].filter((text) => text !== "").join(", ");
}
