// SPDX-License-Identifier: Apache-2.0
//
// One backup target and all who use it at once, under one seed: backups that crash and are taken up again, prunes, those that rewrite
// packs, readers with leases, an operator who ends sessions by hand; each a process with a store of its own, whose operations take as long
// as chance says, and may be the last. Some sleep for hours and go on as if nothing had been. Listings lie, operations
// fail, answers are lost, clocks differ.
//
// The programs are the real ones (catalog, sessions, leases, prune); only what is in packs is left out: a manifest is a list
// of names. What must hold is looked at in the bucket itself, after every change of it:
//
//   a point in the newest generation has all its objects
//   a point goes from the catalog only by a prune, and one that was reported a success had been there
//   who has a session finds everything that it may refer to; who has a lease, everything of the points it saw
//   the chain of generations has no fork
//
// When all is over, and everybody who is left has been ended, one prune leaves exactly what the points need.

import { type CatalogState, decodeState } from "../../src/backup/catalog-state.ts";
import {
  damagedDocument,
  openDocument,
  readDocument,
  sealDocument,
} from "../../src/backup/document.ts";
import type { ReachedObjects } from "../../src/backup/garbage.ts";
import { decide } from "../../src/backup/keep-rules.ts";
import { Lease } from "../../src/backup/leases.ts";
import { prune, trimGenerations } from "../../src/backup/prune.ts";
import { PLAIN_SEALER } from "../../src/backup/sealing.ts";
import {
  beginSession,
  commitManifests,
  commitPoint,
  endSession,
  newId,
} from "../../src/backup/sessions.ts";
import { openOrMakeTarget, type Target } from "../../src/backup/target.ts";
import { type ErrorCode, hasCode } from "../../src/base/errors.ts";
import type { ObjectStore } from "../../src/host/object-store.ts";
import {
  MemoryBucket,
  MemoryObjectStore,
  type StoreFault,
  type StoreOperation,
} from "../../src/sim/memory-object-store.ts";
import { Prng } from "../../src/sim/prng.ts";
import { SimClock, type SimProcess, SimRandom, SimScheduler } from "../../src/sim/scheduler.ts";
import { Trace } from "../../src/sim/trace.ts";
import { pump } from "./pump.ts";

/** What a life may do wrong on purpose, to see that it is found. */
export interface Mistakes {
  /** Backups refer to packs that are there, but that no point reaches. */
  readonly trustsTheListing?: boolean;
  /** Backups don't take what they reach off the lists. */
  readonly sparesNothing?: boolean;
  /** Backups read what there is before they have a session. */
  readonly looksBeforeItsSession?: boolean;
  /** Readers have no lease. */
  readonly readsWithoutLease?: boolean;
  /** Two programs may succeed in putting the same generation. */
  readonly putsTwice?: boolean;
  /** A prune believes that a listing is complete. */
  readonly deletesUnlisted?: boolean;
  /** Two packs have one name. */
  readonly usesNamesTwice?: boolean;
}

export interface WorldResult {
  readonly digest: string;
  readonly violation: string | undefined;
  readonly crashCount: number;
  readonly committedCount: number;
  readonly deletedCount: number;
  readonly refusedCount: number;
}

const POOL = "ab".repeat(16);
const VOLUMES = 2;
const KEPT_GENERATIONS = 4;
/** What stands before a generation's JSON. */
const PARENT_BYTES = 33;
const HOUR_MICROS = 3_600_000_000;
/** What a program may run into without anything being wrong. */
const ALLOWED: readonly ErrorCode[] = [
  "TARGET_UNAVAILABLE",
  "TARGET_FULL",
  "SESSION_ENDED",
  "SESSION_NOT_FOUND",
  "POINT_NOT_FOUND",
];

interface Program extends SimProcess {
  readonly kind: "backup" | "prune" | "mover" | "reader" | "operator";
  target: Target;
}

export async function runWorld(seed: number, mistakes: Mistakes = {}): Promise<WorldResult> {
  const world = new World(seed, mistakes);
  await world.run();
  return world.result();
}

class World {
  readonly #prng: Prng;
  readonly #mistakes: Mistakes;
  readonly #trace = new Trace();
  readonly #scheduler: SimScheduler;
  readonly #bucket = new MemoryBucket();
  readonly #counts = { crashes: 0, committed: 0, deleted: 0, refused: 0, programs: 0 };
  /** The newest generation of the true chain, and what it says. */
  #newest = 0;
  #state: CatalogState | undefined;
  /** Points that were in the newest generation at some time. */
  readonly #everThere = new Set<string>();
  #violation: string | undefined;
  #isTroubled = true;
  /** Whose operation takes place now. */
  #actor: Program | undefined;

  constructor(seed: number, mistakes: Mistakes) {
    this.#prng = new Prng(seed);
    this.#mistakes = mistakes;
    this.#scheduler = new SimScheduler(this.#prng.fork(), this.#trace);
    this.#bucket.lies = this.#prng.fork();
    this.#bucket.onChange = (name) => this.#look(name);
  }

  result(): WorldResult {
    const { crashes, committed, deleted, refused } = this.#counts;
    return {
      digest: this.#trace.digest(),
      violation: this.#violation,
      crashCount: crashes,
      committedCount: committed,
      deletedCount: deleted,
      refusedCount: refused,
    };
  }

  async run(): Promise<void> {
    const programCount = this.#prng.between(8, 24);
    let atMicros = 0;
    for (let count = 0; count < programCount; count += 1) {
      const kind = this.#prng.pick([
        "backup",
        "backup",
        "backup",
        "prune",
        "prune",
        "mover",
        "reader",
        "operator",
      ] as const);
      this.#scheduler.schedule(atMicros, { what: "begin" }, () => this.#begin(kind));
      // Most overlap; now and then an hour passes.
      atMicros += this.#prng.chance(0.1) ? 2 * HOUR_MICROS : this.#prng.skewed(3_000_000);
    }
    await pump(() => this.#violation === undefined && this.#scheduler.step());
    if (this.#violation !== undefined) return;
    this.#isTroubled = false;
    this.#bucket.lies = undefined;
    this.#scheduler.schedule(3 * HOUR_MICROS, { what: "end" }, () => void this.#finish());
    await pump(() => this.#violation === undefined && this.#scheduler.step());
  }

  #begin(kind: Program["kind"]): void {
    const program = this.#program(kind);
    this.#live(program).catch((error: unknown) => {
      if (!ALLOWED.some((code) => hasCode(error, code))) this.#fail(`${kind}: ${text(error)}`);
      else this.#counts.refused += 1;
    });
  }

  async #live(program: Program): Promise<void> {
    await this.#open(program);
    if (program.kind === "backup") await this.#backUp(program);
    else if (program.kind === "prune") await this.#prune(program);
    else if (program.kind === "mover") await this.#move(program);
    else if (program.kind === "reader") await this.#read(program);
    else await this.#endSomebody(program);
  }

  /** All are ended, and one prune is left alone. */
  async #finish(): Promise<void> {
    const program = this.#program("prune");
    try {
      await this.#open(program);
      const { catalog } = program.target;
      for (const { id } of (await catalog.read()).sessions) await endSession(catalog, id);
      await this.#pruneOnce(program, { last: 2 });
      await trimGenerations(program.target, KEPT_GENERATIONS);
    } catch (error) {
      this.#fail(`last prune: ${text(error)}`);
    }
    this.#checkClean();
  }

  #program(kind: Program["kind"]): Program {
    this.#counts.programs += 1;
    const program = { number: this.#counts.programs, isAlive: true, kind } as Program;
    return program;
  }

  async #open(program: Program): Promise<void> {
    const prng = this.#prng.fork();
    // Clocks of machines differ by up to two minutes.
    const time = { wallOffsetMicros: prng.between(-120_000_000, 120_000_000), bootMicros: 0 };
    const clock = new SimClock({ scheduler: this.#scheduler, process: program, time, prng });
    const sleepAt = prng.chance(0.25) ? prng.below(60) : -1;
    let operationCount = 0;
    const store = new MemoryObjectStore(this.#bucket, {
      begin: async (operation) => {
        operationCount += 1;
        await this.#delay(program, operationCount === sleepAt);
        this.#actor = program;
        return this.#fault(operation);
      },
      end: () => this.#delay(program, false),
    });
    const random = new SimRandom(prng.fork());
    const door = this.#mistakes.putsTwice ? twice(store, this.#bucket) : store;
    program.target = await openOrMakeTarget({ store: door, clock, random });
  }

  /** The time that an operation takes, or the end of its program. */
  #delay(program: Program, isAsleep: boolean): Promise<void> {
    return new Promise((resolve) => {
      if (!program.isAlive) return;
      if (this.#isTroubled && this.#prng.chance(0.004)) {
        program.isAlive = false;
        this.#counts.crashes += 1;
        return;
      }
      const micros = isAsleep ? this.#prng.skewed(3 * HOUR_MICROS) : this.#prng.skewed(20_000);
      this.#scheduler.schedule(micros, { what: program.kind, process: program }, resolve);
    });
  }

  #fault({ kind }: StoreOperation): StoreFault | undefined {
    if (!this.#isTroubled || !this.#prng.chance(0.003)) return undefined;
    if (!kind.startsWith("put")) return "failed";
    return this.#prng.pick(["failed", "unknown", "full"] as const);
  }

  // What programs do.

  async #backUp(program: Program): Promise<void> {
    const { target } = program;
    const { catalog, store } = target;
    const volumeId = 1 + this.#prng.below(VOLUMES);
    const volumes = [{ name: `v${volumeId}`, volumeId }];
    const early = this.#mistakes.looksBeforeItsSession ? await catalog.read() : undefined;
    await this.#pause(target);
    const wish = { purpose: "backup", poolId: POOL, volumes, host: "sim" } as const;
    const { session, state: first, isTakenOver } = await beginSession(catalog, { ...target, wish });
    const state = early ?? first;
    const names = new Set<string>();
    let progress = 0;
    if (isTakenOver) {
      for (; ; progress += 1) {
        const name = `sessions/${session.id}/${progress}`;
        const sent = await this.#readNames(store, { kind: "session", name });
        if (sent === undefined) break;
        for (const pack of sent) names.add(pack);
      }
    }
    if (this.#mistakes.trustsTheListing)
      for await (const { name } of store.list("packs/"))
        if (this.#prng.chance(0.5)) names.add(name);
    for (const point of state.points) {
      const isParent = point.volumes[0]?.volumeId === volumeId && this.#prng.chance(0.7);
      if (!isParent && !this.#prng.chance(0.3)) continue;
      const found = await this.#readNames(store, { kind: "point", name: point.manifest });
      // Nothing that a session may refer to goes while it is open.
      if (found === undefined) {
        if (await this.#owns(program, session.owner))
          this.#fail(`backup: ${point.manifest} is missing`);
        return;
      }
      for (const name of found) if (this.#prng.chance(0.8)) names.add(name);
    }
    for (let part = this.#prng.below(3); part > 0; part -= 1) {
      const sent: string[] = [];
      for (let pack = 1 + this.#prng.below(3); pack > 0; pack -= 1)
        sent.push(await this.#putPack(target));
      const name = `sessions/${session.id}/${progress}`;
      const parts = documentOf({ kind: "session", name }, sent, target);
      // Somebody else writes this session's progress: it was taken over.
      if (!(await store.putIfAbsent(name, parts))) return;
      progress += 1;
      for (const pack of sent) names.add(pack);
    }
    if (names.size === 0) names.add(await this.#putPack(target));
    await this.#pause(target);
    const id = newId(target.random);
    const manifest = `points/${id}`;
    await store.putIfAbsent(
      manifest,
      documentOf({ kind: "point", name: manifest }, [...names], target),
    );
    const timeMicros = target.clock.wallMicros();
    const volume = { ...volumes[0]!, sizeBytes: 512, lsn: 1, branch: 1, timeMicros };
    const point = {
      id,
      name: "p",
      manifest,
      createdMicros: timeMicros,
      poolId: POOL,
      volumes: [volume],
      newBytes: 0,
      isProtected: false,
    };
    const reach = async (): Promise<Set<string>> =>
      this.#mistakes.sparesNothing ? new Set() : names;
    await commitPoint(catalog, { session, point, reach });
    this.#counts.committed += 1;
    if (!this.#everThere.has(id))
      this.#fail(`backup: point ${id} was reported and never was there`);
  }

  /** Reading a disk takes its time. */
  async #pause(target: Target): Promise<void> {
    if (this.#prng.chance(0.4)) await this.#wait(target, this.#prng.skewed(10_000_000));
  }

  async #owns({ target }: Program, owner: string): Promise<boolean> {
    return (await target.catalog.read()).sessions.some((session) => session.owner === owner);
  }

  async #putPack({ store, random }: Target): Promise<string> {
    const id = this.#mistakes.usesNamesTwice ? `0${this.#prng.below(4)}` : newId(random);
    const name = `packs/${id.slice(0, 2)}/${id}`;
    await store.putIfAbsent(name, [new Uint8Array(10)]);
    return name;
  }

  /** What a repack does: other packs for what points have, and manifests that say so. */
  async #move(program: Program): Promise<void> {
    const { target } = program;
    const { catalog, store } = target;
    const wish = { purpose: "prune", poolId: POOL, volumes: [], host: "sim" } as const;
    const { session, state } = await beginSession(catalog, { ...target, wish });
    const manifests = new Map<string, string>();
    const made = new Set<string>();
    const moved = new Map<string, string>();
    for (const { manifest: old } of state.points) {
      const names = await this.#readNames(store, { kind: "point", name: old });
      if (names === undefined) {
        if (await this.#owns(program, session.owner)) this.#fail(`mover: ${old} is missing`);
        return;
      }
      const left: string[] = [];
      for (const name of names) {
        if (!moved.has(name) && this.#prng.chance(0.5)) {
          const pack = await this.#putPack(target);
          moved.set(name, pack);
          made.add(pack);
        }
        left.push(moved.get(name) ?? name);
      }
      if (left.every((name, index) => name === names[index])) continue;
      const name = `points/${newId(target.random)}`;
      await store.putIfAbsent(name, documentOf({ kind: "point", name }, left, target));
      made.add(name);
      manifests.set(old, name);
      await this.#pause(target);
    }
    const spared = this.#mistakes.sparesNothing ? new Set<string>() : made;
    await commitManifests(catalog, { session, manifests, made: spared });
    this.#counts.committed += 1;
  }

  async #prune(program: Program): Promise<void> {
    const last = 1 + this.#prng.below(3);
    const isOnlyGarbage = this.#prng.chance(0.3);
    await this.#pruneOnce(program, isOnlyGarbage ? undefined : { last });
    await trimGenerations(program.target, KEPT_GENERATIONS);
  }

  async #pruneOnce({ target }: Program, rules: { last: number } | undefined): Promise<void> {
    const wish = { rules, remove: [], protect: [], unprotect: [] };
    const reached = this.#reachedOf(target.store);
    await prune(target, { wish, reached, progress: { progress: () => {} }, isDryRun: false });
    if (!this.#mistakes.deletesUnlisted) return;
    const listed = new Set<string>();
    for await (const { name } of target.store.list("points/")) listed.add(name);
    await target.catalog.update((state) => ({
      ...state,
      points: state.points.filter(({ manifest }) => listed.has(manifest)),
    }));
  }

  #reachedOf(store: ObjectStore): ReachedObjects {
    const reached = new Set<string>();
    return {
      has: (name) => reached.has(name),
      look: async () => {},
      add: async (manifest) => {
        const names = await this.#readNames(store, { kind: "point", name: manifest });
        if (names === undefined) throw damagedDocument(manifest, "it is missing");
        for (const name of names) reached.add(name);
      },
    };
  }

  async #read(program: Program): Promise<void> {
    const { target } = program;
    const lease = await Lease.begin(target.catalog, { ...target, purpose: "restore" });
    if (this.#mistakes.readsWithoutLease) await lease[Symbol.asyncDispose]();
    const { points } = lease.state;
    for (let round = 1 + this.#prng.below(4); round > 0 && points.length > 0; round -= 1) {
      const { manifest } = this.#prng.pick(points);
      const names = await this.#readNames(target.store, { kind: "point", name: manifest });
      if (names === undefined) return this.#missed(lease, manifest);
      for (const name of names)
        if ((await target.store.get(name)) === undefined) return this.#missed(lease, name);
      // Long restores go on beyond the hour.
      if (this.#prng.chance(0.2)) await this.#wait(target, HOUR_MICROS / 2);
    }
    await lease[Symbol.asyncDispose]();
  }

  #missed(lease: Lease, name: string): void {
    try {
      lease.check();
    } catch {
      return;
    }
    this.#fail(`reader: ${name} is missing under a lease`);
  }

  #wait({ clock }: Target, micros: number): Promise<void> {
    return new Promise((resolve) => void clock.after(micros / 1000, resolve));
  }

  async #endSomebody({ target }: Program): Promise<void> {
    const { sessions } = await target.catalog.read();
    if (sessions.length > 0) await endSession(target.catalog, this.#prng.pick(sessions).id);
  }

  async #readNames(
    store: ObjectStore,
    document: { kind: "point" | "session"; name: string },
  ): Promise<string[] | undefined> {
    const found = await readDocument({
      ...document,
      store,
      sealer: PLAIN_SEALER,
      bodyBytesMax: 1e6,
    });
    return found === undefined ? undefined : JSON.parse(Buffer.from(found.body).toString());
  }

  // What must hold.

  #look(name: string): void {
    const who = this.#actor?.kind ?? "nobody";
    const stored = this.#bucket.objects.get(name);
    if (stored === undefined) {
      this.#counts.deleted += 1;
      this.#checkPoints(`${who} deleted ${name}`);
      return;
    }
    const digits = /^catalog\/(\d{16})$/.exec(name)?.[1];
    if (digits === undefined || Number(digits) !== this.#newest + 1) return;
    this.#newest += 1;
    const body = openDocument({ kind: "catalog", name, sealer: PLAIN_SEALER }, stored);
    const state = decodeState(name, body.subarray(PARENT_BYTES));
    const left = state.points.map(({ id }) => id);
    if (!this.#mayLeave(who, new Set(left))) this.#fail(`${who} lost a point in ${name}`);
    for (const id of left) this.#everThere.add(id);
    this.#state = state;
    this.#checkPoints(`${who} committed ${name}`);
  }

  /** Points go only by a prune, and only those that its rule lets go. */
  #mayLeave(who: string, left: ReadonlySet<string>): boolean {
    const before = this.#state?.points ?? [];
    const gone = before.filter(({ id }) => !left.has(id));
    if (gone.length === 0) return true;
    return (
      who === "prune" &&
      [1, 2, 3].some((last) => {
        const decided = decide(before, { last }).filter(({ isKept }) => !isKept);
        return gone.length === decided.length && decided.every(({ point }) => !left.has(point.id));
      })
    );
  }

  #checkPoints(when: string): void {
    for (const { manifest } of this.#state?.points ?? []) {
      const names = this.#namesOf(manifest);
      const missing = names?.find((name) => !this.#bucket.objects.has(name));
      if (names === undefined) this.#fail(`${when}: ${manifest} is missing`);
      else if (missing !== undefined) this.#fail(`${when}: ${missing} of ${manifest} is missing`);
    }
  }

  readonly #manifests = new Map<string, string[]>();

  #namesOf(manifest: string): string[] | undefined {
    const stored = this.#bucket.objects.get(manifest);
    if (stored === undefined) return undefined;
    const known = this.#manifests.get(manifest);
    if (known !== undefined) return known;
    const body = openDocument({ kind: "point", name: manifest, sealer: PLAIN_SEALER }, stored);
    const names = JSON.parse(Buffer.from(body).toString()) as string[];
    this.#manifests.set(manifest, names);
    return names;
  }

  /** Nothing is there but what the points need. */
  #checkClean(): void {
    const state = this.#state;
    if (state === undefined || this.#violation !== undefined) return;
    const needed = new Set(["varve-backup.json", "catalog/hint", "catalog/trimmed"]);
    for (const { manifest } of state.points)
      for (const name of [manifest, ...(this.#namesOf(manifest) ?? [])]) needed.add(name);
    for (const name of this.#bucket.objects.keys())
      if (!needed.has(name) && !name.startsWith("catalog/0")) this.#fail(`${name} was left`);
    if (state.sessions.length > 0) this.#fail("a session was left");
    if (state.condemned.length > 0) this.#fail("something condemned was left");
    if (this.#bucket.drafts.size > 0) this.#fail("an unfinished put was left");
    const generations = [...this.#bucket.objects.keys()].filter((name) =>
      name.startsWith("catalog/0"),
    );
    if (generations.length > 2 * KEPT_GENERATIONS + 2)
      this.#fail(`${generations.length} generations were left`);
  }

  #fail(what: string): void {
    this.#violation ??= what;
  }
}

function documentOf(
  document: { kind: "point" | "session"; name: string },
  names: readonly string[],
  { random }: Target,
): Uint8Array[] {
  const body = Buffer.from(JSON.stringify(names));
  return sealDocument({ ...document, sealer: PLAIN_SEALER, random }, body);
}

/** A store whose putIfAbsent of a generation replaces what is there. */
function twice(store: ObjectStore, bucket: MemoryBucket): ObjectStore {
  return new Proxy(store, {
    get(inner, key) {
      const value: unknown = Reflect.get(inner, key);
      if (key !== "putIfAbsent") return typeof value === "function" ? value.bind(inner) : value;
      return async (name: string, parts: readonly Uint8Array[]) => {
        if (/^catalog\/0/.test(name)) bucket.objects.delete(name);
        return inner.putIfAbsent(name, parts);
      };
    },
  });
}

function text(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
