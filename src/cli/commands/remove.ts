// SPDX-License-Identifier: Apache-2.0
//
// `varve remove`: asks on a terminal, refuses without one. What was removed stays in the pool's history
// until retention lets it go.

import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { confirm } from "../output.ts";

export async function run(context: CommandContext): Promise<number | undefined> {
  const { output } = context;
  const name = required(context, "VOLUME");
  const daemon = await context.daemon();
  if (!context.flag("yes")) {
    // Looked up first: nobody should be asked about a volume that isn't there.
    const volume = await daemon.call("getVolume", { volume: name });
    const question = `remove volume "${name}" (${formatSize(volume.sizeBytes)})`;
    const isMeant = await confirm(question, `say it with "varve remove ${name} --yes"`);
    if (!isMeant) {
      output.note("nothing was removed");
      return 1;
    }
  }
  const removed = await daemon.call("removeVolume", { volume: name });
  if (context.isJson) output.json(removed);
  else output.line(`volume "${removed.name}" removed`);
  return;
}
