// SPDX-License-Identifier: Apache-2.0
//
// The first reading of a transaction log: which of its requests took effect. A request is logged when it
// comes in, before it is checked or done; only its reply says what became of it. So a request counts when a
// reply without an error has its cookie, and one that was refused, or that nobody answered before the log
// ended, is left out. What is remembered of each request is one bit.
//
// nbd-server begins at the start of the file again for every connection and cuts nothing off. What stands
// behind a connection's end (DISC, and the replies that were still due) is therefore what a longer one
// before it left: it is older, and it isn't read. Logs that were put one behind the other by hand go on
// with the option that begins each connection.

import type { DiskFile } from "../host/ports.ts";
import { COMMAND, REPLY_FLAG, REPLY_TYPE_ERROR_BIT } from "../nbd/constants.ts";
import { unsupported } from "./image-error.ts";
import {
  type ChangeKind,
  LEFT_OUT_SHOWN_MAX,
  type LeftOutChange,
  type LogDamage,
} from "./seed-log.ts";
import { TransactionLogReader, type TransactionRecord } from "./transaction-log.ts";

/** Requests without a reply that are remembered: more than any client has under way. */
const OPEN_REQUESTS_MAX = 65_536;

/** What each command changes; undefined: nothing. */
export const CHANGE_OF_COMMAND: ReadonlyMap<number, ChangeKind> = new Map([
  [COMMAND.WRITE, "write"],
  [COMMAND.WRITE_ZEROES, "zero"],
  [COMMAND.TRIM, "trim"],
  [COMMAND.FLUSH, "flush"],
]);

const HARMLESS_COMMANDS: ReadonlySet<number> = new Set([
  COMMAND.READ,
  COMMAND.CACHE,
  COMMAND.BLOCK_STATUS,
]);

interface OpenRequest {
  /** Counted from 0 over all requests of the log. */
  readonly index: number;
  readonly position: number;
  readonly command: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly hasPayload: boolean;
  /** An error came in one chunk; more chunks may follow. */
  hasFailed: boolean;
}

export class TransactionLogSurvey {
  readonly #name: string;
  readonly #reader: TransactionLogReader;
  readonly #fileBytes: number;
  /** By cookie, oldest first. */
  readonly #open = new Map<bigint, OpenRequest>();
  readonly #accepted = new BitSet();
  readonly leftOut: LeftOutChange[] = [];
  readonly warnings: string[] = [];
  leftOutCount = 0;
  changeCount = 0;
  endBytes = 0;
  damage: LogDamage | undefined;
  /** Behind the last record that counts. */
  endPosition = 0;
  #requestCount = 0;
  #strayReplies = 0;
  #strayPosition = 0;
  /** The connection has ended: only replies that are still due may follow. */
  #isClosed = false;

  constructor(file: DiskFile, fileBytes: number, name: string) {
    this.#name = name;
    this.#fileBytes = fileBytes;
    this.#reader = new TransactionLogReader(file, fileBytes);
  }

  /** Throws IMAGE_UNSUPPORTED for what is no such log, or one without its data. */
  async run(): Promise<void> {
    const { record } = this.#reader;
    for (;;) {
      const end = await this.#reader.next();
      if (end !== undefined) {
        this.#finish(end.position, end.reason);
        return;
      }
      if (this.#isClosed && !this.#belongs(record)) {
        this.#finish(record.position, undefined);
        return;
      }
      // Its data isn't all there: no record yet.
      if (record.end > this.#fileBytes) continue;
      this.#take(record);
      this.endPosition = record.end;
    }
  }

  /** Whether the request took effect. */
  isAccepted(index: number): boolean {
    return this.#accepted.has(index);
  }

  /** Behind the connection's end: a reply that is due, or the beginning of the next. */
  #belongs(record: TransactionRecord): boolean {
    if (record.kind === "option") return true;
    return record.kind !== "request" && this.#open.has(record.cookie);
  }

  #take(record: TransactionRecord): void {
    switch (record.kind) {
      case "request":
        this.#takeRequest(record);
        return;
      case "option":
        this.#giveUpOpen();
        this.#isClosed = false;
        return;
      case "reply":
        this.#answer(record, record.error, true);
        return;
      case "chunk": {
        const isError = (record.chunkType & REPLY_TYPE_ERROR_BIT) !== 0;
        // The error number is in the chunk's payload, which isn't logged.
        this.#answer(record, isError ? -1 : 0, (record.flags & REPLY_FLAG.DONE) !== 0);
      }
    }
  }

  #takeRequest(record: TransactionRecord): void {
    const { cookie, position, command, offsetBytes, lengthBytes, hasPayload } = record;
    const index = this.#requestCount;
    this.#requestCount += 1;
    if (command === COMMAND.DISC) {
      this.#isClosed = true;
      return;
    }
    const before = this.#open.get(cookie);
    if (before !== undefined) this.#giveUp(cookie, before);
    this.#open.set(cookie, {
      ...{ index, position, command, offsetBytes, lengthBytes, hasPayload },
      hasFailed: false,
    });
    if (this.#open.size <= OPEN_REQUESTS_MAX) return;
    for (const [oldest, request] of this.#open) {
      this.#giveUp(oldest, request);
      return;
    }
  }

  #answer(record: TransactionRecord, error: number, isLast: boolean): void {
    const request = this.#open.get(record.cookie);
    if (request === undefined) {
      if (this.#strayReplies === 0) this.#strayPosition = record.position;
      this.#strayReplies += 1;
      return;
    }
    if (error !== 0) request.hasFailed = true;
    if (!isLast) return;
    this.#open.delete(record.cookie);
    const number = error > 0 ? `error ${error}` : "an error";
    if (request.hasFailed) this.#leaveOut(request, `the server answered with ${number}`);
    else this.#accept(request);
  }

  #accept({ index, position, command, offsetBytes, lengthBytes, hasPayload }: OpenRequest): void {
    const kind = CHANGE_OF_COMMAND.get(command);
    if (kind === undefined) {
      if (HARMLESS_COMMANDS.has(command)) return;
      throw unsupported(
        this.#name,
        `at byte ${position} it has a command ${command}, which isn't known here, and the server carried it out`,
        "import what nbd-trplay makes of it: copy the base image, replay the log onto it, import the copy",
      );
    }
    if (kind === "write" && lengthBytes > 0 && !hasPayload) {
      throw unsupported(
        this.#name,
        "it has no data: it says where was written, not what",
        "let nbd-server log data from now on: datalog = true beside transactionlog; what was written until then is in the disk's image only",
      );
    }
    this.#accepted.add(index);
    this.changeCount += 1;
    if (kind !== "flush") this.endBytes = Math.max(this.endBytes, offsetBytes + lengthBytes);
  }

  #finish(position: number, reason: string | undefined): void {
    if (this.#requestCount === 0) {
      const why = this.#fileBytes === 0 ? "it is empty" : "it isn't a transaction log";
      throw unsupported(
        this.#name,
        why,
        "name the file that nbd-server's transactionlog setting names",
      );
    }
    if (this.#isClosed) {
      const rest = this.#fileBytes - position;
      if (rest > 0) {
        this.warnings.push(
          `${rest} bytes from byte ${position} on were left by an earlier connection and not read`,
        );
      }
    } else if (reason !== undefined) this.damage = { place: `byte ${position}`, reason };
    this.#giveUpOpen();
    if (this.#strayReplies > 0) {
      this.warnings.push(
        `replies to no request: ${this.#strayReplies}, first at byte ${this.#strayPosition}: two connections may have written one log`,
      );
    }
  }

  #giveUpOpen(): void {
    for (const [cookie, request] of this.#open) this.#giveUp(cookie, request);
  }

  #giveUp(cookie: bigint, request: OpenRequest): void {
    this.#open.delete(cookie);
    this.#leaveOut(
      request,
      request.hasFailed ? "the server answered with an error" : "it has no reply",
    );
  }

  #leaveOut({ position, command, offsetBytes, lengthBytes }: OpenRequest, why: string): void {
    const kind = CHANGE_OF_COMMAND.get(command);
    if (kind === undefined) return;
    this.leftOutCount += 1;
    if (this.leftOut.length >= LEFT_OUT_SHOWN_MAX) return;
    this.leftOut.push({ place: `byte ${position}`, kind, offsetBytes, lengthBytes, why });
  }
}

/** One bit a request: of the log's own 28 bytes a thousandth or less. */
class BitSet {
  #bytes = new Uint8Array(1024);

  add(index: number): void {
    const at = Math.floor(index / 8);
    if (at >= this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#bytes.length * 2, at + 1));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    this.#bytes[at] = (this.#bytes[at] as number) | (1 << (index % 8));
  }

  has(index: number): boolean {
    return ((this.#bytes[Math.floor(index / 8)] ?? 0) & (1 << (index % 8))) !== 0;
  }
}
