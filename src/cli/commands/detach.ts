// SPDX-License-Identifier: Apache-2.0
//
// `varve detach`: takes down what attach has put up. The daemon says which volume has the name now; where
// there is none (after a crash, when detach is needed most), the name counts that the attachment knows.

import { resolve } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { checkName } from "../../base/names.ts";
import { AttachmentPlace, attachmentsOf, notAttached, pathOf } from "../attachment.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const name = required(context, "VOLUME");
  checkName("volume", name);
  const pool = resolve(await context.pool());
  const id = (await idOf(context, name)) ?? (await recordedIdOf(pool, name));
  if (id === undefined) throw notAttached(name);
  const state = await new AttachmentPlace(pool, { id, name }).detach();
  const path = pathOf(state);
  if (context.isJson) context.output.json({ volume: name, detached: true, path });
  else context.output.line(`volume "${name}" detached: ${path} is gone`);
}

/** The volume of that name; undefined where there is none, or nobody to ask. */
async function idOf(context: CommandContext, name: string): Promise<number | undefined> {
  try {
    const daemon = await context.daemon();
    return (await daemon.call("getVolume", { volume: name })).id;
  } catch (error) {
    if (error instanceof StorageError) return undefined;
    throw error;
  }
}

async function recordedIdOf(pool: string, name: string): Promise<number | undefined> {
  return (await attachmentsOf(pool)).findLast(({ volume }) => volume === name)?.volumeId;
}
