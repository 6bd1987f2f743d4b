// SPDX-License-Identifier: Apache-2.0
//
// The difference of two moments against a model that keeps every write: of one volume, of its clones and what they were
// cloned from, of volumes that have nothing in common, across rewinds, undos and resizes, in both directions and of parts;
// while contents come back, checkpoints are taken, garbage is collected, frames move, and the pool is opened again.

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { hasCode } from "../base/errors.ts";
import { Prng } from "../sim/prng.ts";
import type { DiffMoment, DiffSummary, ResolvedMoment } from "./types.ts";

const HALF = BLOCK / 2;
const PAGE_BLOCKS = 512;
const CHUNK_BLOCKS = 1024 * PAGE_BLOCKS;
/** Contents of half a block; 0: zeros. So few that most come back. */
const CONTENTS = 5;
const BLOCKS_MAX = CHUNK_BLOCKS + 3 * PAGE_BLOCKS;
const RETENTION_NONE = {
  everyWriteMicros: 0,
  hourlyMicros: 0,
  dailyMicros: 0,
  weeklyMicros: 0,
  monthlyMicros: 0,
};
const HALVES: readonly Uint8Array[] = [
  new Uint8Array(HALF),
  ...Array.from({ length: CONTENTS - 2 }, (_, at) => noise(at, HALF)),
  new Uint8Array(HALF).fill(65),
];

const KINDS = { hole: 0, zero: 1 } as const;

/** What a block holds: 0 a hole, 1 written zeros, else its halves. */
function contentOf(first: number, second: number): number {
  return first + second === 0 ? KINDS.zero : 2 + first * CONTENTS + second;
}

function halvesOf(content: number): [number, number] {
  if (content < 2) return [0, 0];
  return [Math.floor((content - 2) / CONTENTS), (content - 2) % CONTENTS];
}

type Change = {
  readonly branch: number;
  readonly lsn: number;
  readonly lba: number;
  readonly count: number;
} & (
  | { readonly kind: "fill"; readonly content: number }
  /** Halves from the second of `lba` on, or up to the first of the last block. */
  | { readonly kind: "halves"; readonly half: number; readonly from: number; readonly to: number }
);

interface ModelBranch {
  readonly parent: number;
  readonly parentLsn: number;
}

/** Blocks that count as changed, by a record. */
interface Mark {
  readonly branch: number;
  readonly lsn: number;
  readonly lba: number;
  readonly end: number;
}

/** Every change of every branch. */
class Model {
  readonly #changes: Change[] = [];
  readonly #branches: Map<number, ModelBranch> = new Map();

  readonly marks: Mark[] = [];

  /** What was marked on the way from one moment to the other, down to where they part. */
  marksBetween(from: DiffMoment, to: DiffMoment): readonly Mark[] {
    const [one, other] = [this.#line(from), this.#line(to)];
    const branch = [...one.keys()].find((branch) => other.has(branch));
    if (branch === undefined) return [];
    const both = [one, other].map((line) => line.get(branch) as number);
    return this.marks.filter(({ branch: on, lsn }) => {
      if (on === branch) return lsn > Math.min(...both) && lsn <= Math.max(...both);
      return on > branch && lsn <= Math.max(one.get(on) ?? 0, other.get(on) ?? 0);
    });
  }

  /** The branches that lead to a moment, newest first, each with its last record that counts. */
  #line({ branch, lsn }: Pick<DiffMoment, "branch" | "lsn">): Map<number, number> {
    const line = new Map<number, number>();
    let [at, last] = [branch, lsn];
    while (at !== 0) {
      line.set(at, last);
      const { parent, parentLsn } = this.#branches.get(at) as ModelBranch;
      [at, last] = [parent, parentLsn];
    }
    return line;
  }

  begin(branch: number, origin: ModelBranch): void {
    this.#branches.set(branch, origin);
  }

  add(change: Change): void {
    this.#changes.push(change);
  }

  at(branch: number, lsn: number): Uint8Array {
    const { parent, parentLsn } = this.#branches.get(branch) as ModelBranch;
    const blocks = parent === 0 ? new Uint8Array(BLOCKS_MAX) : this.at(parent, parentLsn);
    for (const change of this.#changes)
      if (change.branch === branch && change.lsn <= lsn) apply(blocks, change);
    return blocks;
  }
}

function apply(blocks: Uint8Array, change: Change): void {
  const { lba, count } = change;
  if (change.kind === "fill") {
    blocks.fill(change.content, lba, lba + count);
    return;
  }
  for (let half = change.from; half < change.to; half++) {
    const block = Math.floor(half / 2);
    const halves = halvesOf(blocks[block] as number);
    halves[half % 2] = change.half;
    blocks[block] = contentOf(...halves);
  }
}

interface Told {
  readonly extents: readonly string[];
  readonly summary: DiffSummary;
}

/** What must be told. */
function expected(
  model: Model,
  from: DiffMoment,
  to: DiffMoment,
  range: { readonly offsetBytes: number; readonly lengthBytes: number },
): string[] {
  const before = model.at(from.branch, from.lsn);
  const after = model.at(to.branch, to.lsn);
  const endBytes = Math.min(to.sizeBytes, range.offsetBytes + range.lengthBytes);
  const marks = model.marksBetween(from, to);
  const extents: { kind: string; from: number; to: number }[] = [];
  const end = Math.ceil(endBytes / BLOCK);
  for (let block = Math.floor(range.offsetBytes / BLOCK); block < end; block++) {
    const one = before[block] as number;
    const other = after[block] as number;
    const isMarked = marks.some(({ lba, end: last }) => block >= lba && block < last);
    if (!isMarked && (one === other || (one < 2 && other < 2))) continue;
    const kind = other === KINDS.hole ? "hole" : other === KINDS.zero ? "zero" : "data";
    const last = extents[extents.length - 1];
    const begin = Math.max(range.offsetBytes, block * BLOCK);
    const until = Math.min(endBytes, (block + 1) * BLOCK);
    if (last?.kind === kind && last.to === begin) last.to = until;
    else extents.push({ kind, from: begin, to: until });
  }
  return extents.map((extent) => `${extent.from} ${extent.to - extent.from} ${extent.kind}`);
}

class Rig {
  readonly prng: Prng;
  readonly model: Model = new Model();
  readonly isLetGo: boolean;
  readonly settings: Parameters<typeof PoolRig.create>[0];
  pool!: PoolRig;
  /** Moments that are named, or all that there were. */
  readonly moments: { readonly volume: string; readonly lsn: number }[] = [];
  #named = 0;
  #volumeCount = 0;

  constructor(seed: number) {
    this.prng = new Prng(seed);
    this.isLetGo = this.prng.chance(0.4);
    this.settings = {
      segmentBytes: this.prng.pick([65536, 1 << 18, 1 << 20]),
      checkpointChanges: this.prng.pick([64, 512, 1 << 20]),
    };
  }

  async begin(): Promise<void> {
    this.pool = await PoolRig.create(this.settings);
    if (this.isLetGo) await this.pool.pool.setPolicy({ retention: RETENTION_NONE });
    for (let each = 0; each < 2; each++) await this.create();
  }

  get names(): string[] {
    return this.pool.pool.volumes().map(({ name }) => name);
  }

  async create(): Promise<void> {
    this.#volumeCount += 1;
    const name = `v${this.#volumeCount}`;
    await this.pool.pool.createVolume(name, this.drawSize());
    await this.pool.pool.setVolume(name, { isDeduplicated: this.prng.chance(0.5) });
    const { branch } = await this.now(name);
    this.model.begin(branch, { parent: 0, parentLsn: 0 });
  }

  drawSize(): number {
    const { prng } = this;
    const blocks = prng.pick([
      PAGE_BLOCKS + prng.below(2 * PAGE_BLOCKS),
      CHUNK_BLOCKS + prng.below(2 * PAGE_BLOCKS),
    ]);
    return blocks * BLOCK - prng.below(2) * HALF;
  }

  now(name: string): Promise<ResolvedMoment> {
    return this.pool.pool.resolve(name, { kind: "now" });
  }

  /** A place near others, or near where pages and chunks begin. */
  drawPlace(blockCount: number): number {
    const { prng } = this;
    const base = prng.pick([0, PAGE_BLOCKS, 2 * PAGE_BLOCKS, CHUNK_BLOCKS, CHUNK_BLOCKS + 600]);
    return Math.max(0, Math.min(blockCount - 1, base + prng.below(40) - 20));
  }

  async change(): Promise<void> {
    const { prng, model } = this;
    const rig = this.pool;
    const name = prng.pick(this.names);
    const { branch, sizeBytes } = await this.now(name);
    const whole = Math.floor(sizeBytes / BLOCK);
    const lba = this.drawPlace(whole);
    const lsn = rig.pool.log.nextLsn;
    const place = { branch, lsn, lba };
    const action = prng.below(10);
    if (action < 5) {
      const count = Math.min(whole - lba, prng.skewed(70));
      const halves: [number, number] = [prng.below(CONTENTS), prng.below(CONTENTS)];
      const block = Buffer.concat(halves.map((half) => HALVES[half] as Uint8Array));
      const bytes = Buffer.concat(Array.from({ length: count }, () => block));
      equal(await rig.write(name, lba * BLOCK, bytes), 0);
      model.add({ ...place, count, kind: "fill", content: contentOf(...halves) });
    } else if (action < 7) {
      const half = prng.below(CONTENTS);
      const from = Math.min(lba * 2 + prng.below(2), Math.floor(sizeBytes / HALF) - 1);
      const to = Math.min(Math.floor(sizeBytes / HALF), from + 1 + prng.below(6));
      const bytes = Buffer.concat(
        Array.from({ length: to - from }, () => HALVES[half] as Uint8Array),
      );
      equal(await rig.write(name, from * HALF, bytes), 0);
      model.add({ ...place, count: 0, kind: "halves", half, from, to });
    } else {
      const count = prng.pick([prng.skewed(40), PAGE_BLOCKS + prng.below(PAGE_BLOCKS), whole]);
      const from = prng.chance(0.3) ? 0 : lba;
      const range = Math.min(whole - from, count);
      const content = action === 7 ? KINDS.zero : KINDS.hole;
      const [offset, length] = [from * BLOCK, range * BLOCK];
      if (action === 7) equal(await rig.zero(name, offset, length, { isHoleForbidden: true }), 0);
      else if (action === 8) equal(await rig.zero(name, offset, length), 0);
      else equal(await rig.trim(name, offset, length), 0);
      model.add({ ...place, lba: from, count: range, kind: "fill", content });
    }
    this.note(name);
  }

  note(volume: string): void {
    if (this.isLetGo) return;
    this.moments.push({ volume, lsn: this.pool.pool.log.nextLsn - 1 });
  }

  async name(): Promise<void> {
    if (!this.isLetGo) return;
    const volume = this.prng.pick(this.names);
    this.#named += 1;
    const [named] = await this.pool.pool.snapshot([{ volume, name: `s${this.#named}` }]);
    this.moments.push({ volume, lsn: named?.lsn as number });
  }

  /** A moment that is there; undefined: what was drawn was let go. */
  async drawMoment(): Promise<ResolvedMoment | undefined> {
    const { prng, moments } = this;
    if (prng.chance(0.3) || moments.length === 0) return await this.now(prng.pick(this.names));
    const { volume, lsn } = prng.pick(moments);
    try {
      return await this.pool.pool.resolve(volume, { kind: "lsn", lsn });
    } catch (error) {
      if (hasCode(error, "MOMENT_GONE") || hasCode(error, "MOMENT_NOT_FOUND")) return undefined;
      throw error;
    }
  }

  async branch(): Promise<void> {
    const { prng, model } = this;
    const { pool } = this.pool;
    const moment = await this.drawMoment();
    if (moment === undefined) return;
    const asked = { kind: "lsn", lsn: moment.lsn } as const;
    const isOwn = pool.volumes().some(({ id }) => id === moment.volumeId);
    let name = moment.volume;
    if (prng.chance(0.5) || !isOwn) {
      if (this.names.length > 5) return;
      this.#volumeCount += 1;
      name = `v${this.#volumeCount}`;
      await pool.clone(moment.volume, asked, name);
    } else await pool.rewind(name, asked);
    model.begin((await this.now(name)).branch, { parent: moment.branch, parentLsn: moment.lsn });
    this.note(name);
  }

  async undo(): Promise<void> {
    const { pool } = this.pool;
    const name = this.prng.pick(this.names);
    try {
      await pool.undo(name);
    } catch (error) {
      if (hasCode(error, "NOTHING_TO_UNDO") || hasCode(error, "MOMENT_GONE")) return;
      throw error;
    }
    const { branch } = await this.now(name);
    const origin = pool.index.branches.get(branch)?.origin;
    this.model.begin(branch, { parent: origin?.branch ?? 0, parentLsn: origin?.lsn ?? 0 });
    this.note(name);
  }

  async resize(): Promise<void> {
    const { pool } = this.pool;
    const name = this.prng.pick(this.names);
    const { branch, sizeBytes } = await this.now(name);
    const size = this.drawSize();
    const lsn = pool.log.nextLsn;
    await pool.resizeVolume(name, size);
    if (size < sizeBytes) {
      const lba = Math.ceil(size / BLOCK);
      const [from, to] = [Math.floor(size / HALF), lba * 2];
      if (from < to)
        this.model.add({ branch, lsn, lba, count: 0, kind: "halves", half: 0, from, to });
      const cut = { branch, lsn: pool.log.nextLsn - 1, lba, count: BLOCKS_MAX - lba };
      this.model.add({ ...cut, kind: "fill", content: KINDS.hole });
    }
    this.note(name);
  }

  async mark(): Promise<void> {
    const { prng, model } = this;
    const { pool } = this.pool;
    const name = prng.pick(this.names);
    const { branch, sizeBytes } = await this.now(name);
    const blocks = Math.floor(sizeBytes / BLOCK);
    const extents = Array.from({ length: 1 + prng.below(2) }, () => {
      const lba = this.drawPlace(blocks);
      const count = Math.min(blocks - lba, prng.pick([1 + prng.below(20), 900]));
      return { lba, end: lba + count };
    });
    const lsn = pool.log.nextLsn;
    const bytesOf = ({ lba, end }: { lba: number; end: number }) => ({
      offsetBytes: lba * BLOCK + 512,
      lengthBytes: (end - lba) * BLOCK - 1024,
    });
    await pool.mark(name, extents.map(bytesOf));
    for (const extent of extents) model.marks.push({ branch, lsn, ...extent });
    this.note(name);
  }

  async restart(): Promise<void> {
    const files = this.prng.chance(0.5) ? await this.pool.close() : this.pool.kill();
    this.pool = await PoolRig.open(files, this.settings);
  }

  async diff(
    from: DiffMoment,
    to: DiffMoment,
    range: { readonly offsetBytes: number; readonly lengthBytes: number },
    extentsMax = Number.POSITIVE_INFINITY,
  ): Promise<Told> {
    const extents: string[] = [];
    const extent = (offsetBytes: number, lengthBytes: number, kind: string): boolean => {
      extents.push(`${offsetBytes} ${lengthBytes} ${kind}`);
      return extents.length < extentsMax;
    };
    const visitor = Number.isFinite(extentsMax) ? { extent, extentsMax } : { extent };
    const summary = await this.pool.pool.diff(from, to, range, visitor);
    return { extents, summary };
  }

  /** A diff of two moments, all of it or a part, at once or in pieces. */
  async look(): Promise<void> {
    const { prng } = this;
    const from = await this.drawMoment();
    const to = await this.drawMoment();
    if (from === undefined || to === undefined) return;
    const whole = { offsetBytes: 0, lengthBytes: BLOCKS_MAX * BLOCK };
    const offsetBytes = this.drawPlace(BLOCKS_MAX) * BLOCK + prng.pick([0, 512, HALF]);
    const part = { offsetBytes, lengthBytes: 512 + prng.below(prng.pick([BLOCK, 900 * BLOCK])) };
    const range = prng.chance(0.6) ? whole : part;
    const wanted = expected(this.model, from, to, range);
    if (prng.chance(0.7)) {
      const looking = this.diff(from, to, range);
      if (prng.chance(0.4)) await this.goOn();
      const { extents, summary } = await looking;
      deepEqual(extents, wanted, `${from.stableName} to ${to.stableName}`);
      equal(summary.extentCount, wanted.length);
      equal(summary.untoldBytes, 0);
      equal(summary.nextOffsetBytes, undefined);
      return;
    }
    const found: string[] = [];
    let next: number | undefined = range.offsetBytes;
    const endBytes = range.offsetBytes + range.lengthBytes;
    while (next !== undefined) {
      const rest = { offsetBytes: next, lengthBytes: endBytes - next };
      const { extents, summary } = await this.diff(from, to, rest, 1 + prng.below(5));
      found.push(...extents);
      next = summary.nextOffsetBytes;
    }
    deepEqual(found, wanted, `${from.stableName} to ${to.stableName}, in pieces`);
  }

  /** What may come while moments are compared. */
  async goOn(): Promise<void> {
    const { prng } = this;
    const { pool } = this.pool;
    const background: Promise<unknown>[] = [];
    for (let each = 0; each < 6; each++) {
      if (prng.chance(0.3)) background.push(pool.checkpoint());
      if (prng.chance(0.1)) background.push(pool.collect({ isDryRun: false }));
      await this.change();
    }
    await Promise.all(background);
  }

  async step(): Promise<void> {
    const { prng } = this;
    const { pool } = this.pool;
    const chance = prng.below(100);
    if (chance < 52) await this.change();
    else if (chance < 55) await this.mark();
    else if (chance < 63) await this.name();
    else if (chance < 68) await this.branch();
    else if (chance < 70) await this.undo();
    else if (chance < 73) await this.resize();
    else if (chance < 77) await pool.checkpoint();
    else if (chance < 79) await pool.collect({ isDryRun: false });
    else if (chance < 81)
      await pool.setVolume(prng.pick(this.names), { isDeduplicated: prng.chance(0.4) });
    else if (chance < 82) await this.restart();
    else if (chance < 83 && this.names.length < 6) await this.create();
    else await this.look();
  }
}

async function run(seed: number): Promise<void> {
  const rig = new Rig(seed);
  await rig.begin();
  for (let step = 0; step < 160; step++) await rig.step();
  for (let each = 0; each < 12; each++) await rig.look();
  await rig.pool.close();
}

test("the difference of any two moments is the model's, to the block", async () => {
  await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), run), {
    numRuns: 5,
    endOnFailure: true,
  });
});

test("marks of a clone count from moments of the volume that it was made from", () => run(31));
