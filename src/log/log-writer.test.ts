// SPDX-License-Identifier: Apache-2.0
//
// The log's writer in tight places: writes that are under way while others are synced, segments that roll while
// batches wait, no room where a batch is wanted. Each through a real pool on a machine in memory, because what
// counts is what a power loss leaves of an acknowledged flush.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, Gate, noise, PoolRig, sameBytes, turns } from "../../test/crash/memory-rig.ts";

const MIB = 1 << 20;

test("a batch whose write is under way when a datasync begins is synced again before its flush is acknowledged", async () => {
  const rig = await PoolRig.create({ segmentBytes: 16 * MIB });
  await rig.pool.createVolume("a", 8 * MIB);
  await turns(5);
  const firstSync = new Gate();
  const largeWrite = new Gate();
  let syncCount = 0;
  rig.host.log.onOperation = ({ kind, lengthBytes }) => {
    if (kind === "datasync" && ++syncCount === 1) return firstSync.wait;
    return kind === "write" && lengthBytes > MIB ? largeWrite.wait : undefined;
  };
  await rig.write("a", 0, noise(1, BLOCK));
  const first = rig.flush("a");
  await turns(3);
  equal(syncCount, 1);
  await rig.write("a", BLOCK, noise(2, BLOCK));
  const second = rig.flush("a");
  await turns(3);
  const large = rig.write("a", MIB, noise(3, MIB));
  const third = rig.flush("a");
  await turns(3);
  firstSync.open(undefined);
  equal(await first, 0);
  equal(await second, 0);
  largeWrite.open(undefined);
  equal(await large, 0);
  equal(await third, 0);
  const after = await PoolRig.open(rig.cutPower());
  sameBytes(await after.read("a", MIB, MIB), noise(3, MIB));
  await after.close();
});

test("closing while the next segment is being made leaves no file open and no empty segment", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const gate = new Gate();
  let isHeld = false;
  rig.host.log.onOperation = ({ kind, name }) => {
    if (kind !== "create" || !name.endsWith(".seg")) return undefined;
    isHeld = true;
    return gate.wait;
  };
  for (let block = 0; !isHeld; block++) await rig.write("a", block * BLOCK, noise(block, BLOCK));
  const closed = rig.close();
  await turns(50);
  gate.open(undefined);
  await closed;
  await turns(4);
  equal(rig.host.log.openCount, 0);
  for (const [name, bytes] of rig.host.log.files()) ok(bytes.length > 0, `${name} is empty`);
});

/** Three batches on their way at once, each of which the test ends when and as it likes. */
async function threeWrites(): Promise<{
  rig: PoolRig;
  gates: Gate<string | undefined>[];
  answers: (number | undefined)[];
}> {
  const rig = await PoolRig.create({ segmentBytes: 8 * MIB, syncWriteBytes: 4096 });
  await rig.pool.createVolume("a", 8 * MIB);
  await rig.flush("a");
  const gates: Gate<string | undefined>[] = [];
  rig.host.log.onOperation = ({ kind, lengthBytes }) => {
    if (kind !== "write" || lengthBytes < 32768) return undefined;
    const gate = new Gate<string | undefined>();
    gates.push(gate);
    return gate.wait;
  };
  const answers: (number | undefined)[] = [undefined, undefined, undefined];
  for (let at = 0; at < 3; at++) {
    void rig.write("a", at * 8 * BLOCK, noise(at, 8 * BLOCK)).then((errno) => {
      answers[at] = errno;
    });
    await turns(3);
  }
  return { rig, gates, answers };
}

test("batches that reach the disk out of order are acknowledged in order, and a kill keeps a prefix", async () => {
  const { rig, gates, answers } = await threeWrites();
  equal(gates.length, 3, "three at once");
  gates[1]?.open(undefined);
  gates[2]?.open(undefined);
  await turns(5);
  deepEqual(answers, [undefined, undefined, undefined], "the first is missing");
  const killed = await PoolRig.open({ root: rig.host.root.files(), log: rig.host.log.files() });
  sameBytes(await killed.read("a", 8 * BLOCK, BLOCK), new Uint8Array(BLOCK), "behind a hole");
  await killed.close();
  gates[0]?.open(undefined);
  await turns(5);
  deepEqual(answers, [0, 0, 0]);
  const later = await PoolRig.open(rig.kill());
  for (let at = 0; at < 3; at++)
    sameBytes(await later.read("a", at * 8 * BLOCK, 8 * BLOCK), noise(at, 8 * BLOCK));
  await later.close();
});

test("when a batch fails, those behind it that reached the disk are neither acknowledged nor recovered", async () => {
  const { rig, gates, answers } = await threeWrites();
  gates[1]?.open(undefined);
  await turns(5);
  gates[0]?.open("EIO");
  await turns(5);
  gates[2]?.open(undefined);
  await turns(5);
  ok(
    answers.every((errno) => errno === 5),
    answers.join(),
  );
  equal(rig.pool.state, "stopped");
  await rig.pool.close();
  const later = await PoolRig.open(rig.kill());
  for (let at = 0; at < 3; at++)
    sameBytes(await later.read("a", at * 8 * BLOCK, BLOCK), new Uint8Array(BLOCK), `write ${at}`);
  await later.close();
});

test("a batch without space is written again at its place when others behind it are there already", async () => {
  for (const failing of [0, 1, 2]) {
    const { rig, gates, answers } = await threeWrites();
    gates[failing]?.open("ENOSPC");
    await turns(5);
    for (const at of [0, 1, 2]) if (at !== failing) gates[at]?.open(undefined);
    while (gates.length < 4) await turns(1);
    gates[3]?.open(undefined);
    while (answers.includes(undefined)) await turns(1);
    deepEqual(answers, [0, 0, 0]);
    equal(await rig.flush("a"), 0);
    const later = await PoolRig.open(rig.cutPower());
    for (let at = 0; at < 3; at++)
      sameBytes(
        await later.read("a", at * 8 * BLOCK, 8 * BLOCK),
        noise(at, 8 * BLOCK),
        `write ${at}`,
      );
    await later.close();
  }
});

test("a flush is a moment also when everything was durable before it, and only when something changed since the last", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  const flushedAt = async (): Promise<number> => {
    const at = { kind: "flush", at: { kind: "now" } } as const;
    return (await rig.pool.resolve("a", at)).lsn;
  };
  await rig.write("a", 0, noise(1, BLOCK), { isForced: true });
  const written = rig.pool.log.nextLsn - 1;
  equal(await rig.flush("a"), 0);
  const first = await flushedAt();
  ok(first > written, "behind the forced write");
  equal(await rig.flush("a"), 0);
  equal(await flushedAt(), first, "nothing happened in between");
  await rig.write("a", 0, noise(2, BLOCK));
  await rig.pool.flush();
  equal(await rig.flush("a"), 0);
  ok((await flushedAt()) > first);
  await rig.close();
});
