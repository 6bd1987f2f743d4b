// SPDX-License-Identifier: Apache-2.0
//
// The bytes of one simulated file, as two states: what programs see (volatile: the page cache) and what
// would be there after a power loss (durable). Between them lie the writes that no datasync has covered
// yet, each remembered by itself and in order, because a power loss may keep any of them, in any order,
// whole or in pieces:
//
//     durable  ─┬─ write 7 ─┬─ write 8 ─┬─ truncate 9 ─┬─▶  volatile
//               │ kept?     │ torn?     │ kept?        │
//
// A sector (or, by the seed, a page) is the unit that survives or doesn't; what is in it is one of the
// versions that it had. Both states are one array as long as they are equal, so a crash of a machine with
// many quiet files costs little.

import { assert } from "../base/assert.ts";
import type { Prng } from "./prng.ts";

/** How a power loss treats what wasn't synced; drawn from the seed, or named by a scenario. */
export interface PowerLoss {
  /**
   * all, none: every unsynced change stays, or goes. prefix: they reached the disk in order, the last
   * one torn. last: the newest is whole, older ones are lost or torn. mixed: each by itself stays, goes
   * or tears. sectors: each sector by itself.
   */
  readonly shape: PowerLossShape;
  /** What is written as one: 512 or 4096 bytes. */
  readonly unitBytes: number;
  /** How often a file whose growth was lost has the new size all the same. */
  readonly sizeKeptRatio: number;
  /** How often such growth shows what the disk held there before, instead of zeros. */
  readonly staleRatio: number;
}

const POWER_LOSS_SHAPES = ["all", "none", "prefix", "last", "mixed", "sectors"] as const;
export type PowerLossShape = (typeof POWER_LOSS_SHAPES)[number];

/** Draws how a power loss goes. */
export function drawPowerLoss(prng: Prng): PowerLoss {
  return {
    shape: prng.pick(POWER_LOSS_SHAPES),
    unitBytes: prng.chance(0.7) ? 512 : 4096,
    sizeKeptRatio: prng.pick([0, 0.3, 1]),
    staleRatio: prng.pick([0, 0.5]),
  };
}

interface Change {
  readonly sequence: number;
  readonly position: number;
  /** What was written; undefined for a truncation to `position`. */
  readonly bytes: Uint8Array | undefined;
}

/** A write that was handed in and hasn't ended: the caller's own buffer, which must not change. */
export interface FlyingWrite {
  readonly position: number;
  readonly source: Uint8Array;
}

const CAPACITY_BYTES_MIN = 4096;

export class StoredFile {
  #volatile: Uint8Array;
  #sizeBytes: number;
  #durable: Uint8Array;
  #durableSizeBytes: number;
  #isShared: boolean;
  #pending: Change[] = [];
  #sequence = 0;
  readonly flying: Set<FlyingWrite> = new Set();

  /** Begins with `content` as volatile and durable bytes. The array is never changed in place. */
  constructor(content: Uint8Array = new Uint8Array(0), sizeBytes: number = content.length) {
    this.#volatile = content;
    this.#durable = content;
    this.#sizeBytes = sizeBytes;
    this.#durableSizeBytes = sizeBytes;
    this.#isShared = true;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** How many changes a power loss could lose. */
  get unsyncedCount(): number {
    return this.#pending.length;
  }

  get durableBytes(): Uint8Array {
    return this.#durable.subarray(0, this.#durableSizeBytes);
  }

  read(target: Uint8Array, position: number): number {
    const end = Math.min(this.#sizeBytes, position + target.length);
    if (end <= position) return 0;
    target.set(this.#volatile.subarray(position, end));
    return end - position;
  }

  /** A write into the page cache. */
  write(source: Uint8Array, position: number): void {
    if (source.length === 0) return;
    this.#change({ sequence: ++this.#sequence, position, bytes: source.slice() });
  }

  truncate(sizeBytes: number): void {
    this.#change({ sequence: ++this.#sequence, position: sizeBytes, bytes: undefined });
  }

  /** What a datasync that starts now must make durable; hand it to `finishSync`. */
  syncMark(): number {
    return this.#sequence;
  }

  /** Ends a datasync: everything up to `mark` is durable. Later changes still aren't. */
  finishSync(mark: number): void {
    const covered = this.#pending.filter((change) => change.sequence <= mark);
    if (covered.length === 0) return;
    if (this.#isShared) this.#separate();
    this.#pending = this.#pending.filter((change) => change.sequence > mark);
    for (const change of covered) this.#applyDurable(change);
  }

  /**
   * A datasync that failed: of the changes up to `mark` some are durable, and of the rest the system
   * knows nothing any more: pages count as clean, so that the next datasync has nothing to do. With
   * `isDropped` the pages go back to what the disk has, as some file systems do.
   */
  failSync(mark: number, options: { readonly isDropped: boolean; readonly prng: Prng }): void {
    const covered = this.#pending.filter((change) => change.sequence <= mark);
    if (covered.length === 0) return;
    if (this.#isShared) this.#separate();
    this.#pending = this.#pending.filter((change) => change.sequence > mark);
    for (const change of covered) if (options.prng.chance(0.5)) this.#applyDurable(change);
    if (!options.isDropped) return;
    this.#volatile = this.#durable.slice();
    this.#sizeBytes = this.#durableSizeBytes;
    for (const change of this.#pending) this.#applyVolatile(change);
  }

  /** Turns one bit over, in both states: damage at rest. */
  flipBit(position: number, bit: number): void {
    assert(position < this.#sizeBytes, "damage is inside the file");
    const flip = (bytes: Uint8Array): Uint8Array => {
      const copy = bytes.slice();
      if (position < copy.length) copy[position] = (copy[position] as number) ^ (1 << bit);
      return copy;
    };
    const isShared = this.#isShared;
    this.#durable = flip(this.#durable);
    this.#volatile = isShared ? this.#durable : flip(this.#volatile);
  }

  /** The file as it is for the next process of a machine that stays up. */
  forkKilled(prng: Prng): StoredFile {
    const copy = new StoredFile(this.#durable, this.#durableSizeBytes);
    copy.#sequence = this.#sequence;
    if (!this.#isShared) {
      copy.#isShared = false;
      copy.#volatile = this.#volatile.slice();
      copy.#durable = this.#durable.slice();
      copy.#sizeBytes = this.#sizeBytes;
      copy.#pending = this.#pending.slice();
    }
    // A write under way when the process dies has been done, not at all, or up to a page.
    for (const { source, position } of this.flying) {
      const end = prng.pick([0, source.length, prng.below(source.length + 1) & ~4095]);
      if (end > 0) copy.write(source.subarray(0, end), position);
    }
    return copy;
  }

  /** The file as a power loss leaves it. `stale` is what the disk may have held in new places before. */
  forkPowerLoss(loss: PowerLoss, prng: Prng, stale: Uint8Array | undefined): StoredFile {
    const changes = this.#pending.slice();
    for (const { source, position } of this.flying) {
      if (source.length === 0) continue;
      changes.push({ sequence: ++this.#sequence, position, bytes: source.slice() });
    }
    if (changes.length === 0) return new StoredFile(this.#durable, this.#durableSizeBytes);

    const fates = drawFates(changes.length, loss, prng);
    const endMax = changes.reduce((end, { position, bytes }) => {
      return Math.max(end, position + (bytes?.length ?? 0));
    }, this.#durableSizeBytes);
    const image = new Uint8Array(endMax);
    image.set(this.#durable.subarray(0, this.#durableSizeBytes));
    if (stale !== undefined && prng.chance(loss.staleRatio) && endMax > this.#durableSizeBytes) {
      const start = this.#durableSizeBytes;
      image.set(stale.subarray(start, Math.max(start, Math.min(endMax, stale.length))), start);
    }

    let sizeBytes = this.#durableSizeBytes;
    const order = changes.map((_, index) => index);
    const isOrdered = changes.some(({ bytes }) => bytes === undefined) || loss.shape === "prefix";
    if (!isOrdered) prng.shuffle(order);
    for (const index of order) {
      const change = changes[index] as Change;
      const fate = fates[index] as Fate;
      if (fate === "lost") continue;
      if (change.bytes === undefined) {
        if (change.position < sizeBytes) image.fill(0, change.position, sizeBytes);
        sizeBytes = change.position;
      } else if (fate === "kept") {
        image.set(change.bytes, change.position);
        sizeBytes = Math.max(sizeBytes, change.position + change.bytes.length);
      } else {
        const end = tear(image, change.position, change.bytes, { loss, fate, prng });
        sizeBytes = Math.max(sizeBytes, end);
      }
    }
    if (prng.chance(loss.sizeKeptRatio) && !changes.some(({ bytes }) => bytes === undefined)) {
      sizeBytes = prng.chance(0.5) ? endMax : prng.between(sizeBytes, endMax + 1);
    }
    return new StoredFile(image.subarray(0, sizeBytes), sizeBytes);
  }

  #change(change: Change): void {
    if (this.#isShared) this.#separate();
    this.#pending.push(change);
    this.#applyVolatile(change);
  }

  #separate(): void {
    this.#durable = this.#durable.slice();
    this.#volatile = this.#durable.slice();
    this.#isShared = false;
  }

  #applyVolatile({ position, bytes }: Change): void {
    if (bytes === undefined) {
      this.#volatile = resized(this.#volatile, position);
      if (position < this.#sizeBytes) this.#volatile.fill(0, position, this.#sizeBytes);
      this.#sizeBytes = position;
      return;
    }
    this.#volatile = resized(this.#volatile, position + bytes.length);
    this.#volatile.set(bytes, position);
    this.#sizeBytes = Math.max(this.#sizeBytes, position + bytes.length);
  }

  #applyDurable({ position, bytes }: Change): void {
    if (bytes === undefined) {
      this.#durable = resized(this.#durable, position);
      if (position < this.#durableSizeBytes) this.#durable.fill(0, position);
      this.#durableSizeBytes = position;
      return;
    }
    this.#durable = resized(this.#durable, position + bytes.length);
    this.#durable.set(bytes, position);
    this.#durableSizeBytes = Math.max(this.#durableSizeBytes, position + bytes.length);
  }
}

/** torn: some units of it; cut: its beginning. */
type Fate = "kept" | "lost" | "torn" | "cut";

function drawFates(count: number, loss: PowerLoss, prng: Prng): Fate[] {
  const fates = new Array<Fate>(count).fill("kept");
  const survivorCount = prng.below(count + 1);
  for (let index = 0; index < count; index++) {
    switch (loss.shape) {
      case "all":
        break;
      case "none":
        fates[index] = "lost";
        break;
      case "prefix":
        if (index >= survivorCount) fates[index] = index === survivorCount ? "cut" : "lost";
        break;
      case "last":
        if (index < count - 1) fates[index] = prng.pick(["lost", "torn", "kept", "cut"]);
        break;
      case "mixed":
        fates[index] = prng.pick(["kept", "lost", "torn", "cut"]);
        break;
      case "sectors":
        fates[index] = "torn";
        break;
      default:
        loss.shape satisfies never;
    }
  }
  return fates;
}

/** Copies some units of a write; returns the end of what it copied. */
function tear(
  image: Uint8Array,
  position: number,
  bytes: Uint8Array,
  options: { readonly loss: PowerLoss; readonly fate: Fate; readonly prng: Prng },
): number {
  const { loss, fate, prng } = options;
  const unitBytes = loss.unitBytes;
  const firstUnit = Math.floor(position / unitBytes);
  const endUnit = Math.ceil((position + bytes.length) / unitBytes);
  const cutUnit = firstUnit + prng.below(endUnit - firstUnit + 1);
  const keptRatio = prng.pick([0.1, 0.5, 0.9]);
  let end = 0;
  for (let unit = firstUnit; unit < endUnit; unit++) {
    if (fate === "cut" ? unit >= cutUnit : !prng.chance(keptRatio)) continue;
    const start = Math.max(position, unit * unitBytes);
    end = Math.min(position + bytes.length, (unit + 1) * unitBytes);
    image.set(bytes.subarray(start - position, end - position), start);
  }
  return end;
}

function resized(bytes: Uint8Array, sizeBytes: number): Uint8Array {
  if (sizeBytes <= bytes.length) return bytes;
  const larger = new Uint8Array(Math.max(CAPACITY_BYTES_MIN, bytes.length * 2, sizeBytes));
  larger.set(bytes);
  return larger;
}
