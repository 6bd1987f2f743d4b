// SPDX-License-Identifier: Apache-2.0
//
// The time machine, proven on what people keep on disks: a real ext4 with a SQLite database in which a
// program commits numbered transactions without pause. While it goes on, moments of its past are drawn at
// random: by LSN, by time, right behind a commit, by the last flush before. Each must be what a power cut at that moment would
// have left: a clone of it is mounted, which replays the journal, the database is opened, which replays
// its own, and it holds all transactions that were committed before the moment and none that began
// after it. Then the file system is checked, and the clone removed.
//
// 50 moments in each of two ways of keeping a journal, or as many as 30 seconds each give. MOMENTS=1000
// for a long run; SEED=n repeats the choices of a run.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { connectStream } from "../../src/host/node/socket-connect.ts";
import { NbdClient } from "../../src/nbd/client.ts";
import { Chance } from "./chance.ts";
import { delay, run, until } from "./command.ts";
import { LOOP_DISK_NEEDS, LoopDisk } from "./loop-disk.ts";
import { requires } from "./requires.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server } from "./server.ts";
import {
  DATABASE_NEEDS,
  type JournalMode,
  type Place,
  readDatabase,
  TransactionWriter,
} from "./transaction-writer.ts";

const SIZE_BYTES = 64 * 1024 * 1024;
const HEAD_START_TRANSACTIONS = 20;
const PAUSE_MS = 20;
/** Small, so that moments lie in many segments and behind many checkpoints. */
const SMALL_STEPS = ["--segment-size", "1M", "--checkpoint-changes", "1024"];

const momentCount = Number(process.env.MOMENTS ?? 100) / 2;
const checkingMsMax = process.env.MOMENTS === undefined ? 30_000 : Number.POSITIVE_INFINITY;
const momentCountMin = 10;
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

const skip =
  KIND_UNDER_TEST !== "varve" ||
  requires(...LOOP_DISK_NEEDS, ...DATABASE_NEEDS, "mkfs.ext4 -V", "e2fsck -V");

for (const mode of ["wal", "delete"] as const) {
  test(`at any moment ext4 is whole, and SQLite (journal mode ${mode}) has exactly what was committed`, {
    skip,
  }, async (context) => {
    context.diagnostic(`SEED=${seed}`);
    await using scratch = await Scratch.create();
    const disk = await WrittenDisk.start(scratch, mode);
    const chance = new Chance(seed);
    await disk.isUnderWay();
    const begin = performance.now();
    let [checkedCount, betweenCount] = [0, 0];
    while (checkedCount < momentCount && performance.now() - begin < checkingMsMax) {
      const moment = await disk.drawMoment(chance);
      const isBetween = await disk.check(moment, `clone-${checkedCount}`).catch((cause) => {
        throw new Error(`db@${moment.text}, moment ${checkedCount + 1} of SEED=${seed}`, { cause });
      });
      checkedCount += 1;
      if (isBetween) betweenCount += 1;
    }
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    const { transactionCount, lsnCount } = await disk.end();
    context.diagnostic(
      `${checkedCount} moments in ${seconds} s, ${betweenCount} of them between two transactions, ` +
        `among ${transactionCount} transactions and ${lsnCount} records`,
    );
    ok(checkedCount >= momentCountMin, `only ${checkedCount} moments could be looked at`);
  });
}

interface DrawnMoment {
  readonly text: string;
  /** It shows all that was done before `place` was read. */
  isBehind(place: Place): boolean;
  /** It shows nothing that was done after `place` was read. */
  isBefore(place: Place): boolean;
}

function momentOfLsn(lsn: number): DrawnMoment {
  return {
    text: `#${lsn}`,
    isBehind: (place) => place.lsn <= lsn,
    isBefore: (place) => lsn <= place.lsn,
  };
}

function momentOfTime(micros: number): DrawnMoment {
  const toMillisecond = new Date(Math.floor(micros / 1000)).toISOString().slice(0, -1);
  return {
    text: `${toMillisecond}${`${micros % 1000}`.padStart(3, "0")}Z`,
    isBehind: (place) => place.microsEnd <= micros,
    isBefore: (place) => micros < place.microsFrom,
  };
}

/** A volume with a mounted ext4 and a database that is being written. */
class WrittenDisk {
  readonly #began: Place;
  readonly #scratch: Scratch;
  readonly #server: Server;
  readonly #disk: LoopDisk;
  readonly #writer: TransactionWriter;
  readonly #writing: Promise<void>;
  #failure: unknown;

  private constructor(
    scratch: Scratch,
    at: { server: Server; disk: LoopDisk; writer: TransactionWriter; began: Place },
  ) {
    this.#scratch = scratch;
    this.#server = at.server;
    this.#disk = at.disk;
    this.#writer = at.writer;
    this.#began = at.began;
    this.#writing = this.#writer
      .write(() => delay(PAUSE_MS))
      .catch((error: unknown) => {
        this.#failure = error;
      });
    scratch.defer("the writer", () => this.#endWriting());
  }

  static async start(scratch: Scratch, mode: JournalMode): Promise<WrittenDisk> {
    const server = await Server.inScratch(scratch, {
      sizeBytes: SIZE_BYTES,
      serveArgs: SMALL_STEPS,
    });
    const disk = await LoopDisk.attach(scratch, server.uri);
    await run("mkfs.ext4", ["-q", disk.device]);
    await disk.mount("noatime");
    const writer = await TransactionWriter.create(`${disk.mountPoint}/money.db`, {
      mode,
      readPlace: () => placeOf(server),
    });
    await run("sync", ["-f", disk.mountPoint]);
    return new WrittenDisk(scratch, { server, disk, writer, began: await placeOf(server) });
  }

  /** Waits until there is a past to look at. */
  async isUnderWay(): Promise<void> {
    await until("transactions are committed", () => {
      if (this.#failure) throw this.#failure;
      return this.#writer.transactions.length > HEAD_START_TRANSACTIONS;
    });
  }

  /** A moment of the past: any record, any microsecond, or where a commit had just been answered. */
  async drawMoment(chance: Chance): Promise<DrawnMoment> {
    const now = await placeOf(this.#server);
    const between = (begin: number, end: number): number => begin + chance.below(end - begin);
    const { transactions } = this.#writer;
    const { after } = transactions[chance.below(transactions.length)]!;
    const moment = [
      momentOfLsn(between(this.#began.lsn, now.lsn + 1)),
      momentOfTime(between(this.#began.microsEnd, now.microsFrom)),
      momentOfLsn((after ?? now).lsn),
    ][chance.below(3)]!;
    // Each commit ends with a flush, so the last flush before a moment shows what the moment shows.
    return chance.below(3) === 0 ? { ...moment, text: `flush:${moment.text}` } : moment;
  }

  /**
   * Opens the disk as it was at the moment and looks at all that is on it; false if a transaction was
   * under way, which then may be there.
   */
  async check(moment: DrawnMoment, name: string): Promise<boolean> {
    await this.#server.varve(["clone", `db@${moment.text}`, name]);
    const uri = this.#server.uri.replace("/db?", `/${name}?`);
    const clone = await LoopDisk.attach(this.#scratch, uri, name);
    await clone.mount("noatime"); // replays the journal
    const foundCount = await readDatabase(`${clone.mountPoint}/money.db`);
    await clone.unmount();
    await run("e2fsck", ["-f", "-n", clone.device]);
    await clone.detach();
    await this.#server.varve(["remove", name, "--yes"]);
    if (this.#failure) throw this.#failure;

    const { transactions } = this.#writer;
    const committed = transactions.filter(({ after }) => after && moment.isBehind(after)).length;
    const begun = transactions.filter(({ before }) => !moment.isBefore(before)).length;
    ok(foundCount >= committed, `${foundCount} transactions of ${committed} committed by then`);
    ok(foundCount <= begun, `${foundCount} transactions of ${begun} begun by then`);
    return committed === begun;
  }

  async end(): Promise<{ transactionCount: number; lsnCount: number }> {
    await this.#endWriting();
    if (this.#failure) throw this.#failure;
    const { transactions } = this.#writer;
    equal(await readDatabase(`${this.#disk.mountPoint}/money.db`), transactions.length);
    const lsnCount = (await placeOf(this.#server)).lsn - this.#began.lsn;
    return { transactionCount: transactions.length, lsnCount };
  }

  async #endWriting(): Promise<void> {
    this.#writer.stop();
    await this.#writing;
    await this.#writer.end();
  }
}

/** The newest record of the pool, by the name that the export of now has for ever, and the clock. */
async function placeOf(server: Server): Promise<Place> {
  const stream = await connectStream({ kind: "unix", path: server.socket });
  const client = await NbdClient.open(stream, { exportName: "db@now" });
  const { stableName } = client.agreement;
  await client.close();
  const microsFrom = Date.now() * 1000;
  return { lsn: Number(stableName.slice("db@#".length)), microsFrom, microsEnd: microsFrom + 1000 };
}
