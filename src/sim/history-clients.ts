// SPDX-License-Identifier: Apache-2.0
//
// Clients of a store that remembers, by chance: they write, trim and flush, make volumes and remove them, name moments,
// change what is retained, set the clock, collect garbage; and all the while they ask for moments of the past and read
// the disks that they get (history-looks.ts). Each client does one thing after the other; there are several. No two
// touch the same blocks at the same time: what then comes first is judged elsewhere (workload.ts).

import { AssertionError, assert, must } from "../base/assert.ts";
import { BLOCK_BYTES } from "./block-versions.ts";
import { fillContent, SECTOR_BYTES } from "./content.ts";
import { HistoryLooks, MOMENT_NAMES, VOLUME_NAMES } from "./history-looks.ts";
import { type ByteRange, type HistoryModel, lineOf } from "./history-model.ts";
import type { HistoryUnderTest, RetentionSpans } from "./history-under-test.ts";
import type { HistoryVolume } from "./history-volume.ts";
import type { KnownEffect } from "./known-effect.ts";
import type { SimMachine } from "./machine.ts";
import type { StoreRequest } from "./pool-under-test.ts";
import type { Prng } from "./prng.ts";
import { bug, Stop, violationOf } from "./rig.ts";
import type { Violation } from "./violation.ts";

const SECOND = 1_000_000;
const HOUR: number = 3600 * SECOND;
const DAY: number = 24 * HOUR;

export interface HistoryClientsOptions {
  readonly machine: SimMachine;
  readonly model: HistoryModel;
  readonly store: HistoryUnderTest;
  readonly prng: Prng;
  readonly profile: HistoryProfile;
  /** So many things are done. */
  readonly actionCount: number;
  readonly onViolation: (violation: Violation, cause?: unknown) => void;
}

type Action =
  | "write"
  | "clear"
  | "read"
  | "flush"
  | "look"
  | "hold"
  | "name"
  | "volume"
  | "branch"
  | "retention"
  | "clock"
  | "checkpoint"
  | "collect"
  | "pause";

/** How the clients of one life behave. */
export interface HistoryProfile {
  readonly clientCount: number;
  readonly volumeCountMax: number;
  readonly islandBytes: number;
  /** Volumes are so large, or a little less or more. */
  readonly sizeBytes: number;
  readonly weights: Readonly<Record<Action, number>>;
  /** Longest window that is set, µs; null: none is ever set. */
  readonly windowMicros: readonly (number | null)[];
}

export function drawHistoryProfile(prng: Prng): HistoryProfile {
  return {
    clientCount: prng.between(1, 5),
    volumeCountMax: prng.between(1, 6),
    islandBytes: prng.pick([32768, 131072]),
    // Around the end of a page of the index, of two, and of what one directory chunk covers.
    sizeBytes: prng.pick([2, 3, 5, 2048]) * 2 ** 20,
    weights: {
      write: prng.pick([20, 40]),
      clear: prng.pick([2, 8]),
      read: 3,
      flush: prng.pick([1, 6]),
      look: prng.pick([10, 30]),
      hold: prng.pick([2, 12]),
      name: prng.pick([0.5, 3]),
      volume: prng.pick([0.5, 3]),
      branch: prng.pick([0, 2, 6]),
      retention: prng.pick([0, 0.5, 2]),
      clock: prng.pick([0, 0.5, 2]),
      checkpoint: prng.pick([0.5, 3, 8]),
      collect: prng.pick([0.5, 3, 8]),
      pause: 2,
    },
    windowMicros: prng.pick([
      [null],
      [0, null],
      [0, 20_000, 300_000, null],
      [300_000, 2 * SECOND, HOUR],
      [HOUR, DAY, null],
    ]),
  };
}

const GONE_CODES = ["MOMENT_GONE", "MOMENT_NOT_FOUND", "VOLUME_NOT_FOUND", "NOTHING_TO_UNDO"];
const WRITE_BYTES_MAX = 32768;
const SIZE_MIN: number = 1 << 20;

/** One burst of clients against one process. */
export class HistoryClients {
  readonly #options: HistoryClientsOptions;
  readonly #looks: HistoryLooks;
  #budget: number;
  #clientCount: number;
  #doneCount = 0;
  /** Volumes that are being changed, and how many requests the others have under way. */
  readonly #locked = new Set<HistoryVolume>();
  readonly #busy = new Map<HistoryVolume, number>();
  readonly #ranges = new Set<ByteRange & { readonly volume: HistoryVolume }>();
  /** Changes of volumes, names and retention come one at a time. */
  #isControlBusy = false;
  /** Names are being given, with times by the clock. */
  #isNaming = false;

  constructor(options: HistoryClientsOptions) {
    this.#options = options;
    this.#budget = options.actionCount;
    this.#clientCount = options.profile.clientCount;
    this.#looks = new HistoryLooks({ ...options, alive: (promise) => this.#alive(promise) });
  }

  get isDone(): boolean {
    return this.#clientCount === 0;
  }

  get doneCount(): number {
    return this.#doneCount;
  }

  start(): void {
    for (let client = 0; client < this.#options.profile.clientCount; client++) void this.#live();
  }

  async #live(): Promise<void> {
    const { prng, profile, onViolation } = this.#options;
    try {
      while (this.#budget > 0) {
        this.#budget -= 1;
        await this.#pause(prng.below(500));
        await this.#act(draw(prng, profile.weights));
        this.#doneCount += 1;
      }
    } catch (error) {
      const check = "no request fails while the disk works";
      if (error instanceof Stop) onViolation(error.violation, error.cause);
      else if (error instanceof AssertionError) onViolation(bug(error), error);
      else onViolation(violationOf(check, "it succeeds", error), error);
    }
    this.#clientCount -= 1;
  }

  async #act(action: Action): Promise<void> {
    const { prng, model, store } = this.#options;
    model.noteTime(store);
    const volumes = model.live().filter((volume) => !this.#locked.has(volume));
    const volume = volumes.length === 0 ? undefined : prng.pick(volumes);
    switch (action) {
      case "write":
        return volume && (await this.#write(volume));
      case "clear":
        return volume && (await this.#clear(volume));
      case "read":
        return volume && (await this.#read(volume));
      case "flush":
        return volume && (await this.#flush(volume));
      case "look":
        return await this.#looks.look();
      case "hold":
        return await this.#looks.hold();
      case "name":
        return await this.#controlled(() => this.#name());
      case "volume":
        return await this.#controlled(() => this.#changeVolume());
      case "branch":
        return await this.#controlled(() => this.#branch());
      case "retention":
        return await this.#controlled(() => this.#setRetention());
      case "clock":
        return this.#stepClock();
      case "checkpoint": {
        const began = model.promised.beginCheckpoint();
        await this.#alive(store.checkpoint());
        model.promised.endCheckpoint(began, store.head);
        return;
      }
      case "collect":
        return await this.#alive(store.collect());
      case "pause":
        return await this.#pause(prng.pick([10_000, 200_000, 2 * SECOND]));
      default:
        action satisfies never;
    }
  }

  // --- data

  async #write(volume: HistoryVolume): Promise<void> {
    const { prng, model, store } = this.#options;
    const place = this.#place(volume, prng.skewed(WRITE_BYTES_MAX));
    if (place === undefined) return;
    const pattern = prng.pick(["stamped", "stamped", "stamped", "repeated", "zeros"] as const);
    const { effect, source } = model.write(volume, place, { pattern, head: store.head.lsn });
    const bytes = new Uint8Array(place.lengthBytes);
    fillContent(bytes, source, place.offsetBytes);
    const isForceUnitAccess = prng.chance(0.05);
    const { offsetBytes } = place;
    const request = { kind: "write", offsetBytes, source: bytes, isForceUnitAccess } as const;
    await this.#request(volume, request, place);
    model.answer(effect, store.head.lsn, isForceUnitAccess || undefined);
  }

  async #clear(volume: HistoryVolume): Promise<void> {
    const { prng, model, store } = this.#options;
    const { sizeBytes: lengthBytes } = must(volume.newest, "a live volume has a state");
    const whole = { offsetBytes: 0, lengthBytes };
    const isWhole =
      prng.chance(0.1) && this.#isFree(volume, whole) && model.isCertain(lineOf(volume), whole);
    const place = isWhole ? whole : this.#place(volume, prng.skewed(2 * WRITE_BYTES_MAX));
    if (place === undefined) return;
    const kind = prng.pick(["trim", "zero"] as const);
    const effects = model.clear(volume, place, store.head.lsn);
    await this.#request(volume, { kind, ...place, isForceUnitAccess: false }, place);
    for (const effect of effects) model.answer(effect, store.head.lsn);
    if (place === whole) this.#looks.remember(store.head.lsn);
  }

  async #read(volume: HistoryVolume): Promise<void> {
    const { prng, model } = this.#options;
    const drawn = this.#place(volume, prng.skewed(4 * WRITE_BYTES_MAX));
    if (drawn === undefined) return;
    const place = wholeBlocks(drawn, volume.newest?.sizeBytes ?? 0);
    if (!this.#isFree(volume, place)) return;
    const target = new Uint8Array(place.lengthBytes);
    await this.#request(volume, { kind: "read", ...place, target }, place);
    const line = lineOf(volume);
    const lsn = Number.MAX_SAFE_INTEGER;
    this.#looks.judge({ volume, line, lsn }, target, place.offsetBytes, "a read of a live volume");
    assert(model.live().includes(volume), "nobody removes a volume that is read");
  }

  async #flush(volume: HistoryVolume): Promise<void> {
    const { prng, model, store } = this.#options;
    const answered = model.answered();
    if (prng.chance(0.3)) await this.#alive(store.flush());
    else {
      const { lsn } = store.head;
      const flush = { line: lineOf(volume), low: lsn, high: Number.POSITIVE_INFINITY };
      volume.flushes.push(flush);
      await this.#request(volume, { kind: "flush" }, undefined);
      flush.high = store.head.lsn;
    }
    model.require(answered);
  }

  /** A range in one of the islands that are used, in which nothing is under way. */
  #place(volume: HistoryVolume, bytes: number): ByteRange | undefined {
    const { prng, profile, model } = this.#options;
    const { sizeBytes = 0, line } = volume.newest ?? {};
    const island = prng.pick([0, 2 * 2 ** 20, sizeBytes]);
    const start = Math.max(
      0,
      Math.min(island - profile.islandBytes / 2, sizeBytes - profile.islandBytes),
    );
    const unit = prng.chance(0.6) ? BLOCK_BYTES : SECTOR_BYTES;
    const round = (value: number): number => Math.floor(value / unit) * unit;
    const offsetBytes = round(start + prng.below(profile.islandBytes));
    const lengthBytes = Math.min(Math.max(unit, round(bytes)), sizeBytes - offsetBytes);
    const place = { offsetBytes, lengthBytes };
    const isRight = lengthBytes > 0 && this.#isFree(volume, place);
    return isRight && line !== undefined && model.isCertain(line, place) ? place : undefined;
  }

  #isFree(volume: HistoryVolume, place: ByteRange): boolean {
    const { offsetBytes, lengthBytes } = wholeBlocks(place, Number.POSITIVE_INFINITY);
    for (const other of this.#ranges) {
      const isMet =
        other.offsetBytes < offsetBytes + lengthBytes &&
        other.offsetBytes + other.lengthBytes > offsetBytes;
      if (other.volume === volume && isMet) return false;
    }
    return true;
  }

  async #request(
    volume: HistoryVolume,
    request: StoreRequest,
    place: ByteRange | undefined,
  ): Promise<void> {
    const { store, machine } = this.#options;
    const { name } = volume.newest as { name: string };
    const range = place && { ...wholeBlocks(place, Number.POSITIVE_INFINITY), volume };
    if (range !== undefined) this.#ranges.add(range);
    this.#busy.set(volume, (this.#busy.get(volume) ?? 0) + 1);
    const event = {
      subject: name,
      first: place?.offsetBytes ?? -1,
      second: place?.lengthBytes ?? 0,
    };
    machine.trace.record(machine.scheduler.nowMicros, `> ${request.kind}`, event);
    const errno = await this.#alive(
      new Promise<number>((resolve) => store.submit(name, request, resolve)),
    );
    machine.trace.record(machine.scheduler.nowMicros, `< ${request.kind}`, {
      ...event,
      second: errno,
    });
    if (range !== undefined) this.#ranges.delete(range);
    this.#busy.set(volume, (this.#busy.get(volume) ?? 0) - 1);
    if (errno !== 0) throw new Error(`${request.kind} of volume ${name}: error ${errno}`);
  }

  // --- control

  async #controlled(work: () => Promise<void>): Promise<void> {
    if (this.#isControlBusy) return;
    this.#isControlBusy = true;
    await work();
    this.#isControlBusy = false;
  }

  /** Changes a volume that nobody uses meanwhile. */
  async #alone(
    volume: HistoryVolume,
    effect: KnownEffect,
    work: () => Promise<void>,
  ): Promise<void> {
    const { model, store } = this.#options;
    this.#locked.add(volume);
    this.#trace(effect.what);
    await this.#alive(work());
    model.answer(effect, store.head.lsn, true);
    // What was answered before is in the log before it.
    this.#looks.remember(store.head.lsn);
    await this.#looks.learn(volume);
    this.#locked.delete(volume);
  }

  #trace(what: string): void {
    const { machine } = this.#options;
    machine.trace.record(machine.scheduler.nowMicros, what, { subject: "", first: 0, second: 0 });
  }

  #idle(): HistoryVolume | undefined {
    const idle = this.#options.model
      .live()
      .filter((volume) => (this.#busy.get(volume) ?? 0) === 0 && !this.#locked.has(volume));
    return idle.length === 0 ? undefined : this.#options.prng.pick(idle);
  }

  #freeName(): string {
    const { prng, model } = this.#options;
    const taken = new Set(model.live().map((volume) => volume.newest?.name));
    return prng.pick(VOLUME_NAMES.filter((name) => !taken.has(name)));
  }

  #drawSize(): number {
    const { prng, profile } = this.#options;
    const drawn = profile.sizeBytes + (prng.below(512) - 256) * prng.pick([BLOCK_BYTES, 512]);
    return Math.max(SIZE_MIN, prng.chance(0.3) ? drawn / 2 - ((drawn / 2) % 512) : drawn);
  }

  async #changeVolume(): Promise<void> {
    const { prng, model, store, profile } = this.#options;
    const { lsn } = store.head;
    const count = model.live().length;
    const kind = prng.pick(["create", "create", "remove", "rename", "resize", "resize"] as const);
    if (count === 0 || (kind === "create" && count < profile.volumeCountMax)) {
      const [name, sizeBytes] = [this.#freeName(), this.#drawSize()];
      const volume = model.newVolume();
      const effect = model.ask(`create ${name} of ${sizeBytes}`, lsn);
      model.change(volume, effect, { name, sizeBytes, line: model.newLine() });
      return await this.#alone(volume, effect, () => store.createVolume(name, sizeBytes));
    }
    const volume = this.#idle();
    if (volume?.newest === undefined) return;
    const { name } = volume.newest;
    if (kind === "remove" && count > 1) {
      const effect = model.ask(`remove ${name}`, lsn);
      model.change(volume, effect, { isRemoved: true });
      return await this.#alone(volume, effect, () => store.removeVolume(name));
    }
    if (kind === "rename") {
      const newName = this.#freeName();
      const effect = model.ask(`rename ${name} to ${newName}`, lsn);
      model.change(volume, effect, { name: newName });
      return await this.#alone(volume, effect, () => store.renameVolume(name, newName));
    }
    const sizeBytes = this.#drawSize();
    if (
      kind !== "resize" ||
      !model.isCertain(volume.newest.line, { offsetBytes: sizeBytes, lengthBytes: 0 })
    )
      return;
    const effect = model.ask(`resize ${name} to ${sizeBytes}`, lsn);
    model.change(volume, effect, { sizeBytes });
    await this.#alone(volume, effect, () => store.resizeVolume(name, sizeBytes));
  }

  async #branch(): Promise<void> {
    const { prng, model, store, profile } = this.#options;
    const { branching } = store;
    const kind = prng.pick(["clone", "clone", "rewind", "undo"] as const);
    if (kind === "undo") return await this.#undo();
    const volume = kind === "rewind" ? this.#idle() : undefined;
    const name = kind === "rewind" ? volume?.newest?.name : prng.pick(VOLUME_NAMES);
    if (name === undefined) return;
    if (kind === "clone" && model.live().length >= profile.volumeCountMax) return;
    if (volume !== undefined) this.#locked.add(volume);
    const found = await this.#looks.find(name);
    const isOther = volume !== undefined && found?.volume !== volume;
    if (found?.again === undefined || isOther) {
      if (volume !== undefined) this.#locked.delete(volume);
      return;
    }
    const { moment, again, line, isPromised } = found;
    const { lsn, sizeBytes } = moment;
    const begun = model.newLine({ line, lsn });
    const target = volume ?? model.newVolume();
    const newName = volume === undefined ? this.#freeName() : name;
    const effect = model.ask(`${kind} ${name} at #${lsn} as ${newName}`, store.head.lsn);
    model.change(target, effect, { name: newName, sizeBytes, line: begun });
    try {
      await this.#alone(target, effect, () =>
        volume === undefined
          ? branching.clone(name, again, newName)
          : branching.rewind(name, again),
      );
    } catch (error) {
      if (isPromised() || !isGone(error)) throw error;
      // Retention was quicker.
      effect.state = "lost";
      target.forgetLost();
      this.#locked.delete(target);
      if (volume === undefined) model.forgetVolume(target);
    }
  }

  async #undo(): Promise<void> {
    const { prng, model, store } = this.#options;
    const { branching } = store;
    const idle = model
      .volumes()
      .filter((volume) => (this.#busy.get(volume) ?? 0) === 0 && !this.#locked.has(volume));
    if (idle.length === 0) return;
    const volume = prng.pick(idle);
    const { undoable, newest } = volume;
    if (newest === undefined || undoable === undefined) return;
    // Of several that were removed under one name the last comes back; and it may be another one's name by now.
    const isTaken = model.live().some((other) => other.newest?.name === newest.name);
    const isHidden = model
      .volumes()
      .some((other) => other !== volume && other.newest?.name === newest.name);
    if (newest.isRemoved && (isTaken || isHidden)) return;
    const { before, change } = undoable;
    const effect = model.ask(`undo of ${change.effect.what}`, store.head.lsn);
    const lsn = change.effect.low - 1;
    const line = newest.isRemoved ? newest.line : model.newLine({ line: before.line, lsn });
    const sizeBytes = newest.isRemoved ? newest.sizeBytes : before.sizeBytes;
    const isPromised = model.isPromised(volume, lsn);
    model.change(volume, effect, { line, sizeBytes, isRemoved: false });
    try {
      await this.#alone(volume, effect, () => branching.undo(newest.name));
    } catch (error) {
      if (isPromised || !isGone(error)) throw error;
      effect.state = "lost";
      volume.forgetLost();
      this.#locked.delete(volume);
    }
  }

  async #name(): Promise<void> {
    const { prng, model, store } = this.#options;
    const volume = this.#idle();
    if (volume?.newest === undefined) return;
    const { names } = model;
    const { name: volumeName } = volume.newest;
    const name = prng.pick(MOMENT_NAMES);
    const present = names.find(volume.id, name);
    this.#isNaming = true;
    if (present === undefined) await this.#giveName(volume, volumeName, name);
    else if (present.state === "held") {
      const other = prng.pick(MOMENT_NAMES);
      const isMoved = prng.chance(0.3) && names.find(volume.id, other) === undefined;
      present.state = "leaving";
      const moved = isMoved ? names.ask({ ...present, name: other }) : undefined;
      const target = { volume: volumeName, name };
      this.#trace(`forget or move ${volumeName}@${name}`);
      await this.#alive(
        isMoved ? store.renameMoment(target, other) : store.forgetMoment(target),
      ).catch((error: unknown) => {
        // It may have expired meanwhile.
        if (present.expiresMicros === Number.POSITIVE_INFINITY) throw error;
        if (moved !== undefined) names.drop(moved);
      });
      if (moved !== undefined) moved.state = "held";
      names.drop(present);
    } else if (
      present.state === "expired" &&
      !store.names().some((one) => one.volumeId === volume.storeId && one.name === name)
    )
      names.drop(present);
    this.#isNaming = false;
  }

  async #giveName(volume: HistoryVolume, volumeName: string, name: string): Promise<void> {
    const { prng, model, store } = this.#options;
    const keepMicros = prng.chance(0.4) ? prng.pick([1000, 300_000, HOUR]) : undefined;
    const expiresMicros =
      keepMicros === undefined ? Number.POSITIVE_INFINITY : store.wallMicros + keepMicros;
    // The same moment of another one, too.
    const others = model
      .live()
      .filter(
        (one) =>
          one !== volume && !this.#locked.has(one) && model.names.find(one.id, name) === undefined,
      );
    const also = prng.chance(0.5) ? others.slice(0, 1) : [];
    const past =
      also.length === 0 && prng.chance(0.4) ? await this.#looks.find(volumeName) : undefined;
    if (past !== undefined && past.again === undefined) return;
    const owner = past?.volume ?? volume;
    if (model.names.find(owner.id, name) !== undefined) return;
    const targets = [{ volume: volumeName, name }];
    for (const one of also) targets.push({ volume: one.newest?.name ?? "", name });
    const lsn = past?.moment.lsn;
    const asked = [owner, ...also].map(({ id }) =>
      model.names.ask({ volume: id, name, lsn, expiresMicros }),
    );
    const { lsn: low } = store.head;
    const at = past?.again;
    this.#trace(
      `name ${targets.map((target) => `${target.volume}@${target.name}`).join(" ")} #${lsn}`,
    );
    try {
      const given = await this.#alive(store.nameMoment(targets, { at, keepMicros }));
      for (const moment of asked) {
        const one = given.find(({ volumeId }) => model.idOf(volumeId) === moment.volume);
        if (one === undefined && expiresMicros > store.wallMicros)
          throw new Error(`${name} was not given`);
        moment.lsn = one?.lsn ?? low;
        moment.state = "held";
        const isRight =
          one === undefined || (one.lsn >= (lsn ?? low) && one.lsn <= (lsn ?? store.head.lsn));
        if (!isRight) throw new Error(`${name} was given to #${one.lsn}, not to #${lsn ?? low}`);
        if (moment.lsn !== asked[0]?.lsn) throw new Error(`${name} is two moments`);
      }
      model.noteTime(store);
    } catch (error) {
      if (past === undefined || past.isPromised() || !isGone(error)) throw error;
      for (const moment of asked) model.names.drop(moment);
    }
  }

  async #setRetention(): Promise<void> {
    const { prng, model, store } = this.#options;
    const volume = prng.chance(0.5) ? this.#idle() : undefined;
    const spans = volume !== undefined && prng.chance(0.3) ? undefined : this.#drawSpans();
    model.noteTime(store);
    const answered = model.askRetention(volume, spans);
    model.noteTime(store);
    this.#trace(`retention of ${volume?.newest?.name ?? "the pool"}: ${spans?.everyWriteMicros}`);
    await this.#alive(store.setRetention(volume?.newest?.name, spans));
    model.noteTime(store);
    answered();
    model.noteTime(store);
  }

  #drawSpans(): RetentionSpans {
    const { prng, profile } = this.#options;
    const isNothing = prng.chance(0.5);
    return {
      everyWriteMicros: prng.pick(profile.windowMicros),
      hourlyMicros: isNothing ? 0 : prng.pick([0, 10 * HOUR, null]),
      dailyMicros: isNothing ? 0 : prng.pick([0, 30 * DAY]),
      weeklyMicros: 0,
      monthlyMicros: isNothing ? 0 : prng.pick([0, null]),
    };
  }

  #stepClock(): void {
    const { prng, model, store, machine } = this.#options;
    if (this.#isNaming || this.#isControlBusy) return;
    model.noteTime(store);
    machine.stepClock(prng.pick([SECOND / 2, 90 * SECOND, HOUR, DAY]) * (prng.below(5) - 2));
    model.noteTime(store);
  }

  // --- waiting

  #pause(micros: number): Promise<void> {
    const { scheduler, process } = this.#options.machine;
    return new Promise((resolve) =>
      scheduler.schedule(micros, { what: "client", process }, resolve),
    );
  }

  /** Never settles once the process is dead: nobody hears it. */
  #alive<T>(promise: Promise<T>): Promise<T> {
    const { process } = this.#options.machine;
    return new Promise((resolve, reject) => {
      promise.then(
        (value) => process?.isAlive === true && resolve(value),
        (error: unknown) => process?.isAlive === true && reject(error),
      );
    });
  }
}

/** What isn't promised may be gone, and with it the volume, and what there was to undo. */
function isGone(error: unknown): boolean {
  return error instanceof Error && "code" in error && GONE_CODES.includes(String(error.code));
}

function wholeBlocks({ offsetBytes, lengthBytes }: ByteRange, sizeBytes: number): ByteRange {
  const start = Math.floor(offsetBytes / BLOCK_BYTES) * BLOCK_BYTES;
  const end = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES) * BLOCK_BYTES;
  return { offsetBytes: start, lengthBytes: Math.min(end, sizeBytes) - start };
}

function draw<T extends string>(prng: Prng, weights: Readonly<Record<T, number>>): T {
  const entries = Object.entries(weights) as [T, number][];
  let rest = prng.fraction() * entries.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [choice, weight] of entries) {
    rest -= weight;
    if (rest < 0) return choice;
  }
  return (entries[0] as [T, number])[0];
}
