// SPDX-License-Identifier: Apache-2.0
//
// The oracle of moments: every version of every block of every line of history, and which moments may not be refused.
// It is told of each change as it is asked for and as it is answered, with the record that the store stood at, and
// then knows what any disk of the past must hold.
//
//     volumes ── dated states ── lines ── blocks ── versions ── known effects
//        └ what a name meant         └ what a moment holds          └ where its record is, as far as is known
//
// It judges more than the model of disks (model.ts) and sees less: clients here never have two changes of one block
// under way. What requests that meet do to each other, and disks that fail, is that model's business.

import { assert, must } from "../base/assert.ts";
import { BLOCK_BYTES, type BlockContent, HistoryLine, ZEROS } from "./block-versions.ts";
import { type ContentPattern, type ContentSource, SECTOR_BYTES } from "./content.ts";
import type {
  HistoryUnderTest,
  MomentFound,
  RetentionSpans,
  VolumeFound,
} from "./history-under-test.ts";
import { type HistoryState, HistoryVolume, holderOf } from "./history-volume.ts";
import { KnownEffect } from "./known-effect.ts";
import type { CrashReport } from "./machine.ts";
import { NamedMoments } from "./named-moments.ts";
import { PromisedMoments } from "./promised-moments.ts";
import { violationOf } from "./rig.ts";
import type { Violation } from "./violation.ts";

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Retention as it was set, and as it may be where an answer is missing; undefined: the pool's. */
type Settings = (RetentionSpans | undefined)[];

const POOL = 0;

export class HistoryModel {
  readonly promised: PromisedMoments = new PromisedMoments();
  readonly names: NamedMoments = new NamedMoments();
  readonly #ack: "written" | "memory" | "durable";
  readonly #volumes = new Map<number, HistoryVolume>();
  /** By volume, and the pool's. */
  readonly #retention = new Map<number, Settings>();
  /** Changes that a crash may take. */
  #open = new Set<KnownEffect>();
  #volumeCount = 0;
  #lineCount = 0;
  #sequence = 0;
  /** The worst of the crashes since the last recovery. */
  #crash: CrashReport | undefined;

  constructor(ack: "written" | "memory" | "durable") {
    this.#ack = ack;
  }

  get changeCount(): number {
    return this.#sequence;
  }

  volumes(): HistoryVolume[] {
    return [...this.#volumes.values()];
  }

  live(): HistoryVolume[] {
    return this.volumes().filter((volume) => volume.isLive);
  }

  newLine(origin?: HistoryLine["origin"]): HistoryLine {
    this.#lineCount += 1;
    return new HistoryLine(this.#lineCount, origin);
  }

  newVolume(): HistoryVolume {
    const volume = new HistoryVolume(++this.#volumeCount);
    this.#volumes.set(volume.id, volume);
    this.promised.add(volume.id);
    return volume;
  }

  /** It was never made. */
  forgetVolume(volume: HistoryVolume): void {
    this.#volumes.delete(volume.id);
  }

  // --- changes

  /** A change is asked for, and the store stands at record `head`. */
  ask(what: string, head: number): KnownEffect {
    const effect = new KnownEffect(what, head);
    this.#open.add(effect);
    return effect;
  }

  answer(effect: KnownEffect, head: number, isDurable: boolean = this.#ack === "durable"): void {
    const { companion } = effect;
    if (companion !== undefined) this.answer(companion, head, isDurable);
    effect.answered(head);
    if (isDurable) this.#require([effect]);
  }

  /** What has been answered so far. */
  answered(): KnownEffect[] {
    return [...this.#open].filter(({ isAnswered }) => isAnswered);
  }

  /** These are on stable storage. */
  require(effects: readonly KnownEffect[]): void {
    this.#require(effects);
  }

  #require(effects: readonly KnownEffect[]): void {
    for (const effect of effects) {
      effect.isRequired = true;
      this.#open.delete(effect);
    }
  }

  /** False: it isn't certain what blocks that the range covers only in part hold now. */
  isCertain(line: HistoryLine, { offsetBytes, lengthBytes }: ByteRange): boolean {
    const end = offsetBytes + lengthBytes;
    const isPartial = (position: number): boolean => position % BLOCK_BYTES !== 0;
    return [offsetBytes, end].every(
      (position) =>
        !isPartial(position) || line.newest(Math.floor(position / BLOCK_BYTES)) !== undefined,
    );
  }

  /** A write is asked for, of whole sectors. */
  write(
    volume: HistoryVolume,
    range: ByteRange,
    { pattern, head }: { readonly pattern: ContentPattern; readonly head: number },
  ): { readonly effect: KnownEffect; readonly source: ContentSource } {
    this.#sequence += 1;
    const source = { volumeId: volume.id, sequence: this.#sequence, pattern };
    const { offsetBytes, lengthBytes } = range;
    const what = `write #${source.sequence} of ${lengthBytes} at ${offsetBytes}, volume ${volume.id}`;
    const effect = this.ask(what, head);
    this.#put(lineOf(volume), range, () => ({ effect, source }));
    return { effect, source };
  }

  /**
   * A trim is asked for, or zeroes, of whole sectors. Each edge inside a block has a record of its own, and the blocks
   * between them have one.
   */
  clear(volume: HistoryVolume, range: ByteRange, head: number): KnownEffect[] {
    const effects = new Map<number, KnownEffect>();
    const first = Math.floor(range.offsetBytes / BLOCK_BYTES);
    const last = Math.floor((range.offsetBytes + range.lengthBytes - 1) / BLOCK_BYTES);
    this.#put(lineOf(volume), range, (block, isPart) => {
      const key = !isPart ? 0 : block === first ? 1 : 2;
      assert(!isPart || block === first || block === last, "only edges are parts of blocks");
      const what = `zeros of ${range.lengthBytes} at ${range.offsetBytes}, volume ${volume.id}`;
      const effect = effects.get(key) ?? this.ask(what, head);
      effects.set(key, effect);
      return { effect, source: undefined };
    });
    return [...effects.values()];
  }

  #put(
    line: HistoryLine,
    { offsetBytes, lengthBytes }: ByteRange,
    by: (
      block: number,
      isPart: boolean,
    ) => { readonly effect: KnownEffect; readonly source: ContentSource | undefined },
  ): void {
    const end = offsetBytes + lengthBytes;
    for (const block of blocksOf(line, { offsetBytes, lengthBytes })) {
      const from = Math.max(0, offsetBytes - block * BLOCK_BYTES) / SECTOR_BYTES;
      const to = Math.min(BLOCK_BYTES, end - block * BLOCK_BYTES) / SECTOR_BYTES;
      const isPart = to - from < BLOCK_BYTES / SECTOR_BYTES;
      const { effect, source } = by(block, isPart);
      const before = isPart ? must(line.newest(block), "what stays of a block is known") : ZEROS;
      const content = before.map((one, sector) => (sector >= from && sector < to ? source : one));
      line.put(block, { effect, content: content satisfies BlockContent });
    }
  }

  /** The volume becomes this; a shrink cuts off what is behind the new end. */
  change(
    volume: HistoryVolume,
    effect: KnownEffect,
    change: Partial<Omit<HistoryState, "effect">>,
  ): void {
    const before = volume.newest;
    const { name, sizeBytes, line, isRemoved } = { ...before, ...change };
    assert(name !== undefined && sizeBytes !== undefined && line !== undefined, "a whole state");
    volume.states.push({ effect, name, sizeBytes, line, isRemoved: isRemoved ?? false });
    const isCut = before !== undefined && line === before.line && sizeBytes < before.sizeBytes;
    if (!isCut) return;
    const end = Math.ceil(before.sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
    const range = { offsetBytes: sizeBytes, lengthBytes: end - sizeBytes };
    // What is cut off of the last block is a write of its own, just before.
    const tail = this.ask(`${effect.what}, its last block`, effect.low - 1);
    effect.companion = tail;
    this.#put(line, range, (_, isPart) => ({ effect: isPart ? tail : effect, source: undefined }));
  }

  // --- retention

  get #settings(): (volume: number) => RetentionSpans[] {
    const pool = (this.#retention.get(POOL) ?? []).filter((spans) => spans !== undefined);
    return (volume) =>
      (this.#retention.get(volume) ?? [undefined]).flatMap((spans) => spans ?? pool);
  }

  /** Call whenever time has passed, and before and after the clock is set. */
  noteTime({ head, wallMicros }: HistoryUnderTest): void {
    this.promised.noteHead(head);
    this.promised.note(wallMicros, this.#settings);
    this.names.note(wallMicros);
  }

  /** Retention is asked to become this: from now on either may hold, until it is answered. */
  askRetention(volume: HistoryVolume | undefined, spans: RetentionSpans | undefined): () => void {
    const key = volume?.id ?? POOL;
    this.#retention.set(key, [...(this.#retention.get(key) ?? [undefined]), spans]);
    if (volume !== undefined) this.promised.inherit(key);
    return () => {
      this.#retention.set(key, [spans]);
      if (volume !== undefined) this.promised.inherit(key);
    };
  }

  // --- what must be there

  holderOf(name: string, lsn: number): ReturnType<typeof holderOf> {
    return holderOf(this.#volumes.values(), name, lsn);
  }

  /** The moment may not be refused. */
  isPromised(volume: HistoryVolume, lsn: number): boolean {
    return this.promised.isPromised(volume.id, lsn) || this.names.isHeld(volume.id, lsn);
  }

  /** In words, for the report of a failure. */
  whyPromised({ id }: HistoryVolume, lsn: number): string {
    return this.names.isHeld(id, lsn) ? "it has a name" : this.promised.describe(id, lsn);
  }

  /** Whether the store's answer is one that is right; the line that it means, if that can be known. */
  explain(found: MomentFound, name: string | undefined): HistoryState | Violation | undefined {
    const { lsn, sizeBytes, volumeId, branch } = found;
    const volume = this.volumes().find(({ storeId }) => storeId === volumeId);
    // Of one that is being made, the store's own number isn't known yet.
    if (volume === undefined) return undefined;
    const states = volume.statesAt(lsn);
    const fitting = states.filter(
      (state) =>
        state !== undefined &&
        !(state.isRemoved && name !== undefined) &&
        state.sizeBytes === sizeBytes &&
        (state.isRemoved || state.name === found.volume) &&
        (name === undefined || state.name === name),
    );
    const known = fitting.filter((state) => state?.line.storeId === branch);
    const right =
      known.length > 0 ? known : fitting.filter((state) => state?.line.storeId === undefined);
    if (right.length === 0) {
      const text = (state: HistoryState | undefined): string =>
        state === undefined
          ? "not made yet"
          : `${state.name}, ${state.sizeBytes} bytes, line ${state.line.id}, ${state.effect}`;
      return violationOf(
        "a moment is of the volume that had the name, as it was then",
        states.map(text).join("; or "),
        `${found.volume}#${lsn}, ${sizeBytes} bytes, volume ${volume.id}, branch ${branch}`,
      );
    }
    const [only] = right;
    const { line } = must(only, "one is right");
    if (right.some((state) => state?.line !== line)) return undefined;
    if (right.length === 1) volume.seenAt(only, lsn);
    line.storeId ??= branch;
    return only;
  }

  // --- crashes

  crashed(report: CrashReport): void {
    const isWorse = this.#crash?.kind !== "power" && report.kind === "power";
    const isCacheWhole = report.isCacheWhole && (this.#crash?.isCacheWhole ?? true);
    const { kind } = isWorse || this.#crash === undefined ? report : this.#crash;
    this.#crash = { kind, isCacheWhole };
  }

  /** The store ended in order: all that was answered is durable. */
  closed(): void {
    this.#require(this.answered());
  }

  /** The store is open again; the log ended with record `last`. Then everything is to be read, then `settle`. */
  recovered(store: HistoryUnderTest): Violation | undefined {
    const { recoveredLsn: last } = store;
    const { kind, isCacheWhole } = this.#crash ?? { kind: "kill", isCacheWhole: true };
    this.#crash = undefined;
    if (kind === "kill" && isCacheWhole && this.#ack !== "memory") this.#require(this.answered());
    for (const volume of this.#volumes.values()) {
      for (const flush of volume.flushes) flush.high = Math.min(flush.high, last);
      volume.flushes = volume.flushes.filter(({ low, high }) => low <= high);
    }
    let missing: KnownEffect | undefined;
    for (const effect of this.#everything()) if (!effect.recovered(last)) missing ??= effect;
    if (missing !== undefined) {
      const check = "what was durable survives a crash";
      return violationOf(check, missing.toString(), `the log ends with #${last}`);
    }
    this.promised.recovered(last, store.head);
    const violation = this.#settleCatalog(store.allVolumes());
    if (violation !== undefined) return violation;
    this.#settleRetention(store);
    const names = store.names().map((one) => ({ ...one, volumeId: this.idOf(one.volumeId) }));
    return this.names.recovered(names, store.wallMicros);
  }

  /** What nobody has seen by now isn't there, or makes no difference. */
  settle(): void {
    for (const effect of this.#everything()) {
      if (effect.state === "doubtful") effect.state = "lost";
      effect.isRequired = true;
    }
    for (const volume of this.#volumes.values()) volume.forgetLost();
    this.#open.clear();
  }

  *#everything(): Generator<KnownEffect> {
    yield* this.#open;
    for (const { states } of this.#volumes.values())
      for (const { effect } of states) if (!this.#open.has(effect)) yield effect;
  }

  /** Of changes of volumes at most the last is in doubt: what is there decides. */
  #settleCatalog(found: readonly VolumeFound[]): Violation | undefined {
    for (const volume of this.#volumes.values()) volume.forgetLost();
    for (const [id, { states }] of this.#volumes) if (states.length === 0) this.#volumes.delete(id);
    const isNew = ({ id }: VolumeFound): boolean =>
      !this.volumes().some(({ storeId }) => storeId === id);
    for (const volume of this.volumes()) {
      const one = found.find(({ id }) => id === volume.storeId) ?? found.find(isNew);
      const possible = volume.statesAt(Number.MAX_SAFE_INTEGER);
      const right = possible.find((state) => isState(state, one));
      if (one === undefined && this.#mayBeForgotten(volume)) {
        this.#volumes.delete(volume.id);
        continue;
      }
      const isRight = right !== undefined || (one === undefined && possible.includes(undefined));
      if (!isRight)
        return violationOf(
          "the list of volumes is the one after a prefix of the order",
          possible.map((state) => `${state?.name} of ${state?.sizeBytes} bytes`).join("; or "),
          one === undefined ? "nothing" : `${one.name} of ${one.sizeBytes} bytes`,
        );
      // A rewind shows only in what the disk holds: that is looked at later.
      const isPlain =
        possible.filter((state) => isState(state, one)).length === 1 || one === undefined;
      if (isPlain) for (const state of possible.slice(0, possible.indexOf(right))) drop(state);
      if (right !== undefined && isPlain) right.effect.state = "certain";
      volume.storeId = one?.id;
      volume.forgetLost();
    }
    for (const [id, { states }] of this.#volumes) if (states.length === 0) this.#volumes.delete(id);
    const stray = found.find(isNew);
    if (stray === undefined) return undefined;
    return violationOf("no volume comes from nowhere", "nothing", stray.name);
  }

  /** It was removed, and nothing promises what it was last. */
  #mayBeForgotten(volume: HistoryVolume): boolean {
    const { newest } = volume;
    const isNamed = this.names
      .all()
      .some(({ volume: id, state }) => id === volume.id && state === "held");
    return (
      newest?.isRemoved === true && !isNamed && !this.isPromised(volume, newest.effect.low - 1)
    );
  }

  #settleRetention(store: HistoryUnderTest): void {
    this.#retention.set(POOL, [store.retention]);
    for (const { id, retention } of store.allVolumes())
      this.#retention.set(this.idOf(id), [retention]);
  }

  /** The model's number of a volume, by the store's; -1: it isn't known. */
  idOf(storeId: number): number {
    return this.volumes().find((volume) => volume.storeId === storeId)?.id ?? -1;
  }
}

export function lineOf(volume: HistoryVolume): HistoryLine {
  return must(volume.newest, "a volume that is used has a state").line;
}

function drop(state: HistoryState | undefined): void {
  if (state !== undefined) state.effect.state = "lost";
}

function isState(state: HistoryState | undefined, found: VolumeFound | undefined): boolean {
  return (
    state !== undefined &&
    found !== undefined &&
    state.name === found.name &&
    state.sizeBytes === found.sizeBytes &&
    state.isRemoved === found.isRemoved
  );
}

/** Blocks of the range that hold something, or did, and those at its edges. */
function blocksOf(line: HistoryLine, { offsetBytes, lengthBytes }: ByteRange): number[] {
  const first = Math.floor(offsetBytes / BLOCK_BYTES);
  const end = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
  if (end - first <= 512) return Array.from({ length: end - first }, (_, at) => first + at);
  return [...line.touched()].filter((block) => block >= first && block < end);
}
