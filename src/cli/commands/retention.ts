// SPDX-License-Identifier: Apache-2.0
//
// `varve retention`: how much history the pool keeps; without an option it only says so. What a shorter
// one lets go is given back by garbage collection, not by this command.

import type { RetentionJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import type { CommandContext } from "../command.ts";
import { formatRetention, retentionOf } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const wanted = wantedBy(context);
  const daemon = await context.daemon();
  const { retention } =
    wanted === undefined
      ? await daemon.call("getPool", {})
      : await daemon.call("setPool", { retention: wanted });
  if (context.isJson) output.json(retention);
  else output.line(formatRetention(retention));
}

function wantedBy(context: CommandContext): RetentionJson | undefined {
  const everyWrite = context.option("every-write");
  const words = ["all", "none"].filter((word) => context.flag(word));
  if (words.length + (everyWrite === undefined ? 0 : 1) > 1) {
    throw new StorageError("USAGE", "retention: refused: the options contradict each other", {
      hint: "give one of --all, --none and --every-write TIME",
    });
  }
  if (everyWrite !== undefined) return retentionOf('option "--every-write"', everyWrite);
  const [word] = words;
  return word === undefined ? undefined : retentionOf("retention", word);
}
