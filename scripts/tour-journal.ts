// SPDX-License-Identifier: Apache-2.0
//
// The tour's program that is hit by the plug being pulled: it writes numbered lines, one after the other,
// as a database would, and asks for a flush after every hundred of them.

import { ConnectionLost, NbdConnection } from "../test/interop/nbd-connection.ts";
import type { Server } from "../test/interop/server.ts";

const MIB = 1024 * 1024;
const SECTOR_BYTES = 512;
export const JOURNAL_MIB = 64;
export const LINES_PER_FLUSH = 100;

/** Line `number` as it lies on the disk: one sector of text. */
function lineOf(number: number): Buffer {
  return Buffer.from(`line ${number}\n`.padEnd(SECTOR_BYTES, "."), "latin1");
}

/** Writes until the daemon is gone. */
export async function writeLines(
  target: Server,
  done: { acknowledged: number; flushed: number },
): Promise<void> {
  const connection = await NbdConnection.open(target.socket, "journal");
  const lineCountMax = (JOURNAL_MIB * MIB) / SECTOR_BYTES;
  try {
    for (let number = 1; number <= lineCountMax; number++) {
      await connection.write((number - 1) * SECTOR_BYTES, lineOf(number));
      done.acknowledged = number;
      if (number % LINES_PER_FLUSH > 0) continue;
      await connection.flush();
      done.flushed = number;
    }
  } catch (error) {
    if (!(error instanceof ConnectionLost)) throw error;
  }
}

/** How many lines are there in order; 0 if anything but emptiness follows the last of them. */
export async function readLines(target: Server, lineCount: number): Promise<number> {
  const connection = await NbdConnection.open(target.socket, "journal");
  const bytes = await connection.read(0, lineCount * SECTOR_BYTES);
  await connection.close();
  let number = 0;
  const sector = (index: number): Buffer =>
    bytes.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
  while (number < lineCount && sector(number).equals(lineOf(number + 1))) number++;
  const isRestEmpty = bytes.subarray(number * SECTOR_BYTES).every((byte) => byte === 0);
  return isRestEmpty ? number : 0;
}
