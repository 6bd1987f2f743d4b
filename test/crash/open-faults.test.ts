// SPDX-License-Identifier: Apache-2.0
//
// A disk that fails at its k-th operation, for every k until a run completes: whatever fails, requests end, the
// pool says that it stopped, and the next opening has everything that a flush had acknowledged.

import { equal, ok, rejects } from "node:assert/strict";
import { suite, test } from "node:test";
import { StorageError } from "../../src/base/errors.ts";
import type { MemoryHost, MemoryOperation } from "../../src/sim/memory-host.ts";
import { BLOCK, newHost, noise, PoolRig, turns } from "./memory-rig.ts";

const MIB = 1 << 20;
const EIO = 5;
const ENOSPC = 28;
const ESHUTDOWN = 108;

/** What a run has been promised: block → seed of its content, or 0 for zeros. */
class Promised {
  readonly durable: Map<number, number> = new Map();
  /** May be there or not: written after the last acknowledged flush, newest last. */
  readonly maybe: Map<number, number[]> = new Map();

  wrote(block: number, seed: number): void {
    this.maybe.set(block, [...(this.maybe.get(block) ?? []), seed]);
  }

  refused(block: number, seed: number): void {
    this.maybe.set(
      block,
      (this.maybe.get(block) ?? []).filter((one) => one !== seed),
    );
    if (this.maybe.get(block)?.length === 0) this.maybe.delete(block);
  }

  flushed(): void {
    for (const [block, seeds] of this.maybe) this.durable.set(block, seeds.at(-1) as number);
    this.maybe.clear();
  }
}

/** Writes, trims, flushes, a checkpoint and a roll-over; ends early, and quietly, when the pool has stopped. */
async function useOnce(rig: PoolRig, promised: Promised): Promise<void> {
  let seed = 1;
  for (let round = 0; round < 4; round++) {
    const answers: Promise<number>[] = [];
    for (let at = 0; at < 6; at++) {
      const block = (round * 5 + at * 3) % 24;
      promised.wrote(block, ++seed);
      const mine = seed;
      const written = rig.write("a", block * BLOCK, noise(seed, BLOCK)).then((errno) => {
        if (errno === ENOSPC) promised.refused(block, mine);
        return errno === ENOSPC ? 0 : errno;
      });
      answers.push(written);
    }
    promised.wrote(30, 0);
    answers.push(rig.trim("a", 30 * BLOCK, BLOCK));
    const errors = await Promise.all(answers);
    ok(
      errors.every((errno) => [0, EIO, ESHUTDOWN].includes(errno)),
      `writes: ${errors.join()}`,
    );
    const errno = await rig.flush("a");
    if (errno !== 0) {
      ok(errno === EIO || errno === ESHUTDOWN, `flush: ${errno}`);
      equal(rig.pool.state, "stopped");
      return;
    }
    equal(
      errors.some((one) => one !== 0),
      false,
      "a flush is not acknowledged behind a lost write",
    );
    promised.flushed();
    if (round === 2) await rig.pool.checkpoint().catch(onlyStorageError);
  }
}

function onlyStorageError(error: unknown): void {
  if (!(error instanceof StorageError)) throw error;
}

async function expectPromised(
  rig: PoolRig,
  { durable, maybe }: Promised,
  what: string,
): Promise<void> {
  for (let block = 0; block < 32; block++) {
    const found = await rig.read("a", block * BLOCK, BLOCK);
    ok(typeof found !== "number", `${what}: block ${block}: error`);
    const seeds = [durable.get(block) ?? 0, ...(maybe.get(block) ?? [])];
    const wanted = seeds.map((seed) => (seed === 0 ? new Uint8Array(BLOCK) : noise(seed, BLOCK)));
    const isThere = wanted.some((bytes) => Buffer.compare(bytes, found) === 0);
    ok(isThere, `${what}: block ${block} is none of ${seeds.join()}`);
  }
}

interface Stepped {
  readonly kinds: readonly string[];
  readonly errno: string;
  readonly isOpening: boolean;
  /** Batches go to the disk a few at once. */
  readonly areWritesParallel?: boolean;
}

/** One run with the k-th of these operations failing; false when there was none. */
async function failAt(
  k: number,
  { kinds, errno, isOpening, areWritesParallel = false }: Stepped,
): Promise<boolean> {
  const what = `${errno} at ${kinds.join("/")} ${k}`;
  let host: MemoryHost = newHost();
  const first = await PoolRig.create({}, host);
  await first.pool.createVolume("a", MIB);
  const promised = new Promised();
  for (let block = 0; block < 8; block++) {
    promised.wrote(block, 200 + block);
    await first.write("a", block * BLOCK, noise(200 + block, BLOCK));
  }
  await first.flush("a");
  promised.flushed();
  host = first.host.restart();
  let seen = 0;
  let isHit = false;
  const hook = ({ kind }: MemoryOperation): string | undefined => {
    if (isHit || !kinds.includes(kind) || ++seen < k) return undefined;
    isHit = true;
    return errno;
  };
  if (isOpening) host.operations(hook);
  const settings = areWritesParallel ? { syncWriteBytes: 512 } : {};
  const opened = await PoolRig.open({ root: new Map(), log: new Map() }, settings, host).catch(
    (error: unknown) => {
      onlyStorageError(error);
      return undefined;
    },
  );
  if (opened !== undefined) {
    if (!isOpening) host.operations(hook);
    await useOnce(opened, promised);
    await turns(200); // a marker, a poll
    host.operations(undefined);
    if (opened.pool.state === "stopped") await expectReadable(opened, what);
    await opened.pool.close().catch(onlyStorageError);
  }
  host.operations(undefined);
  for (const [how, files] of [
    ["kill", { root: host.root.files(), log: host.log.files() }],
    ["power", { root: host.root.durableFiles(), log: host.log.durableFiles() }],
  ] as const) {
    const again = await PoolRig.open(files);
    again.pool.checkInvariants();
    await expectPromised(again, promised, `${what}, ${how}`);
    again.host.stop();
  }
  host.stop();
  return isHit;
}

/** A stopped pool still reads, or says that it can't; it never hangs. */
async function expectReadable(rig: PoolRig, what: string): Promise<void> {
  for (let block = 0; block < 4; block++) {
    const found = await rig.read("a", block * BLOCK, BLOCK);
    ok(typeof found !== "number" || found === EIO, what);
  }
  const refused = await rig.write("a", 0, noise(1, BLOCK));
  ok(
    refused === EIO || refused === ESHUTDOWN,
    `${what}: a stopped pool refuses writes: ${refused}`,
  );
}

suite("a disk that fails at its k-th operation", () => {
  for (const kinds of [
    ["write"],
    ["datasync"],
    ["sync"],
    ["create"],
    ["read"],
    ["list", "open", "size", "free", "remove", "rename", "close"],
  ]) {
    for (const isOpening of [false, true]) {
      test(`${kinds.join(", ")} ${isOpening ? "from the opening on" : "of an open pool"}`, async () => {
        let k = 1;
        while (await failAt(k, { kinds, errno: "EIO", isOpening })) k += 1;
        ok(k > 1 || !isOpening, "it is met at all");
      });
    }
  }

  test("writes of an open pool that sends several at once", async () => {
    for (const errno of ["EIO", "ENOSPC"]) {
      let k = 1;
      const kinds = ["write"];
      while (await failAt(k, { kinds, errno, isOpening: false, areWritesParallel: true })) k += 1;
      ok(k > 3);
    }
  });

  test("a pool that stopped says so to the control plane, with the disk's own words", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", MIB);
    rig.host.log.onOperation = ({ kind }) => (kind === "datasync" ? "EIO" : undefined);
    await rejects(rig.pool.createVolume("b", MIB), { code: "DISK_IO" });
    for (const refused of [rig.pool.createVolume("c", MIB), rig.pool.removeVolume("a")])
      await rejects(refused, { code: "POOL_STOPPED", message: /it stopped: .*datasync failed/ });
    equal(rig.pool.state, "stopped");
    ok(rig.host.eventNames().includes("pool.stopped"));
    rig.host.log.onOperation = undefined;
    await rig.pool.close();
    equal(rig.pool.state, "closed");
    await rejects(rig.pool.createVolume("d", MIB), { code: "POOL_STOPPED" });
  });

  test("a disk that takes no checkpoint stops the pool when writes would wait for one, not before", async () => {
    const rig = await PoolRig.create();
    await rig.pool.createVolume("a", 1024 * MIB);
    rig.host.log.onOperation = ({ kind, name }) =>
      kind === "write" && name.endsWith(".run") ? "EIO" : undefined;
    let errno = 0;
    let blocks = 0;
    for (; errno === 0; blocks += 256)
      errno = await rig.write("a", blocks * BLOCK, new Uint8Array(MIB));
    const { ring } = rig.pool.index;
    ok(blocks > ring.capacity / 2, "writes went on while the ring had room");
    equal(rig.pool.state, "stopped");
    ok(rig.host.eventNames().includes("pool.checkpoint-failed"));
    rig.host.log.onOperation = undefined;
    const again = await PoolRig.open(rig.kill());
    ok(again.pool.stats().checkpointCount > 0, "the opening takes the checkpoint");
    await again.close();
  });

  test("no space at the k-th write or creation: the pool waits, and loses nothing", async () => {
    for (const kinds of [["write"], ["create"]]) {
      let k = 1;
      while (await failAt(k, { kinds, errno: "ENOSPC", isOpening: false })) k += 1;
      ok(k > 3);
    }
  });
});
