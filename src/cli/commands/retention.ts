// SPDX-License-Identifier: Apache-2.0
//
// `varve retention`: how much history is kept, of a volume or of the pool; without an option it only says so. Options
// that aren't given leave their part as it is: nobody lets go of daily moments by lengthening the hourly ones. What a
// shorter retention lets go is given back by garbage collection, not by this command. With --dry-run it changes nothing,
// and says what would go.

import type { RetentionJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import type { CommandContext } from "../command.ts";
import type { DaemonClient } from "../daemon-client.ts";
import { previewOf, printPreview } from "../retention-preview.ts";
import { formatRetention, historyText, retentionOf, spanOf } from "../values.ts";

const SPANS = {
  "every-write": "everyWriteMs",
  hourly: "hourlyMs",
  daily: "dailyMs",
  weekly: "weeklyMs",
  monthly: "monthlyMs",
} as const satisfies Record<string, keyof RetentionJson>;

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = context.argument("VOLUME");
  const wanted = wantedBy(context);
  if (wanted === null && volume === undefined) {
    throw new StorageError("USAGE", "retention: refused: the pool inherits from nobody", {
      hint: 'name a volume: "varve retention VOLUME --inherit"',
    });
  }
  if (context.flag("dry-run")) {
    const preview = await previewOf(context, { volume, retention: wanted });
    if (context.isJson) output.json(preview);
    else printPreview(preview, output);
    return;
  }
  const daemon = await context.daemon();
  if (volume !== undefined) {
    const { retention, isInherited } = await ofVolume(daemon, volume, wanted);
    if (context.isJson) output.json({ ...retention, isInherited });
    else output.line(`${formatRetention(retention)}${isInherited ? " (as the pool says)" : ""}`);
    return;
  }
  const isShown = wanted === undefined || wanted === null;
  const pool = isShown
    ? await daemon.call("getPool", {})
    : await daemon.call("setPool", { retention: wanted });
  const { retention, historyBytes, historyAt } = pool;
  // What it holds was counted under the retention before, if this is a new one.
  const isCounted = isShown && historyBytes !== undefined && historyAt !== undefined;
  if (context.isJson)
    output.json(isCounted ? { ...retention, historyBytes, historyAt } : retention);
  else {
    output.line(formatRetention(retention));
    if (isCounted) output.line(`history holds ${historyText(historyBytes, historyAt)}`);
  }
}

async function ofVolume(
  daemon: DaemonClient,
  volume: string,
  wanted: Partial<RetentionJson> | null | undefined,
): Promise<{ retention: RetentionJson; isInherited: boolean }> {
  const { retention: own } =
    wanted === undefined
      ? await daemon.call("getVolume", { volume })
      : await daemon.call("setVolume", { volume, retention: wanted });
  const retention = own ?? (await daemon.call("getPool", {})).retention;
  return { retention, isInherited: own === undefined };
}

/** undefined: nothing; null: the pool's. */
function wantedBy(context: CommandContext): Partial<RetentionJson> | null | undefined {
  const spans: { -readonly [key in keyof RetentionJson]?: RetentionJson[key] } = {};
  for (const [option, key] of Object.entries(SPANS)) {
    const text = context.option(option);
    if (text !== undefined) spans[key] = spanOf(`option "--${option}"`, text);
  }
  const words = ["all", "none", "inherit"].filter((word) => context.flag(word));
  const hasSpans = Object.keys(spans).length > 0;
  if (words.length + (hasSpans ? 1 : 0) > 1) {
    throw new StorageError("USAGE", "retention: refused: the options contradict each other", {
      hint: "give one of --all, --none and --inherit, or times",
    });
  }
  const [word] = words;
  if (word === "inherit") return null;
  return word === undefined ? (hasSpans ? spans : undefined) : retentionOf("retention", word);
}
