// SPDX-License-Identifier: Apache-2.0
//
// `varve list`: the volumes, one line each. --names is for scripts and for shell completion: nothing
// but names, also without a volume.

import { formatSize } from "../../base/units.ts";
import type { CommandContext } from "../command.ts";
import { shortTime } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const daemon = await context.daemon();
  const hasRemoved = context.flag("removed");
  const answer = await daemon.call("listVolumes", hasRemoved ? { removed: "true" } : {});
  if (context.isJson) return output.json(answer) as undefined;
  const { volumes } = answer;
  if (context.flag("names")) {
    for (const { name } of volumes) output.line(name);
    return;
  }
  if (volumes.length === 0) {
    output.note('the pool has no volume; make one with "varve create NAME SIZE"');
    return;
  }
  const titles = [
    "NAME",
    "SIZE",
    "CLIENTS",
    "CREATED",
    ...(hasRemoved ? ["REMOVED"] : []),
    "NOTES",
  ];
  output.table(
    titles,
    volumes.map((volume) => [
      volume.name,
      formatSize(volume.sizeBytes),
      volume.clientCount,
      shortTime(volume.createdAt),
      ...(hasRemoved ? [volume.removedAt === undefined ? "" : shortTime(volume.removedAt)] : []),
      [volume.isReadOnly ? "read-only" : "", volume.description]
        .filter((text) => text !== "")
        .join(", "),
    ]),
  );
}
