// SPDX-License-Identifier: Apache-2.0
//
// What changed since a moment, as stock clients read it: eight increments by the script of the guide, while somebody
// writes, each of them the disk byte for byte; nbdinfo's map and QEMU's are the same; and a moment that is gone is said.

import { deepEqual, match, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import { Chance } from "./chance.ts";
import { run } from "./command.ts";
import { noise } from "./content.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server, VARVE } from "./server.ts";

const MIB = 1 << 20;
const SIZE = 64 * MIB;
const BLOCK = 4096;
const INCREMENTS = 8;

const skip =
  KIND_UNDER_TEST !== "varve" ||
  requires("nbdinfo --version", "nbdcopy --version", "nbdsh --version", "qemu-img --version");

const GUIDE = join(import.meta.dirname, "../../docs/guides/incremental-backup.md");

async function open(server: Server, exportName = "db"): Promise<NbdClient> {
  return NbdClient.open(await connectStream({ kind: "unix", path: server.socket }), { exportName });
}

/** Some of everything that a client may do, also what changes nothing. */
async function change(client: NbdClient, chance: Chance): Promise<void> {
  const offset = chance.below(SIZE / 512 - 2048) * 512;
  const length = (1 + chance.below(200)) * 512;
  const kind = chance.below(6);
  if (kind < 3) await client.write(offset, noise(length, chance.below(1000)));
  else if (kind === 3) await client.trim(offset, length);
  else if (kind === 4) await client.writeZeroes(offset, length);
  else await client.write(offset, await client.read(offset, length));
}

function uriOf(server: Server, exportName: string): string {
  return `nbd+unix:///${exportName}?socket=${server.socket}`;
}

interface MapLine {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

test("increments by stock tools are the disk byte for byte, while it is written", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
  const chance = new Chance(7);
  const client = await open(server);
  const script = scratch.path("incremental.py");
  const text = readFileSync(GUIDE, "utf8");
  await writeFile(script, /```python\n([\s\S]*?)\n```/.exec(text)?.[1] ?? "");
  const copy = scratch.path("copy.img");
  const whole = scratch.path("whole.img");
  const pool = dirname(server.socket);
  const snapshot = (name: string) => run(VARVE, ["snapshot", `db@${name}`, "--pool", pool]);

  for (let count = 0; count < 200; count++) await change(client, chance);
  await snapshot("v0");
  await run("nbdcopy", [uriOf(server, "db@v0"), copy]);
  for (let round = 1; round <= INCREMENTS; round++) {
    for (let count = chance.below(30); count >= 0; count--) await change(client, chance);
    await snapshot(`v${round}`);
    let isWriting = true;
    const writing = (async () => {
      while (isWriting) await change(client, chance);
    })();
    const uri = uriOf(server, `db@v${round}`);
    const { stdout } = await run("python3", [script, uri, `v${round - 1}`, copy]);
    match(stdout, /^\d+ of 67108864 bytes copied\n$/);
    await run("nbdcopy", [uri, whole]);
    isWriting = false;
    await writing;
    ok((await readFile(copy)).equals(await readFile(whole)), `increment ${round}`);
  }
  await client.close();

  // Since the first copy, in the three ways to ask, against the bytes.
  const first = scratch.path("first.img");
  await run("nbdcopy", [uriOf(server, "db@v0"), first]);
  const [before, after] = [await readFile(first), await readFile(whole)];
  const expected: string[] = [];
  for (let at = 0; at < SIZE; at += BLOCK)
    if (!before.subarray(at, at + BLOCK).equals(after.subarray(at, at + BLOCK)))
      expected.push(`${at}`);
  ok(expected.length > 100);
  const context = "qemu:dirty-bitmap:since:v0";
  const uri = uriOf(server, `db@v${INCREMENTS}`);
  const map = await run("nbdinfo", ["--json", `--map=${context}`, uri]);
  const lines = JSON.parse(map.stdout) as readonly MapLine[];
  deepEqual(
    blocksOf(lines.filter(({ type }) => type === 1).map((one) => [one.offset, one.length])),
    expected,
  );
  const image = `driver=nbd,server.type=unix,server.path=${server.socket},export=db@v${INCREMENTS}`;
  const options = ["map", "--output", "json", "--image-opts", `${image},x-dirty-bitmap=${context}`];
  const qemu = JSON.parse((await run("qemu-img", options)).stdout) as readonly {
    readonly start: number;
    readonly length: number;
    readonly data: boolean;
  }[];
  deepEqual(
    blocksOf(qemu.filter(({ data }) => !data).map((one) => [one.start, one.length])),
    expected,
  );
});

function blocksOf(extents: readonly (readonly [number, number])[]): string[] {
  return extents.flatMap(([offset, length]) =>
    Array.from({ length: length / BLOCK }, (_, at) => `${offset + at * BLOCK}`),
  );
}

test("a moment that can't be had is an error of the tools, and the log says why", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const server = await Server.inScratch(scratch, { sizeBytes: SIZE });
  const uri = uriOf(server, "db");
  match((await run("nbdinfo", ["--map=qemu:dirty-bitmap:since:-1ms", uri])).stdout, /clean/);
  await run("nbdinfo", ["--map=qemu:dirty-bitmap:since:v1", uri], { accept: [1] });
  match(
    server.output,
    /nbd\.context-refused.*qemu:dirty-bitmap:since:v1.*no snapshot of that name/,
  );
  const image = `driver=nbd,server.type=unix,server.path=${server.socket},export=db`;
  const since = "x-dirty-bitmap=qemu:dirty-bitmap:since:v1";
  await run("qemu-img", ["map", "--image-opts", `${image},${since}`], { accept: [1] });
});
