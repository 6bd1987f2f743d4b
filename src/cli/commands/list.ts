// SPDX-License-Identifier: Apache-2.0
//
// `varve list`: the volumes, one line each. --names is for scripts and for shell completion: nothing
// but names, also without a volume. What is attached on this machine the daemon doesn't know: the pool's
// directory does.

import { resolve } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { formatSize } from "../../base/units.ts";
import { attachmentsOf, isUp, pathOf } from "../attachment.ts";
import type { CommandContext } from "../command.ts";
import { shortTime } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const daemon = await context.daemon();
  const hasRemoved = context.flag("removed");
  const answer = await daemon.call("listVolumes", hasRemoved ? { removed: "true" } : {});
  const paths = await attachedPaths(resolve(await context.pool()));
  const volumes = answer.volumes.map((volume) => {
    const path = paths.get(volume.id);
    return path === undefined ? volume : { ...volume, attachedAs: path };
  });
  if (context.isJson) {
    output.json({ volumes });
    return;
  }
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
      [
        volume.isTemporary === true ? "temporary" : "",
        volume.isReadOnly ? "read-only" : "",
        volume.isDeduplicated ? "" : "dedup off",
        volume.isCompressed ? "" : "compression off",
        "attachedAs" in volume ? `attached as ${volume.attachedAs}` : "",
        volume.description,
      ]
        .filter((text) => text !== "")
        .join(", "),
    ]),
  );
}

/** Where volumes are attached, by their ids; empty for a user who may not know. */
async function attachedPaths(pool: string): Promise<Map<number, string>> {
  try {
    const states = await attachmentsOf(pool);
    const areUp = await Promise.all(states.map(isUp));
    const up = states.filter((_, index) => areUp[index]);
    return new Map(up.map((state) => [state.volumeId, pathOf(state)]));
  } catch (error) {
    if (error instanceof StorageError && error.data.errno === "EACCES") return new Map();
    throw error;
  }
}
