// SPDX-License-Identifier: Apache-2.0
//
// The lock file installs anywhere: `npm ci` refuses one that lacks an optional package of another
// platform, which is what a lock file written against a partial mirror lacks.

import { deepEqual } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { REPOSITORY } from "../../scripts/source-files.ts";

interface LockedPackage {
  readonly resolved?: string;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const lock = JSON.parse(readFileSync(join(REPOSITORY, "package-lock.json"), "utf8"));
const packages: Readonly<Record<string, LockedPackage>> = lock.packages;

test("the lock file names every optional package of every platform", () => {
  const missing = Object.values(packages)
    .flatMap(({ optionalDependencies }) => Object.keys(optionalDependencies ?? {}))
    .filter((name) => packages[`node_modules/${name}`] === undefined);
  deepEqual(missing, []);
});

test("the lock file names no address: packages come from whatever registry npm is set to", () => {
  const addresses = Object.values(packages).flatMap(({ resolved }) => resolved ?? []);
  deepEqual(addresses, []);
});
