// SPDX-License-Identifier: Apache-2.0
//
// Logs of other systems, record by record, and a disk in memory that they are replayed onto. Written from
// the formats' own sources, without our code: reader and test can't be wrong together.

import type { ReplayTarget } from "../../src/image/log-replay.ts";
import type { SeedLog } from "../../src/image/seed-log.ts";

export const COMMANDS = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  zero: 6,
} as const;

export interface HandmadeRequest {
  readonly command: number;
  readonly cookie: number;
  readonly flags?: number;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly payload?: Uint8Array;
}

export function request({
  command,
  cookie,
  flags,
  offset,
  length,
  payload,
}: HandmadeRequest): Buffer {
  const head = Buffer.alloc(28);
  head.writeUInt32BE(0x25609513, 0);
  head.writeUInt16BE(flags ?? 0, 4);
  head.writeUInt16BE(command, 6);
  head.writeBigUInt64BE(BigInt(cookie), 8);
  head.writeBigUInt64BE(BigInt(offset ?? 0), 16);
  head.writeUInt32BE(length ?? payload?.length ?? 0, 24);
  return Buffer.concat([head, payload ?? Buffer.alloc(0)]);
}

export function reply(cookie: number, error = 0): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32BE(0x67446698, 0);
  bytes.writeUInt32BE(error, 4);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  return bytes;
}

export function chunk(cookie: number, { isLast, type }: { isLast: boolean; type: number }): Buffer {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt32BE(0x668e33ef, 0);
  bytes.writeUInt16BE(isLast ? 1 : 0, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  return bytes;
}

/** "Data is logged from here on." */
export function dataLogged(value = 1): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609514, 0);
  bytes.writeUInt32BE(1, 4);
  bytes.writeBigUInt64BE(0x4a93ba39a54f31b6n, 16);
  bytes.writeUInt32BE(value, 24);
  return bytes;
}

/** A write of `bytes` with its reply. */
export function written(cookie: number, offset: number, payload: Uint8Array): Buffer {
  return Buffer.concat([
    request({ command: COMMANDS.write, cookie, offset, payload }),
    reply(cookie),
  ]);
}

export function filled(byte: number, length: number): Buffer {
  return Buffer.alloc(length, byte);
}

/** A disk in memory; each call is a record of its log, the next of which is `nextLsn`. */
export class MemoryDisk implements ReplayTarget {
  readonly bytes: Buffer;
  readonly calls: string[] = [];
  nextLsn = 100;
  /** Records that somebody else adds behind each call. */
  strangers = 0;
  failAfter: number = Number.POSITIVE_INFINITY;
  openBytes = 0;
  openBytesMax = 0;

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  async write(
    offset: number,
    bytes: Uint8Array,
    options: { isForceUnitAccess: boolean },
  ): Promise<void> {
    this.bytes.set(bytes, offset);
    this.openBytes += bytes.length;
    this.openBytesMax = Math.max(this.openBytesMax, this.openBytes);
    await this.#done(`write ${offset}+${bytes.length}${options.isForceUnitAccess ? " fua" : ""}`);
    this.openBytes -= bytes.length;
  }

  async writeZeroes(
    offset: number,
    length: number,
    options: { isHoleForbidden: boolean },
  ): Promise<void> {
    this.bytes.fill(0, offset, offset + length);
    await this.#done(`zero ${offset}+${length}${options.isHoleForbidden ? " kept" : ""}`);
  }

  async trim(offset: number, length: number): Promise<void> {
    this.bytes.fill(0, offset, offset + length);
    await this.#done(`trim ${offset}+${length}`);
  }

  async flush(): Promise<void> {
    await this.#done("flush");
  }

  async #done(call: string): Promise<void> {
    this.calls.push(call);
    this.nextLsn += 1 + this.strangers;
    const isFailing = this.calls.length > this.failAfter;
    // As over a socket: the answer comes later.
    await new Promise((resolve) => setImmediate(resolve));
    if (isFailing) throw new Error(`the disk fails at ${call}`);
  }
}

/** All changes of a log, as text. */
export async function changesOf(log: SeedLog): Promise<string[]> {
  const changes: string[] = [];
  for await (const { kind, offsetBytes, lengthBytes } of log.changes())
    changes.push(`${kind} ${offsetBytes}+${lengthBytes}`);
  return changes;
}
