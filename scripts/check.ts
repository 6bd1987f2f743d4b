// SPDX-License-Identifier: Apache-2.0
//
// npm run check: everything about the source that can be said without running it: types, lint and
// format, boundaries and headers, exports that nobody uses; and how large the core is. Seconds, so that
// it can be run before every commit.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { deadExports } from "./dead-exports.ts";
import { isTest, REPOSITORY, sourceFiles } from "./source-files.ts";

/** Base to pool, and the NBD door: what must stay small enough to be read. */
const CORE = ["base", "host", "reduce", "log", "index", "volume", "gc", "pool", "nbd"];
const CORE_LINES_LIMIT = 12_000;

interface Step {
  readonly name: string;
  /** Empty when all is well, else what to print. */
  readonly run: () => string;
}

const STEPS: readonly Step[] = [
  { name: "types", run: () => program("node_modules/typescript/bin/tsc", ["-p", "tsconfig.json"]) },
  {
    name: "lint, format",
    run: () => program("node_modules/@biomejs/biome/bin/biome", ["check", "--error-on-warnings"]),
  },
  {
    name: "tidy",
    run: () => {
      const files = sourceFiles(["test/tidy"]).map(({ path }) => path);
      const tests = files.filter((path) => path.endsWith(".test.ts"));
      return program("--test", ["--test-isolation=none", "--test-reporter=dot", ...tests]);
    },
  },
  { name: "dead exports", run: () => deadExports().join("\n") },
];

let failedCount = 0;
for (const { name, run } of STEPS) {
  const started = performance.now();
  const complaint = run();
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${name.padEnd(14)} ${complaint === "" ? "ok" : "FAILED"} in ${seconds} s`);
  if (complaint !== "") console.log(complaint);
  failedCount += complaint === "" ? 0 : 1;
}
const lines = coreLines();
console.log(
  `core           ${lines} lines of code and comments (wanted: below ${CORE_LINES_LIMIT})`,
);
process.exitCode = failedCount === 0 ? 0 : 1;

function program(script: string, args: readonly string[]): string {
  const first = script.startsWith("-") ? script : join(REPOSITORY, script);
  const run = spawnSync(process.execPath, [first, ...args], { cwd: REPOSITORY, encoding: "utf8" });
  return run.status === 0 ? "" : `${run.stdout}${run.stderr}`.trimEnd();
}

function coreLines(): number {
  return sourceFiles(CORE.map((layer) => `src/${layer}`))
    .filter(({ path }) => !isTest(path))
    .reduce(
      (sum, { text }) => sum + text.split("\n").filter((line) => line.trim() !== "").length,
      0,
    );
}
