// SPDX-License-Identifier: Apache-2.0
//
// `varve completion`: the script for a shell, made from the command table (../completion.ts), as text
// that the shell reads or that is put where the shell looks for it.

import { type CommandContext, required } from "../command.ts";
import { completionScript } from "../completion.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const shell = required(context, "SHELL");
  const script = completionScript(shell);
  if (context.isJson) context.output.json({ shell, script });
  else context.output.raw(script);
}
