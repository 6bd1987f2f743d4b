// SPDX-License-Identifier: Apache-2.0
//
// What is measured: one row per kind of work, each one fio job that is the same for every server, and
// the bar that Varve has set itself against each peer. The order matters: rows that only read come
// first, on freshly filled stores; then those that overwrite; and last the sequential read of a store
// that has been overwritten at random, which is what a log makes harder than a flat file does.

import type { ServerKind } from "../test/interop/server.ts";

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
export const GIB: number = 1024 * MIB;

export interface Row {
  readonly id: string;
  readonly label: string;
  readonly isRead: boolean;
  readonly isRandom: boolean;
  readonly blockBytes: number;
  readonly depth: number;
  readonly jobs: number;
  readonly hasFsync: boolean;
  /** Only this much of the volume, from its start; absent: all of it. */
  readonly workingSetBytes?: number;
  /** Runs when the user names no number: more where a single request's luck shows most. */
  readonly runs: number;
  /** Varve's result divided by the peer's must be at least this. */
  readonly bars: { readonly [kind in ServerKind]?: number };
}

const random4k = {
  isRandom: true,
  blockBytes: 4 * KIB,
  depth: 32,
  jobs: 1,
  hasFsync: false,
  runs: 5,
} as const;
const sequential1m = {
  isRandom: false,
  blockBytes: MIB,
  depth: 8,
  jobs: 1,
  hasFsync: false,
  runs: 5,
} as const;

export const ROWS: readonly Row[] = [
  {
    ...sequential1m,
    id: "seqread",
    label: "sequential 1 MiB read, depth 8",
    isRead: true,
    bars: { "qemu-qcow2": 0.9, nbdkit: 0.6 },
  },
  {
    ...random4k,
    id: "randread-32",
    label: "random 4 KiB read, depth 32, working set 512 MiB",
    isRead: true,
    workingSetBytes: 512 * MIB,
    bars: { "qemu-qcow2": 3, nbdkit: 1.2 },
  },
  {
    ...random4k,
    id: "randread-1",
    label: "random 4 KiB read, depth 1",
    isRead: true,
    depth: 1,
    runs: 9,
    bars: { "qemu-qcow2": 1, nbdkit: 0.6 },
  },
  {
    ...random4k,
    id: "randwrite-1",
    label: "random 4 KiB write, depth 1",
    isRead: false,
    depth: 1,
    runs: 9,
    bars: { "qemu-qcow2": 1, nbdkit: 0.8 },
  },
  {
    ...random4k,
    id: "fsync-16",
    label: "random 4 KiB write, fsync=1, 16 jobs",
    isRead: false,
    depth: 1,
    jobs: 16,
    hasFsync: true,
    bars: { "qemu-qcow2": 1.5, nbdkit: 4 },
  },
  {
    ...random4k,
    id: "randwrite-32",
    label: "random 4 KiB write, depth 32",
    isRead: false,
    bars: { "qemu-qcow2": 3, nbdkit: 2 },
  },
  {
    ...sequential1m,
    id: "seqread-aged",
    label: "sequential 1 MiB read, depth 8, after the random writes",
    isRead: true,
    bars: {},
  },
  {
    ...sequential1m,
    id: "seqwrite",
    label: "sequential 1 MiB write, depth 8",
    isRead: false,
    bars: { "qemu-qcow2": 1, nbdkit: 0.5 },
  },
];

/** The job file of a row is this list of arguments; nothing else differs between servers but the URI. */
export function fioArguments(row: Row, volumeBytes: number): string[] {
  const size = Math.min(row.workingSetBytes ?? volumeBytes, volumeBytes);
  const kind = row.isRead ? "read" : "write";
  return [
    `--rw=${row.isRandom ? "rand" : ""}${kind}`,
    `--bs=${row.blockBytes}`,
    `--iodepth=${row.depth}`,
    `--numjobs=${row.jobs}`,
    `--size=${size}`,
    ...(row.hasFsync ? ["--fsync=1"] : []),
    ...(row.isRead ? [] : CONTENT),
  ];
}

/** What is written: new bytes each time, no duplicates, half compressible. */
export const CONTENT: readonly string[] = [
  "--refill_buffers",
  "--dedupe_percentage=0",
  "--buffer_compress_percentage=50",
];

/** How a store is filled before anything is measured. */
export function fillArguments(volumeBytes: number): string[] {
  return ["--rw=write", `--bs=${MIB}`, "--iodepth=8", `--size=${volumeBytes}`, ...CONTENT];
}
