// SPDX-License-Identifier: Apache-2.0
//
// Made test/golden/pool-v1: a pool of format version 1 as the first release wrote it, with every kind of record in
// use, several lives, segments with and without a footer, markers, two checkpoints and a torn tail. It is not made
// again: the tests open these very bytes with all later code. A new format version gets a folder of its own, made by
// the code that first writes it: node test/golden/make-pool.ts FOLDER

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { MemoryHost } from "../../src/sim/memory-host.ts";
import { PoolRig, turns } from "../crash/memory-rig.ts";
import { BLOCK, blockText, MIB } from "./golden-content.ts";

const [, , folder] = process.argv;
if (folder === undefined) throw new Error("name the folder to make");
mkdirSync(folder, { recursive: true });

let rig = await PoolRig.create();
await rig.pool.createVolume("database", 4 * MIB);
await rig.pool.createVolume("logs", 2 * MIB);
await rig.pool.createVolume("scratch", MIB);
for (let block = 0; block < 12; block++) await put("database", block, `first life ${block}`);
await put("logs", 3, "kept 3");
await rig.write("scratch", 0, blockText("gone with its volume"));
await rig.flush("database");
await turns(300);
await rig.pool.checkpoint();
rig = await again(rig.host.restart());

await rig.pool.resizeVolume("database", 5 * MIB);
for (let block = 20; block < 26; block++) await put("database", block, `second life ${block}`);
for (let block = 600; block < 603; block++) await put("database", block, `second page ${block}`);
for (let block = 30; block < 36; block++) await put("database", block, "trimmed again");
await rig.trim("database", 30 * BLOCK, 6 * BLOCK);
await rig.zero("database", 64 * BLOCK, 256 * BLOCK, { isHoleForbidden: true });
await rig.pool.removeVolume("scratch");
await rig.flush("database");
await rig.pool.checkpoint();
// An hour back: recorded time goes on, and the log says so.
rig.host.clock.wallOffsetMicros -= 3600 * 1_000_000;
await put("database", 40, "third life 40");
await turns(5);
rig = await again(rig.host.restart());

await put("database", 41, "third life 41");
await rig.pool.resizeVolume("logs", 2 * MIB + 512);
await rig.write("logs", 2 * MIB, blockText("edge").subarray(0, 512));
await rig.pool.renameVolume("logs", "renamed");
await rig.pool.setVolume("renamed", { isReadOnly: true, description: "kept for good" });
await rig.flush("database");
await put("database", 100, "never flushed");
await put("database", 101, "torn");
const { root, log } = rig.kill();

// The machine lost power: of the last batch only a part reached the disk.
const names = [...log.keys()].filter((name) => name.endsWith(".seg")).sort();
const last = names.findLast((name) => (log.get(name) as Uint8Array).length > 0) as string;
const bytes = log.get(last) as Uint8Array;
log.set(last, bytes.slice(0, bytes.length - 2 * BLOCK));
for (const [part, files] of [
  ["", root],
  ["log", log],
] as const) {
  mkdirSync(join(folder, part), { recursive: true });
  for (const [name, content] of files)
    if (name !== "reserve")
      writeFileSync(join(folder, part, `${name}.gz`), gzipSync(content, { level: 9 }));
}

async function put(volume: string, block: number, label: string): Promise<void> {
  await rig.write(volume, block * BLOCK, blockText(label));
}

function again(host: MemoryHost): Promise<PoolRig> {
  return PoolRig.open({ root: new Map(), log: new Map() }, {}, host);
}
