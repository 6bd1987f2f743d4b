// SPDX-License-Identifier: Apache-2.0
//
// What every object store must do, over any implementation; a bucket will have to pass it too. A factory makes an empty
// store and gives doors to it: several programs, each with a store of its own on the same objects.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { describe, test } from "node:test";
import { isObjectName, type ObjectStore } from "../../src/host/object-store.ts";

export interface StoreUnderTest {
  /** One more program's door to the same objects. */
  readonly door: () => Promise<ObjectStore>;
  /** Leaves behind what a crash leaves in the middle of a put of an object of that name. */
  readonly leaveUnfinished: (name: string) => Promise<void>;
  readonly dispose: () => Promise<void>;
}

export function objectStoreSuite(
  implementation: string,
  factory: () => Promise<StoreUnderTest>,
): void {
  const claim = (
    title: string,
    run: (store: ObjectStore, under: StoreUnderTest) => Promise<void>,
  ): void => {
    test(title, async () => {
      const under = await factory();
      try {
        await run(await under.door(), under);
      } finally {
        await under.dispose();
      }
    });
  };

  describe(`${implementation}: an object store`, () => {
    claim("gives back what was put, whole and in parts", async (store) => {
      equal(
        await store.putIfAbsent("packs/ab/one", [bytes("0123"), bytes(""), bytes("456789")]),
        true,
      );
      equal(text(await store.get("packs/ab/one")), "0123456789");
      equal(await store.sizeOf("packs/ab/one"), 10);
      for (const [offset, length, expected] of [
        [0, 4, "0123"],
        [3, 4, "3456"],
        [8, 100, "89"],
        [10, 1, ""],
        [1000, 10, ""],
        [0, 0, ""],
        [-3, 3, "789"],
        [-3, 2, "78"],
        [-100, 100, "0123456789"],
      ] as const) {
        equal(
          text(await store.get("packs/ab/one", { offset, length })),
          expected,
          `${offset} ${length}`,
        );
      }
    });

    claim("says that there is none", async (store) => {
      equal(await store.get("none"), undefined);
      equal(await store.get("packs/ab/none", { offset: -8, length: 8 }), undefined);
      equal(await store.sizeOf("packs/none"), undefined);
      deepEqual(await namesOf(store, ""), []);
      await store.delete("packs/none");
      await store.delete("none");
    });

    claim("never replaces an object that is put if absent", async (store, { door }) => {
      equal(await store.putIfAbsent("catalog/1", [bytes("first")]), true);
      equal(await store.putIfAbsent("catalog/1", [bytes("second")]), false);
      equal(await (await door()).putIfAbsent("catalog/1", [bytes("third")]), false);
      equal(text(await store.get("catalog/1")), "first");
    });

    claim("lets exactly one of many win", async (store, { door }) => {
      const doors = [store, await door(), await door(), await door()];
      for (const round of [1, 2, 3, 4, 5]) {
        const name = `catalog/${round}`;
        const puts = doors.flatMap((one, index) =>
          [0, 1].map((turn) => one.putIfAbsent(name, [bytes(`${index}.${turn}`)])),
        );
        const won = await Promise.all(puts);
        equal(won.filter((isWon) => isWon).length, 1);
        const winner = won.indexOf(true);
        equal(text(await store.get(name)), `${winner >> 1}.${winner & 1}`);
      }
      deepEqual(await unfinishedOf(store), []);
    });

    claim("shows every put to every door at once", async (store, { door }) => {
      const other = await door();
      equal(await other.get("hint"), undefined);
      await store.put("hint", [bytes("1")]);
      equal(text(await other.get("hint")), "1");
      await other.put("hint", [bytes("22")]);
      equal(text(await store.get("hint")), "22");
      equal(await store.sizeOf("hint"), 2);
    });

    claim(
      "replaces an object at once: a reader sees one or the other, whole",
      async (store, { door }) => {
        const contents = ["a", "b"].map((letter) => letter.repeat(100_000));
        await store.put("hint", [bytes(contents[0]!)]);
        const other = await door();
        let isOver = false;
        const reading = (async () => {
          let count = 0;
          for (; !isOver || count < 5; count += 1)
            ok(contents.includes(text(await other.get("hint"))));
        })();
        for (let round = 0; round < 20; round += 1)
          await store.put("hint", [bytes(contents[round & 1]!)]);
        isOver = true;
        await reading;
      },
    );

    claim("holds an object of no bytes", async (store) => {
      equal(await store.putIfAbsent("empty", []), true);
      equal(text(await store.get("empty")), "");
      equal(await store.sizeOf("empty"), 0);
      equal(await store.putIfAbsent("empty", [bytes("x")]), false);
    });

    claim("carries megabytes, in many parts", async (store) => {
      const part = new Uint8Array(1 << 20).map((_, index) => (index * 31) ^ (index >> 12));
      const parts = Array.from({ length: 300 }, (_, index) =>
        part.subarray(index * 1000, 20_000 + index * 1000),
      );
      await store.putIfAbsent("packs/large", parts);
      ok(Buffer.concat(parts).equals((await store.get("packs/large"))!));
    });

    claim("doesn't keep the bytes that it was given", async (store) => {
      const content = bytes("before");
      await store.put("a", [content]);
      content.fill(0x78);
      equal(text(await store.get("a")), "before");
      (await store.get("a"))!.fill(0x78);
      equal(text(await store.get("a")), "before");
    });

    claim(
      "lists what begins with a prefix, with sizes, and forgets what is deleted",
      async (store) => {
        const names = ["packs/ab/one", "packs/ab/two", "packs/cd/three", "runs/ab/one", "alone"];
        for (const name of names) await store.putIfAbsent(name, [bytes(name)]);
        deepEqual(await namesOf(store, ""), names.toSorted());
        deepEqual(await namesOf(store, "packs/"), names.slice(0, 3));
        deepEqual(await namesOf(store, "packs/ab/t"), ["packs/ab/two"]);
        deepEqual(await namesOf(store, "al"), ["alone"]);
        deepEqual(await namesOf(store, "none/"), []);
        for await (const { name, sizeBytes } of store.list("packs/")) equal(sizeBytes, name.length);
        await store.delete("packs/ab/one");
        equal(await store.get("packs/ab/one"), undefined);
        deepEqual(await namesOf(store, "packs/"), ["packs/ab/two", "packs/cd/three"]);
        equal(await store.putIfAbsent("packs/ab/one", [bytes("again")]), true);
      },
    );

    claim("may be changed while it is listed", async (store) => {
      for (let index = 0; index < 50; index += 1)
        await store.put(`packs/${index % 5}/${index}`, []);
      let count = 0;
      for await (const { name } of store.list("packs/")) {
        count += 1;
        await store.delete(name);
      }
      ok(count > 0 && count <= 50);
      deepEqual(await namesOf(store, ""), []);
    });

    claim("keeps unfinished puts apart from objects, and takes them away", async (store, under) => {
      await store.put("packs/ab/one", [bytes("one")]);
      await under.leaveUnfinished("packs/ab/two");
      await under.leaveUnfinished("top");
      deepEqual(await namesOf(store, ""), ["packs/ab/one"]);
      equal(await store.get("packs/ab/two"), undefined);
      const left = await unfinishedOf(store);
      equal(left.length, 2);
      for (const name of left) ok(!isObjectName(name));
      for (const name of left) await store.discard(name);
      for (const name of left) await store.discard(name);
      deepEqual(await unfinishedOf(store), []);
      equal(text(await store.get("packs/ab/one")), "one");
    });

    claim(
      "puts an object although its unfinished put is taken away under way",
      async (store, { door }) => {
        const other = await door();
        let isOver = false;
        const sweeping = (async () => {
          while (!isOver) {
            for await (const name of other.unfinished()) await other.discard(name);
            await new Promise((resolve) => setTimeout(resolve, 2));
          }
        })();
        const content = bytes("c".repeat(20_000));
        let putCount = 0;
        for (let index = 0; index < 20; index += 1) {
          // Robbed again and again a put gives up; it never says that it is done when it isn't.
          const isPut = await store.putIfAbsent(`packs/${index}`, [content]).catch(() => false);
          if (isPut) equal((await store.get(`packs/${index}`))?.length, content.length);
          putCount += isPut ? 1 : 0;
        }
        isOver = true;
        await sweeping;
        ok(putCount > 0);
      },
    );

    claim("refuses names that could leave it: they are bugs", async (store) => {
      for (const name of [
        "",
        "..",
        "a/../b",
        "/a",
        "a//b",
        "a/",
        "A",
        "a b",
        ".a",
        "a/.b",
        "a\0",
        "a/b/c/d/e",
      ]) {
        ok(!isObjectName(name), name);
        const broken = { name: "AssertionError" };
        await rejects(async () => store.get(name), broken, name);
        await rejects(async () => store.put(name, []), broken, name);
        await rejects(async () => store.putIfAbsent(name, []), broken, name);
        await rejects(async () => store.delete(name), broken, name);
      }
    });
  });
}

async function namesOf(store: ObjectStore, prefix: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(prefix)) names.push(name);
  return names.sort();
}

async function unfinishedOf(store: ObjectStore): Promise<string[]> {
  const names: string[] = [];
  for await (const name of store.unfinished()) names.push(name);
  return names;
}

function bytes(content: string): Uint8Array {
  return new Uint8Array(Buffer.from(content, "latin1"));
}

function text(content: Uint8Array | undefined): string {
  ok(content !== undefined);
  return Buffer.from(content).toString("latin1");
}
