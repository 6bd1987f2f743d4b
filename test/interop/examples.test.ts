// SPDX-License-Identifier: Apache-2.0
//
// Every example runs as its header says, and is short enough to be read at once.

import { deepEqual, match, ok } from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "./command.ts";
import { Scratch } from "./scratch.ts";
import { Server } from "./server.ts";

const directory = join(import.meta.dirname, "../../examples");
const EXPECTED: Readonly<Record<string, RegExp>> = {
  "01-write-and-read.ts": /^layers of sediment$/m,
  "02-many-at-once.ts": /^one flush for all of them: \d+ ms$/m,
  "03-what-is-there.ts": /^524288 of 16777216 bytes are worth copying$/m,
  "04-control-door.ts": /^removed again/m,
  "05-pool-in-process.ts": /db: 1048576 bytes/,
};

test("every example is short and is run here", async () => {
  const files = (await readdir(directory)).filter((file) => /^\d/.test(file)).sort();
  deepEqual(files, Object.keys(EXPECTED));
  for (const file of files) {
    const lines = (await readFile(join(directory, file), "utf8")).split("\n");
    ok(lines.length < 60, `${file} has ${lines.length} lines`);
  }
});

for (const [file, expected] of Object.entries(EXPECTED)) {
  test(`examples/${file} prints what it promises`, async () => {
    await using scratch = await Scratch.create();
    const isAlone = file.startsWith("05");
    const args = isAlone ? [scratch.path("own-pool")] : await served(scratch, file);
    const { stdout } = await run(process.execPath, [join(directory, file), ...args]);
    match(stdout, expected);
  });
}

async function served(scratch: Scratch, file: string): Promise<string[]> {
  const sizeBytes = 16 * 1024 * 1024;
  const server = await Server.start("varve", {
    directory: scratch.path("server"),
    exportName: "example",
    sizeBytes,
  });
  scratch.defer("the daemon", () => server.stop());
  const control = join(server.directory, "pool", "control.sock");
  return file.startsWith("04") ? [control] : [server.socket, "example"];
}
