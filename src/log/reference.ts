// SPDX-License-Identifier: Apache-2.0
//
// A reference: what the index holds for one block, in 8 bytes (two u32):
//
//   segment  u32   the segment where the frame was born
//   low      u32   | state 2 | offset / 8: 24 | slot 6 |
//
// The frame's birth place is its identity and never changes: garbage collection that moves it writes a
// relocation record and rewrites no referrer (docs/decisions/0004). 24 bits of offset in units of 8 bytes
// allow segments of 128 MiB; 32 bits of segment number allow 2^32 of them.
// An all-zero reference is a hole: memory and files that nobody wrote mean "never written".

export const REFERENCE_STATE = {
  /** Never written, or trimmed: reads as zeros. */
  HOLE: 0,
  /** Slot `slot` of the frame born at (segment, offset). */
  FRAME: 1,
  /** Written with zeros: reads as zeros, counts as allocated. */
  ZERO: 2,
  /** Kept outside the log (a device under protection); reserved. */
  EXTERNAL: 3,
} as const;

export const LOW_HOLE = 0;
export const LOW_ZERO: number = (REFERENCE_STATE.ZERO << 30) >>> 0;
/** Largest offset a reference can name, exclusive: 128 MiB. */
export const SEGMENT_BYTES_MAX: number = 1 << 27;

export function stateOf(low: number): number {
  return low >>> 30;
}

/** Offset in the birth segment, in units of 8 bytes. */
export function offset8Of(low: number): number {
  return (low >>> 6) & 0xffffff;
}

export function slotOf(low: number): number {
  return low & 63;
}

/** For people and logs: "17:4096", "zero", "hole". */
export function formatReference(segment: number, low: number): string {
  const state = stateOf(low);
  if (state === REFERENCE_STATE.HOLE) return "hole";
  if (state === REFERENCE_STATE.ZERO) return "zero";
  if (state === REFERENCE_STATE.EXTERNAL) return "external";
  const slot = slotOf(low);
  return `${segment}:${offset8Of(low) * 8}${slot === 0 ? "" : `/${slot}`}`;
}
