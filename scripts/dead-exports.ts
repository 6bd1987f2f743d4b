// SPDX-License-Identifier: Apache-2.0
//
// Finds what the product exports and nobody imports. A value must be named in another file, be it a
// test; a type may also be exported because a signature of its own file mentions it. Names are compared
// as words, so a name that two files share can hide a dead one: this finds most, at no cost.

import { isTest, lineAt, type SourceFile, sourceFiles } from "./source-files.ts";

const EXPORT =
  /^export (?:abstract )?(?:async )?(function\*?|class|const|let|interface|type) ([A-Za-z_$][\w$]*)/gm;

/** Files whose exports are for the outside. */
const PUBLIC = new Set(["src/varve.ts"]);

/** "file:line exports name" for each export that nobody uses. */
export function deadExports(files: readonly SourceFile[] = sourceFiles()): string[] {
  const words = new Map(files.map((file) => [file.path, countWords(file.code)]));
  return files
    .filter((file) => file.path.startsWith("src/") && !isTest(file.path) && !PUBLIC.has(file.path))
    .filter((file) => !file.path.startsWith("src/reduce/kernel/"))
    .flatMap((file) =>
      [...file.code.matchAll(EXPORT)].flatMap((match) => {
        const [, sort, name] = match as unknown as [string, string, string];
        const isType = sort === "interface" || sort === "type";
        const ownCount = words.get(file.path)?.get(name) ?? 0;
        const isUsed =
          (isType && ownCount > 1) ||
          files.some((other) => other !== file && words.get(other.path)?.has(name));
        return isUsed ? [] : [`${file.path}:${lineAt(file.code, match.index)} exports ${name}`];
      }),
    );
}

function countWords(code: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const [word] of code.matchAll(/[A-Za-z_$][\w$]*/g)) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return counts;
}
