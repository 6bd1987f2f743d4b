// SPDX-License-Identifier: Apache-2.0
//
// Verifies points of a target, along the chain that a restore goes, each object once however many points need it:
//
//   structure   manifests, runs with all their pages, heads and lengths of packs: everything there is where it must be
//   sample      and a share of all groups, chosen by a seed
//   data        and every group, every block against its id
//
// Damage is a result, not an error: the report says which objects are bad, and which bytes of which volumes of which points
// that costs. Everything else can be restored. Only a target that goes away ends a verification.

import type { Damage } from "./damage.ts";
import { DAMAGES_MAX, DamageList } from "./damage.ts";
import { EXTENT_KIND } from "./extents.ts";
import type { HistoryPart } from "./history-writer.ts";
import { firstLostChange, type LostChange, visitLosses } from "./losses.ts";
import { type PointManifest, readManifest, runsOf } from "./manifest.ts";
import { type GroupChoice, PackCheck } from "./pack-check.ts";
import { ordinalOf, slotOf } from "./place.ts";
import type { Run, RunPart } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import type { TargetReader } from "./target-reader.ts";

export type VerifyLevel = "structure" | "sample" | "data";

/** Of the catalog. */
export interface VerifiedPoint {
  readonly id: string;
  readonly name: string;
  /** The manifest's object. */
  readonly manifest: string;
}

export interface VerifyProgress {
  readonly step: "manifests" | "runs" | "histories" | "packs" | "pages";
  readonly doneCount: number;
  readonly totalCount: number;
  /** Stored bytes of groups that were read. */
  readonly bytesRead: number;
}

export interface VerifyOptions {
  readonly reader: TargetReader;
  readonly points: readonly VerifiedPoint[];
  readonly level: VerifyLevel;
  /** Of a sample: between 0 and 1. */
  readonly share?: number;
  /** Of a sample: another one takes other groups. */
  readonly seed?: number;
  readonly onProgress?: (progress: VerifyProgress) => void;
  readonly signal?: AbortSignal;
}

/** What a point can't give any more. */
export interface VerifyLoss {
  readonly pointId: string;
  readonly pointName: string;
  /** undefined: the whole point, for its manifest is bad. */
  readonly volume?: string;
  /** Not of the point itself but of the moments before it: bytes of their first state, or all from this change on. */
  readonly isHistory?: boolean;
  readonly fromLsn?: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly object: string;
  readonly why: string;
}

export interface VerifyReport {
  readonly isSound: boolean;
  readonly pointCount: number;
  /** Of runs and histories. */
  readonly partCount: number;
  readonly packCount: number;
  readonly groupsRead: number;
  readonly bytesRead: number;
  /** The first ten thousand, and how many there are. */
  readonly damages: readonly Damage[];
  readonly damageCount: number;
  readonly losses: readonly VerifyLoss[];
  readonly lossCount: number;
  /** Of all losses together: a block that several points have lost counts in each. */
  readonly lostBytes: number;
}

const LANES = 4;
const SHARE_DEFAULT = 0.05;

/** Throws TARGET_UNAVAILABLE, and what the signal says. */
export function verifyTarget(options: VerifyOptions): Promise<VerifyReport> {
  return new Verification(options).run();
}

interface ReadPoint {
  readonly point: VerifiedPoint;
  readonly manifest: PointManifest;
}

class Verification {
  readonly #options: VerifyOptions;
  readonly #reader: TargetReader;
  readonly #damages: DamageList;
  readonly #points: ReadPoint[] = [];
  readonly #parts: Map<string, RunPart> = new Map();
  /** Of runs: with a head or a page that can't be had. */
  readonly #badParts: Set<string> = new Set();
  readonly #historyParts: Map<string, HistoryPart> = new Map();
  /** By the names of parts. */
  readonly #lostChanges: Map<string, LostChange> = new Map();
  /** Of the packs that the runs name. */
  readonly #ordinals: Set<number> = new Set();
  /** By their ordinals. */
  readonly #slotCounts: number[] = [];
  readonly #losses: VerifyLoss[] = [];
  #lossCount = 0;
  #lostBytes = 0;
  #groupsRead = 0;
  #bytesRead = 0;

  constructor(options: VerifyOptions) {
    this.#options = options;
    this.#reader = options.reader;
    this.#damages = new DamageList(options.reader.store);
  }

  async run(): Promise<VerifyReport> {
    await this.#inLanes("manifests", this.#options.points, (point) => this.#readPoint(point));
    // Heads first: they tell of all packs.
    const parts = [...this.#parts.values()];
    const historyParts = [...this.#historyParts.values()];
    await this.#inLanes("runs", parts, (part) => this.#openPart(part));
    await this.#inLanes("histories", historyParts, (part) => this.#openHistory(part));
    const ordinals = [...this.#ordinals];
    const packs = new PackCheck(this.#reader, this.#damages, this.#choice());
    await this.#inLanes("packs", ordinals, async (ordinal) => {
      const { slotCount, bytesRead, groupsRead } = await packs.check(ordinal);
      this.#slotCounts[ordinal] = slotCount;
      this.#bytesRead += bytesRead;
      this.#groupsRead += groupsRead;
    });
    await this.#inLanes("pages", parts, (part) => this.#checkPages(part));
    if (this.#damages.hasLosses || this.#badParts.size > 0) await this.#findLosses();
    await this.#inLanes("pages", historyParts, (part) => this.#findLostChange(part));
    this.#tellLostHistories();
    return this.#report(parts.length + historyParts.length, ordinals.length);
  }

  async #readPoint(point: VerifiedPoint): Promise<void> {
    const { store, sealer } = this.#reader;
    const damage = await this.#damages.during(point.manifest, async () => {
      const manifest = await readManifest(store, sealer, point.manifest);
      this.#points.push({ point, manifest });
      for (const { parts } of manifest.volumes.flatMap(runsOf))
        for (const part of parts) this.#parts.set(part.name, part);
      for (const { history } of manifest.volumes)
        for (const part of history?.parts ?? []) this.#historyParts.set(part.name, part);
    });
    if (damage === undefined) return;
    const range = { offsetBytes: 0, lengthBytes: 0, ...damage };
    this.#lose({ pointId: point.id, pointName: point.name, ...range });
  }

  async #openPart(part: RunPart): Promise<void> {
    const object = objectPath("run", part.name);
    const damage = await this.#damages.during(object, async () => {
      const { ordinals } = await this.#reader.runs.open(part);
      for (const ordinal of ordinals) this.#ordinals.add(ordinal);
      const found = await this.#reader.store.sizeOf(object);
      if (found !== part.sizeBytes)
        this.#damages.add(
          object,
          `${object}: it has ${found ?? 0} bytes instead of ${part.sizeBytes}`,
        );
    });
    if (damage !== undefined) this.#badParts.add(part.name);
  }

  /** All of it: histories are small beside the blocks that they name. */
  async #openHistory(part: HistoryPart): Promise<void> {
    const damage = await this.#damages.during(objectPath("history", part.name), async () => {
      const { ordinals } = await this.#reader.histories.open(part);
      for (const ordinal of ordinals) this.#ordinals.add(ordinal);
      const nothing = () => undefined;
      const visitor = { changed: nothing, flushed: nothing, named: nothing };
      await this.#reader.histories.read(part, visitor);
    });
    if (damage !== undefined) this.#lostChanges.set(part.name, { lsn: part.firstLsn, damage });
  }

  async #findLostChange(part: HistoryPart): Promise<void> {
    if (this.#lostChanges.has(part.name)) return;
    const lost = await firstLostChange(this.#reader, this.#damages, part);
    if (lost !== undefined) this.#lostChanges.set(part.name, lost);
  }

  /** Every page, and that what it says of packs can be. */
  async #checkPages(part: RunPart): Promise<void> {
    const object = objectPath("run", part.name);
    // Its head was checked before: if it is bad, that was told.
    if (this.#badParts.has(part.name)) return;
    const open = await this.#reader.runs.open(part);
    for (let page = 0; page < open.head.pageCount; page += 1) {
      const damage = await this.#damages.during(object, async () => {
        const { kinds, places, blockCounts, length } = await this.#reader.runs.page(open, page);
        for (let index = 0; index < length; index += 1) {
          const slotCount = this.#slotCounts[ordinalOf(places[index]!)] ?? 0;
          const endSlot = slotOf(places[index]!) + blockCounts[index]!;
          const isFrames = kinds[index] === EXTENT_KIND.frames;
          // A pack without a head has no slots, and that was told.
          if (!isFrames || slotCount === 0 || endSlot <= slotCount) continue;
          this.#damages.add(object, `${object}: page ${page} names slots that a pack hasn't got`);
          return;
        }
      });
      if (damage !== undefined) this.#badParts.add(part.name);
    }
  }

  async #findLosses(): Promise<void> {
    for (const { point, manifest } of this.#points)
      for (const { name, sizeBytes, runs, history } of manifest.volumes) {
        const place = { pointId: point.id, pointName: point.name, volume: name };
        await this.#findLossesOf(place, runs, sizeBytes);
        if (history !== undefined)
          await this.#findLossesOf({ ...place, isHistory: true }, history.runs, history.sizeBytes);
      }
  }

  #tellLostHistories(): void {
    for (const { point, manifest } of this.#points)
      for (const { name, history } of manifest.volumes) {
        const lost = history?.parts.map((part) => this.#lostChanges.get(part.name)).find(Boolean);
        if (lost === undefined) continue;
        const place = { pointId: point.id, pointName: point.name, volume: name, isHistory: true };
        const range = { fromLsn: lost.lsn, offsetBytes: 0, lengthBytes: 0 };
        this.#lose({ ...place, ...range, ...lost.damage });
      }
  }

  async #findLossesOf(
    place: Pick<VerifyLoss, "pointId" | "pointName" | "volume" | "isHistory">,
    runs: readonly Run[],
    sizeBytes: number,
  ): Promise<void> {
    const [reader, damages] = [this.#reader, this.#damages];
    this.#options.signal?.throwIfAborted();
    await visitLosses({ reader, damages, runs, sizeBytes }, ({ start, end, damage }) => {
      this.#lose({ ...place, offsetBytes: start, lengthBytes: end - start, ...damage });
    });
  }

  #lose(loss: VerifyLoss): void {
    this.#lossCount += 1;
    this.#lostBytes += loss.lengthBytes;
    if (this.#losses.length < DAMAGES_MAX) this.#losses.push(loss);
  }

  #choice(): GroupChoice {
    const { level, share = SHARE_DEFAULT, seed = 0 } = this.#options;
    if (level === "structure") return "none";
    return level === "data" ? "all" : { share, seed };
  }

  async #inLanes<T>(
    step: VerifyProgress["step"],
    items: readonly T[],
    work: (item: T) => Promise<void>,
  ): Promise<void> {
    let [next, doneCount] = [0, 0];
    const lane = async () => {
      while (next < items.length) {
        this.#options.signal?.throwIfAborted();
        const item = items[next]!;
        next += 1;
        await work(item);
        doneCount += 1;
        const bytesRead = this.#bytesRead;
        this.#options.onProgress?.({ step, doneCount, totalCount: items.length, bytesRead });
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  }

  #report(partCount: number, packCount: number): VerifyReport {
    return {
      isSound: this.#damages.count === 0,
      pointCount: this.#options.points.length,
      partCount,
      packCount,
      groupsRead: this.#groupsRead,
      bytesRead: this.#bytesRead,
      damages: this.#damages.all,
      damageCount: this.#damages.count,
      losses: this.#losses,
      lossCount: this.#lossCount,
      lostBytes: this.#lostBytes,
    };
  }
}
