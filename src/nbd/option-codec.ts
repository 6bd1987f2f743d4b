// SPDX-License-Identifier: Apache-2.0
//
// The payloads of handshake options and of their replies. Parsing never trusts a length: every field is
// checked against what is really there, and anything that doesn't add up makes the parser return
// undefined, which the negotiation answers with ERR_INVALID. Speed doesn't matter here, so that these
// functions allocate and return plain objects. Numbers are big-endian.

import type { ExportDescription } from "./block-device.ts";
import { viewOf, writeU64 } from "./codec.ts";
import {
  BLOCK_SIZE,
  INFO,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  STRING_BYTES_MAX,
  WIRE,
} from "./constants.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads fields one after the other; every method returns undefined once the bytes have run out. */
export class FieldReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  u16(): number | undefined {
    return this.#advance(2) ? this.#view.getUint16(this.#at - 2) : undefined;
  }

  u32(): number | undefined {
    return this.#advance(4) ? this.#view.getUint32(this.#at - 4) : undefined;
  }

  /** UTF-8 of that many bytes; at most STRING_BYTES_MAX. */
  text(lengthBytes: number): string | undefined {
    if (lengthBytes > STRING_BYTES_MAX || !this.#advance(lengthBytes)) return undefined;
    return decodeText(this.#bytes.subarray(this.#at - lengthBytes, this.#at));
  }

  /** A u32 length and as many bytes of UTF-8. */
  sizedText(): string | undefined {
    const lengthBytes = this.u32();
    return lengthBytes === undefined ? undefined : this.text(lengthBytes);
  }

  #advance(count: number): boolean {
    if (this.#at + count > this.#bytes.length) return false;
    this.#at += count;
    return true;
  }
}

/** undefined: not UTF-8. */
export function decodeText(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined; // the only thing decode() throws about
  }
}

export interface InfoRequest {
  readonly exportName: string;
  readonly isBlockSizeWanted: boolean;
  readonly isNameWanted: boolean;
  readonly isDescriptionWanted: boolean;
}

/** INFO and GO: name length, name, count, that many u16. */
export function parseInfoRequest(data: Uint8Array): InfoRequest | undefined {
  const reader = new FieldReader(data);
  const exportName = reader.sizedText();
  const count = reader.u16();
  if (exportName === undefined || count === undefined) return undefined;
  const wanted = new Set<number>();
  for (let index = 0; index < count; index++) {
    const item = reader.u16();
    if (item === undefined) return undefined;
    wanted.add(item);
  }
  if (!reader.isAtEnd) return undefined;
  return {
    exportName,
    isBlockSizeWanted: wanted.has(INFO.BLOCK_SIZE),
    isNameWanted: wanted.has(INFO.NAME),
    isDescriptionWanted: wanted.has(INFO.DESCRIPTION),
  };
}

export interface ContextQuery {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/** LIST_META_CONTEXT and SET_META_CONTEXT: name length, name, count, that many sized strings. */
export function parseContextQuery(data: Uint8Array): ContextQuery | undefined {
  const reader = new FieldReader(data);
  const exportName = reader.sizedText();
  const count = reader.u32();
  // Each query takes at least its length field: a count that can't fit isn't looped over.
  if (exportName === undefined || count === undefined || count > data.length / 4) return undefined;
  const queries: string[] = [];
  for (let index = 0; index < count; index++) {
    const query = reader.sizedText();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return reader.isAtEnd ? { exportName, queries } : undefined;
}

/** What the server sends first. */
export function encodeGreeting(flags: number): Uint8Array {
  const bytes = new Uint8Array(WIRE.GREETING);
  const view = new DataView(bytes.buffer);
  bytes.set(encoder.encode("NBDMAGICIHAVEOPT"));
  view.setUint16(16, flags);
  return bytes;
}

/** One option as a client sends it. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(WIRE.OPTION_HEADER + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, OPTION_MAGIC.high);
  view.setUint32(4, OPTION_MAGIC.low);
  view.setUint32(8, option);
  view.setUint32(12, data.length);
  bytes.set(data, WIRE.OPTION_HEADER);
  return bytes;
}

export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const bytes = new Uint8Array(WIRE.OPTION_REPLY_HEADER + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, OPTION_REPLY_MAGIC.high);
  view.setUint32(4, OPTION_REPLY_MAGIC.low);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.length);
  bytes.set(data, WIRE.OPTION_REPLY_HEADER);
  return bytes;
}

/** An error reply with a sentence for a human. */
export function encodeOptionError(option: number, type: number, message: string): Uint8Array {
  return encodeOptionReply(option, type, encodeText(message));
}

/** NBD_REP_SERVER: a name and what a human should know of it. */
export function encodeServerReply(option: number, name: string, description: string): Uint8Array {
  const nameBytes = encodeText(name);
  const descriptionBytes = encodeText(description);
  const data = new Uint8Array(4 + nameBytes.length + descriptionBytes.length);
  new DataView(data.buffer).setUint32(0, nameBytes.length);
  data.set(nameBytes, 4);
  data.set(descriptionBytes, 4 + nameBytes.length);
  return encodeOptionReply(option, OPTION_REPLY.SERVER, data);
}

export function encodeContextReply(option: number, id: number, name: string): Uint8Array {
  const nameBytes = encodeText(name);
  const data = new Uint8Array(4 + nameBytes.length);
  new DataView(data.buffer).setUint32(0, id);
  data.set(nameBytes, 4);
  return encodeOptionReply(option, OPTION_REPLY.META_CONTEXT, data);
}

/** The INFO replies to INFO and GO: the export's always, the others as asked. */
export function encodeInfoReplies(
  option: number,
  request: InfoRequest,
  facts: { description: ExportDescription; flags: number },
): Uint8Array[] {
  const { description, flags } = facts;
  const replies: Uint8Array[] = [infoReply(option, INFO.EXPORT, exportFacts(description, flags))];
  if (request.isNameWanted) {
    replies.push(infoReply(option, INFO.NAME, encodeText(description.canonicalName)));
  }
  if (request.isDescriptionWanted) {
    replies.push(infoReply(option, INFO.DESCRIPTION, encodeText(description.description)));
  }
  if (request.isBlockSizeWanted) {
    const sizes = new Uint8Array(12);
    const view = new DataView(sizes.buffer);
    view.setUint32(0, BLOCK_SIZE.MINIMUM);
    view.setUint32(4, BLOCK_SIZE.PREFERRED);
    view.setUint32(8, BLOCK_SIZE.MAXIMUM);
    replies.push(infoReply(option, INFO.BLOCK_SIZE, sizes));
  }
  return replies;
}

/** What EXPORT_NAME is answered with. */
export function encodeExportReply(
  description: ExportDescription,
  flags: number,
  hasZeroes: boolean,
): Uint8Array {
  const bytes = new Uint8Array(WIRE.EXPORT_REPLY + (hasZeroes ? WIRE.EXPORT_ZEROES : 0));
  bytes.set(exportFacts(description, flags));
  return bytes;
}

function exportFacts(description: ExportDescription, flags: number): Uint8Array {
  const bytes = new Uint8Array(WIRE.EXPORT_REPLY);
  const view = new DataView(bytes.buffer);
  writeU64(view, 0, description.sizeBytes);
  view.setUint16(8, flags);
  return bytes;
}

function infoReply(option: number, type: number, payload: Uint8Array): Uint8Array {
  const data = new Uint8Array(2 + payload.length);
  new DataView(data.buffer).setUint16(0, type);
  data.set(payload, 2);
  return encodeOptionReply(option, OPTION_REPLY.INFO, data);
}

/** UTF-8, cut at the protocol's bound on strings (between characters). */
export function encodeText(text: string): Uint8Array {
  const bytes = encoder.encode(text);
  if (bytes.length <= STRING_BYTES_MAX) return bytes;
  let end = STRING_BYTES_MAX;
  while (end > 0 && ((bytes[end] as number) & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}
