// SPDX-License-Identifier: Apache-2.0
//
// Writes stamped sectors over one or more connections until the server dies, remembers when each request
// was sent and answered, and afterwards says whether the disk holds the prefix promise. Seen from
// outside, "a prefix of the write order" means, as long as requests for the same sector have an order
// (because never two are in flight, or because the server keeps that of one connection):
//
//   1. every sector shows one of the operations that were sent to it, or what it held before;
//   2. an operation is there in all its sectors or in none (up to 1 MiB);
//   3. what was promised is there: acknowledged; or, with --ack memory, acknowledged before an
//      acknowledged flush was sent, or forced;
//   4. if an operation is there, so is each one that was acknowledged before it was sent, on any
//      connection.
//
// Requests in flight often share a block, though never a sector. Sequence numbers are never used again:
// what was lost once and comes back later breaks rule 1.

import { Chance } from "./chance.ts";
import { COMMAND, ConnectionLost, FLAG, NbdConnection } from "./nbd-connection.ts";
import type { Server } from "./server.ts";
import { DAMAGED, SECTOR_BYTES, sequencesIn, stamped, ZEROS } from "./stamps.ts";

/** How the server acknowledges; "memory" may lose what no flush has covered. */
export type Acknowledgement = "written" | "memory" | "durable";

export interface WriterOptions {
  readonly seed: number;
  readonly sectorCount: number;
  readonly connectionCount: number;
  /** Requests in flight per connection. */
  readonly depth: number;
  readonly sectorCountMax: number;
  readonly acknowledgement: Acknowledgement;
  /**
   * Requests for the same sector may be in flight: for a server that lets them take effect in the order
   * of sending, and for one connection.
   */
  readonly mayOverlap: boolean;
}

/** One change, with the ticks of a clock that counts what was sent and answered on all connections. */
interface Operation {
  readonly lba: number;
  readonly sectorCount: number;
  /** ZEROS for trims and zeroed ranges. */
  readonly sequence: number;
  readonly sentTick: number;
  /** Infinity until it is answered. */
  answeredTick: number;
  isPromised: boolean;
}

export interface RoundReport {
  readonly sentCount: number;
  readonly answeredCount: number;
  /** Surely lost: some sector shows what was there before. */
  readonly lostCount: number;
  readonly flushCount: number;
}

export class StampingWriter {
  readonly #options: WriterOptions;
  readonly #chance: Chance;
  readonly #runId: number;
  /** What the disk held after the last check: a sequence number per sector. */
  readonly #known: Uint32Array;
  /** This round's operations in the order of sending, and those without an answer. */
  #operations: Operation[] = [];
  readonly #open = new Set<Operation>();
  #isEnding = false;
  #tick = 0;
  #nextSequence = 1;
  #flushCount = 0;

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#chance = new Chance(options.seed);
    this.#runId = this.#chance.below(0xffff_ffff) + 1;
    this.#known = new Uint32Array(options.sectorCount);
  }

  /**
   * Connects and begins to write. `done` resolves when every connection is lost, or when `end` has made
   * the writers finish; it throws on all else.
   */
  async begin(server: Server): Promise<{ done: Promise<unknown>; end: () => void }> {
    this.#isEnding = false;
    this.#operations = [];
    this.#open.clear();
    this.#flushCount = 0;
    const connections = await Promise.all(
      Array.from({ length: this.#options.connectionCount }, () =>
        NbdConnection.open(server.socket, server.exportName),
      ),
    );
    const workers = connections.flatMap((connection) =>
      Array.from({ length: this.#options.depth }, () => this.#work(connection)),
    );
    const done = Promise.all(workers).then(() =>
      Promise.all(connections.map((one) => one.close())),
    );
    done.catch(() => {}); // whoever awaits it learns of it
    const end = (): void => {
      this.#isEnding = true;
    };
    return { done, end };
  }

  async #work(connection: NbdConnection): Promise<void> {
    try {
      while (connection.isOpen && !this.#isEnding) {
        if (this.#chance.below(64) === 0) await this.#flush(connection);
        else await this.#change(connection);
      }
    } catch (error) {
      if (!(error instanceof ConnectionLost)) throw error;
    }
  }

  /** A flush on one connection covers what was answered before on all. */
  async #flush(connection: NbdConnection): Promise<void> {
    const sentTick = ++this.#tick;
    await connection.flush();
    this.#flushCount++;
    for (const operation of this.#operations)
      if (operation.answeredTick < sentTick) operation.isPromised = true;
  }

  async #change(connection: NbdConnection): Promise<void> {
    const kind = this.#chance.below(20);
    const isTrim = kind === 0;
    const isZero = kind === 1;
    const place = this.#freePlace(isTrim);
    const operation: Operation = {
      ...place,
      sequence: isTrim || isZero ? ZEROS : this.#nextSequence++,
      sentTick: ++this.#tick,
      answeredTick: Number.POSITIVE_INFINITY,
      isPromised: false,
    };
    this.#operations.push(operation);
    this.#open.add(operation);
    const isForced = this.#chance.below(16) === 0;
    const offset = place.lba * SECTOR_BYTES;
    const flags = isForced ? FLAG.FUA : 0;
    if (operation.sequence === ZEROS) {
      const command = isTrim ? COMMAND.TRIM : COMMAND.ZERO;
      await connection.submit({ command, offset, length: place.sectorCount * SECTOR_BYTES, flags });
    } else {
      await connection.write(offset, stamped(this.#runId, operation), flags);
    }
    operation.answeredTick = ++this.#tick;
    operation.isPromised ||= isForced || this.#options.acknowledgement !== "memory";
    this.#open.delete(operation);
  }

  /** Mostly one block; often a few sectors on any border; seldom the largest atomic write. */
  #freePlace(isAligned: boolean): { lba: number; sectorCount: number } {
    const { sectorCount: end, sectorCountMax } = this.#options;
    for (;;) {
      const kind = isAligned ? 0 : this.#chance.below(20);
      const few = 1 + this.#chance.below(Math.min(64, sectorCountMax));
      const sectorCount = kind < 10 ? 8 : kind === 19 ? sectorCountMax : few;
      const spread = this.#chance.below(end - sectorCount);
      const lba = kind < 10 ? spread - (spread % 8) : spread;
      const isTaken = [...this.#open].some((other) => overlaps(other, lba, sectorCount));
      if (this.#options.mayOverlap || !isTaken) return { lba, sectorCount };
    }
  }

  /** Reads the whole disk back and throws unless it is what the promise allows. */
  async check(server: Server): Promise<RoundReport> {
    const found = await this.#readBack(server);
    const { present, lost } = this.#judgeSectors(found);
    let latestTick = 0;
    let latest: Operation | undefined;
    for (const operation of this.#operations) {
      if (!present.has(operation) && !operation.isPromised) continue;
      if (operation.sentTick > latestTick) latest = operation;
      latestTick = Math.max(latestTick, operation.sentTick);
    }
    for (const [operation, lba] of lost) {
      const where = `${describe(operation)}: sector ${lba} shows ${name(found[lba]!)}`;
      if (operation.isPromised) throw new Error(`${where}, though it was promised`);
      if (present.has(operation)) throw new Error(`${where}, though other sectors of it are there`);
      if (operation.answeredTick < latestTick)
        throw new Error(`${where}, though ${describe(latest!)}, sent after its answer, is there`);
    }
    this.#known.set(found);
    return {
      sentCount: this.#operations.length,
      answeredCount: this.#operations.length - this.#open.size,
      lostCount: lost.size,
      flushCount: this.#flushCount,
    };
  }

  /** Rule 1, and what each sector proves: operations that are there, and such that surely aren't. */
  #judgeSectors(found: Uint32Array): { present: Set<Operation>; lost: Map<Operation, number> } {
    const chains: Operation[][] = Array.from(found, () => []);
    for (const operation of this.#operations)
      for (let sector = 0; sector < operation.sectorCount; sector++)
        chains[operation.lba + sector]!.push(operation);
    const present = new Set<Operation>();
    const lost = new Map<Operation, number>();
    for (const [lba, chain] of chains.entries()) {
      // After how many of the sector's operations it looks as it was found: zeros may do so twice.
      const counts = [this.#known[lba], ...chain.map(({ sequence }) => sequence)];
      const least = counts.indexOf(found[lba]!);
      const most = counts.lastIndexOf(found[lba]!);
      if (least < 0) {
        const allowed = counts.map((sequence) => name(sequence!)).join(", ");
        throw new Error(`sector ${lba} shows ${name(found[lba]!)}, but was sent only ${allowed}`);
      }
      if (least > 0) present.add(chain[least - 1]!);
      const missing = chain[most];
      if (missing) lost.set(missing, lba);
    }
    return { present, lost };
  }

  async #readBack(server: Server): Promise<Uint32Array> {
    const connection = await NbdConnection.open(server.socket, server.exportName);
    const found = new Uint32Array(this.#options.sectorCount);
    const stepSectors = 2048;
    for (let lba = 0; lba < found.length; lba += stepSectors) {
      const sectorCount = Math.min(stepSectors, found.length - lba);
      const bytes = await connection.read(lba * SECTOR_BYTES, sectorCount * SECTOR_BYTES);
      found.set(sequencesIn(this.#runId, lba, bytes), lba);
    }
    await connection.close();
    return found;
  }
}

function overlaps(operation: Operation, lba: number, sectorCount: number): boolean {
  return lba < operation.lba + operation.sectorCount && operation.lba < lba + sectorCount;
}

function name(sequence: number): string {
  if (sequence === ZEROS) return "zeros";
  return sequence === DAMAGED ? "damage" : `write ${sequence}`;
}

function describe({ sequence, lba, sectorCount, sentTick, answeredTick }: Operation): string {
  const answer =
    answeredTick === Number.POSITIVE_INFINITY ? "never answered" : `answered ${answeredTick}`;
  return `${name(sequence)} to sectors ${lba} to ${lba + sectorCount - 1} (sent ${sentTick}, ${answer})`;
}
