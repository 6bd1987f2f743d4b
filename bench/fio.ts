// SPDX-License-Identifier: Apache-2.0
//
// Runs one fio job over NBD and reads its report. The engine is fio's own nbd engine (libnbd), so that
// no kernel, FUSE or file system stands between the clock and the server. Latencies are from submission
// to completion; where every write is followed by an fsync, the fsync's own are reported as well.

import { readFile } from "node:fs/promises";
import { run } from "../test/interop/command.ts";

export interface FioResult {
  /** Reads or writes per second (an fsync is not counted as one). */
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly requestCount: number;
  readonly bytes: number;
  readonly p50Micros: number;
  readonly p99Micros: number;
  readonly longestMicros: number;
  readonly fsyncP50Micros?: number;
  readonly fsyncP99Micros?: number;
}

export interface FioJob {
  readonly uri: string;
  readonly args: readonly string[];
  /** Absent: until the job is through with its size. */
  readonly seconds?: number;
  readonly seed: number;
  /** Where fio may write its report. */
  readonly reportPath: string;
}

interface FioSide {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly io_bytes: number;
  readonly clat_ns: {
    readonly max: number;
    readonly percentile?: Readonly<Record<string, number>>;
  };
}

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: FioSide;
    readonly write: FioSide;
    readonly sync: {
      readonly total_ios: number;
      readonly lat_ns?: { readonly percentile?: Readonly<Record<string, number>> };
    };
  }[];
}

/** For jobs that end when everything is written: 100 GiB in blocks of 4 KiB take ten minutes and more. */
const FILL_SECONDS_MAX = 3600;

export async function fio(job: FioJob): Promise<FioResult> {
  const time =
    job.seconds === undefined ? [] : ["--time_based", `--runtime=${job.seconds * 1000}ms`];
  await run(
    "fio",
    [
      "--name=bench",
      "--ioengine=nbd",
      `--uri=${job.uri}`,
      ...job.args,
      ...time,
      `--randseed=${job.seed}`,
      "--group_reporting",
      "--output-format=json",
      `--output=${job.reportPath}`,
    ],
    { timeoutMs: 1000 * (600 + (job.seconds ?? FILL_SECONDS_MAX)) },
  );
  const report = JSON.parse(await readFile(job.reportPath, "utf8")) as FioReport;
  const [result] = report.jobs;
  if (result?.error !== 0)
    throw new Error(`fio on ${job.uri}: error ${result?.error ?? "without a report"}`);
  const side = result.write.total_ios > 0 ? result.write : result.read;
  const latency = (percentile: Readonly<Record<string, number>> | undefined, key: string): number =>
    (percentile?.[key] ?? 0) / 1000;
  return {
    iops: side.iops,
    bytesPerSecond: side.bw_bytes,
    requestCount: side.total_ios,
    bytes: side.io_bytes,
    p50Micros: latency(side.clat_ns.percentile, "50.000000"),
    p99Micros: latency(side.clat_ns.percentile, "99.000000"),
    longestMicros: side.clat_ns.max / 1000,
    ...(result.sync.total_ios > 0 && {
      fsyncP50Micros: latency(result.sync.lat_ns?.percentile, "50.000000"),
      fsyncP99Micros: latency(result.sync.lat_ns?.percentile, "99.000000"),
    }),
  };
}
