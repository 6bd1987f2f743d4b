// SPDX-License-Identifier: Apache-2.0
//
// `varve remove`: asks on a terminal, refuses without one. What was removed stays in the pool's history
// until retention lets it go; of a snapshot only the name goes at once.

import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { confirm } from "../output.ts";
import { snapshotOf } from "../values.ts";

export async function run(context: CommandContext): Promise<number | undefined> {
  const name = required(context, "NAME");
  return name.includes("@") ? removeSnapshot(context, name) : removeVolume(context, name);
}

async function removeVolume(context: CommandContext, name: string): Promise<number | undefined> {
  const { output } = context;
  const daemon = await context.daemon();
  if (!context.flag("yes")) {
    // Looked up first: nobody should be asked about a volume that isn't there.
    const volume = await daemon.call("getVolume", { volume: name });
    const question = `remove volume "${name}" (${formatSize(volume.sizeBytes)})`;
    if (!(await isMeant(context, question, name))) return 1;
  }
  const removed = await daemon.call("removeVolume", { volume: name });
  if (context.isJson) output.json(removed);
  else output.line(`volume "${removed.name}" removed`);
  return;
}

async function removeSnapshot(context: CommandContext, text: string): Promise<number | undefined> {
  const { output } = context;
  const { volume, name: snapshot } = snapshotOf("argument", text);
  const daemon = await context.daemon();
  if (!context.flag("yes")) {
    const { at } = await daemon.call("resolveMoment", { volume, moment: snapshot });
    if (!(await isMeant(context, `remove snapshot "${text}" (${at})`, text))) return 1;
  }
  const removed = await daemon.call("removeSnapshot", { volume, snapshot });
  if (context.isJson) output.json(removed);
  else output.line(`snapshot "${removed.volume}@${removed.name}" removed; it was #${removed.lsn}`);
  return;
}

async function isMeant(context: CommandContext, question: string, name: string): Promise<boolean> {
  const isConfirmed = await confirm(question, `say it with "varve remove ${name} --yes"`);
  if (!isConfirmed) context.output.note("nothing was removed");
  return isConfirmed;
}
