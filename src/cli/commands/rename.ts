// SPDX-License-Identifier: Apache-2.0
//
// `varve rename`: another name for the same disk; it takes effect for whoever connects from now on, and
// leaves those who are connected alone. What is attached here is told the new name.

import { resolve } from "node:path";
import { checkName } from "../../base/names.ts";
import { AttachmentPlace } from "../attachment.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const volume = required(context, "VOLUME");
  const to = required(context, "NEW-NAME");
  checkName("volume", to);
  const answer = await (await context.daemon()).call("renameVolume", { volume, to });
  await new AttachmentPlace(resolve(await context.pool()), answer).renamed();
  if (context.isJson) context.output.json(answer);
  else context.output.line(`volume "${volume}" renamed: "${answer.name}"`);
}
