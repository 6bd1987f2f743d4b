// SPDX-License-Identifier: Apache-2.0
//
// Writes changes of a disk as a transaction log with data, as nbd-server would have logged them: nbd-trplay
// replays it, nbd-trdump prints it, and so does anything else that reads such logs. Every request has its
// reply behind it, and the last one is a disconnect. The log has no room for times; a request's cookie is the
// LSN of its change, so that the moment of each can be found again.
//
// A trim becomes a write of zeroes that may leave a hole: NBD promises nothing of what is read after a trim, and
// Varve does. Zeroes that were to stay allocated say so. A change whose length has no room in 32 bits becomes
// several requests with one cookie, one answered after the other.

import { writeU64 } from "../nbd/codec.ts";
import {
  COMMAND,
  COMMAND_FLAG,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  WIRE,
} from "../nbd/constants.ts";
import type { ChangeKind } from "./seed-log.ts";
import { TRACE_OPTION } from "./transaction-log.ts";

/** The largest write that a server must take. */
const PAYLOAD_BYTES_MAX: number = 32 << 20;
/** Whole blocks, whatever block size nbd-trplay is told: its largest is 128 KiB. */
const RANGE_BYTES_MAX: number = 1 << 30;

/** A change in order, wherever it comes from. */
export interface DiskEvent {
  readonly kind: ChangeKind;
  readonly lsn: number;
  readonly timeMicros: number;
  /** 0 for a flush, as is the length. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** write: its bytes, valid until add() resolves. */
  readonly data: Uint8Array | undefined;
}

/** Flags in the high half, as they are logged. */
const REQUEST_OF: Readonly<Record<ChangeKind, number>> = {
  write: COMMAND.WRITE,
  zero: (COMMAND_FLAG.NO_HOLE << 16) | COMMAND.WRITE_ZEROES,
  trim: COMMAND.WRITE_ZEROES,
  flush: COMMAND.FLUSH,
};

export class TransactionLogWriter {
  readonly #writeBytes: (bytes: Uint8Array) => Promise<void>;
  #requestCount = 0;

  /** `writeBytes` takes the log in order; the bytes are its until it resolves. */
  constructor(writeBytes: (bytes: Uint8Array) => Promise<void>) {
    this.#writeBytes = writeBytes;
  }

  get requestCount(): number {
    return this.#requestCount;
  }

  /** Once, before all events. */
  async begin(): Promise<void> {
    const { bytes, view } = record(WIRE.REQUEST, TRACE_OPTION.MAGIC);
    view.setUint32(4, TRACE_OPTION.SET_DATALOG);
    view.setUint32(16, TRACE_OPTION.FROM.high);
    view.setUint32(20, TRACE_OPTION.FROM.low);
    view.setUint32(24, 1);
    await this.#writeBytes(bytes);
  }

  async add(event: DiskEvent): Promise<void> {
    const { kind, lsn, offsetBytes, lengthBytes, data } = event;
    const stepBytes = kind === "write" ? PAYLOAD_BYTES_MAX : RANGE_BYTES_MAX;
    let done = 0;
    do {
      const partBytes = Math.min(stepBytes, lengthBytes - done);
      const range = { offsetBytes: offsetBytes + done, lengthBytes: partBytes };
      await this.#request(REQUEST_OF[kind], lsn, range);
      if (data !== undefined) await this.#writeBytes(data.subarray(done, done + partBytes));
      await this.#reply(lsn);
      done += partBytes;
    } while (done < lengthBytes);
  }

  /** Once, behind all events. */
  async end(): Promise<void> {
    await this.#request(COMMAND.DISC, 0, { offsetBytes: 0, lengthBytes: 0 });
  }

  async #request(
    command: number,
    cookie: number,
    { offsetBytes, lengthBytes }: { offsetBytes: number; lengthBytes: number },
  ): Promise<void> {
    const { bytes, view } = record(WIRE.REQUEST, REQUEST_MAGIC);
    view.setUint32(4, command);
    writeU64(view, 8, cookie);
    writeU64(view, 16, offsetBytes);
    view.setUint32(24, lengthBytes);
    this.#requestCount += 1;
    await this.#writeBytes(bytes);
  }

  async #reply(cookie: number): Promise<void> {
    const { bytes, view } = record(WIRE.SIMPLE_REPLY, SIMPLE_REPLY_MAGIC);
    writeU64(view, 8, cookie);
    await this.#writeBytes(bytes);
  }
}

function record(lengthBytes: number, magic: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(lengthBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic);
  return { bytes, view };
}
