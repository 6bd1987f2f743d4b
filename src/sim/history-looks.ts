// SPDX-License-Identifier: Apache-2.0
//
// Clients that look back: they ask for a moment in one of the ways that there are, judge the answer, open it and compare
// what they read with every version that the model has. Some keep what they opened for a long time. A refusal is
// judged too: a moment that is promised may not be refused, and one that never was may not be found.

import type { Moment, PlainMoment } from "../base/moment.ts";
import { BLOCK_BYTES, type LineMoment, surpriseToViolation } from "./block-versions.ts";
import type { HistoryModel } from "./history-model.ts";
import type { HistoryUnderTest, MomentFound, ViewUnderTest } from "./history-under-test.ts";
import type { HistoryVolume } from "./history-volume.ts";
import type { SimMachine } from "./machine.ts";
import type { Prng } from "./prng.ts";
import { Stop, violationOf } from "./rig.ts";
import type { Violation } from "./violation.ts";

export interface HistoryLooksOptions {
  readonly machine: SimMachine;
  readonly model: HistoryModel;
  readonly store: HistoryUnderTest;
  readonly prng: Prng;
  readonly onViolation: (violation: Violation, cause?: unknown) => void;
  /** Settles only while the process lives. */
  readonly alive: <T>(promise: Promise<T>) => Promise<T>;
}

/** A moment that was found, in terms of the model. */
export interface Found extends LineMoment {
  readonly volume: HistoryVolume;
  readonly moment: MomentFound;
  /** How to ask for just that moment again, by the same name; undefined: then the volume had another one. */
  readonly again: Moment | undefined;
  /** It may not be refused, as things are now. */
  readonly isPromised: () => boolean;
}

interface Held extends LineMoment {
  readonly volume: HistoryVolume;
  readonly moment: MomentFound;
  readonly sizeBytes: number;
  readonly view: ViewUnderTest;
  readonly what: string;
}

/** What clients call volumes, and moments. */
export const VOLUME_NAMES: readonly string[] = ["a", "b", "c", "d", "e", "f", "g"];
export const MOMENT_NAMES: readonly string[] = ["v1", "v2", "v3", "v4"];
const HELD_MAX = 5;
const READ_BYTES_MAX = 65536;
const FILLER_BYTE = 0xa5;
const SECOND = 1_000_000;

export class HistoryLooks {
  readonly #options: HistoryLooksOptions;
  readonly #held = new Set<Held>();
  /** Records around which it is worth looking. */
  readonly #turns: number[] = [];
  /** Of records: their recorded time, as the store said. */
  readonly #times = new Map<number, number>();

  constructor(options: HistoryLooksOptions) {
    this.#options = options;
  }

  /** Something large has changed at this record, or just before it. */
  remember(lsn: number): void {
    this.#turns.push(lsn);
  }

  /** Finds a moment, opens it, reads some of it and lets it go; or compares two. */
  async look(): Promise<void> {
    if (this.#options.prng.chance(0.25)) {
      await this.#compare();
      return;
    }
    const held = await this.#open();
    if (held === undefined) return;
    await this.#read(held);
    held.view.close();
  }

  /** Opens a moment for longer, looks at one that is open, or lets one go. */
  async hold(): Promise<void> {
    const { prng } = this.#options;
    const held = [...this.#held];
    if (held.length < HELD_MAX && (held.length === 0 || prng.chance(0.4))) {
      const opened = await this.#open();
      if (opened === undefined) return;
      // From then on it knows where its pages are.
      if (prng.chance(0.7)) await this.#read(opened);
      this.#held.add(opened);
      return;
    }
    const one = prng.pick(held);
    this.#held.delete(one);
    await this.#read(one);
    if (prng.chance(0.15)) one.view.close();
    else this.#held.add(one);
  }

  /** A moment of the volume, in any of the ways to ask for one; undefined where there is none. */
  async find(name: string): Promise<Found | undefined> {
    const { store, model, alive, machine } = this.#options;
    const moment = this.#drawMoment();
    const before = store.head.lsn;
    const text = `resolve ${name}@${JSON.stringify(moment)}`;
    const event = { subject: text, first: before, second: 0 };
    machine.trace.record(machine.scheduler.nowMicros, "look", event);
    model.noteTime(store);
    let found: MomentFound;
    try {
      found = await alive(store.resolve(name, moment));
    } catch (error) {
      model.noteTime(store);
      this.#judgeRefusal({ name, moment, before, error });
      return undefined;
    }
    model.noteTime(store);
    this.#judgePlace(name, moment, found, before);
    const state = model.explain(
      found,
      moment.kind === "name" ? undefined : nameAsked(moment, name),
    );
    if (state === undefined) return undefined;
    if ("check" in state) throw new Stop({ ...state, found: `${text}: ${state.found}` });
    const { lsn } = found;
    const volume = model.volumes().find(({ storeId }) => storeId === found.volumeId);
    if (volume === undefined) return undefined;
    const isPromised = (): boolean => {
      model.noteTime(store);
      return lsn === store.head.lsn || model.isPromised(volume, lsn);
    };
    const isAbsolute =
      moment.kind === "name" || (moment.kind === "flush" && moment.at.kind === "lsn");
    const byRecord = found.volume === name ? ({ kind: "lsn", lsn } as const) : undefined;
    const again = isAbsolute ? moment : byRecord;
    return { volume, line: state.line, lsn, moment: found, again, isPromised };
  }

  /** What the store calls the line that the volume is on. */
  async learn(volume: HistoryVolume): Promise<void> {
    const { newest } = volume;
    const { model, store, alive } = this.#options;
    if (newest === undefined || newest.isRemoved) return;
    volume.storeId ??= store.volumes().length === 0 ? undefined : idOf(store, newest.name);
    const found = await alive(store.resolve(newest.name, { kind: "now" }));
    const state = model.explain(found, newest.name);
    if (state !== undefined && "check" in state) throw new Stop(state);
    volume.forgetLost();
  }

  /** Compares what was read, from whole blocks on, with the model. */
  judge(
    { volume, line, lsn }: LineMoment & { readonly volume: HistoryVolume },
    bytes: Uint8Array,
    offsetBytes: number,
    what: string,
  ): void {
    for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
      const block = (offsetBytes + at) / BLOCK_BYTES;
      const surprise = line.judge(block, lsn, bytes.subarray(at, at + BLOCK_BYTES));
      if (surprise === undefined) continue;
      const name = `${volume.newest?.name}, line ${line.id} (${line.storeId})`;
      const check = `a moment is the disk as it was: ${what}`;
      this.#options.onViolation(surpriseToViolation(surprise, { check, volume: name }));
      return;
    }
  }

  async #open(): Promise<Held | undefined> {
    const { store, alive, prng, model } = this.#options;
    const names = model.volumes().map((volume) => volume.newest?.name ?? "a");
    const found = await this.find(
      prng.chance(0.1) ? prng.pick(VOLUME_NAMES) : prng.pick([...names, "a"]),
    );
    if (found === undefined) return undefined;
    const { volume, line, lsn, moment } = found;
    const what = `${moment.volume}#${lsn}`;
    try {
      const view = await alive(store.openView(moment));
      return { volume, line, lsn, moment, sizeBytes: moment.sizeBytes, view, what };
    } catch (error) {
      if (codeOf(error) === "MOMENT_GONE" && !found.isPromised()) return undefined;
      throw error;
    }
  }

  /** Two moments differ where what is read of them does, and nowhere else. */
  async #compare(): Promise<void> {
    const { store, alive, prng } = this.#options;
    const one = await this.#open();
    const other = one === undefined ? undefined : await this.#open();
    if (one === undefined || other === undefined) {
      one?.view.close();
      return;
    }
    const endBlock = Math.floor(Math.min(one.sizeBytes, other.sizeBytes) / BLOCK_BYTES);
    const touched = new Set([...one.line.touched(), ...other.line.touched()]);
    const blocks = [...touched].filter((block) => block < endBlock);
    const told = new Set<number>();
    try {
      await alive(
        store.diff(one.moment, other.moment, (offsetBytes, lengthBytes) => {
          for (const block of blocks) {
            const at = block * BLOCK_BYTES;
            if (at >= offsetBytes && at + BLOCK_BYTES <= offsetBytes + lengthBytes) told.add(block);
          }
        }),
      );
      for (let count = prng.between(1, 8); count > 0 && blocks.length > 0; count--) {
        const block = prng.pick(blocks);
        const [before, after] = [await this.#block(one, block), await this.#block(other, block)];
        const isDifferent = before.some((byte, at) => byte !== after[at]);
        if (isDifferent === told.has(block)) continue;
        const check = "two moments differ where their disks do";
        const what = `block ${block} of ${one.what} and ${other.what}`;
        throw new Stop({
          ...violationOf(
            check,
            isDifferent ? "a difference" : "none",
            isDifferent ? "none" : "one",
          ),
          volume: what,
        });
      }
    } catch (error) {
      // A moment that isn't promised stays for its readers, and isn't found by others.
      if (codeOf(error) !== "MOMENT_GONE") throw error;
    }
    one.view.close();
    other.view.close();
  }

  async #block({ view, what }: Held, block: number): Promise<Uint8Array> {
    const target = new Uint8Array(BLOCK_BYTES).fill(FILLER_BYTE);
    const request = { kind: "read", offsetBytes: block * BLOCK_BYTES, target } as const;
    const { alive } = this.#options;
    const errno = await alive(new Promise<number>((resolve) => view.submit(request, resolve)));
    if (errno === 0) return target;
    throw new Stop({
      ...violationOf("an open moment can be read", "no error", `error ${errno}`),
      volume: what,
    });
  }

  async #read({ view, volume, line, lsn, sizeBytes, what }: Held): Promise<void> {
    const { prng, alive } = this.#options;
    const blocks = [...line.touched()].filter((block) => block * BLOCK_BYTES < sizeBytes);
    for (let count = prng.between(1, 4); count > 0; count--) {
      const first = blocks.length === 0 || prng.chance(0.05) ? 0 : prng.pick(blocks);
      const offsetBytes = first * BLOCK_BYTES;
      const blockCount = Math.ceil(prng.skewed(READ_BYTES_MAX) / BLOCK_BYTES);
      const lengthBytes = Math.min(blockCount * BLOCK_BYTES, sizeBytes - offsetBytes);
      const target = new Uint8Array(lengthBytes).fill(FILLER_BYTE);
      const request = { kind: "read", offsetBytes, target } as const;
      const errno = await alive(new Promise<number>((resolve) => view.submit(request, resolve)));
      if (errno !== 0)
        throw new Stop({
          ...violationOf("an open moment can be read", "no error", `error ${errno}`),
          volume: what,
        });
      this.judge({ volume, line, lsn }, target, offsetBytes, what);
    }
  }

  // --- which moment

  #drawMoment(): Moment {
    const { prng } = this.#options;
    if (prng.chance(0.1)) return { kind: "now" };
    if (prng.chance(0.1)) return { kind: "name", name: prng.pick(MOMENT_NAMES) };
    const plain: PlainMoment = prng.chance(0.75)
      ? { kind: "lsn", lsn: this.#drawLsn() }
      : this.#drawTime();
    return prng.chance(0.08) ? { kind: "flush", at: plain } : plain;
  }

  #drawLsn(): number {
    const { prng, store, model } = this.#options;
    const { lsn } = store.head;
    if (prng.chance(0.15)) {
      const named = model.names.all().flatMap((moment) => moment.lsn ?? []);
      if (named.length > 0) return prng.pick(named);
    }
    if (prng.chance(0.25) && this.#turns.length > 0)
      return Math.max(0, prng.pick(this.#turns) + 1 - prng.below(3));
    if (prng.chance(0.4)) return Math.max(0, lsn + 1 - prng.skewed(Math.min(lsn + 1, 64)));
    return prng.below(lsn + 3);
  }

  #drawTime(): PlainMoment {
    const { prng, store } = this.#options;
    if (prng.chance(0.2)) return { kind: "ago", micros: prng.skewed(10 * SECOND) };
    const known = [...this.#times.values(), store.head.timeMicros];
    return { kind: "time", micros: prng.pick(known) + prng.below(3) - 1 };
  }

  // --- judging answers

  /** Is it the record that was asked for? */
  #judgePlace(name: string, moment: Moment, found: MomentFound, before: number): void {
    const { model, store } = this.#options;
    const { lsn, timeMicros } = found;
    const wrong = (expected: string): void => {
      const check = "a moment ends with the record that was asked for";
      const text = `#${lsn} at ${timeMicros}`;
      throw new Stop(violationOf(check, `${name}@${JSON.stringify(moment)}: ${expected}`, text));
    };
    switch (moment.kind) {
      case "lsn":
        if (lsn !== moment.lsn) wrong("that record");
        if (lsn < before) this.#noteTime(lsn, timeMicros, wrong);
        return;
      case "now":
        if (lsn < before || lsn > store.head.lsn) wrong(`#${before} to #${store.head.lsn}`);
        return;
      case "name": {
        const volume = model.volumes().find(({ storeId }) => storeId === found.volumeId);
        const named = volume && model.names.find(volume.id, moment.name);
        if (volume !== undefined && (named?.lsn ?? lsn) !== lsn) wrong(`#${named?.lsn}`);
        return;
      }
      case "time": {
        // Where the log has let go of the records around it, a moment that has a name is found by its own time.
        if (model.names.all().some((one) => one.lsn === lsn)) return;
        const { low, high } = model.promised.recordsAt(moment.micros);
        if (timeMicros > moment.micros || lsn < low || lsn > high) wrong(`#${low} to #${high}`);
        for (const [other, time] of this.#times)
          if (time <= moment.micros && lsn < other) wrong(`#${other} is at ${time}`);
        return;
      }
      case "flush": {
        const volume = model.volumes().find(({ storeId }) => storeId === found.volumeId);
        const isOne = volume?.flushes.some((flush) => flush.low <= lsn && lsn <= flush.high);
        if (volume !== undefined && !isOne) wrong("a flush");
        if (moment.at.kind === "lsn" && lsn > moment.at.lsn) wrong("one before it");
        return;
      }
      case "ago":
        return;
      default:
        moment satisfies never;
    }
  }

  #noteTime(lsn: number, timeMicros: number, wrong: (expected: string) => void): void {
    if (timeMicros < this.#options.model.promised.earliest(lsn)) wrong("a later time");
    this.#times.set(lsn, timeMicros);
  }

  /** May it be refused? */
  #judgeRefusal({
    name,
    moment,
    before,
    error,
  }: {
    readonly name: string;
    readonly moment: Moment;
    readonly before: number;
    readonly error: unknown;
  }): void {
    const { model } = this.#options;
    const code = codeOf(error);
    const isRefusal =
      code === "MOMENT_GONE" || code === "MOMENT_NOT_FOUND" || code === "VOLUME_NOT_FOUND";
    if (!isRefusal) throw error;
    const lsns = this.#certainLsns(name, moment, before);
    const [low] = lsns;
    const holders = lsns.map((lsn) => model.holderOf(name, lsn));
    const [holder] = holders;
    if (low === undefined || holder === undefined || holder === "nobody") return;
    const isOne = holders.every((one) => typeof one === "object" && one.state === holder.state);
    const isHere = moment.kind === "now" || moment.kind === "name" || low === before;
    // A name keeps the moment, and not the times of the records around it.
    const isByTime = moment.kind === "time";
    const isPromised =
      isHere ||
      (isByTime
        ? model.promised.isPromised(holder.volume.id, low)
        : model.isPromised(holder.volume, low));
    if (!isOne || !isPromised) return;
    // It is there: it may not be refused, and where it was let go rightly it is gone and nothing else.
    throw new Stop(
      violationOf(
        "a moment that is promised isn't refused",
        `${name}@${JSON.stringify(moment)} is there, #${lsns.join(" to #")} of ${before}: ${model.whyPromised(holder.volume, low)}`,
        error,
      ),
      error,
    );
  }

  /** Records between which the moment certainly is; none: it may be nowhere. */
  #certainLsns(name: string, moment: Moment, before: number): number[] {
    const { model } = this.#options;
    switch (moment.kind) {
      case "lsn":
        return moment.lsn >= 1 && moment.lsn <= before ? [moment.lsn] : [];
      case "now":
        return [before, Number.MAX_SAFE_INTEGER];
      case "time": {
        const { low, high } = model.promised.recordsAt(moment.micros);
        return low >= 1 && high <= before ? [low, high] : [];
      }
      case "name": {
        const holder = model.holderOf(name, Number.MAX_SAFE_INTEGER);
        const owner = typeof holder === "object" ? holder.volume : undefined;
        const named = owner && model.names.find(owner.id, moment.name);
        return named?.state === "held" && named.lsn !== undefined ? [named.lsn] : [];
      }
      case "ago":
      case "flush":
        return [];
      default:
        return moment satisfies never;
    }
  }
}

/** What a flush finds may be from before the volume had the name. */
function nameAsked(moment: Moment, name: string): string | undefined {
  return moment.kind === "flush" ? undefined : name;
}

function idOf(store: HistoryUnderTest, name: string): number | undefined {
  return store.allVolumes().find((one) => one.name === name && !one.isRemoved)?.id;
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}
