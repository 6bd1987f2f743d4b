// SPDX-License-Identifier: Apache-2.0
//
// The commands of docs/guides/space.md work as they are written, one after the other.

import { equal, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runText } from "./run.ts";

const GUIDE = join(import.meta.dirname, "../../docs/guides/space.md");

/** Lines that are indented as code, without what a list adds. */
function commandsOf(markdown: string): string[] {
  return markdown
    .split("\n")
    .filter((line) => line.startsWith("    "))
    .map((line) => line.trim());
}

test("the guide on space can be typed as it stands", async () => {
  const commands = commandsOf(readFileSync(GUIDE, "utf8"));
  ok(commands.length > 15, "the guide has commands");
  const script = ["@ start", ...commands.map((command) => `$ ${command}`), "@ stop"];
  const printed = await runText(script.join("\n"));
  for (const part of printed.split(/^\$ /m).slice(1)) {
    const failure = part.split("\n").find((line) => /^= /.test(line));
    equal(failure, undefined, part);
  }
});
