// SPDX-License-Identifier: Apache-2.0
//
// Requests and replies of the transmission phase as numbers in a slab: nothing is allocated, every field
// is read and written in place through one DataView over the whole slab. All integers are big-endian.
//
//   request    magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32   (28 bytes)
//   extended   magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u64   (32 bytes)
//   simple     magic u32 | error u32 | cookie u64                                        (16 bytes)
//   structured magic u32 | flags u16 | type u16 | cookie u64 | length u32                (20 bytes)
//   extended   magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u64   (32 bytes)
//
// A u64 becomes a number. Up to 2^53 it is exact; above, it is rounded but still above 2^53, which no
// export reaches, so that one comparison with the size rejects it. A cookie is opaque and is kept as two
// 32-bit halves; so is the offset that an extended reply must repeat exactly.

import {
  EXTENDED_REPLY_MAGIC,
  REPLY_FLAG,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  WIRE,
} from "./constants.ts";

/** Which headers a connection has agreed on. */
export const HEADERS = { SIMPLE: 0, STRUCTURED: 1, EXTENDED: 2 } as const;
export type Headers = (typeof HEADERS)[keyof typeof HEADERS];

const TWO_TO_32 = 0x1_0000_0000;

/** An unsigned 64-bit integer: exact below 2^53, at least 2^53 above. */
export function readU64(view: DataView, address: number): number {
  return view.getUint32(address) * TWO_TO_32 + view.getUint32(address + 4);
}

export function writeU64(view: DataView, address: number, value: number): void {
  view.setUint32(address, Math.floor(value / TWO_TO_32));
  view.setUint32(address + 4, value >>> 0);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** What a reply repeats of its request. */
export interface ReplySubject {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
}

export function writeSimpleReply(
  view: DataView,
  address: number,
  subject: ReplySubject,
  errno: number,
): number {
  view.setUint32(address, SIMPLE_REPLY_MAGIC);
  view.setUint32(address + 4, errno);
  view.setUint32(address + 8, subject.cookieHigh);
  view.setUint32(address + 12, subject.cookieLow);
  return WIRE.SIMPLE_REPLY;
}

export interface Chunk {
  readonly isExtended: boolean;
  readonly isLast: boolean;
  readonly type: number;
  readonly payloadBytes: number;
}

/** The head of a chunk, structured or extended; returns its length. */
export function writeChunkHeader(
  view: DataView,
  address: number,
  subject: ReplySubject,
  chunk: Chunk,
): number {
  view.setUint32(address, chunk.isExtended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
  view.setUint16(address + 4, chunk.isLast ? REPLY_FLAG.DONE : 0);
  view.setUint16(address + 6, chunk.type);
  view.setUint32(address + 8, subject.cookieHigh);
  view.setUint32(address + 12, subject.cookieLow);
  if (!chunk.isExtended) {
    view.setUint32(address + 16, chunk.payloadBytes);
    return WIRE.STRUCTURED_REPLY;
  }
  view.setUint32(address + 16, subject.offsetHigh);
  view.setUint32(address + 20, subject.offsetLow);
  view.setUint32(address + 24, 0);
  view.setUint32(address + 28, chunk.payloadBytes);
  return WIRE.EXTENDED_REPLY;
}
