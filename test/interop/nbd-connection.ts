// SPDX-License-Identifier: Apache-2.0
//
// A second, independent NBD client: as small as the protocol allows, and sharing no line with the
// product, so that a misreading of the protocol can't hide by being made on both sides. Fixed newstyle
// with GO, simple replies, any number of requests in flight; with `isExtended` it asks for extended
// headers, where one request may cover a whole device of many TiB.
//
// What a crash test needs of it: requests go out in the order of the calls, an answer is reported the
// moment it arrives, and when the connection dies every open request ends with ConnectionLost.

import { connect, type Socket } from "node:net";

const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
const EXTENDED_REPLY_MAGIC = 0x6e8a278c;
const OPTION = { GO: 7, EXTENDED_HEADERS: 11 } as const;
const REPLY = { ACK: 1, INFO: 3 } as const;
const CHUNK_ERROR_BIT = 0x8000;
const CHUNK_DONE_FLAG = 1;
const PAYLOAD_FLAG = 1 << 5;

export const COMMAND = { READ: 0, WRITE: 1, DISCONNECT: 2, FLUSH: 3, TRIM: 4, ZERO: 6 } as const;
export const FLAG = { FUA: 1, NO_HOLE: 2 } as const;
/** Transmission flags: READ_ONLY, FLUSH, FUA, TRIM, CAN_MULTI_CONN. */
export const TRANSMISSION = { READ_ONLY: 2, FLUSH: 4, FUA: 8, TRIM: 32, MULTI: 256 } as const;

/** The connection ended with this request open: it was done, or it wasn't. */
export class ConnectionLost extends Error {
  override readonly name = "ConnectionLost";
}

/** The server answered with an error number. */
export class RequestRefused extends Error {
  override readonly name = "RequestRefused";
  readonly errno: number;
  constructor(command: number, errno: number) {
    super(`command ${command} was answered with error ${errno}`);
    this.errno = errno;
  }
}

export interface Request {
  readonly command: number;
  readonly offset?: number;
  readonly length?: number;
  readonly payload?: Uint8Array;
  readonly flags?: number;
}

interface Pending {
  readonly command: number;
  readonly length: number;
  readonly resolve: (data: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export class NbdConnection {
  readonly sizeBytes: number;
  /** Transmission flags, see TRANSMISSION. */
  readonly flags: number;
  readonly #input: Input;
  readonly isExtended: boolean;
  readonly #pending = new Map<number, Pending>();
  #nextCookie = 1;
  #end: Error | undefined;

  private constructor(input: Input, size: number, flags: number, isExtended: boolean) {
    this.#input = input;
    this.sizeBytes = size;
    this.flags = flags;
    this.isExtended = isExtended;
    this.#receive().catch((cause: unknown) => this.#fail(cause));
  }

  static async open(
    socketPath: string,
    exportName: string,
    { isExtended = false }: { isExtended?: boolean } = {},
  ): Promise<NbdConnection> {
    const input = new Input(connect(socketPath));
    try {
      return await NbdConnection.#negotiate(input, exportName, isExtended);
    } catch (error) {
      input.socket.destroy();
      throw error;
    }
  }

  static async #negotiate(input: Input, name: string, isExtended: boolean): Promise<NbdConnection> {
    const greeting = await input.take(18);
    if (greeting.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT")
      throw new Error("the server doesn't greet with fixed newstyle");
    input.socket.write(Buffer.from([0, 0, 0, greeting[17]! & 3]));
    if (isExtended) {
      sendOption(input.socket, OPTION.EXTENDED_HEADERS, Buffer.alloc(0));
      const { type } = await takeOptionReply(input);
      if (type !== REPLY.ACK) throw new Error("the server has no extended headers");
    }
    const nameBytes = Buffer.from(name, "utf8");
    const go = Buffer.alloc(4 + nameBytes.length + 2);
    go.writeUInt32BE(nameBytes.length, 0);
    nameBytes.copy(go, 4);
    sendOption(input.socket, OPTION.GO, go);
    let size = -1;
    let flags = 0;
    for (;;) {
      const { type, payload } = await takeOptionReply(input);
      if (type === REPLY.ACK) break;
      if (type !== REPLY.INFO)
        throw new Error(`the server refused export "${name}": ${payload.toString("utf8")}`);
      if (payload.readUInt16BE(0) !== 0) continue;
      size = Number(payload.readBigUInt64BE(2));
      flags = payload.readUInt16BE(10);
    }
    if (size < 0) throw new Error("the server named no size");
    return new NbdConnection(input, size, flags, isExtended);
  }

  get isOpen(): boolean {
    return this.#end === undefined;
  }

  /** Sends one request; resolves with what was read (empty for all else). */
  submit(request: Request): Promise<Buffer> {
    if (this.#end) return Promise.reject(new ConnectionLost("closed", { cause: this.#end }));
    const { command, offset = 0, payload, flags = 0 } = request;
    const length = payload?.length ?? request.length ?? 0;
    const cookie = this.#nextCookie++;
    const header = Buffer.alloc(this.isExtended ? 32 : 28);
    header.writeUInt32BE(this.isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, 0);
    header.writeUInt16BE(this.isExtended && payload ? flags | PAYLOAD_FLAG : flags, 4);
    header.writeUInt16BE(command, 6);
    header.writeBigUInt64BE(BigInt(cookie), 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    if (this.isExtended) header.writeBigUInt64BE(BigInt(length), 24);
    else header.writeUInt32BE(length, 24);
    return new Promise((resolve, reject) => {
      this.#pending.set(cookie, { command, length, resolve, reject });
      this.#input.socket.cork();
      this.#input.socket.write(header);
      if (payload) this.#input.socket.write(payload);
      process.nextTick(() => this.#input.socket.uncork());
    });
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.submit({ command: COMMAND.READ, offset, length });
  }

  async write(offset: number, payload: Uint8Array, flags = 0): Promise<void> {
    await this.submit({ command: COMMAND.WRITE, offset, payload, flags });
  }

  async flush(): Promise<void> {
    await this.submit({ command: COMMAND.FLUSH });
  }

  /** Says goodbye and closes. */
  async close(): Promise<void> {
    if (this.#end) return;
    this.submit({ command: COMMAND.DISCONNECT }).catch(() => {});
    await new Promise<void>((resolve) => {
      this.#input.socket.once("close", () => resolve());
      this.#input.socket.end();
    });
  }

  async #receive(): Promise<void> {
    for (;;) await (this.isExtended ? this.#receiveChunk() : this.#receiveSimple());
  }

  async #receiveSimple(): Promise<void> {
    const header = await this.#input.take(16);
    if (header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC) throw new Error("a reply without its magic");
    const errno = header.readUInt32BE(4);
    const cookie = Number(header.readBigUInt64BE(8));
    const pending = this.#take(cookie);
    if (errno !== 0) return pending.reject(new RequestRefused(pending.command, errno));
    const hasData = pending.command === COMMAND.READ;
    pending.resolve(hasData ? await this.#input.take(pending.length) : Buffer.alloc(0));
  }

  /** Only what commands without data need: the benchmark's trim of a whole device. */
  async #receiveChunk(): Promise<void> {
    const header = await this.#input.take(32);
    if (header.readUInt32BE(0) !== EXTENDED_REPLY_MAGIC)
      throw new Error("a chunk without its magic");
    const flags = header.readUInt16BE(4);
    const type = header.readUInt16BE(6);
    const payload = await this.#input.take(Number(header.readBigUInt64BE(24)));
    if ((flags & CHUNK_DONE_FLAG) === 0) return;
    const pending = this.#take(Number(header.readBigUInt64BE(8)));
    if ((type & CHUNK_ERROR_BIT) === 0) pending.resolve(payload);
    else pending.reject(new RequestRefused(pending.command, payload.readUInt32BE(0)));
  }

  #take(cookie: number): Pending {
    const pending = this.#pending.get(cookie);
    if (!pending) throw new Error(`a reply to cookie ${cookie}, which isn't open`);
    this.#pending.delete(cookie);
    return pending;
  }

  #fail(cause: unknown): void {
    this.#end = cause instanceof Error ? cause : new Error(String(cause));
    this.#input.socket.destroy();
    for (const pending of this.#pending.values())
      pending.reject(new ConnectionLost("the connection ended with the request open", { cause }));
    this.#pending.clear();
  }
}

function sendOption(socket: Socket, option: number, payload: Buffer): void {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(OPTION_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(payload.length, 12);
  socket.write(Buffer.concat([header, payload]));
}

async function takeOptionReply(input: Input): Promise<{ type: number; payload: Buffer }> {
  const header = await input.take(20);
  if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
    throw new Error("an option reply without its magic");
  return { type: header.readUInt32BE(12), payload: await input.take(header.readUInt32BE(16)) };
}

/** The socket's bytes, in pieces of the length one asks for. One reader at a time. */
class Input {
  readonly socket: Socket;
  readonly #chunks: Buffer[] = [];
  #available = 0;
  #end: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#available += chunk.length;
      this.#wake?.();
    });
    socket.on("error", (error) => this.#finish(error));
    socket.on("close", () => this.#finish(new Error("the connection was closed")));
  }

  #finish(error: Error): void {
    this.#end ??= error;
    this.#wake?.();
  }

  async take(length: number): Promise<Buffer> {
    while (this.#available < length) {
      if (this.#end) throw this.#end;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#wake = undefined;
    this.#available -= length;
    const first = this.#chunks[0];
    if (first && first.length >= length) {
      this.#chunks[0] = first.subarray(length);
      return first.subarray(0, length);
    }
    const result = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      const chunk = this.#chunks[0]!;
      const count = chunk.copy(result, filled, 0, Math.min(chunk.length, length - filled));
      filled += count;
      if (count === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(count);
    }
    return result;
  }
}
