// SPDX-License-Identifier: Apache-2.0
//
// The commands of docs/guides/space.md and snapshots.md work as they are written, one after the other; what docs/guides/moments.md calls
// a moment is one.

import { equal, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseMoment } from "../../src/base/moment.ts";
import { runText } from "./run.ts";

function guide(name: string): string {
  return readFileSync(join(import.meta.dirname, "../../docs/guides", name), "utf8");
}

/** Lines that are indented as code, without what a list adds. */
function commandsOf(markdown: string): string[] {
  return markdown
    .split("\n")
    .filter((line) => line.startsWith("    "))
    .map((line) => line.trim());
}

for (const name of ["space", "snapshots"])
  test(`the guide on ${name} can be typed as it stands`, () => typed(name));

async function typed(name: string): Promise<void> {
  const commands = commandsOf(guide(`${name}.md`));
  ok(commands.length > 15, "the guide has commands");
  const script = ["@ start", ...commands.map((command) => `$ ${command}`), "@ stop"];
  const printed = await runText(script.join("\n"));
  for (const part of printed.split(/^\$ /m).slice(1)) {
    const failure = part.split("\n").find((line) => /^= /.test(line));
    equal(failure, undefined, part);
  }
}

test("every moment that the guide on moments shows is one", () => {
  const text = guide("moments.md");
  const behindVolumes = [...text.matchAll(/\b(?:db|web)@([^\s"`?,]+)/g)].map(([, moment = ""]) =>
    decodeURIComponent(moment),
  );
  const tables = text.slice(text.indexOf("## The words"), text.indexOf("## So long ago"));
  const inTables = [...tables.matchAll(/^\| (`.*?`) \|/gm)].flatMap(([, cell = ""]) =>
    cell.split(", ").map((word) => word.replaceAll(/[`"]/g, "")),
  );
  for (const moment of [...behindVolumes, ...inTables]) parseMoment(moment);
  ok(behindVolumes.length > 20, `${behindVolumes.length} behind a volume`);
  ok(inTables.length > 15, `${inTables.length} in tables`);
});
