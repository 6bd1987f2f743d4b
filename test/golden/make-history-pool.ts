// SPDX-License-Identifier: Apache-2.0
//
// Made test/golden/pool-v1-history: a pool of format version 1 with clones, rewinds, undoing, snapshots, bases and change
// lists, out of the steps of golden-history.ts; beside it, in lsns.json, the last record of each step. Like pool-v1 it is not
// made again once the format is released: node test/golden/make-history-pool.ts FOLDER

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { parseMoment } from "../../src/base/moment.ts";
import { PoolRig, turns } from "../crash/memory-rig.ts";
import { BLOCK, blockText } from "./golden-content.ts";
import { HISTORY_BLOCKS, HISTORY_HOUR, HISTORY_STEPS, type HistoryStep } from "./golden-history.ts";

const [, , folder] = process.argv;
if (folder === undefined) throw new Error("name the folder to make");

let rig = await PoolRig.create();
await rig.pool.setPolicy({ retention: { everyWriteMicros: null } });
const lsns: number[] = [];
for (const step of HISTORY_STEPS) {
  await take(step);
  lsns.push(rig.pool.log.nextLsn - 1);
}
await rig.flush("disk");
const { root, log } = rig.kill();
for (const [part, files] of [
  ["", root],
  ["log", log],
] as const) {
  mkdirSync(join(folder, part), { recursive: true });
  for (const [name, content] of files)
    if (name !== "reserve")
      writeFileSync(join(folder, part, `${name}.gz`), gzipSync(content, { level: 9 }));
}
writeFileSync(join(folder, "lsns.json"), `${JSON.stringify(lsns)}\n`);

async function take(step: HistoryStep): Promise<void> {
  const { pool } = rig;
  switch (step.kind) {
    case "make":
      await pool.createVolume(step.volume, HISTORY_BLOCKS * BLOCK);
      return;
    case "remove":
      await pool.removeVolume(step.volume);
      return;
    case "undo":
      await pool.undo(step.volume);
      return;
    case "put":
      await rig.write(step.volume, step.block * BLOCK, blockText(step.label));
      return;
    case "trim":
      await rig.trim(step.volume, step.first * BLOCK, step.count * BLOCK);
      return;
    case "zero":
      await rig.zero(step.volume, step.first * BLOCK, step.count * BLOCK);
      return;
    case "name":
      await pool.snapshot([{ volume: step.volume, name: step.moment }]);
      return;
    case "rewind":
      await pool.rewind(step.volume, parseMoment(step.moment));
      return;
    case "clone":
      await pool.clone(step.volume, parseMoment(step.moment), step.to);
      return;
    case "checkpoint":
      rig.host.clock.wallOffsetMicros += HISTORY_HOUR;
      await rig.flush("disk");
      await pool.checkpoint();
      return;
    case "restart":
      await turns(5);
      rig = await PoolRig.open({ root: new Map(), log: new Map() }, {}, rig.host.restart());
  }
}
