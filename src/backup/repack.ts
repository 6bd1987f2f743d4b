// SPDX-License-Identifier: Apache-2.0
//
// Moves what is still needed out of packs of which much isn't, so that they can go. New first, catalog next, data last:
//
//   blocks into new packs → runs that say so → manifests that name these → one generation in which the points have them
//
// Until that generation nothing has changed for anybody; from then on what was there before is garbage like any other, and
// goes when nobody who began before is left (garbage.ts). What was made is kept from other prunes by a session, as a
// backup's is; a crash leaves it as objects that no point reaches. Points keep their ids, names and content.
//
// A pack that is damaged stays as it is: nothing of it is given up for a little space.

import { hasCode } from "../base/errors.ts";
import type { Zstd } from "../host/ports.ts";
import type { PointEntry } from "./catalog-state.ts";
import { sealDocument } from "./document.ts";
import { EXTENT_KIND } from "./extents.ts";
import {
  encodeManifest,
  type ManifestVolume,
  type PointManifest,
  readManifest,
  runsOf,
} from "./manifest.ts";
import { choosePacks, PackUsage, type UsedPack } from "./pack-usage.ts";
import { PackWriter } from "./pack-writer.ts";
import { BLOCK_BYTES, GROUP_SLOTS, ordinalOf, PACK_SLOTS_MAX, slotOf } from "./place.ts";
import { type Run, type RunPart, RunWriter } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import { CONTENT_ID_BYTES } from "./sealing.ts";
import { beginSession, commitManifests, leaveSession, newId } from "./sessions.ts";
import type { Target } from "./target.ts";
import { TargetReader } from "./target-reader.ts";

export interface RepackOptions {
  readonly zstd: Zstd;
  /** Of all slots, so many may be unused. */
  readonly unusedShareMax: number;
  /** For people: which machine. */
  readonly host: string;
  readonly progress: (movedCount: number, totalCount: number) => void;
}

export interface RepackReport {
  /** Slots of all packs, and of those how many no run needs. */
  readonly slotCount: number;
  readonly unusedCount: number;
  /** Packs that were rewritten, or would be. */
  readonly packCount: number;
  readonly movedBytes: number;
  /** Packs that could not be read. */
  readonly damagedCount: number;
}

/** Of one prune: 32 MiB of places, up to 16 GiB of blocks. */
const PACKS_MAX = 256;
const NOBODY = "00".repeat(16);

/** What a repack would do. Throws TARGET_CORRUPT. */
export async function surveyPacks(
  target: Target,
  options: RepackOptions & { readonly points: readonly PointEntry[] },
): Promise<RepackReport> {
  const survey = await new Repack(target, options).survey(options.points);
  return survey.report;
}

/** Throws TARGET_CORRUPT, SESSION_ENDED, TARGET_FULL, TARGET_UNAVAILABLE. */
export async function repack(target: Target, options: RepackOptions): Promise<RepackReport> {
  const { catalog } = target;
  const work = new Repack(target, options);
  // Most prunes find nothing to do, and need no session to see that.
  const { report, chosen } = await work.survey((await catalog.read()).points);
  if (chosen.length === 0) return report;
  const wish = { purpose: "prune", poolId: NOBODY, volumes: [], host: options.host } as const;
  const { session, state } = await beginSession(catalog, { ...target, wish });
  try {
    const { movedBytes, damagedCount } = await work.move(chosen);
    const manifests = await work.rewrite(state.points);
    await commitManifests(catalog, { session, manifests, made: work.madeNames });
    return { ...report, packCount: chosen.length - damagedCount, movedBytes, damagedCount };
  } finally {
    await leaveSession(catalog, session).catch(() => {});
  }
}

class Repack {
  readonly #target: Target;
  readonly #options: RepackOptions;
  readonly #reader: TargetReader;
  #usage: PackUsage | undefined;
  /** New places of the slots of packs that are moved; -1: nothing needed it when it was looked at. */
  readonly #moved: Map<number, Float64Array> = new Map();
  /** What became of parts of runs. */
  readonly #parts: Map<string, readonly RunPart[]> = new Map();
  /** Objects that were put. */
  readonly madeNames: Set<string> = new Set();

  constructor(target: Target, options: RepackOptions) {
    const { store, sealer } = target;
    this.#target = target;
    this.#options = options;
    this.#reader = new TargetReader({ store, sealer, zstd: options.zstd });
  }

  async survey(
    points: readonly PointEntry[],
  ): Promise<{ readonly report: RepackReport; readonly chosen: readonly UsedPack[] }> {
    const usage = new PackUsage(this.#reader, this.#target.clock.wallMicros());
    this.#usage = usage;
    for (const { manifest } of points) {
      const { volumes } = await this.#manifest(manifest);
      for (const { parts } of volumes.flatMap(runsOf))
        for (const part of parts) await usage.add(part);
      for (const { history } of volumes)
        for (const part of history?.parts ?? []) await usage.keep(part);
    }
    const packs = await usage.packs();
    const { unusedShareMax } = this.#options;
    const chosen = choosePacks(packs, { unusedShareMax, countMax: PACKS_MAX });
    const sum = (list: readonly UsedPack[], key: "slotCount" | "usedCount"): number =>
      list.reduce((total, pack) => total + pack[key], 0);
    const slotCount = sum(packs, "slotCount");
    const report = {
      slotCount,
      unusedCount: slotCount - sum(packs, "usedCount"),
      packCount: chosen.length,
      movedBytes: sum(chosen, "usedCount") * BLOCK_BYTES,
      damagedCount: 0,
    };
    return { report, chosen };
  }

  /** Copies the blocks that are needed, and remembers where they lie now. */
  async move(
    chosen: readonly UsedPack[],
  ): Promise<{ readonly movedBytes: number; readonly damagedCount: number }> {
    const { store, sealer, random } = this.#target;
    const writer = new PackWriter({
      store,
      sealer,
      random,
      zstd: this.#options.zstd,
      packs: this.#reader.packTable,
      onFinished: ({ name }) => this.madeNames.add(objectPath("pack", name)),
    });
    let movedCount = 0;
    let damagedCount = 0;
    for (const [index, pack] of chosen.entries()) {
      this.#options.progress(index, chosen.length);
      try {
        this.#moved.set(pack.ordinal, await this.#copy(pack, writer));
        movedCount += pack.usedCount;
      } catch (error) {
        if (!hasCode(error, "TARGET_CORRUPT")) throw error;
        damagedCount += 1;
      }
    }
    await writer.flush();
    return { movedBytes: movedCount * BLOCK_BYTES, damagedCount };
  }

  async #copy({ ordinal, name, slotCount }: UsedPack, writer: PackWriter): Promise<Float64Array> {
    const usage = this.#usage;
    const places = new Float64Array(PACK_SLOTS_MAX).fill(-1);
    const ids = await this.#reader.packs.ids(name);
    for (let first = 0; first < slotCount; first += GROUP_SLOTS) {
      const end = Math.min(slotCount, first + GROUP_SLOTS);
      let blocks: Uint8Array | undefined;
      for (let slot = first; slot < end; slot += 1) {
        if (usage?.isUsed(ordinal, slot) !== true) continue;
        const group = first / GROUP_SLOTS;
        blocks ??= await this.#reader.packs.groups(ordinal, group, group + 1)[0]!;
        if (writer.isBusy) await writer.drained();
        const at = (slot - first) * BLOCK_BYTES;
        const block = blocks.subarray(at, at + BLOCK_BYTES);
        places[slot] = writer.add(block, ids, slot * CONTENT_ID_BYTES);
      }
    }
    return places;
  }

  /** New manifests of the points that refer to what was moved, by the names of their old ones. */
  async rewrite(points: readonly PointEntry[]): Promise<ReadonlyMap<string, string>> {
    const { store, sealer, random } = this.#target;
    const manifests = new Map<string, string>();
    for (const { manifest: old } of points) {
      const manifest = await this.#manifest(old);
      const volumes = await Promise.all(manifest.volumes.map((volume) => this.#volume(volume)));
      if (volumes.every((volume, index) => volume === manifest.volumes[index])) continue;
      const name = `points/${newId(random)}`;
      const body = encodeManifest({ ...manifest, volumes });
      await store.putIfAbsent(name, sealDocument({ kind: "point", name, sealer, random }, body));
      this.madeNames.add(name);
      manifests.set(old, name);
    }
    return manifests;
  }

  /** The volume with other runs; itself where none changes. */
  async #volume(volume: ManifestVolume): Promise<ManifestVolume> {
    const { history } = volume;
    const runs = await this.#runs(volume.runs);
    const before = history === undefined ? undefined : await this.#runs(history.runs);
    if (runs === volume.runs && before === history?.runs) return volume;
    if (history === undefined || before === undefined) return { ...volume, runs };
    return { ...volume, runs, history: { ...history, runs: before } };
  }

  async #runs(runs: readonly Run[]): Promise<readonly Run[]> {
    let isChanged = false;
    const changed: Run[] = [];
    for (const run of runs) {
      const parts: RunPart[] = [];
      for (const part of run.parts) parts.push(...(await this.#part(part)));
      const isSame =
        parts.length === run.parts.length &&
        parts.every((part, index) => part === run.parts[index]);
      isChanged ||= !isSame;
      changed.push(isSame ? run : { ...run, parts });
    }
    return isChanged ? changed : runs;
  }

  /** The parts that say the same with the new places; the part itself where nothing of it was moved. */
  async #part(part: RunPart): Promise<readonly RunPart[]> {
    const known = this.#parts.get(part.name);
    if (known !== undefined) return known;
    const { ordinals } = await this.#reader.runs.open(part);
    const isMoved = ordinals.some((ordinal) => this.#moved.has(ordinal));
    const parts = isMoved ? await this.#rewritePart(part) : [part];
    this.#parts.set(part.name, parts);
    return parts;
  }

  async #rewritePart(part: RunPart): Promise<readonly RunPart[]> {
    const { store, sealer, random } = this.#target;
    const { runs, packTable } = this.#reader;
    const writer = new RunWriter({ store, sealer, random, packs: packTable });
    const parts: RunPart[] = [];
    const finish = async (): Promise<void> => {
      const made = await writer.finishPart();
      if (made === undefined) return;
      this.madeNames.add(objectPath("run", made.name));
      parts.push(made);
    };
    const open = await runs.open(part);
    for (let page = 0; page < open.head.pageCount; page += 1) {
      const batch = await runs.page(open, page);
      for (let index = 0; index < batch.length; index += 1) {
        const kind = batch.kinds[index]!;
        const lba = batch.lbas[index]!;
        const count = batch.blockCounts[index]!;
        const place = batch.places[index]!;
        const moved = kind === EXTENT_KIND.frames ? this.#moved.get(ordinalOf(place)) : undefined;
        // An extent may lie in two packs now, so it goes block by block; the writer puts neighbours together.
        for (let at = 0; at < count; at += moved === undefined ? count : 1) {
          if (writer.isPartFull) await finish();
          if (moved === undefined) writer.add(lba, count, kind, place);
          else writer.add(lba + at, 1, kind, newPlace(moved, place, at));
        }
      }
    }
    await finish();
    return parts;
  }

  #manifest(name: string): Promise<PointManifest> {
    return readManifest(this.#target.store, this.#target.sealer, name);
  }
}

/** Of the block `at` blocks behind `place`. One that somebody has referred to since the survey stays where it is. */
function newPlace(moved: Float64Array, place: number, at: number): number {
  const found = moved[slotOf(place) + at]!;
  return found === -1 ? place + at : found;
}
