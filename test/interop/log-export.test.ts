// SPDX-License-Identifier: Apache-2.0
//
// History goes out as a log that the stock nbd-trplay replays: from the image of any moment to that of a later
// one, byte by byte; nbd-trdump prints it; and it comes back in as the history that it was.

import { equal, match, ok } from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import { Chance } from "./chance.ts";
import { run } from "./command.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { Server } from "./server.ts";

const MIB = 1 << 20;
const DISK_BYTES = 4 * MIB + 512;
const ROUNDS = 12;

interface Moment {
  readonly lsn: number;
  readonly disk: Buffer;
}

/** Works on the volume with requests of any size and alignment; the disk after each round. */
async function work(server: Server, seed: number): Promise<Moment[]> {
  const chance = new Chance(seed);
  const stream = await connectStream({ kind: "unix", path: server.socket });
  const client = await NbdClient.open(stream, { exportName: "db" });
  const disk = Buffer.alloc(DISK_BYTES);
  const moments: Moment[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    for (let count = 0; count < 6; count += 1) {
      const lengthBytes = 1 + chance.below(chance.below(4) === 0 ? 1_500_000 : 9000);
      const offsetBytes = chance.below(DISK_BYTES - lengthBytes);
      const kind = chance.below(6);
      if (kind === 0) await client.trim(offsetBytes, lengthBytes);
      else if (kind === 1)
        await client.writeZeroes(offsetBytes, lengthBytes, { isHoleForbidden: true });
      if (kind <= 1) disk.fill(0, offsetBytes, offsetBytes + lengthBytes);
      else {
        const bytes = Buffer.alloc(lengthBytes, kind === 2 ? 0 : `round ${round} ${count} `);
        await client.write(offsetBytes, bytes);
        disk.set(bytes, offsetBytes);
      }
    }
    await client.flush();
    const { stdout } = await server.varve(["info", "--json"]);
    moments.push({ lsn: JSON.parse(stdout).headLsn - 1, disk: Buffer.from(disk) });
  }
  await client.close();
  return moments;
}

const NEEDS = requires("nbd-trplay -h", "nbd-trdump -h");

test("nbd-trplay makes of the image of any moment that of a later one", {
  skip: NEEDS,
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: DISK_BYTES });
  if (server.kind !== "varve") return;
  // Behind the records of the opening and of the retention.
  const made = { lsn: 3, disk: Buffer.alloc(DISK_BYTES) };
  const moments = [made, ...(await work(server, 5))];
  const chance = new Chance(6);
  const [image, log] = [scratch.path("disk.img"), scratch.path("nbd.log")];
  for (let pick = 0; pick < 6; pick += 1) {
    // The last two without a daemon.
    if (pick === 4) equal(await server.stop(), 0);
    const second = chance.below(moments.length);
    const from = moments[chance.below(second + 1)]!;
    const to = moments[second]!;
    await writeFile(image, from.disk);
    const range = `db@#${from.lsn}..#${to.lsn}`;
    const { stdout } = await server.varve([
      "log",
      "export",
      range,
      "--output",
      log,
      "--force",
      "--json",
    ]);
    const { stdout: played } = await run("nbd-trplay", ["-i", image, "-l", log]);
    match(played, /End of transaction log/);
    ok(to.disk.equals(await readFile(image)), `seed 5: ${range}: ${stdout}`);
  }
});

test("nbd-trdump reads all of it, and it comes back in", { skip: NEEDS }, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: DISK_BYTES });
  if (server.kind !== "varve") return;
  const moments = await work(server, 7);
  const log = scratch.path("nbd.log");
  const args = ["log", "export", "db", "--output", log, "--json"];
  const { changes } = JSON.parse((await server.varve(args)).stdout);
  const { stdout: dump } = await run("sh", ["-c", `nbd-trdump < ${log}`]);
  const count = (pattern: RegExp): number => dump.match(pattern)?.length ?? 0;
  equal(count(/^> .*NBD_CMD_WRITE\+/gm), changes.write);
  equal(count(/^> .*NBD_CMD_WRITE_ZEROES\+/gm), changes.zero + changes.trim);
  equal(count(/^> .*NBD_CMD_FLUSH\+/gm), changes.flush);
  equal(count(/^</gm), changes.write + changes.zero + changes.trim + changes.flush);
  equal(count(/^\?/gm), 0);
  match(dump, /NBD_CMD_DISC.*\n$/);
  const format = ["--format", "nbd-transactionlog", "--size", `${DISK_BYTES}`];
  await server.varve(["import", log, "again", ...format]);
  await server.varve(["export", "again", scratch.path("again.img")]);
  ok(moments.at(-1)?.disk.equals(await readFile(scratch.path("again.img"))));
});
