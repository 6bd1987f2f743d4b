// SPDX-License-Identifier: Apache-2.0
//
// `npm start` in a second checkout, while the first one has the port: it says how to take another one, and
// leaves no half-made pool behind.

import { equal, match, ok } from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, symlink } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { closed, programEnv } from "../interop/command.ts";
import { Scratch } from "../interop/scratch.ts";

const REPOSITORY = join(import.meta.dirname, "../..");

test("a start on a port that is taken offers another and leaves nothing behind", async () => {
  await using scratch = await Scratch.create();
  const checkout = scratch.path("varve");
  for (const name of ["bin", "scripts", "src", "package.json"]) {
    await cp(join(REPOSITORY, name), join(checkout, name), { recursive: true });
  }
  await symlink(join(REPOSITORY, "node_modules"), join(checkout, "node_modules"));
  const other = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => other.once("listening", resolve));
  scratch.defer("the port", () => new Promise((resolve) => other.close(resolve)));
  const { port } = other.address() as AddressInfo;

  const args = ["scripts/start.ts", "--listen", `127.0.0.1:${port}`, "--memory", "256M"];
  const child = spawn(process.execPath, args, { cwd: checkout, env: programEnv() });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  equal(await closed(child), 1, stderr);
  match(stderr, /EADDRINUSE|in use/);
  match(stderr, /npm start -- --listen 127\.0\.0\.1:10810/);
  ok(!existsSync(join(checkout, "varve-pool")), "no pool is left");
});
