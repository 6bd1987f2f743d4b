// SPDX-License-Identifier: Apache-2.0
//
// What a log of another system is to the rest of Varve: changes of a disk, in an order. It is read twice.
// The survey goes through all of it and finds out which of its records took effect, how large the disk
// must be, and how far the log is whole; nothing is made before that is known. Then the changes come, one
// after the other, with the place where each write's bytes are, so that no payload is read in vain and
// memory doesn't depend on the log.
//
// Damage ends a log, it is never skipped: what was taken until there is a state that the disk once had,
// and what would come behind a hole isn't.

import { StorageError } from "../base/errors.ts";
import type { DiskFile } from "../host/ports.ts";

export const SEED_LOG_FORMATS = ["nbd-transactionlog", "blockcdp"] as const;
export type SeedLogFormat = (typeof SEED_LOG_FORMATS)[number];

export type ChangeKind = "write" | "zero" | "trim" | "flush";

export interface LoggedChange {
  readonly kind: ChangeKind;
  /** 0 for a flush, as is the length. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** zero: the space stays allocated. */
  readonly isHoleForbidden: boolean;
  readonly isForceUnitAccess: boolean;
  /** write: where its bytes are. */
  readonly file: DiskFile;
  readonly dataPosition: number;
  /** What the log says of the time, µs since 1970. */
  readonly timeMicros: number | undefined;
  /** Where in the log it stands, as messages and tables say it. */
  readonly place: string;
  /** How much of the log is read when it is done, of the survey's `logBytes`. */
  readonly doneBytes: number;
}

/** A change that didn't take effect, by what the log says. */
export interface LeftOutChange {
  readonly place: string;
  readonly kind: ChangeKind;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly why: string;
}

export interface LogSurvey {
  readonly logBytes: number;
  readonly changeCount: number;
  /** Behind the last byte that any change touches: no smaller disk takes them. */
  readonly endBytes: number;
  readonly leftOutCount: number;
  /** The first of them. */
  readonly leftOut: readonly LeftOutChange[];
  /** What the user should know although the log is read to its end. */
  readonly warnings: readonly string[];
  /** Why the log is read no further, and where. */
  readonly damage: LogDamage | undefined;
}

export interface LogDamage {
  readonly place: string;
  readonly reason: string;
}

export interface SeedLog {
  readonly format: SeedLogFormat;
  /** Throws what makes the log as a whole useless. */
  survey(): Promise<LogSurvey>;
  /** What the survey accepted, in order. */
  changes(): AsyncIterable<LoggedChange>;
  close(): Promise<void>;
}

/** How many changes that didn't take effect are told one by one. */
export const LEFT_OUT_SHOWN_MAX = 10;

export function logCorrupt(name: string, why: string, hint: string): StorageError {
  return new StorageError("IMAGE_CORRUPT", `log "${name}": damaged: ${why}`, { hint });
}

/** Between the two readings the file must stay as it is. */
export function logChanged(name: string): StorageError {
  return logCorrupt(
    name,
    "it changed while it was read",
    "stop the program that writes it, or import a copy",
  );
}
