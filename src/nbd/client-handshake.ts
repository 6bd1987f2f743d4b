// SPDX-License-Identifier: Apache-2.0
//
// The client's side of the handshake as generators: they yield how many bytes they need and are given
// exactly these, or yield "tls" and go on behind it. So the dialogue reads from top to bottom, knows no
// socket and no promise, and a test can play any server byte by byte.
//
// A server that lacks an option says so and the handshake goes on without it: extended headers fall back
// to structured replies, those to simple ones, GO to EXPORT_NAME. TLS doesn't fall back: who asked for it
// and can't have it gets an error.

import { StorageError } from "../base/errors.ts";
import type { ExportEntry } from "./block-device.ts";
import { HEADERS, type Headers, readU64, viewOf } from "./codec.ts";
import {
  BLOCK_SIZE,
  HANDSHAKE_FLAG,
  INFO,
  INIT_MAGIC,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  STRING_BYTES_MAX,
  WIRE,
} from "./constants.ts";
import { decodeText, encodeOption, encodeText, FieldReader } from "./option-codec.ts";

/** A number of bytes that are needed next, or the upgrade to TLS. */
export type Want = number | "tls";
export type Dialogue<Result> = Generator<Want, Result, Uint8Array>;
export type Send = (bytes: Uint8Array) => void;

/** Longest option reply that is believed. */
const REPLY_BYTES_MAX: number = 64 << 10;

export interface ClientWishes {
  readonly exportName: string;
  readonly headers: Headers;
  /** Metadata contexts to select; those that the server lacks are left out. */
  readonly contexts: readonly string[];
  readonly isTlsWanted: boolean;
}

export interface ClientAgreement {
  readonly sizeBytes: number;
  readonly flags: number;
  readonly headers: Headers;
  /** Names by id. */
  readonly contexts: ReadonlyMap<number, string>;
  readonly stableName: string;
  readonly description: string;
  readonly payloadBytesMax: number;
}

interface OptionReply {
  readonly type: number;
  readonly data: Uint8Array;
}

/** From the first byte to the transmission phase. */
export function* openDialogue(wishes: ClientWishes, send: Send): Dialogue<ClientAgreement> {
  const isZeroed = yield* greet(wishes.isTlsWanted, send);
  const headers = yield* agreeOnHeaders(wishes.headers, send);
  const contexts = new Map<number, string>();
  if (headers !== HEADERS.SIMPLE && wishes.contexts.length > 0) {
    yield* selectContexts(wishes, contexts, send);
  }
  const facts = yield* go(wishes.exportName, send);
  if (facts !== undefined) return { ...facts, headers, contexts };
  return { ...(yield* openByName(wishes.exportName, isZeroed, send)), headers, contexts };
}

/** What the server offers; the connection is aborted behind it. */
export function* listDialogue(isTlsWanted: boolean, send: Send): Dialogue<readonly ExportEntry[]> {
  yield* greet(isTlsWanted, send);
  send(encodeOption(OPTION.LIST));
  const entries: ExportEntry[] = [];
  for (;;) {
    const { type, data } = yield* optionReply(OPTION.LIST);
    if (type === OPTION_REPLY.ACK) break;
    if (type !== OPTION_REPLY.SERVER) throw refused("the list of exports", { type, data });
    const reader = new FieldReader(data);
    const name = reader.sizedText();
    const rest = name === undefined ? data.length : data.length - 4 - encodeText(name).length;
    const description = reader.text(rest);
    if (name === undefined || description === undefined) throw broken("an export without a name");
    entries.push({ name, description });
  }
  send(encodeOption(OPTION.ABORT));
  return entries;
}

/** Returns whether EXPORT_NAME would be answered with zeroes behind. */
function* greet(isTlsWanted: boolean, send: Send): Dialogue<boolean> {
  const greeting = viewOf(yield WIRE.GREETING);
  const isNewstyle =
    greeting.getUint32(0) === INIT_MAGIC.high &&
    greeting.getUint32(4) === INIT_MAGIC.low &&
    greeting.getUint32(8) === OPTION_MAGIC.high &&
    greeting.getUint32(12) === OPTION_MAGIC.low;
  const flags = greeting.getUint16(16);
  if (!isNewstyle || (flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) === 0) {
    throw broken("it doesn't greet as a fixed-newstyle NBD server");
  }
  const ours = flags & (HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES);
  const answer = new Uint8Array(WIRE.CLIENT_FLAGS);
  new DataView(answer.buffer).setUint32(0, ours);
  send(answer);
  if (isTlsWanted) {
    send(encodeOption(OPTION.STARTTLS));
    const reply = yield* optionReply(OPTION.STARTTLS);
    if (reply.type !== OPTION_REPLY.ACK) throw refused("TLS", reply);
    yield "tls";
  }
  return (ours & HANDSHAKE_FLAG.NO_ZEROES) === 0;
}

function* agreeOnHeaders(wanted: Headers, send: Send): Dialogue<Headers> {
  if (wanted === HEADERS.EXTENDED) {
    send(encodeOption(OPTION.EXTENDED_HEADERS));
    const { type } = yield* optionReply(OPTION.EXTENDED_HEADERS);
    if (type === OPTION_REPLY.ACK) return HEADERS.EXTENDED;
  }
  if (wanted === HEADERS.SIMPLE) return HEADERS.SIMPLE;
  send(encodeOption(OPTION.STRUCTURED_REPLY));
  const { type } = yield* optionReply(OPTION.STRUCTURED_REPLY);
  return type === OPTION_REPLY.ACK ? HEADERS.STRUCTURED : HEADERS.SIMPLE;
}

function* selectContexts(
  wishes: ClientWishes,
  selected: Map<number, string>,
  send: Send,
): Dialogue<void> {
  const option = OPTION.SET_META_CONTEXT;
  const queries = wishes.contexts.flatMap((name) => sized(name));
  const count = new Uint8Array(4);
  new DataView(count.buffer).setUint32(0, wishes.contexts.length);
  send(encodeOption(option, concat([...sized(wishes.exportName), count, ...queries])));
  for (;;) {
    const { type, data } = yield* optionReply(option);
    if (type === OPTION_REPLY.ACK) return;
    if (isError(type)) {
      selected.clear();
      return;
    }
    const reader = new FieldReader(data);
    const id = reader.u32();
    const name = reader.text(data.length - 4);
    if (type !== OPTION_REPLY.META_CONTEXT || id === undefined || name === undefined) {
      throw broken("a metadata context that can't be read");
    }
    selected.set(id, name);
  }
}

type Facts = Omit<ClientAgreement, "headers" | "contexts">;

/** undefined: the server doesn't know GO. */
function* go(exportName: string, send: Send): Dialogue<Facts | undefined> {
  const wanted = [INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE];
  const infos = new Uint8Array(2 + 2 * wanted.length);
  const view = new DataView(infos.buffer);
  view.setUint16(0, wanted.length);
  for (const [index, info] of wanted.entries()) view.setUint16(2 + 2 * index, info);
  send(encodeOption(OPTION.GO, concat([...sized(exportName), infos])));
  const facts = {
    sizeBytes: -1,
    flags: 0,
    stableName: exportName,
    description: "",
    payloadBytesMax: BLOCK_SIZE.MAXIMUM as number,
  };
  for (;;) {
    const reply = yield* optionReply(OPTION.GO);
    if (reply.type === OPTION_REPLY.ACK) break;
    if (reply.type === OPTION_REPLY.ERR_UNSUP) return undefined;
    if (reply.type !== OPTION_REPLY.INFO) throw refused(`export "${exportName}"`, reply);
    learn(facts, reply.data);
  }
  if (facts.sizeBytes < 0) throw broken("it opened an export without naming its size");
  return facts;
}

function learn(facts: { -readonly [key in keyof Facts]: Facts[key] }, data: Uint8Array): void {
  if (data.length < 2) throw broken("an info reply without a type");
  const view = viewOf(data);
  const type = view.getUint16(0);
  if (type === INFO.EXPORT && data.length === 2 + WIRE.EXPORT_REPLY) {
    facts.sizeBytes = readU64(view, 2);
    facts.flags = view.getUint16(10);
  } else if (type === INFO.BLOCK_SIZE && data.length === 14) {
    facts.payloadBytesMax = Math.min(view.getUint32(10), BLOCK_SIZE.MAXIMUM);
  } else if (type === INFO.NAME) {
    facts.stableName = decodeText(data.subarray(2)) ?? facts.stableName;
  } else if (type === INFO.DESCRIPTION) facts.description = decodeText(data.subarray(2)) ?? "";
}

function* openByName(exportName: string, isZeroed: boolean, send: Send): Dialogue<Facts> {
  send(encodeOption(OPTION.EXPORT_NAME, encodeText(exportName)));
  const reply = viewOf(yield WIRE.EXPORT_REPLY);
  if (isZeroed) yield WIRE.EXPORT_ZEROES;
  return {
    sizeBytes: readU64(reply, 0),
    flags: reply.getUint16(8),
    stableName: exportName,
    description: "",
    payloadBytesMax: BLOCK_SIZE.MAXIMUM,
  };
}

function* optionReply(option: number): Dialogue<OptionReply> {
  const head = viewOf(yield WIRE.OPTION_REPLY_HEADER);
  if (
    head.getUint32(0) !== OPTION_REPLY_MAGIC.high ||
    head.getUint32(4) !== OPTION_REPLY_MAGIC.low ||
    head.getUint32(8) !== option
  ) {
    throw broken(`a reply that isn't one to option ${option}`);
  }
  const lengthBytes = head.getUint32(16);
  if (lengthBytes > REPLY_BYTES_MAX) throw broken(`an option reply of ${lengthBytes} bytes`);
  // A copy: the reply outlives the chunk that it came in.
  const data = lengthBytes === 0 ? new Uint8Array(0) : (yield lengthBytes).slice();
  return { type: head.getUint32(12), data };
}

export function broken(what: string): StorageError {
  return new StorageError("PEER_FAILED", `nbd server: connection ended: ${what}`);
}

function refused(subject: string, reply: OptionReply): StorageError {
  const text = decodeText(reply.data.subarray(0, STRING_BYTES_MAX)) ?? "";
  const kind = REPLY_NAMES.get(reply.type) ?? `reply 0x${reply.type.toString(16)}`;
  const message = `nbd server: ${subject} refused: ${kind}${text === "" ? "" : `: ${text}`}`;
  return new StorageError("PEER_REFUSED", message, { data: { reply: kind } });
}

const REPLY_NAMES = new Map<number, string>(
  Object.entries(OPTION_REPLY).map(([name, value]) => [value, name]),
);

function isError(type: number): boolean {
  return type >= OPTION_REPLY.ERR_UNSUP - 1;
}

function sized(text: string): Uint8Array[] {
  const bytes = encodeText(text);
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, bytes.length);
  return [length, bytes];
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
