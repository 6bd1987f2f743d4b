// SPDX-License-Identifier: Apache-2.0
//
// Full: by the pool's own limit, and by the file system's. New data is refused or waits; everything else works;
// space that comes back is used without a restart; what was acknowledged is there.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../src/base/errors.ts";
import {
  BLOCK,
  durableFilesOf,
  filesOf,
  Gate,
  newHost,
  noise,
  PoolRig,
  sameBytes,
  turn,
  turns,
} from "./memory-rig.ts";

const MIB = 1 << 20;
const EIO = 5;
const ENOSPC = 28;

/** Writes block after block until the answer isn't 0; how many were taken. */
async function fill(rig: PoolRig, from: number, countMax: number): Promise<number> {
  for (let block = from; block < countMax; block++) {
    const errno = await rig.write("a", block * BLOCK, noise(block, BLOCK));
    if (errno === 0) continue;
    equal(errno, ENOSPC);
    return block;
  }
  return countMax;
}

async function expectBlocks(rig: PoolRig, from: number, end: number): Promise<void> {
  for (let block = from; block < end; block++)
    sameBytes(await rig.read("a", block * BLOCK, BLOCK), noise(block, BLOCK), `block ${block}`);
}

test("a pool at its limit refuses new data and does everything else", async () => {
  const limited = { poolSizeBytes: 2 * MIB };
  const rig = await PoolRig.create(limited);
  await rig.pool.createVolume("a", 16 * MIB);
  await rig.pool.createVolume("b", MIB);
  const count = await fill(rig, 0, 4096);
  ok(count > 300 && count < 512, `${count} blocks fit`);
  equal(rig.pool.state, "full");
  while (!rig.host.eventNames().includes("pool.watermark")) await turn();
  equal(rig.host.eventNames().filter((name) => name === "pool.full").length, 1);
  ok(rig.pool.stats().storedBytes <= limited.poolSizeBytes);
  await expectBlocks(rig, 0, count);
  for (let round = 0; round < 50; round++) equal(await rig.trim("a", round * BLOCK, BLOCK), 0);
  equal(await rig.zero("a", 0, MIB, { isHoleForbidden: true }), 0);
  equal(await rig.flush("a"), 0);
  await rig.pool.removeVolume("b");
  await rig.pool.renameVolume("a", "c");
  await rig.pool.renameVolume("c", "a");
  await rig.pool.checkpoint();
  equal(
    await rig.write("a", 0, noise(5000, BLOCK)),
    ENOSPC,
    "nothing was given back: history is kept",
  );
  equal(await rig.write("a", 0, noise(1, BLOCK)), 0, "what is stored already takes no space");
  const files = await rig.close();
  const still = await PoolRig.open(files, limited);
  equal(await still.write("a", 0, noise(5000, BLOCK)), ENOSPC);
  await expectBlocks(still, 256, count);
  const larger = await PoolRig.open(await still.close(), { poolSizeBytes: 4 * MIB });
  equal(await larger.write("a", 0, noise(0, BLOCK)), 0);
  await larger.close();
});

test("a write that began while the pool was full is refused at once, not kept waiting", async () => {
  const rig = await PoolRig.create({ poolSizeBytes: MIB });
  await rig.pool.createVolume("a", 16 * MIB);
  await fill(rig, 0, 4096);
  const answers = await Promise.all(
    [0, 1, 2, 3].map((at) =>
      rig.write("a", at * 512, noise(at, 512 + at), { isForced: at % 2 === 0 }),
    ),
  );
  ok(
    answers.every((errno) => errno === ENOSPC),
    answers.join(),
  );
  await rig.close();
});

test("a full file system delays or refuses writes, and loses none that was acknowledged", async () => {
  for (const roomBytes of [1000, 5000, 40_000, 70_000, 200_000, 600_000]) {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 16 * MIB);
    await fill(rig, 0, 8);
    equal(await rig.flush("a"), 0);
    // The pool was told of much more room than there is: somebody else took it.
    rig.host.log.capacityBytes = usedBytes(rig) + roomBytes;
    const answers: (number | undefined)[] = [];
    for (let block = 8; block < 200; block++) {
      answers[block] = undefined;
      void rig.write("a", block * BLOCK, noise(block, BLOCK)).then((errno) => {
        answers[block] = errno;
      });
      await turn();
    }
    void rig.flush("a");
    await turns(200);
    equal(rig.pool.state, "full");
    ok(
      answers.some((errno) => errno === undefined || errno === ENOSPC),
      "not everything fitted",
    );
    const after = await PoolRig.open(rig.kill());
    for (let block = 8; block < 200; block++)
      if (answers[block] === 0)
        sameBytes(
          await after.read("a", block * BLOCK, BLOCK),
          noise(block, BLOCK),
          `room ${roomBytes}, block ${block}`,
        );
    await after.close();
  }
});

test("space that comes back is used without a restart", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  await fill(rig, 0, 8);
  rig.host.log.capacityBytes = usedBytes(rig) + 20_000;
  const writes = Array.from({ length: 60 }, (_, at) =>
    rig.write("a", (8 + at) * BLOCK, noise(8 + at, BLOCK)),
  );
  const flush = rig.flush("a");
  await turns(100);
  equal(rig.pool.state, "full");
  rig.host.log.capacityBytes = Number.POSITIVE_INFINITY;
  const answers = await Promise.all(writes);
  equal(await flush, 0);
  const refused = answers.findIndex((errno) => errno !== 0);
  await expectBlocks(rig, 0, 8 + (refused < 0 ? 60 : refused));
  while (rig.pool.state === "full") await turn();
  ok(rig.host.eventNames().includes("pool.has-space"));
  equal(await rig.write("a", 0, noise(0, BLOCK)), 0);
  equal(await rig.flush("a"), 0);
  const again = await PoolRig.open(await rig.close());
  await expectBlocks(again, 0, 8);
  await again.close();
});

test("a pool opens on a full disk, from its reserve, and goes on by itself when space comes back", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  await fill(rig, 0, 8);
  await rig.flush("a");
  ok(rig.host.log.files().has("reserve"));
  for (const restart of [1, 2]) {
    const host = newHost(rig.kill());
    host.log.capacityBytes = usedBytes(rig);
    const again = await PoolRig.open(filesOf(host), {}, host);
    equal(host.eventNames().includes("pool.full"), true, `restart ${restart}`);
    equal(again.pool.state, "full");
    await expectBlocks(again, 0, 8);
    equal(await again.write("a", 0, noise(0, BLOCK)), ENOSPC);
    equal(await again.trim("a", 9 * BLOCK, BLOCK), 0);
    equal(await again.flush("a"), 0);
    host.log.capacityBytes = Number.POSITIVE_INFINITY;
    while (again.pool.state === "full") await turn();
    equal(await again.write("a", 0, noise(0, BLOCK)), 0);
    await again.close();
  }
});

test("without a reserve a full disk is refused at opening, and nothing is left behind", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", MIB);
  await rig.flush("a");
  const files = rig.kill();
  const log = new Map(files.log);
  log.delete("reserve");
  const host = newHost({ root: files.root, log });
  host.log.capacityBytes = [...log.values()].reduce((sum, bytes) => sum + bytes.length, 0);
  await rejects(PoolRig.open(filesOf(host), {}, host), (error) => hasCode(error, "DISK_FULL"));
  deepEqual([...host.log.files().keys()], ["0000000000000001.seg"]);
  equal(host.log.openCount, 0);
});

/** What all files together take. */
function usedBytes(rig: PoolRig): number {
  return [...rig.host.log.files().values()].reduce((sum, bytes) => sum + bytes.length, 0);
}

/** Sends writes of one block each, and a flush, to a pool that has `roomBytes` left. */
async function overfill(rig: PoolRig, roomBytes: number): Promise<(number | undefined)[]> {
  rig.host.log.capacityBytes = usedBytes(rig) + roomBytes;
  const answers: (number | undefined)[] = [];
  const ask = (answer: Promise<number>): void => {
    const at = answers.push(undefined) - 1;
    void answer.then((errno) => {
      answers[at] = errno;
    });
  };
  for (let block = 0; block < 120; block++) {
    ask(rig.write("a", block * BLOCK, noise(block, BLOCK)));
    if (block % 3 === 0) await turn();
  }
  ask(rig.flush("a"));
  await turns(2);
  return answers;
}

async function expectPrefix(rig: PoolRig, acknowledged: number): Promise<void> {
  let count = 0;
  for (; count < 120; count++) {
    const found = await rig.read("a", count * BLOCK, BLOCK);
    if (typeof found === "number" || found.every((byte) => byte === 0)) break;
    sameBytes(found, noise(count, BLOCK), `block ${count}`);
  }
  ok(count >= acknowledged, `${acknowledged} acknowledged, ${count} there`);
  for (; count < 120; count++)
    sameBytes(await rig.read("a", count * BLOCK, BLOCK), new Uint8Array(BLOCK), `block ${count}`);
}

// The reserve is given up first, so room is counted from what it takes.
for (const roomBytes of [-65536, -65000, -60_000, -45_000, -20_000, 0, 100_000, 300_000]) {
  for (const syncWriteBytes of [512, 1 << 20]) {
    test(`a pool ends on a full disk with what it acknowledged: room ${roomBytes}, synchronous to ${syncWriteBytes}`, async () => {
      const rig = await PoolRig.create({ syncWriteBytes });
      await rig.pool.createVolume("a", 16 * MIB);
      await turns(300); // a marker
      const answers = await overfill(rig, roomBytes);
      const error = await rig.pool.close().then(
        () => undefined,
        (cause: unknown) => cause,
      );
      await turns(2);
      equal(rig.host.log.openCount, 0);
      equal(rig.pool.state, "closed");
      const flush = answers.pop();
      const acknowledged = answers.findIndex((errno) => errno !== 0);
      const isWhole = error === undefined;
      ok(isWhole || (hasCode(error, "DISK_FULL") && error === rig.pool.stopCause), String(error));
      ok(isWhole ? flush === 0 : flush === EIO, `the flush got ${flush}`);
      ok(
        answers.slice(acknowledged).every((errno) => errno === ENOSPC),
        `the first ${acknowledged} of ${answers.join()}`,
      );
      const told = rig.host.events.filter(({ event }) => event === "pool.stopped");
      deepEqual(
        told.map(({ fields }) => fields.code),
        isWhole ? [] : ["DISK_FULL"],
      );
      const durable = await PoolRig.open(durableFilesOf(rig.host));
      await expectPrefix(durable, acknowledged);
      await durable.close();
      const after = await PoolRig.open(rig.kill());
      await expectPrefix(after, acknowledged);
      equal(await after.write("a", 0, noise(500, BLOCK)), 0);
      await after.close();
    });
  }
}

test("without any space an operator's requests are refused at once, and work from the reserve before that", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  await rig.pool.createVolume("b", MIB);
  await fill(rig, 0, 8);
  await rig.flush("a");
  rig.host.log.capacityBytes = usedBytes(rig);
  await rig.pool.removeVolume("b");
  equal(rig.pool.state, "full");
  rig.host.log.capacityBytes = usedBytes(rig);
  // What waits for space is refused when nothing is left, not kept: a command has a user who waits.
  const isFull = (error: unknown): boolean => hasCode(error, "DISK_FULL");
  await rejects(rig.pool.createVolume("c", MIB), isFull);
  await rejects(rig.pool.createVolume("d", MIB), isFull);
  await rejects(rig.pool.removeVolume("a"), isFull);
  await rejects(rig.pool.flush(), isFull);
  await rejects(rig.pool.checkpoint(), isFull);
  equal(await rig.write("a", 0, noise(0, BLOCK)), ENOSPC);
  rig.host.log.capacityBytes = Number.POSITIVE_INFINITY;
  while (rig.pool.state === "full") await turn();
  await rig.pool.flush();
  await rig.pool.createVolume("e", MIB);
  const names = rig.pool.volumes().map(({ name }) => name);
  ok(names.includes("a") && names.includes("e"));
  ok(!names.includes("b") && !names.includes("d"), names.join());
  await rig.close();
});

test("closing waits a while for space, and then nothing is lost", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  const answers = await overfill(rig, -65_000);
  equal(answers.at(-1), undefined);
  const closed = rig.pool.close();
  rig.host.clock.after(1000, () => {
    rig.host.log.capacityBytes = Number.POSITIVE_INFINITY;
  });
  await closed;
  equal(answers.at(-1), 0);
  const refused = answers.findIndex((errno) => errno !== 0);
  ok(refused > 0);
  ok(!rig.host.eventNames().includes("pool.stopped"));
  const after = await PoolRig.open(rig.cutPower());
  await expectPrefix(after, refused);
  await after.close();
});

test("a pool whose every record is durable closes on a full disk without a word", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  await fill(rig, 0, 8);
  equal(await rig.flush("a"), 0);
  rig.host.log.capacityBytes = 0;
  await rig.pool.close();
  equal(rig.host.log.openCount, 0);
  ok(!rig.host.eventNames().includes("pool.stopped"));
  const after = await PoolRig.open(rig.cutPower());
  await expectBlocks(after, 0, 8);
  await after.close();
});

test("a pool ends when no file can be made for its next segment", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  rig.host.log.onOperation = ({ kind }) => (kind === "create" ? "ENOSPC" : undefined);
  const answers = await overfill(rig, 100 * MIB);
  const acknowledged = answers.findIndex((errno) => errno !== 0);
  ok(acknowledged > 0);
  let pending = 0;
  for (let round = 0; round < 40; round++) {
    pending += 1;
    void rig.trim("a", MIB, BLOCK, { isForced: true }).then(() => {
      pending -= 1;
    });
    await turns(4);
  }
  ok(pending > 1, "the last segment is full");
  await rig.pool.close();
  await turns(2);
  equal(pending, 0);
  equal(rig.host.log.openCount, 0);
  const after = await PoolRig.open(rig.cutPower());
  await expectPrefix(after, acknowledged);
  await after.close();
});

test("a datasync that fails while a log ends on a full disk is told, and never repeated", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 16 * MIB);
  await turns(300);
  const gate = new Gate<string | undefined>();
  let syncCount = 0;
  rig.host.log.onOperation = ({ kind }) => {
    if (kind !== "datasync") return undefined;
    syncCount += 1;
    return gate.wait;
  };
  equal(await rig.write("a", 0, noise(0, BLOCK)), 0);
  const flush = rig.flush("a");
  await turns(2);
  equal(syncCount, 1);
  rig.host.log.capacityBytes = 0;
  const write = rig.write("a", BLOCK, noise(1, BLOCK));
  const closed = rig.pool.close().catch((error: unknown) => error);
  equal(await write, ENOSPC);
  gate.open("EIO");
  equal(await flush, EIO);
  ok(hasCode(await closed, "DISK_FULL"));
  equal(syncCount, 1);
  equal(rig.host.log.openCount, 0);
  rig.host.stop();
});

test("a log that ends on a full disk waits for the writes that are under way", async () => {
  const rig = await PoolRig.create({ syncWriteBytes: 512 });
  await rig.pool.createVolume("a", 16 * MIB);
  await turns(300);
  const gate = new Gate();
  let writeCount = 0;
  rig.host.log.onOperation = ({ kind }) => {
    if (kind !== "write") return undefined;
    writeCount += 1;
    return writeCount === 1 ? gate.wait : "ENOSPC";
  };
  const first = rig.write("a", 0, noise(0, BLOCK));
  await turns(2);
  const second = rig.write("a", BLOCK, noise(1, BLOCK));
  const closed = rig.pool.close().catch((error: unknown) => error);
  equal(await second, ENOSPC);
  equal(await first, ENOSPC);
  await turns(20);
  ok(rig.host.log.openCount > 0);
  gate.open(undefined);
  ok(hasCode(await closed, "DISK_FULL"));
  equal(rig.host.log.openCount, 0);
  rig.host.stop();
});
