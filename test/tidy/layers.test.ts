// SPDX-License-Identifier: Apache-2.0
//
// Boundaries: which folder may import which, which built-in modules and packages each may use, and that
// nothing outside src/host/node touches time, chance, the environment or the console. The messages say
// what may be imported instead. Where the code teaches better, change the tables below in a commit that
// says why.

import { deepEqual } from "node:assert/strict";
import { dirname, join } from "node:path/posix";
import { test } from "node:test";
import {
  importsOf,
  isTest,
  lineAt,
  type SourceFile,
  sourceFiles,
} from "../../scripts/source-files.ts";

const CORE = ["base", "host", "reduce", "log", "index", "volume", "gc", "pool"];

/** Layer → layers it may import; itself is always allowed. "host" is the ports, "host/node" the real ones. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  base: [],
  host: ["base"],
  "host/node": ["base", "host"],
  api: ["base"],
  reduce: ["base", "host"],
  // The log's checksums and the memory that its frames are in belong to reduce, which knows no log.
  log: ["base", "host", "reduce"],
  index: ["base", "host", "reduce", "log"],
  volume: ["base", "host", "reduce", "log", "index"],
  gc: ["base", "host", "reduce", "log", "index"],
  pool: ["base", "host", "reduce", "log", "index", "volume", "gc"],
  backup: CORE,
  replicate: CORE,
  capture: CORE,
  tier: CORE,
  image: ["base", "host"],
  nbd: ["base", "host"],
  http: ["base", "host", "api"],
  web: ["api"],
  // A backup's processor time, memory and faults are its own process's, not the daemon's.
  cli: ["base", "host", "host/node", "api", "image", "backup"],
  sim: ["base", "host"],
  daemon: [
    ...CORE,
    "host/node",
    "nbd",
    "http",
    "api",
    "image",
    "backup",
    "replicate",
    "capture",
    "tier",
  ],
  // The public door shows what is inside to the outside.
  "src/varve.ts": [...CORE, "host/node", "nbd", "daemon"],
};

/** Single files that need one more, and why. */
const FILE_MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  // A disk and a network for the NBD door's tests: the door owns these interfaces.
  "src/sim/memory-device.ts": ["nbd"],
  "src/sim/nbd-door.ts": ["nbd"],
  // A target for the tests of what reads one.
  "src/sim/small-target.ts": ["backup"],
  // The one command that is the daemon instead of talking to it.
  "src/cli/commands/serve.ts": ["daemon"],
  // The same, of a target.
  "src/cli/commands/serve-backup.ts": ["daemon"],
  // Images are copied as any client would: through the NBD door.
  "src/cli/volume-image.ts": ["nbd"],
  "src/cli/backup-source.ts": ["nbd"],
  "src/cli/commands/restore.ts": ["nbd"],
  "src/cli/history-restore.ts": ["nbd"],
  "src/cli/backup-history.ts": ["log", "pool", "reduce"],
  "src/cli/differing-sink.ts": ["nbd"],
  // What nbd-server logs is what went over the wire: the protocol's own numbers.
  "src/image/transaction-log.ts": ["nbd"],
  "src/image/transaction-log-survey.ts": ["nbd"],
  "src/image/transaction-log-source.ts": ["nbd"],
  "src/image/transaction-log-writer.ts": ["nbd"],
  // They must work where no daemon does, so they read the pool's files themselves.
  "src/cli/commands/log-dump.ts": ["log", "pool"],
  "src/cli/commands/log-cat.ts": ["log", "pool", "reduce"],
  "src/cli/commands/log-export.ts": ["log", "pool", "reduce"],
  "src/cli/commands/check.ts": ["pool"],
  "src/cli/offline-pool.ts": ["pool"],
};

/** Built-in modules without effects: allowed everywhere. */
const PURE_MODULES = ["node:buffer", "node:path", "node:path/posix", "node:url", "node:util"];

/** Built-in modules and packages beyond those, by layer. host/node may use every built-in module. */
const MAY_USE: Readonly<Record<string, readonly string[]>> = {
  "host/node": ["pino"],
  http: ["fastify", "prom-client"],
  // Compressed clusters. Nothing of an image is ever simulated.
  image: ["node:zlib"],
  // Content ids and sealing: synchronous calls, without chance.
  backup: ["node:crypto"],
  // The same Zstandard as the real one, without its threads.
  sim: ["node:zlib"],
  cli: ["commander"],
  daemon: ["smol-toml"],
};

/** What only the runtime's own `process` has: the simulator has processes too. */
const PROCESS =
  /\bprocess\s*(?:\[|\.\s*(?:env|argv|std(?:in|out|err)|exit|exitCode|hrtime|on|once|off|kill|cwd|chdir|umask|memoryUsage|cpuUsage|uptime|nextTick|platform|versions?|getuid|abort|title|emitWarning)\b)/g;

/** Globals that only src/host/node may touch, and what to use instead. (The linter denies fetch.) */
const DENIED_GLOBALS: readonly (readonly [RegExp, string])[] = [
  [/\bMath\.random\b/g, "use host/ports.ts: Random, or base/prng.ts in tests"],
  [/\bDate\b/g, "use host/ports.ts: Clock, or base/units.ts: formatTime"],
  [/\bperformance\b\s*[.[]/g, "use host/ports.ts: Clock"],
  [/\b(?:setTimeout|setInterval)\b/g, "use host/ports.ts: Clock.after"],
  [/\b(?:setImmediate|queueMicrotask)\b/g, "use host/ports.ts: Clock.afterInput"],
  [PROCESS, "use src/host/node"],
  [/\bconsole\s*[.[]/g, "use host/ports.ts: Logger, or write to stdout in src/cli"],
  [/\bcrypto\s*\./g, "use host/ports.ts: Random"],
];

/** The command line is a process among others: what of it a command may touch. */
const CLI_PROCESS = /^process\s*\.\s*(?:stdin|stdout|stderr|argv|exitCode|exit|cwd)\b/;

/** Files that may touch a global that is denied, and why. */
const GLOBAL_EXCEPTIONS: Readonly<Record<string, RegExp>> = {
  // Turns a number into the calendar's spelling; never asks for the time.
  "src/base/units.ts": /^Date\b/,
};

const product = sourceFiles(["src"]).filter((file) => !isTest(file.path));

test("a layer imports only what the allow-list names", () => {
  const broken = product.flatMap((file) =>
    importsOf(file)
      .filter(({ specifier }) => specifier.startsWith("."))
      .flatMap(({ specifier, line }) => {
        const target = layerOf(join(dirname(file.path), specifier));
        const layer = layerOf(file.path);
        const allowed = [...allowedFor(file.path), layer];
        if (target === undefined || allowed.includes(target)) return [];
        return [
          `${file.path}:${line} imports ${target}; ${layer} may import ${allowed.join(", ")}`,
        ];
      }),
  );
  deepEqual(broken, []);
});

test("a built-in module or a package is used only where the allow-list names it", () => {
  const broken = product.flatMap((file) => {
    const layer = layerOf(file.path);
    const allowed = [...PURE_MODULES, ...(MAY_USE[layer] ?? [])];
    return importsOf(file)
      .filter(({ specifier }) => !specifier.startsWith("."))
      .filter(({ specifier }) => !allowed.includes(specifier))
      .filter(({ specifier }) => !(layer === "host/node" && specifier.startsWith("node:")))
      .map(
        ({ specifier, line }) =>
          `${file.path}:${line} uses ${specifier}; ${layer} may use ${allowed.join(", ")}; ` +
          "the machine is reached through host/ports.ts and src/host/node",
      );
  });
  deepEqual(broken, []);
});

test("time, chance, environment and console are touched only in src/host/node", () => {
  const broken = product
    .filter((file) => layerOf(file.path) !== "host/node")
    .flatMap((file) => DENIED_GLOBALS.flatMap(([pattern, advice]) => uses(file, pattern, advice)));
  deepEqual(broken, []);
});

test("only tests and benchmarks import the simulator", () => {
  const broken = sourceFiles(["src", "scripts", "examples"])
    .filter((file) => !isTest(file.path) && layerOf(file.path) !== "sim")
    .flatMap((file) =>
      importsOf(file)
        .filter(({ specifier }) => specifier.includes("/sim/"))
        .map(({ line }) => `${file.path}:${line} imports the simulator`),
    );
  deepEqual(broken, []);
});

test("every folder of src has a row in the allow-list", () => {
  const layers = new Set(product.map((file) => layerOf(file.path)));
  deepEqual([...layers].filter((layer) => MAY_IMPORT[layer] === undefined).sort(), []);
});

function layerOf(path: string): string {
  if (path.startsWith("src/host/node/")) return "host/node";
  const [root, folder, file] = path.split("/");
  // A file directly in src/ is the public door, which belongs to nobody's layer.
  return root === "src" && file !== undefined ? folder! : path;
}

function allowedFor(path: string): readonly string[] {
  return [...(MAY_IMPORT[layerOf(path)] ?? []), ...(FILE_MAY_IMPORT[path] ?? [])];
}

function uses(file: SourceFile, pattern: RegExp, advice: string): string[] {
  return [...file.code.matchAll(pattern)]
    .filter((match) => {
      const rest = file.code.slice(match.index, match.index + 60);
      // A member or a property of that name (`clock.performance`, `Date:`) isn't the global.
      const isMember = /[.#\w$]\s*$/.test(
        file.code.slice(Math.max(0, match.index - 1), match.index),
      );
      const isExcused =
        GLOBAL_EXCEPTIONS[file.path]?.test(rest) ||
        (layerOf(file.path) === "cli" && CLI_PROCESS.test(rest));
      return !isMember && !isExcused;
    })
    .map((match) => `${file.path}:${lineAt(file.code, match.index)} uses ${match[0]}: ${advice}`);
}
