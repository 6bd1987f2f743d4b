// SPDX-License-Identifier: Apache-2.0
//
// A linter that is configured wrongly reports nothing and looks like success. So each rule that this
// house relies on is shown a file that breaks it.

import { ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { REPOSITORY } from "../../scripts/source-files.ts";

const BREAKS_EVERY_RULE = `import { circle } from "./b.ts";
export async function promise(): Promise<number> { return circle(); }
export function all(kind: "a" | "b"): number {
  promise();
  if (promise()) return 3;
  switch (kind) { case "a": return 1; }
  console.log(Date, performance, setTimeout, setImmediate, fetch);
  try { return all("a"); } catch (error) { throw new Error("no cause"); }
}
export default all;
`;

const RULES = [
  "nursery/noFloatingPromises",
  "nursery/noMisusedPromises",
  "nursery/useExhaustiveSwitchCases",
  "style/noDefaultExport",
  "style/noRestrictedGlobals",
  "style/useErrorCause",
  "suspicious/noConsole",
  "suspicious/noImportCycles",
];

test("each lint rule of the house fires on a file that breaks it", () => {
  const folder = mkdtempSync(join(tmpdir(), "varve-biome-"));
  try {
    for (const name of ["biome.json", ".gitignore", "tsconfig.json", "package.json"]) {
      cpSync(join(REPOSITORY, name), join(folder, name));
    }
    mkdirSync(join(folder, "src"));
    writeFileSync(join(folder, "src/a.ts"), BREAKS_EVERY_RULE);
    writeFileSync(
      join(folder, "src/b.ts"),
      'import { all } from "./a.ts";\nexport const circle = (): number => all("b");\n',
    );
    const biome = join(REPOSITORY, "node_modules/.bin/biome");
    const options = ["lint", "--max-diagnostics=100", "--reporter=json", "src"];
    const run = spawnSync(process.execPath, [biome, ...options], { cwd: folder, encoding: "utf8" });
    for (const rule of RULES) {
      ok(run.stdout.includes(`lint/${rule}`), `${rule} did not fire\n${run.stdout}${run.stderr}`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
