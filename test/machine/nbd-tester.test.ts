// SPDX-License-Identifier: Apache-2.0
//
// The tester that comes with the source of nbd-server, the protocol's first implementation: it opens
// exports the old way (EXPORT_NAME), and plays a recorded load back, every block of which it checks. No
// package has it: VARVE_NBD_TESTER names a built one, with the source's `integrity-test.tr` beside it.
//
// Left out are
// - `integrityhuge-test.tr`: its requests reach 48 MiB without asking what the server takes, while a client
//   that doesn't ask may count on 32 MiB, which is Varve's limit;
// - loose ordering (-l): it has a read and a write of one block in flight and takes the order of the
//   replies for the order of effects. Varve may answer the read, with the new data, before the write.

import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { programEnv, run } from "../interop/command.ts";
import { requires } from "../interop/requires.ts";
import { Scratch } from "../interop/scratch.ts";
import { Server } from "../interop/server.ts";

const tester = process.env.VARVE_NBD_TESTER ?? "nbd-tester-client";
const recording = join(dirname(tester), "integrity-test.tr");
const need = {
  what: "VARVE_NBD_TESTER with integrity-test.tr beside it",
  isMet: existsSync(tester) && existsSync(recording),
};
/** The recording needs 50 MiB; the modes without it go over all of the export. */
const SIZE = 64 * 2 ** 20;

const MODES: Readonly<Record<string, readonly string[]>> = {
  "an unknown option in the handshake": ["-h"],
  "reads of more than 1 MiB, unaligned": ["-o"],
  "reads of the whole export": [],
  "writes of the whole export": ["-w"],
  "writes with FUA and flushes in between": ["-w", "-f"],
  "a recording of 69,000 requests, with those that overlap one after another": [
    "-i",
    "-t",
    recording,
  ],
};

for (const [name, args] of Object.entries(MODES)) {
  test(`nbd's own tester passes ${name}`, { skip: requires(need), timeout: 120_000 }, async () => {
    await using scratch = await Scratch.create();
    const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
    // Without NBD_TEST_SILENT it prints a line for each request.
    const env = programEnv({ NBD_TEST_SILENT: "1" });
    await run(tester, ["-N", server.exportName, "-u", server.socket, ...args], { env });
  });
}
