// SPDX-License-Identifier: Apache-2.0
//
// npm test: all suites in order, cheapest first, each with its own time limit, and one summary at the
// end. `npm test -- unit interop` runs only those; `--verbose` shows every title. What the tests need
// of the machine is installed first, where that is allowed. With CI=true or REQUIRE_ALL=1 a skipped test
// counts as failed, so that nothing is left out without being noticed.
//
// A suite runs in a process group of its own: when it takes too long, the group is ended, and servers
// that its tests started end with it. The full output is kept in test-results/.

import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { providePackages } from "./packages.ts";
import { REPOSITORY, sourceFiles } from "./source-files.ts";
import type { TestCounts } from "./test-counts.ts";

export interface Suite {
  readonly name: string;
  readonly folders: readonly string[];
  readonly timeoutSeconds: number;
  /** All files in one process: for tests that touch nothing outside it. */
  readonly isShared?: boolean;
  /** One file at a time: for tests that measure time or load the whole machine. */
  readonly isSerial?: boolean;
  readonly needsPackages?: boolean;
  /** Not part of a plain `npm test`. */
  readonly isOnDemand?: boolean;
}

export const SUITES: readonly Suite[] = [
  { name: "unit", folders: ["src", "scripts"], timeoutSeconds: 600, isShared: true },
  { name: "tidy", folders: ["test/tidy"], timeoutSeconds: 60, isShared: true },
  { name: "conformance", folders: ["test/conformance"], timeoutSeconds: 120 },
  { name: "sim", folders: ["test/sim"], timeoutSeconds: 900 },
  {
    name: "crash",
    folders: ["test/crash"],
    timeoutSeconds: 420,
    isSerial: true,
    needsPackages: true,
  },
  { name: "golden", folders: ["test/golden"], timeoutSeconds: 60 },
  { name: "cli", folders: ["test/cli"], timeoutSeconds: 600, needsPackages: true },
  {
    name: "interop",
    folders: ["test/interop"],
    timeoutSeconds: 1200,
    isSerial: true,
    needsPackages: true,
  },
  {
    name: "bench",
    folders: ["bench"],
    timeoutSeconds: 300,
    isSerial: true,
    needsPackages: true,
  },
  {
    name: "machine",
    folders: ["test/machine"],
    timeoutSeconds: 1200,
    isSerial: true,
    needsPackages: true,
    isOnDemand: true,
  },
];

const RESULTS = join(REPOSITORY, "test-results");
const mustRunAll = process.env.CI === "true" || process.env.REQUIRE_ALL === "1";

/** Runs the named suites (none: all) and returns the exit code. */
export async function runSuites(args: readonly string[]): Promise<number> {
  const isVerbose = args.includes("--verbose");
  const names = args.filter((arg) => !arg.startsWith("--"));
  const unknown = names.filter((name) => !SUITES.some((suite) => suite.name === name));
  if (unknown.length > 0) {
    console.error(`varve: error: there is no test suite "${unknown.join('", "')}"`);
    console.error(`varve: hint: the suites are ${SUITES.map(({ name }) => name).join(", ")}`);
    return 2;
  }
  const suites = SUITES.filter(({ name, isOnDemand }) =>
    names.length > 0 ? names.includes(name) : !isOnDemand,
  );
  if (suites.some((suite) => suite.needsPackages)) providePackages();
  mkdirSync(RESULTS, { recursive: true });
  const total: TestCounts = { passed: 0, failed: 0, skipped: 0, skips: [] };
  for (const suite of suites) {
    const counts = await runSuite(suite, isVerbose);
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
    total.skips.push(...counts.skips.map((skip) => `${suite.name}: ${skip}`));
  }
  for (const skip of total.skips) console.log(`skipped: ${skip}`);
  if (mustRunAll && total.skipped > 0) {
    console.log(`${total.skipped} skipped tests count as failed here (CI or REQUIRE_ALL is set)`);
    total.failed += total.skipped;
    total.skipped = 0;
  }
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed === 0 ? 0 : 1;
}

async function runSuite(suite: Suite, isVerbose: boolean): Promise<TestCounts> {
  const files = sourceFiles(suite.folders)
    .map(({ path }) => path)
    .filter((path) => path.endsWith(".test.ts"));
  const none: TestCounts = { passed: 0, failed: 0, skipped: 0, skips: [] };
  if (files.length === 0) {
    console.log(`${suite.name.padEnd(12)} no tests`);
    return none;
  }
  const countsPath = join(RESULTS, `${suite.name}.json`);
  const textPath = join(RESULTS, `${suite.name}.txt`);
  rmSync(countsPath, { force: true });
  const started = performance.now();
  const end = await runNode(suite, { files, countsPath, textPath, isVerbose });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const counts = readCounts(countsPath) ?? none;
  // A process that ended badly without a failed test has failed as a whole: a leak, a crash, no time.
  const isBroken = end !== "passed" && counts.failed === 0;
  if (isBroken) counts.failed += 1;
  const { passed, failed, skipped } = counts;
  const summary = `${passed} passed, ${failed} failed, ${skipped} skipped`;
  console.log(`${suite.name.padEnd(12)} ${summary} in ${seconds} s${isBroken ? ` (${end})` : ""}`);
  if (failed > 0 && !isVerbose) showFailures(textPath);
  return counts;
}

interface Run {
  readonly files: readonly string[];
  readonly countsPath: string;
  readonly textPath: string;
  readonly isVerbose: boolean;
}

async function runNode(suite: Suite, run: Run): Promise<string> {
  const args = [
    "--test",
    "--test-reporter=spec",
    "--test-reporter-destination=stdout",
    `--test-reporter=${join(REPOSITORY, "scripts/test-counts.ts")}`,
    `--test-reporter-destination=${run.countsPath}`,
    ...(suite.isShared ? ["--test-isolation=none"] : []),
    ...(suite.isSerial ? ["--test-concurrency=1"] : []),
    ...run.files,
  ];
  const child = spawn(process.execPath, args, {
    cwd: REPOSITORY,
    env: { ...process.env, ...(mustRunAll ? { REQUIRE_ALL: "1" } : {}) },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const output = createWriteStream(run.textPath);
  for (const stream of [child.stdout, child.stderr]) {
    stream.pipe(output, { end: false });
    if (run.isVerbose) stream.pipe(process.stdout, { end: false });
  }
  const interrupt = (): void => {
    endGroup(child);
    process.exit(130);
  };
  process.once("SIGINT", interrupt);
  process.once("SIGTERM", interrupt);
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    endGroup(child);
  }, suite.timeoutSeconds * 1000);
  const status = await new Promise<string>((resolve) => {
    child.once("close", (code, signal) => resolve(`ended with ${signal ?? code}`));
  });
  clearTimeout(timer);
  process.off("SIGINT", interrupt);
  process.off("SIGTERM", interrupt);
  await new Promise<void>((resolve) => output.end(resolve));
  if (isLate) return `ended after its limit of ${suite.timeoutSeconds} s`;
  return status === "ended with 0" ? "passed" : status;
}

/** Ends a suite and everything that its tests started. */
function endGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch (error) {
    // ESRCH: the group has ended by itself in the meantime.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function readCounts(path: string): TestCounts | undefined {
  try {
    const text = readFileSync(path, "utf8");
    return text === "" ? undefined : (JSON.parse(text) as TestCounts);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function showFailures(path: string): void {
  const text = readFileSync(path, "utf8");
  const start = text.indexOf("✖ failing tests:");
  const before = (start === -1 ? text : text.slice(0, start)).trimEnd().split("\n");
  const failures = start === -1 ? "" : text.slice(start).trimEnd();
  // A file that failed as a whole says only "test failed" there; why, it said on its way.
  const isUnexplained = start === -1 || failures.includes("'test failed'");
  if (isUnexplained) console.log(before.slice(-60).join("\n"));
  if (failures !== "") console.log(failures);
  console.log(`all of it: ${path}`);
}

if (import.meta.main) process.exitCode = await runSuites(process.argv.slice(2));
