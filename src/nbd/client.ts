// SPDX-License-Identifier: Apache-2.0
//
// An NBD client: for import and export, for services that read other servers, and for tests, where it
// speaks what the machine's libnbd is too old for (extended headers). Any number of requests may be under
// way; each call returns a promise of its own answer. Replies are parsed without a socket, by dialogues:
// bytes in, answers out.
//
// Calls fail with PEER_REFUSED (the server said no: the request's fault) or PEER_FAILED (the server, its
// disk or the connection is broken). Both carry the error number in `data.errno` where there was one.

import { NBD_ERROR, StorageError } from "../base/errors.ts";
import type { ExportEntry } from "./block-device.ts";
import {
  broken,
  type ClientAgreement,
  type ClientWishes,
  type Dialogue,
  listDialogue,
  openDialogue,
  type Send,
  type Want,
} from "./client-handshake.ts";
import { HEADERS, type Headers, readU64, viewOf, writeU64 } from "./codec.ts";
import {
  COMMAND,
  COMMAND_FLAG,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  REPLY_FLAG,
  REPLY_TYPE,
  REPLY_TYPE_ERROR_BIT,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  TRANSMISSION_FLAG,
  WIRE,
} from "./constants.ts";
import { decodeText } from "./option-codec.ts";

/** The connection that a client runs over; host/node connects them. */
export interface ClientStream {
  /** Bytes of the server's, from now on. `ended` once, however it ends. */
  start(received: (bytes: Uint8Array) => void, ended: (error?: Error) => void): void;
  /** Sends in order. The bytes must not change until they are answered. */
  send(bytes: Uint8Array): void;
  /** Goes on encrypted. Only if the stream was connected with TLS settings. */
  startTls(): Promise<void>;
  close(): void;
}

export interface NbdClientOptions {
  readonly exportName: string;
  /** What to ask for; a server that lacks it gets less. Default: extended. */
  readonly headers?: Headers;
  readonly contexts?: readonly string[];
  readonly isTlsWanted?: boolean;
}

export interface StatusExtent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly flags: number;
}

interface Pending {
  readonly command: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** A read's data, filled as it comes. */
  readonly target: Uint8Array;
  filledBytes: number;
  readonly extents: Map<string, StatusExtent[]>;
  error: StorageError | undefined;
  readonly resolve: (answer: Pending) => void;
  readonly reject: (error: unknown) => void;
}

const NO_BYTES = new Uint8Array(0);
/** Reply payloads are at most what was asked for and a head; nothing longer is believed. */
const CHUNK_BYTES_MAX: number = (64 << 20) + 64;

export class NbdClient {
  readonly agreement: ClientAgreement;
  readonly #stream: ClientStream;
  readonly #pending = new Map<number, Pending>();
  #nextCookie = 1;
  #ended: StorageError | undefined;
  #whenEnded: (() => void) | undefined;

  private constructor(stream: ClientStream, agreement: ClientAgreement) {
    this.#stream = stream;
    this.agreement = agreement;
  }

  /** Opens an export. The stream is closed when that fails. */
  static async open(stream: ClientStream, options: NbdClientOptions): Promise<NbdClient> {
    const wishes: ClientWishes = {
      exportName: options.exportName,
      headers: options.headers ?? HEADERS.EXTENDED,
      contexts: options.contexts ?? [],
      isTlsWanted: options.isTlsWanted ?? false,
    };
    const talk = new Talk(stream);
    const agreement = await talk.run(openDialogue(wishes, talk.send));
    const client = new NbdClient(stream, agreement);
    talk.follow(replyDialogue(client.#replies()), (error) => client.#end(error));
    return client;
  }

  static async list(
    stream: ClientStream,
    options: { readonly isTlsWanted?: boolean } = {},
  ): Promise<readonly ExportEntry[]> {
    const talk = new Talk(stream);
    const entries = await talk.run(listDialogue(options.isTlsWanted ?? false, talk.send));
    stream.close();
    return entries;
  }

  get sizeBytes(): number {
    return this.agreement.sizeBytes;
  }

  get isReadOnly(): boolean {
    return this.#has(TRANSMISSION_FLAG.READ_ONLY);
  }

  get canMultiConnect(): boolean {
    return this.#has(TRANSMISSION_FLAG.CAN_MULTI_CONN);
  }

  get canTrim(): boolean {
    return this.#has(TRANSMISSION_FLAG.SEND_TRIM);
  }

  get canWriteZeroes(): boolean {
    return this.#has(TRANSMISSION_FLAG.SEND_WRITE_ZEROES);
  }

  get canFlush(): boolean {
    return this.#has(TRANSMISSION_FLAG.SEND_FLUSH);
  }

  /** Names of the contexts that were selected. */
  get contexts(): readonly string[] {
    return [...this.agreement.contexts.values()];
  }

  /** Largest read or write in one request. */
  get payloadBytesMax(): number {
    return this.agreement.payloadBytesMax;
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return await this.readInto(new Uint8Array(lengthBytes), offsetBytes);
  }

  /** Fills `target` from `offsetBytes` on. */
  async readInto(target: Uint8Array, offsetBytes: number): Promise<Uint8Array> {
    const lengthBytes = target.length;
    const pending = await this.submit({ command: COMMAND.READ, offsetBytes, lengthBytes, target });
    if (pending.filledBytes !== lengthBytes) {
      throw broken(`a read of ${lengthBytes} bytes was answered with ${pending.filledBytes}`);
    }
    return target;
  }

  async write(
    offsetBytes: number,
    payload: Uint8Array,
    options: { isForceUnitAccess?: boolean } = {},
  ): Promise<void> {
    const flags = options.isForceUnitAccess ? COMMAND_FLAG.FUA : 0;
    const lengthBytes = payload.length;
    await this.submit({ command: COMMAND.WRITE, offsetBytes, lengthBytes, flags, payload });
  }

  async flush(): Promise<void> {
    await this.submit({ command: COMMAND.FLUSH, offsetBytes: 0, lengthBytes: 0 });
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.submit({ command: COMMAND.TRIM, offsetBytes, lengthBytes });
  }

  async cache(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.submit({ command: COMMAND.CACHE, offsetBytes, lengthBytes });
  }

  async writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: { isHoleForbidden?: boolean; isFast?: boolean; isForceUnitAccess?: boolean } = {},
  ): Promise<void> {
    const flags =
      (options.isHoleForbidden ? COMMAND_FLAG.NO_HOLE : 0) |
      (options.isFast ? COMMAND_FLAG.FAST_ZERO : 0) |
      (options.isForceUnitAccess ? COMMAND_FLAG.FUA : 0);
    await this.submit({ command: COMMAND.WRITE_ZEROES, offsetBytes, lengthBytes, flags });
  }

  /** Extents by context. They may end before the range does: ask on from there. */
  async blockStatus(
    offsetBytes: number,
    lengthBytes: number,
    options: { isOne?: boolean } = {},
  ): Promise<ReadonlyMap<string, readonly StatusExtent[]>> {
    const flags = options.isOne ? COMMAND_FLAG.REQ_ONE : 0;
    const command = COMMAND.BLOCK_STATUS;
    return (await this.submit({ command, offsetBytes, lengthBytes, flags })).extents;
  }

  /** Any request, as it is: for tests of what a server refuses. */
  submit(request: {
    readonly command: number;
    readonly offsetBytes: number;
    readonly lengthBytes: number;
    readonly flags?: number;
    readonly payload?: Uint8Array;
    readonly target?: Uint8Array;
  }): Promise<Pending> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const cookie = this.#nextCookie++;
    const { command, offsetBytes, lengthBytes } = request;
    return new Promise((resolve, reject) => {
      this.#pending.set(cookie, {
        command,
        offsetBytes,
        lengthBytes,
        target: request.target ?? NO_BYTES,
        filledBytes: 0,
        extents: new Map(),
        error: undefined,
        resolve,
        reject,
      });
      this.#stream.send(this.#encode(cookie, request));
      if (request.payload !== undefined) this.#stream.send(request.payload);
    });
  }

  /** Says goodbye; resolves when the server has hung up. Requests under way should be awaited before. */
  async close(): Promise<void> {
    if (this.#ended !== undefined) return;
    const gone = new Promise<void>((resolve) => {
      this.#whenEnded = resolve;
    });
    const goodbye = { command: COMMAND.DISC, offsetBytes: 0, lengthBytes: 0 };
    this.#stream.send(this.#encode(this.#nextCookie++, goodbye));
    this.#stream.close();
    await gone;
  }

  #has(flag: number): boolean {
    return (this.agreement.flags & flag) !== 0;
  }

  #encode(
    cookie: number,
    request: {
      readonly command: number;
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly flags?: number;
      readonly payload?: Uint8Array;
    },
  ): Uint8Array {
    const isExtended = this.agreement.headers === HEADERS.EXTENDED;
    const bytes = new Uint8Array(isExtended ? WIRE.EXTENDED_REQUEST : WIRE.REQUEST);
    const view = new DataView(bytes.buffer);
    const payloadFlag = isExtended && request.payload ? COMMAND_FLAG.PAYLOAD_LEN : 0;
    view.setUint32(0, isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
    view.setUint16(4, (request.flags ?? 0) | payloadFlag);
    view.setUint16(6, request.command);
    writeU64(view, 8, cookie);
    writeU64(view, 16, request.offsetBytes);
    if (isExtended) writeU64(view, 24, request.payload?.length ?? request.lengthBytes);
    else view.setUint32(24, request.lengthBytes);
    return bytes;
  }

  #replies(): ReplySink {
    const take = (cookie: number): Pending => {
      const pending = this.#pending.get(cookie);
      if (pending === undefined) throw broken(`a reply to request ${cookie}, which isn't open`);
      return pending;
    };
    return {
      agreement: this.agreement,
      find: take,
      done: (cookie) => {
        const pending = take(cookie);
        this.#pending.delete(cookie);
        if (pending.error === undefined) pending.resolve(pending);
        else pending.reject(pending.error);
      },
    };
  }

  #end(error: unknown): void {
    if (this.#ended !== undefined) return;
    this.#ended = error instanceof StorageError ? error : lost(error);
    for (const pending of this.#pending.values()) pending.reject(this.#ended);
    this.#pending.clear();
    this.#stream.close();
    this.#whenEnded?.();
  }
}

interface ReplySink {
  readonly agreement: ClientAgreement;
  find(cookie: number): Pending;
  /** The last of a request's replies is there. */
  done(cookie: number): void;
}

/** Reads replies for ever. */
function* replyDialogue(sink: ReplySink): Dialogue<never> {
  const isExtended = sink.agreement.headers === HEADERS.EXTENDED;
  for (;;) {
    const magic = viewOf(yield 4).getUint32(0);
    if (isExtended ? magic === EXTENDED_REPLY_MAGIC : magic === STRUCTURED_REPLY_MAGIC) {
      yield* chunk(sink, isExtended);
    } else if (magic === SIMPLE_REPLY_MAGIC && !isExtended) yield* simpleReply(sink);
    else throw broken("a reply without its magic");
  }
}

function* simpleReply(sink: ReplySink): Dialogue<void> {
  const head = viewOf(yield WIRE.SIMPLE_REPLY - 4);
  const errno = head.getUint32(0);
  const cookie = readU64(head, 4);
  const pending = sink.find(cookie);
  if (errno !== 0) pending.error = requestError(pending, errno, "");
  else if (pending.command === COMMAND.READ) {
    if (sink.agreement.headers !== HEADERS.SIMPLE) throw broken("a simple reply to a read");
    if (pending.lengthBytes > 0) pending.target.set(yield pending.lengthBytes);
    pending.filledBytes = pending.lengthBytes;
  }
  sink.done(cookie);
}

function* chunk(sink: ReplySink, isExtended: boolean): Dialogue<void> {
  const headBytes = (isExtended ? WIRE.EXTENDED_REPLY : WIRE.STRUCTURED_REPLY) - 4;
  const head = viewOf(yield headBytes);
  const isLast = (head.getUint16(0) & REPLY_FLAG.DONE) !== 0;
  const type = head.getUint16(2);
  const cookie = readU64(head, 4);
  const lengthBytes = isExtended ? readU64(head, 20) : head.getUint32(12);
  if (lengthBytes > CHUNK_BYTES_MAX) throw broken(`a chunk of ${lengthBytes} bytes`);
  const pending = sink.find(cookie);
  if (isExtended && readU64(head, 12) !== pending.offsetBytes) {
    throw broken("a chunk for another offset than was asked for");
  }
  const payload = lengthBytes === 0 ? NO_BYTES : yield lengthBytes;
  take(sink.agreement, pending, { type, payload });
  if (isLast) sink.done(cookie);
}

function take(
  agreement: ClientAgreement,
  pending: Pending,
  { type, payload }: { type: number; payload: Uint8Array },
): void {
  const view = viewOf(payload);
  if ((type & REPLY_TYPE_ERROR_BIT) !== 0) {
    if (payload.length < 6) throw broken("an error chunk without an error");
    const text = decodeText(payload.slice(6, 6 + view.getUint16(4))) ?? "";
    pending.error ??= requestError(pending, view.getUint32(0), text);
    return;
  }
  const isRead = pending.command === COMMAND.READ;
  const isStatus = pending.command === COMMAND.BLOCK_STATUS;
  if (type === REPLY_TYPE.NONE && payload.length === 0) return;
  if (type === REPLY_TYPE.OFFSET_DATA && isRead && payload.length > 8) {
    const data = payload.subarray(8);
    pending.target.set(data, checkedStart(pending, readU64(view, 0), data.length));
  } else if (type === REPLY_TYPE.OFFSET_HOLE && isRead && payload.length === 12) {
    const count = view.getUint32(8);
    const start = checkedStart(pending, readU64(view, 0), count);
    pending.target.fill(0, start, start + count);
  } else if (type === REPLY_TYPE.BLOCK_STATUS && isStatus && payload.length >= 12) {
    takeExtents(agreement, pending, { payload, firstAt: 4, isWide: false });
  } else if (type === REPLY_TYPE.BLOCK_STATUS_EXT && isStatus && payload.length >= 24) {
    takeExtents(agreement, pending, { payload, firstAt: 8, isWide: true });
  } else throw broken(`a chunk of type ${type} and ${payload.length} bytes that doesn't fit`);
}

/** Where in the target a content chunk goes. Chunks don't overlap, so that their sum tells if all came. */
function checkedStart(pending: Pending, offsetBytes: number, count: number): number {
  const start = offsetBytes - pending.offsetBytes;
  if (start < 0 || start + count > pending.lengthBytes) throw broken("data that wasn't asked for");
  pending.filledBytes += count;
  return start;
}

function takeExtents(
  agreement: ClientAgreement,
  pending: Pending,
  { payload, firstAt, isWide }: { payload: Uint8Array; firstAt: number; isWide: boolean },
): void {
  const view = viewOf(payload);
  const name = agreement.contexts.get(view.getUint32(0));
  if (name === undefined) throw broken("a status for a context that wasn't selected");
  const step = isWide ? 16 : 8;
  if ((payload.length - firstAt) % step !== 0) throw broken("a status chunk of an odd length");
  const extents: StatusExtent[] = [];
  let offsetBytes = pending.offsetBytes;
  for (let at = firstAt; at < payload.length; at += step) {
    const lengthBytes = isWide ? readU64(view, at) : view.getUint32(at);
    if (lengthBytes === 0) throw broken("an extent of no bytes");
    const flags = isWide ? readU64(view, at + 8) : view.getUint32(at + 4);
    extents.push({ offsetBytes, lengthBytes, flags });
    offsetBytes += lengthBytes;
  }
  pending.extents.set(name, extents);
}

function requestError(pending: Pending, errno: number, text: string): StorageError {
  const name = ERRNO_NAMES.get(errno) ?? `error ${errno}`;
  const command = COMMAND_NAMES.get(pending.command) ?? `command ${pending.command}`;
  const where = `${pending.lengthBytes} bytes at ${pending.offsetBytes}`;
  const why = text === "" ? name : `${name}: ${text}`;
  const isTheirs =
    errno === NBD_ERROR.EIO || errno === NBD_ERROR.ENOMEM || errno === NBD_ERROR.ESHUTDOWN;
  return new StorageError(
    isTheirs ? "PEER_FAILED" : "PEER_REFUSED",
    `nbd server: ${command} of ${where} failed: ${why}`,
    { data: { errno } },
  );
}

const ERRNO_NAMES = new Map<number, string>(
  Object.entries(NBD_ERROR).map(([name, value]) => [value, name]),
);
const COMMAND_NAMES = new Map<number, string>(
  Object.entries(COMMAND).map(([name, value]) => [value, name.toLowerCase().replace("_", " ")]),
);

/** Runs dialogues over a stream: collects bytes until the dialogue has those it wants. */
class Talk {
  readonly send: Send;
  readonly #stream: ClientStream;
  #chunks: Uint8Array[] = [];
  #availableBytes = 0;
  #isEnded = false;
  #endError: unknown;
  #resume: (() => void) | undefined;

  constructor(stream: ClientStream) {
    this.#stream = stream;
    this.send = (bytes) => stream.send(bytes);
    stream.start(
      (bytes) => {
        this.#chunks.push(bytes);
        this.#availableBytes += bytes.length;
        this.#resume?.();
      },
      (error) => {
        this.#isEnded = true;
        this.#endError = error;
        this.#resume?.();
      },
    );
  }

  /** Runs a dialogue to its end; the stream is closed when it fails. */
  run<Result>(dialogue: Dialogue<Result>): Promise<Result> {
    return new Promise((resolve, reject) => {
      const failed = (error: unknown): void => {
        this.#resume = undefined;
        this.#stream.close();
        reject(error);
      };
      this.#drive(dialogue, resolve, (error) => {
        failed(error instanceof StorageError ? error : lost(error));
      });
    });
  }

  /** Runs a dialogue that has no end but the connection's. */
  follow(dialogue: Dialogue<never>, ended: (error: unknown) => void): void {
    this.#drive(dialogue, () => {}, ended);
  }

  #drive<Result>(
    dialogue: Dialogue<Result>,
    done: (result: Result) => void,
    failed: (error: unknown) => void,
  ): void {
    let want: IteratorResult<Want, Result> = dialogue.next(NO_BYTES);
    const advance = (): void => {
      try {
        while (!want.done && want.value !== "tls" && this.#availableBytes >= want.value) {
          want = dialogue.next(this.#take(want.value));
        }
      } catch (error) {
        this.#resume = undefined;
        failed(error);
        return;
      }
      if (want.done) {
        this.#resume = undefined;
        done(want.value);
      } else if (want.value === "tls") {
        this.#resume = undefined;
        this.#stream.startTls().then(() => {
          want = dialogue.next(NO_BYTES);
          this.#resume = advance;
          advance();
        }, failed);
      } else if (this.#isEnded) {
        this.#resume = undefined;
        failed(this.#endError);
      }
    };
    this.#resume = advance;
    advance();
  }

  /** Exactly so many bytes, which are there. */
  #take(count: number): Uint8Array {
    this.#availableBytes -= count;
    const first = this.#chunks[0];
    if (first !== undefined && first.length > count) {
      this.#chunks[0] = first.subarray(count);
      return first.subarray(0, count);
    }
    if (first?.length === count) {
      this.#chunks.shift();
      return first;
    }
    const bytes = new Uint8Array(count);
    let filled = 0;
    let index = 0;
    while (filled < count) {
      const next = this.#chunks[index] as Uint8Array;
      const part = Math.min(next.length, count - filled);
      bytes.set(next.subarray(0, part), filled);
      filled += part;
      if (part === next.length) index += 1;
      else this.#chunks[index] = next.subarray(part);
    }
    this.#chunks.splice(0, index);
    return bytes;
  }
}

function lost(cause: unknown): StorageError {
  const why = cause instanceof Error ? cause.message : "it hung up";
  return new StorageError("PEER_FAILED", `nbd server: connection ended: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
  });
}
