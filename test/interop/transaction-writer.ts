// SPDX-License-Identifier: Apache-2.0
//
// A SQLite database with a writer that commits numbered transactions, one after the other, and notes for
// each where the pool and the clock stood before it began and after its commit was answered. So for any
// moment it can be said which transactions must be in the database as it was then, and which can't be.
//
// Transaction n adds its number, moves money between accounts, stores content with its checksum, and
// deletes the oldest content, whose pages are used again: a database that holds half a transaction, or a
// page of another time, doesn't pass `readDatabase`.

import { equal } from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { closed, programEnv, run } from "./command.ts";

export const DATABASE_NEEDS: readonly string[] = ["sqlite3 -version", "stdbuf --version"];

export type JournalMode = "wal" | "delete";

/** A place in the pool's history: its newest record, and the clock, which shows milliseconds. */
export interface Place {
  readonly lsn: number;
  readonly microsFrom: number;
  readonly microsEnd: number;
}

export interface Transaction {
  /** Read before the first word of it was sent. */
  readonly before: Place;
  /** Read after its commit had been answered; undefined until then. */
  after?: Place;
}

const CONTENTS_KEPT = 100;
const ACCOUNTS = 10;
const BALANCE = 1000;

const SCHEMA = `
  CREATE TABLE done (number INTEGER PRIMARY KEY);
  CREATE TABLE account (number INTEGER PRIMARY KEY, balance INTEGER);
  CREATE TABLE content (number INTEGER PRIMARY KEY, bytes BLOB, checksum BLOB);
  INSERT INTO account SELECT value, ${BALANCE} FROM generate_series(0, ${ACCOUNTS - 1});`;

/**
 * How a commit is made durable. With a rollback journal FULL isn't enough: the commit is the removal of
 * the journal, and only EXTRA waits until that is on the disk.
 */
const SYNCHRONOUS: { readonly [mode in JournalMode]: string } = { wal: "FULL", delete: "EXTRA" };

export class TransactionWriter {
  /** The first has number 1. */
  readonly transactions: Transaction[] = [];
  readonly #child: ChildProcess;
  readonly #ended: Promise<number>;
  readonly #lines: AsyncIterator<string>;
  readonly #readPlace: () => Promise<Place>;
  #isStopped = false;

  private constructor(child: ChildProcess, readPlace: () => Promise<Place>) {
    this.#child = child;
    this.#ended = closed(child);
    this.#lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    this.#readPlace = readPlace;
  }

  /** Makes the database at `path`. */
  static async create(
    path: string,
    { mode, readPlace }: { mode: JournalMode; readPlace: () => Promise<Place> },
  ): Promise<TransactionWriter> {
    const child = spawn("stdbuf", ["-oL", "sqlite3", "-batch", "-bail", path], {
      env: programEnv(),
      stdio: ["pipe", "pipe", "inherit"],
    });
    child.stdin!.on("error", () => {}); // the answer that doesn't come tells it
    const writer = new TransactionWriter(child, readPlace);
    equal(await writer.#ask(`PRAGMA journal_mode = ${mode};`), mode);
    await writer.#ask(`PRAGMA synchronous = ${SYNCHRONOUS[mode]}; ${SCHEMA} SELECT 'made';`);
    return writer;
  }

  /** Commits until it is stopped, and waits for `pause` between two transactions. */
  async write(pause: () => Promise<void>): Promise<void> {
    while (!this.#isStopped) {
      const transaction: Transaction = { before: await this.#readPlace() };
      const number = this.transactions.push(transaction);
      equal(await this.#ask(transactionOf(number)), `${number}`);
      transaction.after = await this.#readPlace();
      await pause();
    }
  }

  stop(): void {
    this.#isStopped = true;
  }

  /** Ends the program; the database is closed. */
  async end(): Promise<void> {
    this.#child.stdin!.end();
    equal(await this.#ended, 0);
  }

  /** The first line that the statements print. */
  async #ask(statements: string): Promise<string> {
    this.#child.stdin!.write(`${statements.replaceAll("\n", " ")}\n`);
    const line = await this.#lines.next();
    if (line.done) throw new Error(`sqlite3 ended at: ${statements}`);
    return line.value;
  }
}

function transactionOf(number: number): string {
  const lengthBytes = 1 + ((number * 7919) % 12_000);
  const [from, to] = [number % ACCOUNTS, (number * 3 + 1) % ACCOUNTS];
  return `BEGIN IMMEDIATE;
    INSERT INTO done VALUES (${number});
    UPDATE account SET balance = balance - 7 WHERE number = ${from};
    WITH made AS MATERIALIZED (SELECT randomblob(${lengthBytes}) AS bytes)
      INSERT INTO content SELECT ${number}, bytes, sha3(bytes, 256) FROM made;
    DELETE FROM content WHERE number <= ${number - CONTENTS_KEPT};
    UPDATE account SET balance = balance + 7 WHERE number = ${to};
    COMMIT;
    SELECT ${number};`;
}

/** Checks the database at `path`, whose writer may have been cut off, and returns how many transactions it holds. */
export async function readDatabase(path: string): Promise<number> {
  const statements = `
    PRAGMA integrity_check;
    SELECT count(*), ifnull(max(number), 0) FROM done;
    SELECT count(*), ifnull(max(number), 0) FROM content;
    SELECT count(*) FROM content WHERE checksum <> sha3(bytes, 256);
    SELECT count(*), sum(balance) FROM account;`;
  const { stdout } = await run("sqlite3", ["-batch", "-bail", path, statements]);
  const count = Number(stdout.split("\n")[1]?.split("|")[0]);
  const expected = [
    "ok",
    `${count}|${count}`,
    `${Math.min(count, CONTENTS_KEPT)}|${count}`,
    "0",
    `${ACCOUNTS}|${ACCOUNTS * BALANCE}`,
  ];
  equal(stdout.trimEnd(), expected.join("\n"));
  return count;
}
