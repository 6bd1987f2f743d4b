// SPDX-License-Identifier: Apache-2.0
//
// The transaction log of nbd-server, record by record. It is what went over the wire, one piece behind the
// other, without a header or an end (github.com/NetworkBlockDevice/nbd, nbd-server.c and nbd-helper.h):
//
//   request   28   magic u32 | flags u16 | command u16 | cookie u64 | offset u64 | length u32
//             +length, of a write, if the log has payloads
//   reply     16   magic u32 | error u32 | cookie u64                       a read's data is never there
//   chunk     20   magic u32 | flags u16 | type u16 | cookie u64 | payload bytes u32         only the head
//   option    28   like a request, with a magic of its own: "payloads from here on: yes or no"
//
// The file is hostile: a length is only a distance to the next record until something is there to be read.
// Memory is one window, whatever the lengths say.

import type { DiskFile } from "../host/ports.ts";
import { readU64, viewOf } from "../nbd/codec.ts";
import {
  COMMAND,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  WIRE,
} from "../nbd/constants.ts";

export const TRACE_OPTION = {
  MAGIC: 0x25609514,
  SET_DATALOG: 1,
  /** Stands in the offset of every option. */
  FROM: { high: 0x4a93ba39, low: 0xa54f31b6 },
} as const;

const WINDOW_BYTES: number = 64 << 10;
const MAGIC_BYTES = 4;

/** One record. The reader has one object, which the next record overwrites. */
export interface TransactionRecord {
  kind: "request" | "reply" | "chunk" | "option";
  /** Where it begins in the file, and where the next one does. */
  position: number;
  end: number;
  cookie: bigint;
  /** request: command, flags, offset (at least 2^53 where it isn't exact) and length. option: type and value. */
  command: number;
  flags: number;
  offsetBytes: number;
  lengthBytes: number;
  /** request: its payload stands behind it. */
  hasPayload: boolean;
  /** reply: the error, 0 for none. chunk: the type. */
  error: number;
  chunkType: number;
}

/** Why there is no further record. */
export interface TransactionLogEnd {
  readonly position: number;
  /** Undefined: the file ends behind a whole record. */
  readonly reason: string | undefined;
}

export class TransactionLogReader {
  readonly record: TransactionRecord = {
    kind: "request",
    position: 0,
    end: 0,
    cookie: 0n,
    command: 0,
    flags: 0,
    offsetBytes: 0,
    lengthBytes: 0,
    hasPayload: false,
    error: 0,
    chunkType: 0,
  };
  readonly #file: DiskFile;
  readonly #fileBytes: number;
  readonly #window = new Uint8Array(WINDOW_BYTES);
  readonly #view = viewOf(this.#window);
  /** What of the file the window holds. */
  #windowStart = 0;
  #windowEnd = 0;
  #position = 0;
  #isPayloadLogged = false;

  /** Nothing behind `fileBytes` is looked at. */
  constructor(file: DiskFile, fileBytes: number) {
    this.#file = file;
    this.#fileBytes = fileBytes;
  }

  /** Reads the next record into `record`; where there is none, says why. */
  async next(): Promise<TransactionLogEnd | undefined> {
    const position = this.#position;
    if (position === this.#fileBytes) return { position, reason: undefined };
    if (position > this.#fileBytes)
      return { position: this.record.position, reason: "its data ends with the file" };
    if (!(await this.#load(MAGIC_BYTES))) return { position, reason: "a record is cut short" };
    const magic = this.#view.getUint32(position - this.#windowStart);
    const bytes = RECORD_BYTES.get(magic);
    if (bytes === undefined)
      return { position, reason: `0x${magic.toString(16).padStart(8, "0")} begins no record` };
    if (!(await this.#load(bytes))) return { position, reason: "a record is cut short" };
    this.#decode(magic, position - this.#windowStart);
    this.record.position = position;
    this.record.end = position + bytes + (this.record.hasPayload ? this.record.lengthBytes : 0);
    this.#position = this.record.end;
    return undefined;
  }

  /** Has the window hold so many bytes from the position on; false where the file has fewer. */
  async #load(bytes: number): Promise<boolean> {
    const position = this.#position;
    if (position >= this.#windowStart && position + bytes <= this.#windowEnd) return true;
    const readable = Math.min(WINDOW_BYTES, this.#fileBytes - position);
    if (readable < bytes) return false;
    const count = await this.#file.read(this.#window.subarray(0, readable), position);
    this.#windowStart = position;
    this.#windowEnd = position + count;
    return count >= bytes;
  }

  #decode(magic: number, at: number): void {
    const { record } = this;
    const view = this.#view;
    record.hasPayload = false;
    switch (magic) {
      case REQUEST_MAGIC:
      case TRACE_OPTION.MAGIC:
        record.kind = magic === REQUEST_MAGIC ? "request" : "option";
        record.flags = view.getUint16(at + 4);
        record.command = view.getUint16(at + 6);
        record.cookie = view.getBigUint64(at + 8);
        record.offsetBytes = readU64(view, at + 16);
        record.lengthBytes = view.getUint32(at + 24);
        if (record.kind === "option") this.#takeOption(at);
        else record.hasPayload = this.#isPayloadLogged && record.command === COMMAND.WRITE;
        return;
      case SIMPLE_REPLY_MAGIC:
        record.kind = "reply";
        record.error = view.getUint32(at + 4);
        record.cookie = view.getBigUint64(at + 8);
        return;
      default:
        record.kind = "chunk";
        record.flags = view.getUint16(at + 4);
        record.chunkType = view.getUint16(at + 6);
        record.cookie = view.getBigUint64(at + 8);
        return;
    }
  }

  #takeOption(at: number): void {
    const { flags, command, lengthBytes } = this.record;
    const isOurs =
      this.#view.getUint32(at + 16) === TRACE_OPTION.FROM.high &&
      this.#view.getUint32(at + 20) === TRACE_OPTION.FROM.low;
    if (isOurs && flags === 0 && command === TRACE_OPTION.SET_DATALOG)
      this.#isPayloadLogged = lengthBytes !== 0;
  }
}

/** Of each record without its payload, by its magic. */
const RECORD_BYTES: ReadonlyMap<number, number> = new Map([
  [REQUEST_MAGIC, WIRE.REQUEST],
  [TRACE_OPTION.MAGIC, WIRE.REQUEST],
  [SIMPLE_REPLY_MAGIC, WIRE.SIMPLE_REPLY],
  [STRUCTURED_REPLY_MAGIC, WIRE.STRUCTURED_REPLY],
]);
