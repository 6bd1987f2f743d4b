// SPDX-License-Identifier: Apache-2.0
//
// The benchmark of what is stored works: on two tiny images, with Varve alone and with a peer's earlier
// result. The figures mean nothing here.

import { equal, match, ok } from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../test/interop/command.ts";
import { requires } from "../test/interop/requires.ts";
import { Scratch } from "../test/interop/scratch.ts";
import { readManifest } from "./corpus/manifest.ts";

const script = join(import.meta.dirname, "reduction.ts");
const skip = requires("qemu-img --version");
const MIB = 1024 * 1024;

test("peers are measured once and put beside Varve later", { skip }, async () => {
  await using scratch = await Scratch.create();
  const contents = [Buffer.alloc(MIB, "varve "), Buffer.alloc(2 * MIB, "other ")];
  const paths = [scratch.path("a.img"), scratch.path("b.img")];
  for (const [index, path] of paths.entries()) await writeFile(path, contents[index]!);
  const bench = (args: readonly string[], accept: readonly number[] = [0]) =>
    run(process.execPath, [script, `--scratch=${scratch.directory}`, ...args], { accept });

  const peers = scratch.path("peers");
  await bench([`--images=${paths}`, "--only=qcow2-zlib", `--out=${peers}`]);
  const { stdout } = await bench([
    `--images=${paths}`,
    "--only=varve",
    `--peers-from=${peers}.json`,
    `--out=${scratch.path("all")}`,
  ]);
  match(stdout, /^ +varve +\d+ MiB/m);
  match(stdout, /^ +qcow2-zlib +\d+ MiB.* ×$/m);
  match(stdout, /a: exported, and equal/);
  const all = JSON.parse(await readFile(`${scratch.path("all")}.json`, "utf8"));
  equal(all.content.nonZeroBytes, 3 * MIB);
  // "varve " repeats every three blocks of 4 KiB, as does the other.
  equal(all.content.distinctBytes, 6 * 4096);

  const other = await bench([`--images=${paths[0]}`, `--peers-from=${peers}.json`], [2]);
  match(other.stderr, /about other images/);
});

test("the manifest of the corpus can be read, and names four sets of each kind", async () => {
  const artifacts = await readManifest();
  const images = new Set(artifacts.flatMap((one) => one.images));
  for (const kind of ["server", "desktop", "npm"])
    equal([...images].filter((name) => name.startsWith(kind)).length, 4, kind);
  ok(artifacts.every(({ sha256 }) => /^[0-9a-f]{64}$/.test(sha256)));
});
