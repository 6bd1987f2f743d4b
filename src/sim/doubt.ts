// SPDX-License-Identifier: Apache-2.0
//
// What failed operations leave in doubt. One that failed may have taken effect, or not, or in part, until
// something certain is written over it. So each byte of a sector shows the newest certain operation there,
// or any failed one since. This is checked only where a plain comparison doesn't fit.

import { applyToPiece, type ModelOperation } from "./model-operation.ts";

/** An operation in the order of calls, as one explanation sees it. */
export interface Step {
  readonly operation: ModelOperation;
  /** So much of it took effect, if it is certain. */
  readonly lengthBytes: number;
  readonly isCertain: boolean;
  /** A failed one: whether it may show at this byte of the volume. */
  readonly mayShowAt?: (position: number) => boolean;
}

const MARK = 0x5a;

/**
 * Which bytes of `seen`, which begins at `start`, are explained: 1 for each that is right before any step
 * (`isRight`) or comes from a step, and that nothing certain has overwritten since.
 */
export function explainBytes(
  place: { readonly start: number; readonly seen: Uint8Array; readonly isRight: Uint8Array },
  steps: Iterable<Step>,
): Uint8Array {
  const { start, seen } = place;
  const isRight = place.isRight.slice();
  const one = new Uint8Array(seen.length);
  const two = new Uint8Array(seen.length);
  for (const { operation, lengthBytes, isCertain, mayShowAt } of steps) {
    // Applied to two backgrounds, an operation shows which bytes it sets.
    one.fill(0);
    two.fill(MARK);
    applyToPiece(one, start, operation, lengthBytes);
    applyToPiece(two, start, operation, lengthBytes);
    for (let at = 0; at < seen.length; at++) {
      if (one[at] !== two[at]) continue;
      const shows = one[at] === seen[at];
      if (isCertain) isRight[at] = shows ? 1 : 0;
      else if (shows && (mayShowAt === undefined || mayShowAt(start + at))) isRight[at] = 1;
    }
  }
  return isRight;
}
