// SPDX-License-Identifier: Apache-2.0
//
// What a check says when it fails: which promise, where, and what was there instead. A value, not an error:
// whoever runs the life decides that it ends there.

/** A check that failed. */
export interface Violation {
  readonly check: string;
  readonly volume: string;
  /** Number of the 512-byte sector; -1 where it isn't about one. */
  readonly sector: number;
  readonly expected: string;
  readonly found: string;
}
