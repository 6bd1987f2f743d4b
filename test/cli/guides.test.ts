// SPDX-License-Identifier: Apache-2.0
//
// The commands of docs/guides/space.md, snapshots.md, history.md, diff.md, backup.md, incremental-backup.md and seed-logs.md
// work as they are written, one after the other; what docs/guides/moments.md calls a moment is one.

import { equal, match, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseMoment } from "../../src/base/moment.ts";
import { requires } from "../interop/requires.ts";
import { runText } from "./run.ts";

function guide(name: string): string {
  return readFileSync(join(import.meta.dirname, "../../docs/guides", name), "utf8");
}

/** Lines that are indented as code, without what a list adds; what stands between fences is a file. */
function commandsOf(markdown: string): string[] {
  return markdown
    .replaceAll(/^```[\s\S]*?^```$/gm, "")
    .split("\n")
    .filter((line) => line.startsWith("    "))
    .map((line) => line.trim());
}

/** Where they are few. */
const GUIDE_COMMANDS_MIN: Readonly<Record<string, number>> = { history: 8, diff: 12 };

for (const name of ["space", "snapshots", "history", "diff", "backup"]) {
  test(`the guide on ${name} can be typed as it stands`, async () => {
    ok((await typed(name)) > (GUIDE_COMMANDS_MIN[name] ?? 15), "the guide has commands");
  });
}

test("the guide on other systems' logs can be typed as it stands", {
  skip: requires("nbd-trplay -h", "nbd-trdump -h"),
}, async () => {
  const script = readFileSync(join(import.meta.dirname, "seed-logs.txt"), "utf8");
  const files = script.match(/^>>> [\s\S]*?\n<<<$/gm) ?? [];
  const make = ["$ sh nbd.sh > nbd.log && truncate -s 1M before.img", "$ sh pairs.sh"];
  ok((await typed("seed-logs", [...files, ...make])) > 5, "the guide has commands");
});

test("the guide on incremental backups can be typed as it stands, and what is restored is the same", {
  skip: requires("nbdinfo --version", "nbdcopy --version", "nbdsh --version", "qemu-img --version"),
}, async () => {
  const text = guide("incremental-backup.md");
  const script = /```python\n([\s\S]*?)\n```/.exec(text)?.[1] ?? "";
  const printed = await typedText("incremental-backup", [">>> incremental.py", script, "<<<"]);
  match(printed, /^ +1048576 +8192 +1 +dirty$/m);
  match(printed, /"start": 1048576, "length": 8192, .*"data": false/);
  match(printed, /^73728 of 1073741824 bytes copied$/m);
  match(printed, /^\$ varve diff .*\n(?!.*(data|zero|hole) )/m);
  ok(!/^ *\d+ .*(data|zero|hole)/m.test(printed.slice(printed.indexOf("$ varve diff"))), printed);
});

/** Types a guide's commands, behind what the script `before` does; how many there were. */
async function typed(name: string, before: readonly string[] = []): Promise<number> {
  await typedText(name, before);
  return commandsOf(guide(`${name}.md`)).length;
}

/** The same; what was printed. */
async function typedText(name: string, before: readonly string[]): Promise<string> {
  const commands = commandsOf(guide(`${name}.md`));
  const script = [...before, "@ start", ...commands.map((command) => `$ ${command}`), "@ stop"];
  const printed = await runText(script.join("\n"));
  for (const part of printed.split(/^\$ /m).slice(1)) {
    const failure = part.split("\n").find((line) => /^= /.test(line));
    equal(failure, undefined, part);
  }
  return printed;
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
