// SPDX-License-Identifier: Apache-2.0
//
// Assertions state what this program believes about itself. They are always on: a storage daemon
// that continues past a broken invariant writes the mistake to disk. An AssertionError is a bug of
// ours, never the fault of a peer, a disk or a user: bytes from outside are checked with errors
// (base/errors.ts). The daemon turns one into fail-stop (exit 70); recovery does the rest.

/** A broken invariant of the program itself. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws unless `condition` holds. `invariant` is a constant sentence that names the fact. */
export function assert(condition: boolean, invariant: string): asserts condition {
  if (!condition) fail(invariant);
}

/** For the default of an exhaustive switch: the compiler proves that nobody gets here. */
export function unreachable(value: never): never {
  fail(`unreachable value ${String(value)}`);
}

/** Unwraps what the surrounding code knows to be there. */
export function must<T>(value: T | undefined | null, invariant: string): T {
  if (value === undefined || value === null) fail(invariant);
  return value;
}

// A separate function keeps `assert` small enough to be inlined on the data path.
function fail(invariant: string): never {
  throw new AssertionError(invariant);
}
