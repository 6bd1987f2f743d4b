// SPDX-License-Identifier: Apache-2.0
//
// The configuration guide is what the settings table says (UPDATE=1 rewrites it), its example is one that
// the daemon takes, and the other guides name no setting or command that doesn't exist.

import { deepEqual, equal, ok } from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { renderConfiguration } from "../../scripts/render-configuration.ts";
import { REPOSITORY } from "../../scripts/source-files.ts";
import { parseCommandLine } from "../../src/cli/parser.ts";
import { loadSettings } from "../../src/daemon/settings.ts";

const GUIDES = join(REPOSITORY, "docs", "guides");
const PATH = join(GUIDES, "configuration.md");

test("docs/guides/configuration.md is what the settings table says", () => {
  const wanted = renderConfiguration();
  if (process.env.UPDATE === "1") writeFileSync(PATH, wanted);
  equal(readFileSync(PATH, "utf8"), wanted, "the guide is stale: run npm test with UPDATE=1");
});

test("the guide's example is a configuration that the daemon takes", () => {
  const [, example = ""] =
    /\n {4}# \/etc\/varve.toml\n([\s\S]*?)\n\n## /.exec(renderConfiguration()) ?? [];
  const text = example.replace(/^ {4}/gm, "");
  const settings = loadSettings({
    flags: {},
    environment: () => undefined,
    environmentNames: [],
    file: { path: "varve.toml", text },
    defaultPool: "pool",
  });
  equal(settings.memoryBytes, 2 * 1024 ** 3);
  deepEqual(
    settings.access.map(({ exportName }) => exportName),
    ["db", "*"],
  );
});

test("every command line in the guides and the README is one that the program takes", () => {
  const files = [
    ...readdirSync(GUIDES).map((name) => join(GUIDES, name)),
    join(REPOSITORY, "README.md"),
  ];
  let count = 0;
  for (const file of files) {
    for (const words of commandLines(readFileSync(file, "utf8"))) {
      count += 1;
      parseCommandLine(words);
    }
  }
  ok(count > 10, `${count} command lines were found`);
});

/** What follows "varve" in indented blocks, up to a pipe, a comment or the end of the line. */
function commandLines(text: string): string[][] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("    "))
    .flatMap((line) => [...line.matchAll(/(?:^|[\s(])(?:bin\/)?varve ([a-z][^|#;)&<>]*)/g)])
    .map((match) => match[1]!.trim().match(/"[^"]*"|'[^']*'|\S+/g) ?? [])
    .map((words) => words.map((word) => word.replace(/^["']|["']$/g, "")));
}
