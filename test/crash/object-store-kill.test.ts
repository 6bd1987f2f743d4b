// SPDX-License-Identifier: Apache-2.0
//
// A program that puts objects into a directory, killed in the middle, again and again: what it was told is there is there
// and whole, every object that is listed is whole, what it left behind is found as unfinished, and the next one goes on.

import { equal, ok } from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { openDirectoryStore } from "../../src/host/node/directory-object-store.ts";
import { Scratch } from "../interop/scratch.ts";

const KILLS = 12;
const STORE = new URL("../../src/host/node/directory-object-store.ts", import.meta.url).href;

/** Puts objects of the letters of their names, four at a time, and prints each name when it was put. */
const PROGRAM = `
  const { openDirectoryStore } = await import(${JSON.stringify(STORE)});
  const store = await openDirectoryStore(process.argv[1]);
  const round = process.argv[2];
  let count = 0;
  const lane = async () => {
    for (;;) {
      const name = \`packs/\${count % 7}/\${round}-\${count++}\`;
      const part = Buffer.from(name.padEnd(50_000, name));
      if (await store.putIfAbsent(name, [part, part])) process.stdout.write(name + "\\n");
      await store.put("hint", [Buffer.from(name.padEnd(1000, name))]);
    }
  };
  await Promise.all([lane(), lane(), lane(), lane()]);`;

async function putUntilKilled(path: string, round: number): Promise<string[]> {
  const child = spawn(
    process.execPath,
    ["--input-type=module", "-e", PROGRAM, path, String(round)],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let printed = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    printed += text;
  });
  while (printed === "") await delay(5);
  await delay(round * 7);
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("close", resolve));
  return printed.split("\n").slice(0, -1);
}

test("what was put is whole after a kill, and what wasn't is no object", async () => {
  await using scratch = await Scratch.create();
  const store = await openDirectoryStore(scratch.directory);
  const told = new Set<string>();
  for (let round = 1; round <= KILLS; round += 1)
    for (const name of await putUntilKilled(scratch.directory, round)) told.add(name);
  const listed = new Set<string>();
  for await (const { name, sizeBytes } of store.list("packs/")) {
    listed.add(name);
    equal(sizeBytes, 100_000, name);
    const bytes = Buffer.from((await store.get(name))!);
    equal(bytes.toString(), name.padEnd(50_000, name).repeat(2));
  }
  for (const name of told) ok(listed.has(name), `${name} is missing`);
  ok(told.size > KILLS);
  const hint = Buffer.from((await store.get("hint"))!).toString();
  equal(hint.length, 1000);
  let leftCount = 0;
  for await (const name of store.unfinished()) {
    leftCount += 1;
    await store.discard(name);
  }
  ok(leftCount > 0, "no kill hit a put");
  for await (const name of store.unfinished()) ok(false, `${name} is still there`);
});
