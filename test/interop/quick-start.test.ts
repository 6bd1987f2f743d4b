// SPDX-License-Identifier: Apache-2.0
//
// The README's quick start, command by command, in a copy of the checkout: what newcomers type first
// works, and what they wrote is still there after the daemon was killed.

import { match, ok } from "node:assert/strict";
import { cp, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "./command.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";

const REPOSITORY = join(import.meta.dirname, "../..");
const NEEDS = [
  "qemu-img --version",
  "nbdcopy --version",
  "nbdfuse --version",
  { what: "root, for a loop device", isMet: process.getuid?.() === 0 },
];

test("the README's sixty seconds work as they are written", {
  skip: requires(...NEEDS),
  timeout: 120_000,
}, async () => {
  await using scratch = await Scratch.create();
  const checkout = scratch.path("varve");
  for (const name of ["bin", "scripts", "src", "package.json", "package-lock.json"]) {
    await cp(join(REPOSITORY, name), join(checkout, name), { recursive: true });
  }
  await symlink(join(REPOSITORY, "node_modules"), join(checkout, "node_modules"));
  scratch.defer("daemon", async () => {
    const pid = Number(await readFile(join(checkout, "varve-pool/lock"), "utf8"));
    if (pid > 1) process.kill(pid, "SIGKILL");
  });

  const commands = (await quickStart())
    // The port of the default may be taken here: everything else is as in the README.
    .replaceAll("npm start", "npm start --silent -- --listen none");
  const { stdout } = await run("bash", ["-euxc", commands], { cwd: checkout });
  match(stdout, /volume "db" created/);
  match(stdout, /^\/dev\/\S+$/m);
  const [before = ""] = (await readFile("/etc/services", "utf8")).split("\n");
  ok(stdout.split("\n").includes(before), "the disk of before shows what it held");

  const socket = join(checkout, "varve-pool/nbd.sock");
  const compare = `f=/etc/services; n=$(stat -c %s $f)
    cmp -n $n <(nbdcopy "nbd+unix:///db?socket=${socket}" - 2>/dev/null) $f`;
  await run("bash", ["-c", compare]);
});

/** The indented block below the README's heading "Sixty seconds". */
async function quickStart(): Promise<string> {
  const readme = await readFile(join(REPOSITORY, "README.md"), "utf8");
  const section = readme.split(/^## /m).find((part) => part.startsWith("Sixty seconds"));
  const lines = (section ?? "").split("\n").filter((line) => line.startsWith("    "));
  ok(lines.length > 5, "the README has a quick start");
  return lines.map((line) => line.slice(4)).join("\n");
}
