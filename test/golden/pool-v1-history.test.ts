// SPDX-License-Identifier: Apache-2.0
//
// A pool of format version 1 with a history, kept as bytes (golden-history.ts says how it was made): today's code opens
// every moment of it, checks it, gives its disks back without an index, and goes on from there.

import { deepEqual, equal, ok } from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { type Moment, parseMoment } from "../../src/base/moment.ts";
import { catVolume } from "../../src/log/log-dump.ts";
import { poolIdBytes, readIdentity } from "../../src/pool/identity.ts";
import { checkFiles, newHost, type PoolFiles, PoolRig, sameBytes } from "../crash/memory-rig.ts";
import { BLOCK, blockText } from "./golden-content.ts";
import {
  type HeldBlocks,
  HISTORY_BLOCKS,
  HISTORY_FOLDER,
  HISTORY_STEPS,
  heldHistory,
} from "./golden-history.ts";

const KEPT: PoolFiles = { root: readFolder(""), log: readFolder("log") };
const LSNS = JSON.parse(readFileSync(join(HISTORY_FOLDER, "lsns.json"), "utf8")) as number[];
const HELD = heldHistory();

function readFolder(part: string): Map<string, Uint8Array> {
  const folder = join(HISTORY_FOLDER, part);
  const names = readdirSync(folder).filter((name) => name.endsWith(".gz"));
  return new Map(
    names.map((name) => [
      name.slice(0, -3),
      new Uint8Array(gunzipSync(readFileSync(join(folder, name)))),
    ]),
  );
}

function contentOf(blocks: HeldBlocks): Uint8Array {
  const content = new Uint8Array(HISTORY_BLOCKS * BLOCK);
  for (const [block, label] of blocks) content.set(blockText(label), block * BLOCK);
  return content;
}

async function expectAt(
  rig: PoolRig,
  volume: string,
  moment: Moment,
  blocks: HeldBlocks,
  what: string,
): Promise<void> {
  const view = await rig.pool.openView(await rig.pool.resolve(volume, moment));
  const wanted = contentOf(blocks);
  const piece = 100 * BLOCK;
  for (let at = 0; at < wanted.length; at += piece)
    sameBytes(
      await rig.readDevice(view.device, at, Math.min(piece, wanted.length - at)),
      wanted.subarray(at, at + piece),
      `${volume}@${what} at ${at}`,
    );
  view.close();
}

test("every moment of the kept history is what it was, by number and by name", async () => {
  equal(LSNS.length, HISTORY_STEPS.length);
  const rig = await PoolRig.open(KEPT, { memoryBytes: 32 << 20 });
  let count = 0;
  for (const [at, volumes] of HELD.after.entries())
    for (const [volume, blocks] of volumes) {
      const lsn = LSNS[at] as number;
      await expectAt(rig, volume, { kind: "lsn", lsn }, blocks, `#${lsn}`);
      count += 1;
    }
  ok(count > 60, `${count} moments`);
  for (const [name, blocks] of HELD.named) {
    const [volume = "", moment = ""] = name.split("@");
    await expectAt(rig, volume, parseMoment(moment), blocks, moment);
  }
  await rig.close();
});

test("the kept history is sound, and its disks are given back by the log alone", async () => {
  const report = await checkFiles(KEPT);
  deepEqual(report.findings, []);
  equal(report.checkpoints, 2);
  for (const [volume, blocks] of HELD.after.at(-1) ?? []) {
    const { root, log, zstd } = newHost(KEPT);
    const found = new Uint8Array(HISTORY_BLOCKS * BLOCK);
    const onContent = (bytes: Uint8Array, offset: number): Promise<void> =>
      Promise.resolve(found.set(bytes, offset));
    const poolId = poolIdBytes(await readIdentity(root));
    await catVolume({ log, poolId, zstd, volume, onContent });
    sameBytes(found, contentOf(blocks), volume);
  }
});

test("the kept history goes on: what was removed comes back, and older moments stay", async () => {
  const rig = await PoolRig.open(KEPT);
  await rig.pool.undo("copy");
  await rig.write("copy", 0, blockText("today"));
  await rig.pool.rewind("disk", parseMoment("installed"));
  await rig.pool.checkpoint();
  const later = await PoolRig.open(await rig.close());
  sameBytes(await later.read("copy", 0, BLOCK), blockText("today"));
  sameBytes(await later.read("copy", 9 * BLOCK, BLOCK), blockText("copy 9"));
  await expectAt(
    later,
    "disk",
    { kind: "now" },
    HELD.named.get("disk@installed") as HeldBlocks,
    "now",
  );
  const at = HISTORY_STEPS.findIndex(({ kind }) => kind === "rewind") - 1;
  const scrambled = HELD.after[at]?.get("disk") as HeldBlocks;
  await expectAt(later, "disk", { kind: "lsn", lsn: LSNS[at] as number }, scrambled, "then");
  await later.close();
});
