// SPDX-License-Identifier: Apache-2.0
//
// One backup, from the session that it holds to the point that it commits:
//
//   session → what is there (points, progress) → for each volume: stack, plan, send → merge runs → manifest → point
//
// Until the last step nothing refers to what was sent, so a crash at any time leaves the target's points as they were,
// and a session that the next backup of the same volumes takes over (session-progress.ts).

import { assert, must } from "../base/assert.ts";
import { hasCode } from "../base/errors.ts";
import type { ObjectStore } from "../host/object-store.ts";
import type { Zstd } from "../host/ports.ts";
import { type BackupStack, buildStack, type StackBase, type StackLayer } from "./backup-stack.ts";
import type { BlockSource } from "./block-source.ts";
import type { CatalogState, PointEntry, SessionEntry } from "./catalog-state.ts";
import { ContentIndex } from "./content-index.ts";
import { sealDocument } from "./document.ts";
import { HistoryBackup, type VolumeHistory } from "./history-backup.ts";
import {
  encodeManifest,
  type ManifestMoment,
  type ManifestVolume,
  type PointManifest,
  readManifest,
} from "./manifest.ts";
import { PackIndexWriter } from "./pack-index.ts";
import { PackWriter } from "./pack-writer.ts";
import { BLOCK_BYTES } from "./place.ts";
import { Reachable } from "./reachable.ts";
import { mergedCount, mergeRuns } from "./run-merge.ts";
import { type Run, type RunPart, RunWriter } from "./run-writer.ts";
import { objectPath } from "./sealed-object.ts";
import {
  NO_PROGRESS,
  type ProgressLayer,
  type ProgressVolume,
  readProgress,
  removeProgress,
  type SessionProgress,
  writeProgress,
} from "./session-progress.ts";
import { beginSession, commitPoint, newId } from "./sessions.ts";
import type { Target } from "./target.ts";
import { TargetReader } from "./target-reader.ts";
import { VolumeBackup } from "./volume-backup.ts";

/** A volume at the moment that is backed up. */
export interface BackupVolume {
  readonly name: string;
  readonly volumeId: number;
  readonly sizeBytes: number;
  readonly moment: ManifestMoment;
  readonly source: BlockSource;
  /** Moments before this one that go with the point. */
  readonly history?: VolumeHistory | undefined;
  /** Words for a moment of the same volume, for BlockSource.changedSince; undefined: history has let it go. */
  baseOf(moment: ManifestMoment): Promise<string | undefined>;
}

export interface BackupOptions {
  readonly target: Target;
  readonly zstd: Zstd;
  readonly poolId: string;
  /** For people: which machine. */
  readonly host: string;
  readonly name: string;
  /** All as of one moment. */
  readonly volumes: readonly BackupVolume[];
  /** Everything is read, whatever the target holds. */
  readonly isFull: boolean;
  readonly pace: ((bytes: number) => Promise<void>) | undefined;
  /** When to make durable what was sent; undefined: now and then. */
  readonly saving?: SavePace | undefined;
  readonly signal: AbortSignal;
  /** So many packs that points need aren't in the target any more. */
  readonly onMissing: (packCount: number) => void;
  /** Before anything is read. */
  readonly onBegin: (volumes: readonly VolumeResult[]) => void;
  readonly onProgress: (progress: BackupProgress) => void;
}

export interface BackupProgress {
  readonly phase: "preparing" | "reading" | "finishing";
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Written to the target so far. */
  readonly storedBytes: number;
}

export interface BackupResult {
  readonly point: PointEntry;
  readonly volumes: readonly VolumeResult[];
  /** Of all volumes. */
  readonly readBytes: number;
  readonly zeroBytes: number;
  /** In the target already, this point's or another's. */
  readonly knownBytes: number;
  /** Sent, before compression. */
  readonly newBytes: number;
  /** Written to the target. */
  readonly storedBytes: number;
}

export interface VolumeResult {
  readonly name: string;
  readonly lsn: number;
  /** The point that this one was compared with. */
  readonly parent: string | undefined;
  /** There is a point to compare with, but history has let its moment go. */
  readonly lostParent: string | undefined;
  /** It went on with what an interrupted backup had sent. */
  readonly isResumed: boolean;
}

/** Points of a volume that are looked at for one to compare with: their moments may have been let go. */
const PARENTS_MAX = 8;
/** A save ends a pack: not too often, and not too late for what would have to be read again. */
export interface SavePace {
  /** At the earliest after so long … */
  readonly micros: number;
  /** … and when so many bytes were sent. */
  readonly bytes: number;
}

const SAVING: SavePace = { micros: 2_000_000, bytes: 64 << 20 };
/** However little was sent. */
const SAVE_AT_LAST_MICROS = 60_000_000;
const INDEX_MEMORY_BYTES: number = 128 << 20;

/** Throws what the target throws, and the signal's reason. */
export async function runBackup(options: BackupOptions): Promise<BackupResult> {
  const { target, volumes, poolId, host } = options;
  const begun = await beginSession(target.catalog, {
    clock: target.clock,
    random: target.random,
    wish: {
      purpose: "backup",
      poolId,
      volumes: volumes.map(({ name, volumeId }) => ({ name, volumeId })),
      host,
    },
  });
  return new BackupRun(options, begun.session, begun.state).run(begun.isTakenOver);
}

interface VolumeWork {
  readonly volume: BackupVolume;
  readonly stack: BackupStack;
  readonly backup: VolumeBackup;
  readonly parent: Parent;
  /** Of its own layer, as far as they are durable. */
  parts: readonly RunPart[];
  endLba: number;
}

class BackupRun {
  readonly #options: BackupOptions;
  readonly #session: SessionEntry;
  readonly #state: CatalogState;
  readonly #reader: TargetReader;
  readonly #packs: PackWriter;
  readonly #index: PackIndexWriter;
  /** Points of which something can't be read: nothing is built on them. */
  readonly #damaged: Set<string> = new Set();
  #known: ContentIndex | undefined;
  /** Of the backup before, if it was interrupted. */
  #found: SessionProgress = NO_PROGRESS;
  #works: VolumeWork[] = [];
  #phase: BackupProgress["phase"] = "preparing";
  #storedBytes = 0;
  #savedMicros: number;
  #savedBlocks = 0;

  constructor(options: BackupOptions, session: SessionEntry, state: CatalogState) {
    const { target, zstd } = options;
    const { store, sealer, random, clock } = target;
    this.#options = options;
    this.#session = session;
    this.#state = state;
    this.#reader = new TargetReader({ store, sealer, zstd });
    this.#index = new PackIndexWriter({ store, sealer, random });
    this.#packs = new PackWriter({
      store,
      sealer,
      zstd,
      random,
      packs: this.#reader.packTable,
      onFinished: (pack) => {
        this.#storedBytes += pack.sizeBytes;
        this.#index.add(pack);
        this.#known?.finish(pack.ordinal);
      },
    });
    this.#savedMicros = clock.monotoneMicros();
  }

  async run(isTakenOver: boolean): Promise<BackupResult> {
    const { volumes } = this.#options;
    if (isTakenOver) this.#found = await readProgress(this.#place);
    const known = await this.#openIndex();
    this.#known = known;
    for (const volume of volumes) this.#works.push(await this.#begin(volume, known));
    this.#options.onBegin(this.#volumeResults());
    for (const { backup } of this.#works) await backup.prepare();
    this.#phase = "reading";
    for (const work of this.#works) await this.#send(work);
    this.#phase = "finishing";
    this.#tell();
    const manifest = await this.#manifest();
    const point = await this.#commit(manifest);
    // The session is over: what it leaves is litter at worst.
    await removeProgress(this.#place).catch(() => undefined);
    return this.#resultOf(point);
  }

  async #send(work: VolumeWork): Promise<void> {
    const { signal } = this.#options;
    try {
      await work.backup.run();
    } catch (error) {
      // Who ends it by hand may want to go on just there.
      if (error === signal.reason) await this.#save(work).catch(() => undefined);
      throw error;
    }
    await this.#save(work);
  }

  get #place() {
    const { store, sealer, random } = this.#options.target;
    return { store, sealer, random, sessionId: this.#session.id };
  }

  /** Of all that a point refers to, and of what this session has sent. */
  async #openIndex(): Promise<ContentIndex> {
    const { store, sealer } = this.#options.target;
    const reachable = new Reachable(store, sealer);
    // What can't be read is of no use here, and for "varve verify" to tell.
    for (const { id, manifest } of this.#state.points) {
      try {
        await reachable.add(manifest);
      } catch (error) {
        unlessDamaged(error);
        this.#damaged.add(id);
      }
    }
    const layers = this.#found.volumes.flatMap(({ layers: all }) => all);
    const sent = [...layers.flatMap(({ parts }) => parts), ...this.#found.sent];
    try {
      await reachable.addParts(sent);
    } catch (error) {
      unlessDamaged(error);
      this.#found = NO_PROGRESS;
    }
    const missing = await missingPacks(store, reachable.packNames());
    if (missing.size > 0) await this.#avoid(missing);
    return ContentIndex.open({
      reader: this.#reader,
      packNames: [...reachable.packNames()].filter((name) => !missing.has(name)),
      memoryBytes: INDEX_MEMORY_BYTES,
    });
  }

  /** Packs are gone: what needs them is nothing to build on, so what they held is sent again. */
  async #avoid(missing: ReadonlySet<string>): Promise<void> {
    const { target, onMissing } = this.#options;
    onMissing(missing.size);
    for (const { id, manifest } of this.#state.points) {
      if (this.#damaged.has(id)) continue;
      const own = new Reachable(target.store, target.sealer);
      await own.add(manifest);
      for (const name of own.packNames()) if (missing.has(name)) this.#damaged.add(id);
    }
    // Whether a layer needs them isn't worth finding out.
    this.#found = NO_PROGRESS;
  }

  async #begin(volume: BackupVolume, known: ContentIndex): Promise<VolumeWork> {
    const { target, pace, signal } = this.#options;
    const found = this.#progressOf(volume);
    const parent = await this.#parentOf(volume, found);
    const layers: StackLayer[] = [];
    for (const layer of found?.layers ?? [])
      layers.push({ ...layer, layer, base: await volume.baseOf(layer.moment) });
    const { moment, sizeBytes, source } = volume;
    const stack = buildStack({ moment, sizeBytes, layers, parent: parent.stack });
    const backup = new VolumeBackup({
      source,
      segments: stack.segments,
      hidesOlder: stack.runsBelow.length > 0,
      sealer: target.sealer,
      packs: this.#packs,
      run: this.#newRun(),
      known,
      pace,
      signal,
      onProgress: () => this.#tell(),
      whenBetween: () => this.#saveNowAndThen(work),
    });
    const { parts, endLba } = stack.own ?? { parts: [], endLba: 0 };
    const work: VolumeWork = { volume, stack, backup, parent, parts, endLba };
    return work;
  }

  /** Its layers, if what lies below them is still there. */
  #progressOf({ volumeId }: BackupVolume): ProgressVolume | undefined {
    if (this.#options.isFull) return undefined;
    const found = this.#found.volumes.find((progress) => progress.volumeId === volumeId);
    if (found?.parentId === undefined) return found;
    const parent = this.#state.points.find(({ id }) => id === found.parentId);
    const isWhole =
      parent?.poolId === this.#options.poolId &&
      parent.volumes.some((volume) => volume.volumeId === volumeId) &&
      !this.#damaged.has(parent.id);
    return isWhole ? found : undefined;
  }

  /** What to compare with: the point below the layers, or else the newest one whose moment is still to be had. */
  async #parentOf(volume: BackupVolume, found: ProgressVolume | undefined): Promise<Parent> {
    const { poolId, isFull } = this.#options;
    const { volumeId } = volume;
    const hasLayers = found !== undefined && found.layers.length > 0;
    if (isFull || (hasLayers && found.parentId === undefined)) return NO_PARENT;
    const candidates = this.#state.points
      .filter((point) => point.poolId === poolId && !this.#damaged.has(point.id))
      .filter((point) => point.volumes.some((other) => other.volumeId === volumeId))
      .filter(({ id }) => !hasLayers || id === found.parentId)
      .toReversed();
    for (const point of candidates.slice(0, PARENTS_MAX)) {
      const there = point.volumes.find((other) => other.volumeId === volumeId);
      assert(there !== undefined, "a candidate has the volume");
      const { lsn, branch, timeMicros, sizeBytes } = there;
      const moment = { lsn, branch, timeMicros };
      const base = await volume.baseOf(moment);
      if (base === undefined && !hasLayers) continue;
      const { store, sealer } = this.#options.target;
      const manifest = await readManifest(store, sealer, point.manifest);
      const runs = manifest.volumes.find((other) => other.volumeId === volumeId)?.runs ?? [];
      return { point, lost: undefined, stack: { moment, sizeBytes, base, runs } };
    }
    return { ...NO_PARENT, lost: candidates[0] };
  }

  #newRun(): RunWriter {
    const { store, sealer, random } = this.#options.target;
    return new RunWriter({ store, sealer, random, packs: this.#reader.packTable });
  }

  async #saveNowAndThen(work: VolumeWork): Promise<void> {
    const elapsedMicros = this.#options.target.clock.monotoneMicros() - this.#savedMicros;
    const unsavedBlocks = this.#sum("newBlocks") - this.#savedBlocks;
    const { micros, bytes } = this.#options.saving ?? SAVING;
    const isMuch = elapsedMicros >= micros && unsavedBlocks * BLOCK_BYTES >= bytes;
    if (isMuch || elapsedMicros >= SAVE_AT_LAST_MICROS) await this.#save(work);
  }

  /** Makes durable how far the backup is. */
  async #save(work: VolumeWork): Promise<void> {
    const { parts, endLba } = await work.backup.save();
    const own = [...(work.stack.own?.parts ?? []), ...parts];
    for (const part of own.slice(work.parts.length)) this.#storedBytes += part.sizeBytes;
    work.parts = own;
    work.endLba = endLba;
    if (this.#index.isFull) await this.#index.put();
    await writeProgress(this.#place, this.#progress());
    this.#savedMicros = this.#options.target.clock.monotoneMicros();
    this.#savedBlocks = this.#sum("newBlocks");
  }

  #progress(): SessionProgress {
    const volumes = this.#works.map(({ volume, stack, parent, parts, endLba }) => {
      const { volumeId, moment, sizeBytes } = volume;
      const own: ProgressLayer[] = endLba === 0 ? [] : [{ moment, sizeBytes, endLba, parts }];
      const below = parent.point === undefined ? {} : { parentId: parent.point.id };
      return { volumeId, ...below, layers: [...own, ...stack.layers] };
    });
    const used = new Set(volumes.flatMap(({ layers }) => layers.flatMap(namesOf)));
    const before = this.#found.volumes.flatMap(({ layers }) => layers.flatMap(partsOf));
    const sent = [...before, ...this.#found.sent].filter(({ name }) => !used.has(name));
    return { volumes, sent };
  }

  async #manifest(): Promise<PointManifest> {
    const { name, poolId, target } = this.#options;
    const volumes: ManifestVolume[] = [];
    for (const { volume, stack, parts } of this.#works) {
      const own: Run[] = parts.length === 0 ? [] : [{ parts }];
      const runs = await this.#merge([...own, ...stack.runsBelow]);
      const { name: volumeName, volumeId, sizeBytes, moment } = volume;
      const history = await this.#sendHistory(volume, runs);
      volumes.push({ name: volumeName, volumeId, sizeBytes, moment, runs, ...history });
    }
    const createdMicros = target.clock.wallMicros();
    return { id: newId(target.random), name, createdMicros, poolId, volumes };
  }

  /** What the volume was when the window began, and what happened since. */
  async #sendHistory(
    { history, sizeBytes }: BackupVolume,
    runs: readonly Run[],
  ): Promise<Pick<ManifestVolume, "history">> {
    if (history === undefined) return {};
    const { target, pace, signal } = this.#options;
    const { store, sealer, random } = target;
    const known = must(this.#known, "the index is open by then");
    const { segments } = buildStack({
      moment: history.from,
      sizeBytes: history.sizeBytes,
      layers: [],
      // The moment doesn't matter, for there is nothing to go on with.
      parent: { moment: history.from, sizeBytes, base: history.pointWords, runs },
    });
    const begin = new VolumeBackup({
      ...{ source: history.source, segments, hidesOlder: true, sealer, known, pace, signal },
      packs: this.#packs,
      run: this.#newRun(),
      onProgress: () => this.#tell(),
      whenBetween: () => Promise.resolve(),
    });
    await begin.run();
    const { parts } = await begin.save();
    const own: Run[] = parts.length === 0 ? [] : [{ parts }];
    const packs = this.#reader.packTable;
    const backup = new HistoryBackup({ store, sealer, random, packs, blocks: this.#packs, known });
    const historyParts = await backup.run(history);
    for (const part of [...parts, ...historyParts]) this.#storedBytes += part.sizeBytes;
    const { from, sizeBytes: fromBytes } = history;
    const fromRuns = await this.#merge([...own, ...runs]);
    return { history: { from, sizeBytes: fromBytes, runs: fromRuns, parts: historyParts } };
  }

  /** So few runs as a reader can do with. */
  async #merge(runs: readonly Run[]): Promise<readonly Run[]> {
    const count = mergedCount(runs);
    if (runs.length === 0 || count === 1) return runs;
    const merged = await mergeRuns({
      reader: this.#reader.runs,
      writer: this.#newRun(),
      runs: runs.slice(0, count),
      isOldest: count === runs.length,
    });
    for (const part of merged.parts) this.#storedBytes += part.sizeBytes;
    const rest = runs.slice(count);
    return merged.parts.length === 0 ? rest : [merged, ...rest];
  }

  async #commit(manifest: PointManifest): Promise<PointEntry> {
    const { store, sealer, random, catalog } = this.#options.target;
    await this.#index.put();
    const name = `points/${manifest.id}`;
    const parts = sealDocument({ kind: "point", name, sealer, random }, encodeManifest(manifest));
    await store.put(name, parts);
    const point: PointEntry = {
      id: manifest.id,
      name: manifest.name,
      manifest: name,
      createdMicros: manifest.createdMicros,
      poolId: manifest.poolId,
      volumes: manifest.volumes.map(({ name: volume, volumeId, sizeBytes, moment }) => ({
        name: volume,
        volumeId,
        sizeBytes,
        ...moment,
      })),
      newBytes: this.#storedBytes,
      isProtected: false,
    };
    const reach = async (): Promise<Reachable> => {
      const reachable = new Reachable(store, sealer);
      await reachable.add(name);
      return reachable;
    };
    await commitPoint(catalog, { session: this.#session, point, reach });
    return point;
  }

  #sum(count: "readBlocks" | "zeroBlocks" | "knownBlocks" | "newBlocks" | "blocksToRead"): number {
    return this.#works.reduce((sum, { backup }) => sum + backup[count], 0);
  }

  #tell(): void {
    this.#options.onProgress({
      phase: this.#phase,
      doneBytes: this.#sum("readBlocks") * BLOCK_BYTES,
      totalBytes: this.#sum("blocksToRead") * BLOCK_BYTES,
      storedBytes: this.#storedBytes,
    });
  }

  #volumeResults(): VolumeResult[] {
    return this.#works.map(({ volume, parent, stack }) => ({
      name: volume.name,
      lsn: volume.moment.lsn,
      parent: parent.point?.name,
      lostParent: parent.lost?.name,
      isResumed: stack.own !== undefined || stack.layers.length > 0,
    }));
  }

  #resultOf(point: PointEntry): BackupResult {
    return {
      point,
      volumes: this.#volumeResults(),
      readBytes: this.#sum("readBlocks") * BLOCK_BYTES,
      zeroBytes: this.#sum("zeroBlocks") * BLOCK_BYTES,
      knownBytes: this.#sum("knownBlocks") * BLOCK_BYTES,
      newBytes: this.#sum("newBlocks") * BLOCK_BYTES,
      storedBytes: this.#storedBytes,
    };
  }
}

/** The point below. */
interface Parent {
  readonly point: PointEntry | undefined;
  readonly stack: (StackBase & { readonly runs: readonly Run[] }) | undefined;
  /** There are points, but history has let go of their moments. */
  readonly lost: PointEntry | undefined;
}

const NO_PARENT: Parent = { point: undefined, stack: undefined, lost: undefined };

/** Of the packs that are needed, those that are gone. A listing alone proves nothing. */
async function missingPacks(store: ObjectStore, needed: Iterable<string>): Promise<Set<string>> {
  const listed = new Set<string>();
  for await (const { name } of store.list("packs/")) listed.add(name);
  const missing = new Set<string>();
  for (const name of needed) {
    const object = objectPath("pack", name);
    if (!listed.has(object) && (await store.sizeOf(object)) === undefined) missing.add(name);
  }
  return missing;
}

function partsOf({ parts }: ProgressLayer): readonly RunPart[] {
  return parts;
}

function namesOf({ parts }: ProgressLayer): string[] {
  return parts.map(({ name }) => name);
}

/** Damage is for "varve verify" to tell; a backup only builds nothing on it. */
function unlessDamaged(error: unknown): void {
  if (!hasCode(error, "TARGET_CORRUPT") && !hasCode(error, "FORMAT_UNSUPPORTED")) throw error;
}
