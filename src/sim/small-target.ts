// SPDX-License-Identifier: Apache-2.0
//
// A backup target in memory for tests, with just enough of a backup to fill it: blocks that differ from the last time are
// packed, and a run says where. What a real backup adds (the catalog, sessions, known content) is tested elsewhere.

import { sealDocument } from "../backup/document.ts";
import { EXTENT_KIND } from "../backup/extents.ts";
import { encodeManifest, type ManifestVolume } from "../backup/manifest.ts";
import { PackWriter } from "../backup/pack-writer.ts";
import { BLOCK_BYTES } from "../backup/place.ts";
import { mergedCount, mergeRuns } from "../backup/run-merge.ts";
import { type Run, type RunPart, RunWriter } from "../backup/run-writer.ts";
import { CONTENT_ID_BYTES, PLAIN_SEALER, type Sealer } from "../backup/sealing.ts";
import { TargetReader } from "../backup/target-reader.ts";
import type { Random } from "../host/ports.ts";
import { MemoryBucket, MemoryObjectStore } from "./memory-object-store.ts";
import { Prng } from "./prng.ts";
import { SimRandom } from "./scheduler.ts";
import { SIM_ZSTD } from "./sim-zstd.ts";

/** What a block became: its bytes, written zeros, or a hole. */
export type SmallChange = Uint8Array | "zero" | "hole";

export class SmallTarget {
  readonly bucket: MemoryBucket;
  readonly store: MemoryObjectStore;
  readonly sealer: Sealer;
  readonly random: Random = new SimRandom(new Prng(11));
  /** Names of packs that were finished, in their order. */
  readonly packNames: string[] = [];

  constructor(sealer: Sealer = PLAIN_SEALER, bucket: MemoryBucket = new MemoryBucket()) {
    this.sealer = sealer;
    this.bucket = bucket;
    this.store = new MemoryObjectStore(bucket);
  }

  reader(cacheBytes?: number): TargetReader {
    const { store, sealer } = this;
    const size = cacheBytes === undefined ? {} : { cacheBytes };
    return new TargetReader({ store, sealer, zstd: SIM_ZSTD, ...size });
  }

  /** The next run of a volume whose runs were `runs` (newest first): those of its new point. */
  async backup(changes: ReadonlyMap<number, SmallChange>, runs: readonly Run[]): Promise<Run[]> {
    const { store, sealer, random } = this;
    const reader = this.reader();
    const packs = reader.packTable;
    const writer = new PackWriter({
      store,
      sealer,
      zstd: SIM_ZSTD,
      random,
      packs,
      onFinished: ({ name }) => this.packNames.push(name),
    });
    const newRun = () => new RunWriter({ store, sealer, random, packs });
    const runWriter = newRun();
    const id = new Uint8Array(CONTENT_ID_BYTES);
    for (const [lba, what] of [...changes].sort(([a], [b]) => a - b)) {
      if (typeof what === "string") {
        runWriter.add(lba, 1, EXTENT_KIND[what], 0);
        continue;
      }
      if (writer.isBusy) await writer.drained();
      sealer.contentId(what, id, 0);
      runWriter.add(lba, 1, EXTENT_KIND.frames, writer.add(what, id, 0));
    }
    await writer.flush();
    const parts: RunPart[] = [];
    const part = await runWriter.finishPart();
    if (part !== undefined) parts.push(part);
    const all: Run[] = [{ parts }, ...runs];
    const count = mergedCount(all);
    if (count === 1) return all;
    const isOldest = count === all.length;
    const merged = all.slice(0, count);
    const run = await mergeRuns({ reader: reader.runs, writer: newRun(), runs: merged, isOldest });
    return [run, ...all.slice(count)];
  }
}

/** Puts the manifest of a point with that volume; returns its object's name. `id`: one hexadecimal digit. */
export async function putSmallPoint(
  target: SmallTarget,
  id: string,
  volume: ManifestVolume,
): Promise<string> {
  const { sealer, random, store } = target;
  const name = `points/${id.repeat(32)}`;
  const body = encodeManifest({
    id: id.repeat(32),
    name: `v${id}`,
    createdMicros: 1,
    poolId: "0".repeat(32),
    volumes: [volume],
  });
  await store.put(name, sealDocument({ kind: "point", name, sealer, random }, body));
  return name;
}

export function smallVolume(blockCount: number, runs: readonly Run[]): ManifestVolume {
  return {
    name: "db",
    volumeId: 1,
    sizeBytes: blockCount * BLOCK_BYTES,
    moment: { lsn: 1, branch: 1, timeMicros: 1 },
    runs,
  };
}
