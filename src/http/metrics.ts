// SPDX-License-Identifier: Apache-2.0
//
// The statistics as Prometheus metrics. One table names them all: varve_<noun>_<unit>, with _total for
// what only grows. The pool counts anyway; a scrape copies the numbers, nothing is counted twice and the
// data path pays nothing. Counters begin at 0 with each start of the daemon, which Prometheus expects.

import { Counter, Gauge, Registry } from "prom-client";
import type { ScheduleStatisticsJson } from "../api/schedule.ts";
import type { PoolStatisticsJson, StatisticsJson, VolumeStatisticsJson } from "../api/types.ts";
import { parseTime } from "../base/moment-time.ts";

interface MetricRow<T> {
  readonly name: string;
  readonly help: string;
  /** Undefined: not known yet, and left out. */
  readonly value: (of: T) => number | undefined;
}

const STATES = ["open", "full", "stopped", "closed"] as const;

export const POOL_METRICS: readonly MetricRow<PoolStatisticsJson>[] = [
  row("varve_stored_bytes", "What the pool takes on the disk", (s) => s.storedBytes),
  row("varve_capacity_bytes", "What stored bytes run against", (s) => s.capacityBytes),
  row(
    "varve_live_bytes",
    "Stored bytes that live volumes refer to, by the census",
    (s) => s.liveBytes,
  ),
  row(
    "varve_history_bytes",
    "Stored bytes that only the past needs, when they were counted last",
    (s) => s.historyBytes,
  ),
  row("varve_segments_count", "Segments of the log", (s) => s.segmentCount),
  row("varve_head_lsn", "LSN of the newest record", (s) => s.headLsn),
  row("varve_durable_lsn", "Everything up to this LSN is on stable storage", (s) => s.durableLsn),
  row("varve_incarnation_count", "How often the pool was opened", (s) => s.incarnation),
  row("varve_batches_total", "Batches appended", (s) => s.batchCount),
  row("varve_batch_bytes_total", "Bytes appended in batches", (s) => s.batchBytes),
  row("varve_frame_bytes_total", "Bytes of content appended", (s) => s.frameBytes),
  row("varve_index_bytes_total", "Bytes of index written", (s) => s.indexBytes),
  row("varve_datasyncs_total", "fdatasync calls of the log", (s) => s.datasyncCount),
  row("varve_flushes_total", "Flushes that clients asked for", (s) => s.flushCount),
  row("varve_checkpoints_total", "Checkpoints of the index", (s) => s.checkpointCount),
  row("varve_cache_hits_total", "Blocks read from memory", (s) => s.cacheHitCount),
  row("varve_cache_misses_total", "Blocks read from disk", (s) => s.cacheMissCount),
  row("varve_memory_used_bytes", "Memory of the budget in use", (s) => s.memoryUsedBytes),
  row("varve_memory_limit_bytes", "The memory budget", (s) => s.memoryLimitBytes),
  row("varve_recovery_seconds", "How long the last opening took", (s) => s.recoveryMs / 1000),
  row("varve_damaged_blocks_total", "Damaged blocks met", (s) => s.damagedBlockCount),
  row("varve_damaged_pages_total", "Damaged pages of the index met", (s) => s.damagedPageCount),
  row("varve_failed_requests_total", "Requests ended by I/O errors", (s) => s.failedRequestCount),
  row("varve_refused_requests_total", "Requests refused: pool full", (s) => s.refusedRequestCount),
  row("varve_clients_count", "NBD connections open", (s) => s.clientCount),
  row("varve_views_count", "Past moments that clients have open", (s) => s.viewCount),
  row("varve_uptime_seconds", "Since the daemon started", (s) => s.uptimeMs / 1000),
  row("varve_process_resident_bytes", "Memory of the process", (s) => s.residentBytes),
  row("varve_process_cpu_seconds_total", "CPU time of the process", (s) => s.cpuMs / 1000),
];

/** Of what is saved, collected and scrubbed; "saved" is by the census. */
export const REDUCTION_METRICS: readonly MetricRow<StatisticsJson>[] = [
  row(
    "varve_census_age_seconds",
    "Since what is stored was counted; 0: never",
    (s) => s.census && s.census.ageMs / 1000,
  ),
  row("varve_dedup_saved_bytes", "Saved by deduplication", (s) => s.dedup.savedBytes),
  row("varve_dedup_hits_total", "Blocks written that were stored", (s) => s.dedup.hitCount),
  row(
    "varve_dedup_prefetched_hits_total",
    "Of them, found by reading lists ahead",
    (s) => s.dedup.prefetchedHitCount,
  ),
  row("varve_dedup_misses_total", "Blocks written that were new", (s) => s.dedup.missCount),
  row("varve_dedup_stale_total", "Index entries that were wrong", (s) => s.dedup.staleCount),
  row(
    "varve_dedup_index_memory_bytes",
    "Memory of the index of what is stored",
    (s) => s.dedup.indexMemoryBytes,
  ),
  row(
    "varve_dedup_index_entries_count",
    "Frames that the index knows",
    (s) => s.dedup.indexEntries,
  ),
  row(
    "varve_dedup_index_entries_limit",
    "Frames that fit into the index",
    (s) => s.dedup.indexEntriesMax,
  ),
  row(
    "varve_dedup_index_evictions_total",
    "Frames that the index forgot",
    (s) => s.dedup.indexEvictionCount,
  ),
  row(
    "varve_dedup_unrestored_segments_count",
    "Segments that the index is still to be filled from after the start",
    (s) => s.dedup.unrestoredSegmentCount,
  ),
  row("varve_compression_saved_bytes", "Saved by compression", (s) => s.compression.savedBytes),
  row(
    "varve_compressed_frames_total",
    "Frames written compressed",
    (s) => s.compression.compressedFrameCount,
  ),
  row(
    "varve_incompressible_frames_total",
    "Frames written as they are",
    (s) => s.compression.incompressibleFrameCount,
  ),
  row("varve_zero_saved_bytes", "Blocks written as zeros", (s) => s.zero.savedBytes),
  row("varve_zero_blocks_total", "Blocks written that were all zero", (s) => s.zero.blockCount),
  row("varve_gc_collections_total", "Collections that ended", (s) => s.gc.collectionCount),
  row("varve_gc_freed_segments_total", "Segments freed", (s) => s.gc.freedSegmentCount),
  row("varve_gc_freed_bytes_total", "Bytes freed", (s) => s.gc.freedBytes),
  row("varve_gc_moved_bytes_total", "Bytes of frames moved", (s) => s.gc.movedBytes),
  row("varve_scrubs_total", "Scrubs that ended", (s) => s.scrub.completedCount),
  row("varve_scrub_checked_bytes_total", "Bytes scrubbed", (s) => s.scrub.checkedBytes),
  row("varve_scrub_problems_total", "Problems that scrubs found", (s) => s.scrub.problemCount),
];

export const VOLUME_METRICS: readonly MetricRow<VolumeStatisticsJson>[] = [
  row("varve_volume_size_bytes", "Size of the volume", (v) => v.sizeBytes),
  row("varve_volume_mapped_bytes", "Blocks that hold something", (v) => v.mappedBytes),
  row("varve_volume_zero_bytes", "Blocks written as zeros", (v) => v.zeroBytes),
  row("varve_volume_unique_bytes", "Stored bytes that it alone refers to", (v) => v.uniqueBytes),
  row(
    "varve_volume_dedup_saved_bytes",
    "Of them, shared with other blocks",
    (v) => v.dedupSavedBytes,
  ),
  row(
    "varve_volume_compression_saved_bytes",
    "Of them, saved by compression",
    (v) => v.compressionSavedBytes,
  ),
  row(
    "varve_volume_zero_blocks_total",
    "Blocks written that were all zero",
    (v) => v.zeroBlockCount,
  ),
  row(
    "varve_volume_duplicate_blocks_total",
    "Blocks written that were stored",
    (v) => v.duplicateBlockCount,
  ),
  row("varve_volume_frames_total", "Frames written", (v) => v.frameCount),
  row(
    "varve_volume_compressed_frames_total",
    "Frames written compressed",
    (v) => v.compressedFrameCount,
  ),
  row("varve_volume_frame_bytes_total", "Bytes of frames written", (v) => v.frameBytes),
  row("varve_volume_clients_count", "NBD connections to the volume", (v) => v.clientCount),
  row("varve_volume_reads_total", "Read requests", (v) => v.readCount),
  row("varve_volume_read_bytes_total", "Bytes read", (v) => v.readBytes),
  row("varve_volume_writes_total", "Write requests", (v) => v.writeCount),
  row("varve_volume_write_bytes_total", "Bytes written", (v) => v.writeBytes),
  row("varve_volume_trims_total", "Trim requests", (v) => v.trimCount),
  row("varve_volume_zeroes_total", "Write-zeroes requests", (v) => v.zeroCount),
  row("varve_volume_flushes_total", "Flush requests", (v) => v.flushCount),
  row("varve_volume_suspicious", "1 while files seem to be encrypted on it", (v) =>
    v.isSuspicious ? 1 : 0,
  ),
];

/** Of each schedule of backups; of the last one that made a point. */
export const SCHEDULE_METRICS: readonly MetricRow<ScheduleStatisticsJson>[] = [
  row("varve_backup_last_success_timestamp_seconds", "When the last backup ended", (s) =>
    s.lastDone === undefined ? undefined : secondsOf(s.lastDone.endedAt),
  ),
  row("varve_backup_duration_seconds", "How long the last backup took", (s) =>
    s.lastDone === undefined ? undefined : s.lastDone.durationMs / 1000,
  ),
  row(
    "varve_backup_sent_bytes",
    "What the last backup sent: bytes that the target didn't hold",
    (s) => s.lastDone?.sentBytes,
  ),
  row(
    "varve_backup_stored_bytes",
    "What the last backup's bytes take in the target",
    (s) => s.lastDone?.storedBytes,
  ),
  row("varve_backup_runs_total", "Backups that ended, done or failed", (s) => s.runCount),
  row("varve_backup_failures_total", "Backups that failed", (s) => s.failureCount),
  row("varve_backup_running", "1 while one runs", (s) => (s.isRunning ? 1 : 0)),
  row("varve_backup_overdue", "1 when there should have been one an interval ago", (s) =>
    s.isOverdue ? 1 : 0,
  ),
];

/** Of a time that we wrote ourselves. */
function secondsOf(at: string): number {
  return Number(parseTime(at)) / 1e6;
}

function row<T>(name: string, help: string, value: MetricRow<T>["value"]): MetricRow<T> {
  return { name, help, value };
}

export class Metrics {
  readonly #registry = new Registry();
  readonly #pool: readonly Family[];
  readonly #reduction: readonly Family[];
  readonly #volume: readonly Family[];
  readonly #schedule: readonly Family[];
  readonly #state: Gauge<"state">;

  constructor(version: string) {
    const registers = [this.#registry];
    const build = { name: "varve_build_info", help: "The version that runs", registers };
    new Gauge({ ...build, labelNames: ["version"] }).set({ version }, 1);
    this.#pool = POOL_METRICS.map((metric) => new Family(metric, [], registers));
    this.#reduction = REDUCTION_METRICS.map((metric) => new Family(metric, [], registers));
    this.#volume = VOLUME_METRICS.map((metric) => new Family(metric, ["volume"], registers));
    const labels = ["schedule", "target"];
    this.#schedule = SCHEDULE_METRICS.map((metric) => new Family(metric, labels, registers));
    const state = { name: "varve_pool_state", help: "1 for the state that holds", registers };
    this.#state = new Gauge({ ...state, labelNames: ["state"] });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async render(statistics: StatisticsJson): Promise<string> {
    POOL_METRICS.forEach((metric, index) => {
      this.#pool[index]!.replace([{ labels: {}, value: metric.value(statistics.pool) }]);
    });
    REDUCTION_METRICS.forEach((metric, index) => {
      this.#reduction[index]!.replace([{ labels: {}, value: metric.value(statistics) }]);
    });
    VOLUME_METRICS.forEach((metric, index) => {
      this.#volume[index]!.replace(
        statistics.volumes.map((volume) => ({
          labels: { volume: volume.name },
          value: metric.value(volume),
        })),
      );
    });
    SCHEDULE_METRICS.forEach((metric, index) => {
      this.#schedule[index]!.replace(
        statistics.schedules.map((schedule) => ({
          labels: { schedule: schedule.name, target: schedule.target },
          value: metric.value(schedule),
        })),
      );
    });
    for (const state of STATES) this.#state.set({ state }, statistics.pool.state === state ? 1 : 0);
    return this.#registry.metrics();
  }
}

/** One metric with its values; counters are set by starting again from 0. */
class Family {
  readonly #metric: Counter<string> | Gauge<string>;

  constructor(
    metric: { readonly name: string; readonly help: string },
    labelNames: string[],
    registers: Registry[],
  ) {
    const configuration = { name: metric.name, help: metric.help, labelNames, registers };
    this.#metric = metric.name.endsWith("_total")
      ? new Counter(configuration)
      : new Gauge(configuration);
  }

  replace(values: readonly { labels: Record<string, string>; value: number | undefined }[]): void {
    this.#metric.reset();
    for (const { labels, value } of values)
      if (value !== undefined) this.#metric.inc(labels, value);
  }
}
