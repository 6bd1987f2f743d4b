// SPDX-License-Identifier: Apache-2.0
//
// pool.json: what counts as a pool, and what each directory that is none is told.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { newHost, PoolRig } from "../../test/crash/memory-rig.ts";
import { MemoryDirectory } from "../sim/memory-host.ts";
import {
  newIdentity,
  type PoolIdentity,
  poolIdBytes,
  readIdentity,
  writeIdentity,
} from "./identity.ts";
import { findIdentity, isIdentityLost, lostIdentity } from "./lost-identity.ts";

const GOOD = {
  format: "varve-pool",
  formatVersion: 1,
  blockBytes: 4096,
  poolId: "00112233445566778899aabbccddeeff",
  createdMicros: 5,
  log: "begun",
};

function rootWith(content: unknown): MemoryDirectory {
  const text = typeof content === "string" ? content : JSON.stringify(content);
  return new MemoryDirectory("pool", new Map([["pool.json", new TextEncoder().encode(text)]]));
}

test("an identity is written whole, read back, and durable with its name", async () => {
  const { root, random } = newHost();
  const identity = newIdentity(random, 1_700_000_000_000_000);
  await writeIdentity(root, identity);
  await writeIdentity(root, { ...identity, log: "begun" });
  deepEqual(await readIdentity(root), { ...identity, log: "begun" });
  deepEqual(root.durableFiles(), root.files());
  deepEqual([...root.files().keys()], ["pool.json"]);
  equal(poolIdBytes(identity).length, 16);
  equal(root.openCount, 0);
});

test("what an interrupted writing left behind is overcome", async () => {
  const { root, random } = newHost();
  const file = await root.open("pool.json.new", "create");
  await file.write(new Uint8Array(10), 0);
  await file.close();
  await writeIdentity(root, newIdentity(random, 1));
  deepEqual([...root.files().keys()], ["pool.json"]);
});

test("each directory that is no pool of this version is told so", async () => {
  await rejects(readIdentity(new MemoryDirectory("pool")), { code: "POOL_NOT_FOUND" });
  await rejects(readIdentity(new MemoryDirectory("pool", new Map([["a", new Uint8Array(1)]]))), {
    code: "NOT_A_POOL",
  });
  deepEqual(await readIdentity(rootWith(GOOD)), {
    poolId: GOOD.poolId,
    createdMicros: 5,
    log: "begun",
  });
  for (const [content, code] of [
    ["", "POOL_CORRUPT"],
    ["{", "POOL_CORRUPT"],
    ["null", "POOL_CORRUPT"],
    ["7", "POOL_CORRUPT"],
    [`${JSON.stringify(GOOD)}${" ".repeat(70_000)}x`, undefined],
    [[], "NOT_A_POOL"],
    [{ name: "something", version: "1.0.0" }, "NOT_A_POOL"],
    [{ ...GOOD, format: "other" }, "NOT_A_POOL"],
    [{ ...GOOD, formatVersion: 2 }, "FORMAT_UNSUPPORTED"],
    [{ ...GOOD, formatVersion: undefined }, "FORMAT_UNSUPPORTED"],
    [{ ...GOOD, blockBytes: 512 }, "FORMAT_UNSUPPORTED"],
    [{ ...GOOD, poolId: "xyz" }, "POOL_CORRUPT"],
    [{ ...GOOD, poolId: 7 }, "POOL_CORRUPT"],
    [{ ...GOOD, createdMicros: "5" }, "POOL_CORRUPT"],
    [{ ...GOOD, log: "lost" }, "POOL_CORRUPT"],
  ] as const) {
    const root = rootWith(content);
    if (code === undefined) await readIdentity(root);
    else await rejects(readIdentity(root), { code }, JSON.stringify(content).slice(0, 100));
    equal(root.openCount, 0);
  }
});

test("a disk that can't read the file is no damaged pool", async () => {
  const root = rootWith(GOOD);
  root.onOperation = ({ kind }) => (kind === "read" ? "EIO" : undefined);
  await rejects(readIdentity(root), { code: "DISK_IO" });
});

test("a pool whose pool.json is lost is found by its segments, where they agree", async () => {
  const rig = await PoolRig.create();
  await rig.pool.createVolume("a", 1 << 20);
  const { root, log } = await rig.close();
  const { poolId } = await readIdentity(new MemoryDirectory("pool", root));
  const segment = [...log.keys()].find((name) => name.endsWith(".seg")) as string;
  const found = await findIdentity(new MemoryDirectory("log", log));
  equal(found?.poolId, poolId);
  equal(found?.log, "begun");

  const error = await readIdentity(rootWith("")).catch((caught: unknown) => caught);
  ok(isIdentityLost(error));
  const refusal = lostIdentity(error, found as PoolIdentity);
  match(refusal.message, new RegExp(`doesn't parse; its segments are those of pool ${poolId}$`));
  const written = refusal.hint.slice(refusal.hint.indexOf("{"));
  deepEqual(await readIdentity(rootWith(written)), found, "what the hint says is a pool.json");

  const damaged = (log.get(segment) as Uint8Array).slice();
  damaged[40] = 0xff;
  const stranger = (await PoolRig.create({}, newHost({ seed: 2 }))).kill().log.get(segment);
  const foundWith = (name: string, bytes: Uint8Array): Promise<PoolIdentity | undefined> =>
    findIdentity(new MemoryDirectory("log", new Map([...log, [name, bytes]])));
  const next = "00000000000000ff.seg";
  equal((await foundWith(next, damaged))?.poolId, poolId, "what can't be read says nothing");
  equal(await foundWith(segment, damaged), undefined, "none is left");
  equal(await foundWith(next, stranger as Uint8Array), undefined, "they differ");
});
