// SPDX-License-Identifier: Apache-2.0
//
// `varve attach`: prints the path of the device, alone on stdout, so that it can stand in $( ). How it
// was made is a word on stderr.

import { resolve } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { AttachmentPlace, pathOf } from "../attachment.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const name = required(context, "VOLUME");
  const daemon = await context.daemon();
  const volume = await daemon.call("getVolume", { volume: name });
  const uri = volume.uris.find((candidate) => candidate.startsWith("nbd+unix:"));
  if (uri === undefined) {
    throw new StorageError(
      "ATTACH_FAILED",
      `volume "${name}": not attached: the daemon has no Unix socket`,
    );
  }
  const place = new AttachmentPlace(resolve(await context.pool()), volume);
  const attachment = await place.attach({
    uri,
    socketPath: decodeURIComponent(uri.slice(uri.indexOf("?socket=") + "?socket=".length)),
    isReadOnly: context.flag("read-only") || volume.isReadOnly,
    isDeviceNeeded: context.flag("device"),
  });
  const path = pathOf(attachment);
  const { method, device } = attachment;
  if (context.isJson) {
    output.json({ volume: name, path, isBlockDevice: device !== undefined, method });
    return;
  }
  output.line(path);
  if (device === undefined) output.note("this is a file, through FUSE: a block device needs root");
}
