// SPDX-License-Identifier: Apache-2.0
//
// How the event loop and the preparing threads meet: a page of shared memory, in words.
//
//   0     posted     jobs ever posted; threads sleep on it        } both wrap
//   1     claimed    jobs ever taken                              }
//   16    groups     two words each: jobs that are left, and whether none is (the event loop sleeps on that)
//   64    jobs       a ring of 64, six words each
//
// A job's words belong to the event loop until `posted` passes it, then to the thread that moved `claimed` past it, until
// its group has ended. All hand-overs are atomic operations, so what was written before them is seen behind them.

export const JOB_RING = {
  POSTED: 0,
  CLAIMED: 1,
  FIRST_GROUP: 16,
  GROUPS: 16,
  FIRST_JOB: 64,
  JOBS: 64,
  WORDS: 448,
} as const;

export const JOB = {
  SOURCE: 0,
  BLOCK_COUNT: 1,
  PIECE: 2,
  /** Of the piece. */
  FIRST_BLOCK: 3,
  COMPRESS_EVERY: 4,
  GROUP: 5,
  WORDS: 6,
} as const;

export interface WorkerData {
  readonly memory: WebAssembly.Memory;
  readonly ringAddress: number;
  /** The compressor's, one a thread. */
  readonly tableAddress: number;
}
