// SPDX-License-Identifier: Apache-2.0
//
// A place in the log between two batches, from which it can be read on: what a checkpoint is cut at, and where
// recovery begins.

import { SEGMENT_HEADER_BYTES } from "./segment.ts";

/** Where to begin: everything before is known from elsewhere. */
export interface ReplayStart {
  readonly segmentNumber: number;
  readonly offset: number;
  readonly nextLsn: number;
  readonly chain: bigint;
  readonly incarnation: number;
  readonly recordedMicros: number;
}

/** The beginning of every log. */
export const LOG_BEGIN: ReplayStart = {
  segmentNumber: 1,
  offset: SEGMENT_HEADER_BYTES,
  nextLsn: 1,
  chain: 0n,
  incarnation: 0,
  recordedMicros: 0,
};
