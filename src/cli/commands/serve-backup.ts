// SPDX-License-Identifier: Apache-2.0
//
// `varve serve-backup`: the points of a target as disks over NBD, without restoring anything: to fetch one file, to look
// which point is the right one, to try a repair on a disk that forgets it. Ends by a signal.

import { resolve } from "node:path";
import { StorageError } from "../../base/errors.ts";
import { openBackupDoor } from "../../daemon/backup-door.ts";
import { createLogger } from "../../host/node/logger.ts";
import { onStopSignal } from "../../host/node/signals.ts";
import { ReadTarget } from "../backup-point.ts";
import { type CommandContext, required } from "../command.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output, isJson } = context;
  const path = required(context, "TARGET");
  const socketPath = context.option("socket");
  const listen = context.option("listen");
  if (socketPath === undefined && listen === undefined) {
    throw new StorageError("USAGE", "serve-backup: refused: it isn't said where to listen", {
      hint: "add --socket PATH for this machine, or --listen 127.0.0.1:10810",
    });
  }
  await using target = await ReadTarget.open(context, path, "serve");
  const door = await openBackupDoor({
    target: target.target,
    reader: target.reader,
    socket: socketPath === undefined ? undefined : resolve(socketPath),
    listen,
    hasOverlays: context.flag("overlay"),
    logger: createLogger({ level: "warn" }),
  });
  const { uris } = door;
  if (isJson) output.jsonLine({ ready: true, target: path, uris });
  else {
    output.line(`target "${path}" served; stop it with SIGTERM or Ctrl-C`);
    for (const uri of uris) output.line(`  ${uri}`);
  }
  await new Promise<void>((stop) => void onStopSignal(() => stop()));
  await door.close();
}
