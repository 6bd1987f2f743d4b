// SPDX-License-Identifier: Apache-2.0
//
// docs/man is what the command table says (UPDATE=1 rewrites it), has every section that STYLE names, and
// is correct for the formatter, where the machine has one.

import { deepEqual, equal, ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { renderManPages } from "../../scripts/render-man.ts";
import { REPOSITORY } from "../../scripts/source-files.ts";

const FOLDER = join(REPOSITORY, "docs", "man");
const SECTIONS = [
  "NAME",
  "SYNOPSIS",
  "DESCRIPTION",
  "EXAMPLES",
  "OPTIONS",
  "EXIT STATUS",
  "FILES",
  "SEE ALSO",
];
const pages = renderManPages();

test("docs/man holds exactly the pages of the command table, up to date", () => {
  if (process.env.UPDATE === "1") {
    for (const name of readdirSync(FOLDER)) rmSync(join(FOLDER, name));
    for (const [name, text] of pages) writeFileSync(join(FOLDER, name), text);
  }
  deepEqual(readdirSync(FOLDER).sort(), [...pages.keys()].sort());
  for (const [name, text] of pages) {
    equal(
      readFileSync(join(FOLDER, name), "utf8"),
      text,
      `${name} is stale: run npm test with UPDATE=1`,
    );
  }
});

test("every page has every section", () => {
  for (const [name, text] of pages) {
    // The overview's options are its commands'.
    const wanted = SECTIONS.filter((title) => name !== "varve.1" || title !== "OPTIONS");
    for (const title of wanted)
      ok(text.includes(`\n.SH ${title}\n`), `${name}: there is no ${title}`);
  }
});

test("the formatter has no complaint", (context) => {
  const probe = spawnSync("groff", ["--version"]);
  if (probe.status !== 0) return context.skip("groff isn't installed");
  for (const name of pages.keys()) {
    const run = spawnSync("groff", ["-man", "-Tutf8", "-ww", "-z", join(FOLDER, name)], {
      encoding: "utf8",
    });
    equal(run.stderr, "", name);
  }
});
