// SPDX-License-Identifier: Apache-2.0
//
// Reads the repository's own source for the tidy tests and `npm run check`. There is no parser here:
// comments, strings and regular expressions are blanked out (line numbers stay), and what is left is
// searched with plain patterns. That is enough for rules about imports and globals, needs no compiler
// interface, and takes milliseconds.

import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

export interface SourceFile {
  /** Relative to the repository, with forward slashes. */
  readonly path: string;
  readonly text: string;
  /** `text` with comments and the insides of literals blanked. */
  readonly code: string;
}

export const REPOSITORY: string = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

const SOURCE_FOLDERS = ["src", "test", "bench", "scripts", "examples"];

/** All TypeScript files below the given folders (default: all folders with source). */
export function sourceFiles(folders: readonly string[] = SOURCE_FOLDERS): SourceFile[] {
  const files: SourceFile[] = [];
  for (const folder of folders) {
    for (const path of walk(join(REPOSITORY, folder))) {
      if (!path.endsWith(".ts")) continue;
      const text = readFileSync(path, "utf8");
      const name = relative(REPOSITORY, path).split(sep).join("/");
      files.push({ path: name, text, code: blankLiterals(text) });
    }
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

export function isTest(path: string): boolean {
  return path.startsWith("test/") || path.endsWith(".test.ts");
}

/** Specifiers of all static and dynamic imports and re-exports, with their line numbers. */
export function importsOf(file: SourceFile): { specifier: string; line: number }[] {
  const found: { specifier: string; line: number }[] = [];
  const pattern = /(?:\bfrom|\bimport|\brequire)\s*\(?\s*["']([^"'\n]+)["']/g;
  for (const match of file.text.matchAll(pattern)) {
    // The keyword must be code: in a comment or a string it was blanked.
    if (file.code[match.index] !== file.text[match.index]) continue;
    found.push({ specifier: match[1]!, line: lineAt(file.text, match.index) });
  }
  return found;
}

export function lineAt(text: string, index: number): number {
  let line = 1;
  for (let i = text.indexOf("\n"); i !== -1 && i < index; i = text.indexOf("\n", i + 1)) line += 1;
  return line;
}

function* walk(folder: string): Generator<string> {
  let entries: import("node:fs").Dirent[];
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else yield path;
  }
}

const SLASH_BEGINS_PATTERN_AFTER = /(?:^|[(,=:[!&|?{};+\-*%<>~^\n]|\breturn|\btypeof|\bcase)\s*$/;

/** Replaces comments and the insides of strings, templates and regular expressions by spaces. */
export function blankLiterals(text: string): string {
  const out = text.split("");
  const blank = (start: number, end: number): void => {
    for (let i = start; i < end && i < out.length; i += 1) if (out[i] !== "\n") out[i] = " ";
  };
  /** Depth of braces at which each open template literal continues. */
  const templates: number[] = [];
  let depth = 0;
  let i = 0;
  while (i < text.length) {
    const two = text.slice(i, i + 2);
    const character = text[i]!;
    if (two === "//" || two === "/*") {
      const stop = two === "//" ? text.indexOf("\n", i) : text.indexOf("*/", i + 2) + 2;
      const end = stop <= 1 ? text.length : stop;
      blank(i, end);
      i = end;
    } else if (character === '"' || character === "'") {
      const end = endOfQuoted(text, i, character);
      blank(i + 1, end);
      i = end + 1;
    } else if (character === "`" || (character === "}" && templates.at(-1) === depth)) {
      if (character === "}") templates.pop();
      const end = endOfTemplatePart(text, i + 1);
      blank(i + 1, end);
      if (text[end] === "$") templates.push(depth);
      i = text[end] === "$" ? end + 2 : end + 1;
    } else if (
      character === "/" &&
      SLASH_BEGINS_PATTERN_AFTER.test(out.slice(Math.max(0, i - 20), i).join(""))
    ) {
      const end = endOfPattern(text, i);
      blank(i + 1, end);
      i = end + 1;
    } else {
      if (character === "{") depth += 1;
      if (character === "}") depth -= 1;
      i += 1;
    }
  }
  return out.join("");
}

function endOfQuoted(text: string, start: number, quote: string): number {
  let i = start + 1;
  while (i < text.length && text[i] !== quote && text[i] !== "\n") i += text[i] === "\\" ? 2 : 1;
  return i;
}

/** The index of the closing backquote, or of the "$" of a "${". */
function endOfTemplatePart(text: string, start: number): number {
  let i = start;
  while (i < text.length && text[i] !== "`" && text.slice(i, i + 2) !== "${") {
    i += text[i] === "\\" ? 2 : 1;
  }
  return i;
}

function endOfPattern(text: string, start: number): number {
  let i = start + 1;
  let isInClass = false;
  while (i < text.length && text[i] !== "\n" && (isInClass || text[i] !== "/")) {
    if (text[i] === "[") isInClass = true;
    if (text[i] === "]") isInClass = false;
    i += text[i] === "\\" ? 2 : 1;
  }
  return i;
}
