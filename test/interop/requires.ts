// SPDX-License-Identifier: Apache-2.0
//
// What a test needs of the machine, said where the test is declared:
//
//   test("nbdcopy reads back what it wrote", { skip: requires("nbdcopy --version") }, ...)
//
// A need that isn't met skips the test with a reason. With REQUIRE_ALL=1, which continuous integration
// sets, it throws instead, so that nothing is left out without being noticed.

import { spawnSync } from "node:child_process";
import { programEnv } from "./command.ts";

/** A need that no command line can express: a name and whether it's met. */
export interface Need {
  readonly what: string;
  readonly isMet: boolean;
}

/** False if all needs are met, else the reason to skip. A string is a command that must succeed. */
export function requires(...needs: readonly (string | Need)[]): false | string {
  const missing = needs.filter((need) => !isMet(need)).map(nameOf);
  if (missing.length === 0) return false;
  const reason = `needs ${missing.join(", ")}`;
  if (process.env.REQUIRE_ALL === "1") throw new Error(`${reason} (and REQUIRE_ALL is set)`);
  return reason;
}

function nameOf(need: string | Need): string {
  return typeof need === "string" ? `"${need}"` : need.what;
}

const answers = new Map<string, boolean>();

function isMet(need: string | Need): boolean {
  if (typeof need !== "string") return need.isMet;
  const known = answers.get(need);
  if (known !== undefined) return known;
  const [command, ...args] = need.split(" ");
  const result = spawnSync(command!, args, { stdio: "ignore", timeout: 20_000, env: programEnv() });
  answers.set(need, result.status === 0);
  return result.status === 0;
}
