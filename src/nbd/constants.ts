// SPDX-License-Identifier: Apache-2.0
//
// The numbers of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md, with the
// EXTENDED_HEADERS extension), under the names that the specification gives them, and the limits that
// this implementation sets on what a peer can send. Server and client share them. 64-bit magics are kept
// as two halves, because nothing here computes with BigInt.

/** "NBDMAGIC" */
export const INIT_MAGIC = { high: 0x4e42444d, low: 0x41474943 } as const;
/** "IHAVEOPT": the second half of the greeting, and the head of every option. */
export const OPTION_MAGIC = { high: 0x49484156, low: 0x454f5054 } as const;
export const OPTION_REPLY_MAGIC = { high: 0x0003e889, low: 0x045565a9 } as const;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Lengths of what is fixed on the wire, in bytes. */
export const WIRE = {
  GREETING: 18,
  CLIENT_FLAGS: 4,
  OPTION_HEADER: 16,
  OPTION_REPLY_HEADER: 20,
  /** What EXPORT_NAME is answered with, without and with the historic zeroes. */
  EXPORT_REPLY: 10,
  EXPORT_ZEROES: 124,
  REQUEST: 28,
  EXTENDED_REQUEST: 32,
  SIMPLE_REPLY: 16,
  STRUCTURED_REPLY: 20,
  EXTENDED_REPLY: 32,
} as const;

export const HANDSHAKE_FLAG = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

export const OPTION_REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const TRANSMISSION_FLAG = {
  HAS_FLAGS: 0x1,
  READ_ONLY: 0x2,
  SEND_FLUSH: 0x4,
  SEND_FUA: 0x8,
  ROTATIONAL: 0x10,
  SEND_TRIM: 0x20,
  SEND_WRITE_ZEROES: 0x40,
  SEND_DF: 0x80,
  CAN_MULTI_CONN: 0x100,
  SEND_CACHE: 0x400,
  SEND_FAST_ZERO: 0x800,
  BLOCK_STATUS_PAYLOAD: 0x1000,
} as const;

export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

export const COMMAND_FLAG = {
  FUA: 0x1,
  NO_HOLE: 0x2,
  DF: 0x4,
  REQ_ONE: 0x8,
  FAST_ZERO: 0x10,
  PAYLOAD_LEN: 0x20,
} as const;

export const REPLY_FLAG = { DONE: 1 } as const;

export const REPLY_TYPE = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** Any reply type with this bit is an error chunk. */
export const REPLY_TYPE_ERROR_BIT = 0x8000;

/** The metadata context that every export has. */
export const BASE_ALLOCATION = "base:allocation";

/** Names, queries and messages (proto.md, "Transmission of strings"). */
export const STRING_BYTES_MAX = 4096;

/** What NBD_INFO_BLOCK_SIZE answers. */
export const BLOCK_SIZE = {
  MINIMUM: 1,
  PREFERRED: 4096,
  /** Largest payload; clients may always send this much, so it can't be smaller. */
  MAXIMUM: 0x2000000,
} as const;

/** The specification's bound on descriptors in one block-status chunk. */
export const EXTENTS_MAX: number = 1 << 20;
