// SPDX-License-Identifier: Apache-2.0
//
// Lets a pool map more than the disk of this machine holds. What a big index costs (memory, index bytes,
// restart) doesn't depend on old payloads, which neither checkpoints nor recovery read; so while a pool is
// being filled, the payloads of segments that lie well below the last checkpoint are punched out of their
// files. Sizes, headers and footers stay. The pool is of no use afterwards, except to be measured: reading
// an old block would rightly be answered with an error.

import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../test/interop/command.ts";
import { GIB, KIB, MIB } from "./rows.ts";

/** Recovery reads from the last checkpoint on, a few GiB back; this is beyond it. */
const KEPT_BYTES = 16 * GIB;
const HEAD_BYTES = 64 * KIB;
const FOOT_BYTES = 2 * MIB;
const INTERVAL_MS = 2000;

/** Punches until it is ended; `end` waits for the last round. */
export function forgetOldPayloads(poolDirectory: string): { end: () => Promise<void> } {
  const log = join(poolDirectory, "log");
  const punched = new Set<string>();
  let isEnded = false;
  let wake = (): void => {};
  const work = async (): Promise<void> => {
    while (!isEnded) {
      await punchBelow(log, punched);
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, INTERVAL_MS);
      });
    }
  };
  const done = work();
  done.catch(() => {}); // end() reports it
  return {
    end: async () => {
      isEnded = true;
      wake();
      await done;
    },
  };
}

async function punchBelow(log: string, punched: Set<string>): Promise<void> {
  const segments = (await readdir(log)).filter((name) => name.endsWith(".seg")).sort();
  let keptBytes = 0;
  for (const name of segments.reverse()) {
    const path = join(log, name);
    const { size } = await stat(path);
    keptBytes += size;
    const length = size - HEAD_BYTES - FOOT_BYTES;
    if (keptBytes <= KEPT_BYTES || length <= 0 || punched.has(name)) continue;
    await run("fallocate", ["--punch-hole", `--offset=${HEAD_BYTES}`, `--length=${length}`, path]);
    punched.add(name);
  }
}
