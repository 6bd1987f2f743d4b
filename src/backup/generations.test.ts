// SPDX-License-Identifier: Apache-2.0
//
// The chain by itself: lost hints, listings that lie, sleepers that wake up long after their generation was trimmed.

import { equal, notEqual, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../base/errors.ts";
import { MemoryBucket, MemoryObjectStore, type StoreGates } from "../sim/memory-object-store.ts";
import { Prng } from "../sim/prng.ts";
import { SimRandom } from "../sim/scheduler.ts";
import { type Generation, Generations } from "./generations.ts";
import { PLAIN_SEALER } from "./sealing.ts";

const random = new SimRandom(new Prng(5));

function chainOf(bucket: MemoryBucket, gates: StoreGates = {}): Generations {
  const store = new MemoryObjectStore(bucket, gates);
  return new Generations({ store, sealer: PLAIN_SEALER, random, bodyBytesMax: 1000 });
}

/** Appends until the newest is `number`. */
async function growTo(chain: Generations, number: number): Promise<Generation> {
  let newest = await chain.newest();
  while (newest.number < number)
    newest = (await chain.append(newest, Buffer.from(`body ${newest.number + 1}`)))!;
  return newest;
}

async function begun(): Promise<{ bucket: MemoryBucket; chain: Generations }> {
  const bucket = new MemoryBucket();
  const chain = chainOf(bucket);
  await chain.begin(Buffer.from("body 1"));
  return { bucket, chain };
}

const text = ({ body }: Generation): string => Buffer.from(body).toString();

test("the newest generation is found with and without a hint, and with a wrong one", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 100);
  for (const hint of ["100\n", "1\n", "37\n", "99999\n", "0\n", "-1\n", "x", "", undefined]) {
    if (hint === undefined) bucket.objects.delete("catalog/hint");
    else bucket.objects.set("catalog/hint", Buffer.from(hint));
    equal(text(await chainOf(bucket).newest()), "body 100", String(hint));
  }
  await chain.trim(1, 60);
  for (const hint of ["37\n", "60\n", "61\n", undefined]) {
    if (hint === undefined) bucket.objects.delete("catalog/hint");
    else bucket.objects.set("catalog/hint", Buffer.from(hint));
    equal(text(await chainOf(bucket).newest()), "body 100", String(hint));
  }
});

test("a listing that lies delays the search, and never leads it to an old generation", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 30);
  await chain.trim(1, 20);
  bucket.objects.delete("catalog/hint");
  for (let seed = 1; seed <= 200; seed += 1) {
    bucket.lies = new Prng(seed);
    equal((await chainOf(bucket).newest()).number, 30);
  }
});

test("only one of two that append to the same generation succeeds", async () => {
  const { bucket } = await begun();
  const [one, other] = [chainOf(bucket), chainOf(bucket)];
  const [base, same] = [await one.newest(), await other.newest()];
  const made = await Promise.all([
    one.append(base, Buffer.from("one")),
    other.append(same, Buffer.from("other")),
  ]);
  equal(made.filter((generation) => generation !== undefined).length, 1);
  const winner = made[0] === undefined ? "other" : "one";
  equal(text(await chainOf(bucket).newest()), winner);
});

test("a sleeper's commit is refused when its generation was trimmed meanwhile, and misleads nobody", async () => {
  for (const slept of [1, 2, 5]) {
    const { bucket, chain } = await begun();
    await growTo(chain, slept);
    const sleeper = chainOf(bucket);
    const old = await sleeper.newest();
    await growTo(chain, 100);
    await chain.trim(1, 90);
    equal(await sleeper.append(old, Buffer.from("from a dream")), undefined);
    equal(text(await sleeper.newest()), "body 100");
    equal(text(await chainOf(bucket).newest()), "body 100");
  }
});

test("a sleeper that dies between its put and its look leaves nothing that counts", async () => {
  for (const slept of [1, 2, 5]) {
    const { bucket, chain } = await begun();
    await growTo(chain, slept);
    const dying = chainOf(bucket, {
      end: ({ kind }) => (kind === "put-if-absent" ? new Promise(() => {}) : Promise.resolve()),
    });
    const old = await dying.newest();
    await growTo(chain, 100);
    await chain.trim(1, 90);
    void dying.append(old, Buffer.from("from a dream"));
    await new Promise((resolve) => setImmediate(resolve));
    bucket.objects.set("catalog/hint", Buffer.from(`${slept + 1}\n`));
    equal(text(await chainOf(bucket).newest()), "body 100");
    // Nor does one that dreams on top of it.
    const dreamer = chainOf(bucket);
    const stray = { ...old, number: slept + 1, id: "00".repeat(16) };
    equal(await dreamer.append(stray, Buffer.from("deeper")), undefined);
    equal(text(await chainOf(bucket).newest()), "body 100");
  }
});

test("a maker that slept doesn't begin a second chain", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 10);
  let wake = (): void => {};
  const asleep = new Promise<void>((resolve) => {
    wake = resolve;
  });
  const maker = chainOf(bucket, {
    begin: async ({ kind }) => {
      if (kind === "put-if-absent") await asleep;
      return undefined;
    },
  });
  bucket.objects.delete("catalog/0000000000000001");
  const making = maker.begin(Buffer.from("second"));
  await new Promise((resolve) => setImmediate(resolve));
  await chain.trim(1, 5);
  wake();
  await making;
  equal(text(await chainOf(bucket).newest()), "body 10");
  equal(bucket.objects.has("catalog/0000000000000001"), false);
});

test("an answer that is lost isn't a commit that is lost", async () => {
  const { bucket } = await begun();
  const chain = chainOf(bucket, {
    begin: async ({ kind }) => (kind === "put-if-absent" ? "unknown" : undefined),
  });
  const made = await chain.append(await chain.newest(), Buffer.from("kept"));
  ok(made !== undefined);
  equal(text(await chainOf(bucket).newest()), "kept");
});

test("a put that fails is told, and leaves the chain as it was", async () => {
  const { bucket } = await begun();
  const failing = chainOf(bucket, {
    begin: async ({ kind }) => (kind === "put-if-absent" ? "full" : undefined),
  });
  const base = await failing.newest();
  await rejects(failing.append(base, Buffer.from("x")), (error) => hasCode(error, "TARGET_FULL"));
  equal((await chainOf(bucket).newest()).number, 1);
});

test("a hint that can't be written fails nobody", async () => {
  const { bucket } = await begun();
  const chain = chainOf(bucket, {
    begin: async ({ kind }) => (kind === "put" ? "failed" : undefined),
  });
  equal((await growTo(chain, 5)).number, 5);
  equal((await chainOf(bucket).newest()).number, 5);
});

test("a damaged newest generation is said, not passed over", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 5);
  const bytes = bucket.objects.get("catalog/0000000000000005")!;
  bytes[40] = bytes[40]! ^ 1;
  await rejects(chainOf(bucket).newest(), (error) => hasCode(error, "TARGET_CORRUPT"));
});

test("what was before a damaged newest generation can be read, and gone on from", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 5);
  const name = "catalog/0000000000000005";
  for (const damage of ["flipped", "cut", "empty", "foreign"]) {
    const bytes = bucket.objects.get(name)!;
    if (damage === "flipped") bytes[40] = bytes[40]! ^ 1;
    else
      bucket.objects.set(
        name,
        damage === "foreign" ? Buffer.from("x") : bytes.slice(0, damage === "cut" ? 50 : 0),
      );
    const reader = chainOf(bucket);
    const { generation, damage: problem } = await reader.newestReadable();
    equal(text(generation), "body 4");
    ok(hasCode(problem, "TARGET_CORRUPT"));
    ok(problem.hint.includes("--repair"));
    await reader.undoDamaged();
    equal(text(await chainOf(bucket).newest()), "body 4");
    equal((await chainOf(bucket).newest()).number, 5);
    await reader.undoDamaged();
    equal((await growTo(chainOf(bucket), 6)).number, 6);
    bucket.objects.delete("catalog/0000000000000006");
  }
});

test("two damaged generations in a row are too many to guess", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 5);
  for (const number of [4, 5])
    bucket.objects.set(`catalog/000000000000000${number}`, Buffer.from("x"));
  await rejects(chainOf(bucket).newestReadable(), (error) => hasCode(error, "TARGET_CORRUPT"));
});

test("old generations go in ascending order, each durably before the next", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 20);
  const deleted: string[] = [];
  let underWay = 0;
  const trimming = chainOf(bucket, {
    begin: async ({ kind, name }) => {
      if (kind !== "delete") return undefined;
      underWay += 1;
      equal(underWay, 1);
      ok(bucket.objects.has("catalog/trimmed"));
      deleted.push(name);
      return undefined;
    },
    end: async ({ kind }) => {
      await new Promise((resolve) => setImmediate(resolve));
      if (kind === "delete") underWay -= 1;
    },
  });
  await trimming.trim(1, 10);
  equal(deleted.length, 9);
  equal(deleted.join(), deleted.toSorted().join());
});

test("a chain that can't be found is unavailable, not empty", async () => {
  const { bucket, chain } = await begun();
  await growTo(chain, 5);
  for (const number of [4, 3, 2, 1]) bucket.objects.delete(`catalog/000000000000000${number}`);
  await rejects(chainOf(bucket).newest(), (error) => hasCode(error, "TARGET_UNAVAILABLE"));
  notEqual(bucket.objects.size, 0);
});
