// SPDX-License-Identifier: Apache-2.0
//
// Names of volumes and moments (DESIGN 2): no name looks like a time, an LSN or a path, so that "db@v1",
// "db@-10m" and "db@lsn:7" never mean two things and a name is safe in a URI, a shell and a file name.
// Also the nearest-name search behind every "did you mean": one mistake in a short word, two in a long.

import { StorageError } from "./errors.ts";

export const NAME_LENGTH_MAX = 63;
/** As a regular expression for schemas; the rest of the rule is in `isName`. */
export const NAME_PATTERN = "^[A-Za-z][A-Za-z0-9_.-]{0,62}$";

const PATTERN = new RegExp(NAME_PATTERN);
const RESERVED = new Set(["now", "lsn", "flush"]);

export function isName(text: string): boolean {
  return PATTERN.test(text) && !text.includes("..") && !RESERVED.has(text);
}

/** Throws NAME_INVALID unless `text` may name a volume or a moment. `what` is "volume" or "moment". */
export function checkName(what: string, text: string): void {
  if (isName(text)) return;
  const shown = text.length > 80 ? `${text.slice(0, 80)}…` : text;
  throw new StorageError(
    "NAME_INVALID",
    `${what} ${JSON.stringify(shown)}: name refused: ${why(text)}`,
  );
}

function why(text: string): string {
  if (text === "") return "it is empty";
  if (RESERVED.has(text)) return `"${text}" is a word of its own in moments`;
  if (text.length > NAME_LENGTH_MAX)
    return `${text.length} characters, ${NAME_LENGTH_MAX} are allowed`;
  if (!/^[A-Za-z]/.test(text)) return "it doesn't begin with a letter";
  if (text.includes("..")) return "it holds '..'";
  return `it holds ${JSON.stringify(/[^A-Za-z0-9_.-]/.exec(text)?.[0] ?? "")}`;
}

/** The candidate that `text` most likely meant, or undefined. */
export function nearest(text: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = text.length <= 4 ? 2 : 3;
  for (const candidate of candidates) {
    const distance = editDistance(text, candidate, bestDistance);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** Insertions, deletions, replacements and swaps of neighbours; gives up at `limit`. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const isSame = a[i - 1] === b[j - 1];
      let least = Math.min(row[j - 1]! + 1, previous[j]! + 1, previous[j - 1]! + (isSame ? 0 : 1));
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) least = Math.min(least, before[j - 2]! + 1);
      row.push(least);
    }
    [before, previous] = [previous, row];
  }
  return previous[b.length]!;
}
