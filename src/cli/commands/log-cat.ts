// SPDX-License-Identifier: Apache-2.0
//
// `varve log cat`: a volume's newest content from nothing but the log, raw on stdout. The last way to the
// data when neither daemon nor index will have it.

import { catVolume } from "../../log/log-dump.ts";
import { poolIdBytes, readIdentity } from "../../pool/identity.ts";
import { type CommandContext, required } from "../command.ts";
import { openOfflinePool } from "../offline-pool.ts";

const ZEROS = new Uint8Array(1 << 20);

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = required(context, "VOLUME");
  output.refuseTerminal(`volume "${volume}"`);
  const { root, log } = await openOfflinePool(await context.pool());
  const poolId = poolIdBytes(await readIdentity(root));
  let written = 0;
  const fillTo = async (end: number): Promise<void> => {
    while (written < end) {
      const length = Math.min(ZEROS.length, end - written);
      await output.bytes(ZEROS.subarray(0, length));
      written += length;
    }
  };
  const sizeBytes = await catVolume({
    log,
    poolId,
    volume,
    onContent: async (bytes, offset) => {
      await fillTo(offset);
      // The reader uses its memory again.
      await output.bytes(bytes.slice());
      written += bytes.length;
    },
  });
  await fillTo(sizeBytes);
  if (context.isJson) output.noteJson({ volume, sizeBytes });
}
