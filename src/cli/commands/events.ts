// SPDX-License-Identifier: Apache-2.0
//
// `varve events`: the daemon's latest events, and with --follow those to come, until one end stops.
// One line each, so that grep and cut work on them.

import type { EventJson } from "../../api/types.ts";
import type { CommandContext } from "../command.ts";

export async function run({ daemon, flag, isJson, output }: CommandContext): Promise<undefined> {
  for await (const event of (await daemon()).events(flag("follow"))) {
    if (isJson) output.jsonLine(event);
    else output.line(describe(event));
  }
}

function describe({ at, level, event, fields }: EventJson): string {
  const facts = Object.entries(fields).map(([key, value]) => {
    return `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`;
  });
  return [at, level.padEnd(5), event, ...facts].join("  ");
}
