// SPDX-License-Identifier: Apache-2.0
//
// The offline check of what is kept of the past: it finds nothing in a sound pool, whatever was rewound, cloned and named in
// it, and a base, a list or a frame that isn't what it must be.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { suite, test } from "node:test";
import {
  BLOCK,
  checkFiles,
  filesOf,
  newHost,
  noise,
  type PoolFiles,
  PoolRig,
} from "../../test/crash/memory-rig.ts";
import { parseMoment } from "../base/moment.ts";
import { readCheckpoints } from "../index/checkpoint-loader.ts";
import type { PageDirectory } from "../index/page-directory.ts";
import { WORD_SLOT } from "../index/page-directory.ts";
import { runName } from "../index/run-file.ts";
import { FileStore } from "../log/file-store.ts";
import { readLogBegin } from "../log/log-begin.ts";
import { BlockMemory, shapeOf } from "../reduce/block-memory.ts";
import { CheckFindings } from "./check-findings.ts";
import { HistoryCheck } from "./history-check.ts";
import { poolIdBytes, readIdentity } from "./identity.ts";

const MIB = 1 << 20;
const HOUR = 3_600_000_000;
const at = parseMoment;
const memory = new BlockMemory(shapeOf(24 * MIB));

async function messagesOf(files: PoolFiles): Promise<string[]> {
  return (await checkFiles(files)).findings.map(({ message }) => message);
}

/** Bases an hour apart, lists between them, and a name. */
async function withHistory(everyWriteMicros: number | null): Promise<PoolRig> {
  const rig = await PoolRig.create();
  await rig.pool.setPolicy({
    retention: {
      ...{ everyWriteMicros, hourlyMicros: 4 * HOUR, dailyMicros: 0 },
      ...{ weeklyMicros: 0, monthlyMicros: 0 },
    },
  });
  await rig.pool.createVolume("a", 8 * MIB);
  for (let step = 0; step < 6; step++) {
    for (let block = 0; block < 30; block++)
      await rig.write(
        "a",
        ((step * 11 + block) % 40) * 40 * BLOCK,
        noise(step * 30 + block, BLOCK),
      );
    await rig.trim("a", step * 120 * BLOCK, 700 * BLOCK);
    if (step === 2) await rig.pool.snapshot([{ volume: "a", name: "v1" }]);
    if (step === 3) await rig.pool.clone("a", at("v1"), "b");
    if (step === 4) {
      await rig.write("b", 3 * BLOCK, noise(1000, BLOCK));
      await rig.pool.rewind("a", at("v1"));
    }
    rig.host.clock.wallOffsetMicros += 2 * HOUR;
    await rig.flush("a");
    await rig.pool.checkpoint();
    await rig.pool.collect({ isDryRun: false });
  }
  return rig;
}

suite("the check of history", () => {
  test("finds nothing where every write, some hours or a name are kept", async () => {
    for (const everyWriteMicros of [null, 3 * HOUR, 0]) {
      const rig = await withHistory(everyWriteMicros);
      deepEqual(await messagesOf(filesOf(rig.host)), [], `${everyWriteMicros}`);
      deepEqual(await messagesOf(await rig.close()), [], `${everyWriteMicros}, closed`);
    }
  });

  test("finds a base that isn't what the one before it and the changes since come to", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 8 * MIB);
    const next = async (): Promise<void> => {
      rig.host.clock.wallOffsetMicros += 2 * HOUR;
      await rig.flush("a");
      await rig.pool.checkpoint();
    };
    for (let block = 0; block < 4; block++)
      await rig.write("a", block * BLOCK, noise(block, BLOCK));
    await next();
    await rig.read("a", 0, BLOCK);
    // In memory, behind the back of log and ring.
    const { index, memory } = rig.pool;
    const chunk = (index.branches.get(1) as PageDirectory).chunks[0] as Uint32Array;
    const page = index.slots.addressOf((chunk[WORD_SLOT] as number) - 1) >>> 2;
    memory.words[page + 2 * 2] = memory.words[page] as number;
    memory.words[page + 2 * 2 + 1] = memory.words[page + 1] as number;
    await rig.write("a", 3 * BLOCK, noise(9, BLOCK));
    await next();
    await rig.write("a", 2 * BLOCK, noise(10, BLOCK));
    await next();
    await next();
    const messages = await messagesOf(rig.kill());
    equal(messages.length, 1, messages.join("\n"));
    match(
      messages[0] as string,
      /^index: \w+\.run, page 0 of branch 1, block 2: it has 1:\d+, the checkpoint before it and the changes since 1:\d+$/,
    );
  });

  test("follows what a name, an hour or a window shows, and what is let go no more", async () => {
    const followed: string[][] = [];
    for (const everyWriteMicros of [null, 3 * HOUR, 0]) {
      const { root, log: directory } = newHost((await withHistory(everyWriteMicros)).kill());
      const poolId = poolIdBytes(await readIdentity(root));
      const runs = new FileStore(directory, runName, 4);
      const source = { memory, directory, poolId, runs };
      const begin = await readLogBegin(source);
      const [newest] = (await readCheckpoints(source)).checkpoints;
      const history = await HistoryCheck.open({
        ...{ source, begin, newest },
        findings: new CheckFindings(),
      });
      const names: string[] = [];
      await history.follow({ followPast: (_segment, _low, nameOf) => names.push(nameOf()) });
      await runs.closeAll();
      followed.push(names);
    }
    const [all, window, named] = followed.map((names) => ({
      moments: new Set(names.flatMap((name) => /as of LSN \d+$/.exec(name) ?? [])).size,
      records: names.filter((name) => name.startsWith("log: LSN")).length,
    }));
    deepEqual(all, { moments: 0, records: 181 }, "all records are all there ever was");
    ok(
      window !== undefined && window.moments >= 2,
      "images that several moments show are followed once",
    );
    ok(window.records >= 30 && window.records < 181, `${window.records}`);
    deepEqual(named?.records, 0);
    ok(named.moments >= 1);
  });
});
