// SPDX-License-Identifier: Apache-2.0
//
// `varve rename`: another name for the same disk, or for the same moment of one; it takes effect for whoever connects
// from now on, and leaves those who are connected alone. What is attached here is told the new name.

import { resolve } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { checkName } from "../../base/names.ts";
import { AttachmentPlace } from "../attachment.ts";
import { type CommandContext, required } from "../command.ts";
import { snapshotOf } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const name = required(context, "NAME");
  const to = required(context, "NEW-NAME");
  if (name.includes("@")) return renameSnapshot(context, name, to);
  checkName("volume", to);
  const answer = await (await context.daemon()).call("renameVolume", { volume: name, to });
  await new AttachmentPlace(resolve(await context.pool()), answer).renamed();
  if (context.isJson) context.output.json(answer);
  else context.output.line(`volume "${name}" renamed: "${answer.name}"`);
}

/** "db@v2" or "v2": it can't become another volume's. */
async function renameSnapshot(
  context: CommandContext,
  text: string,
  to: string,
): Promise<undefined> {
  const { volume, name: snapshot } = snapshotOf("argument", text);
  const next = to.includes("@") ? snapshotOf("argument", to) : { volume, name: to };
  if (next.volume !== volume) {
    throw new StorageError(
      "USAGE",
      `snapshot "${text}": not renamed: "${to}" is another volume's`,
      {
        hint: `write "varve rename ${text} ${volume}@${next.name}"`,
      },
    );
  }
  checkName("moment", next.name);
  const input = { volume, snapshot, to: next.name };
  const answer = await (await context.daemon()).call("renameSnapshot", input);
  if (context.isJson) context.output.json(answer);
  else context.output.line(`snapshot "${text}" renamed: "${answer.volume}@${answer.name}"`);
}
