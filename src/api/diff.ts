// SPDX-License-Identifier: Apache-2.0
//
// The difference of two moments as the control door tells it: a line of JSON first that says which moments were compared,
// then lines with what differs, in order, then one that adds it up. There may be millions of extents, so a line has many, of
// one kind, as plain numbers. An answer that ends without the last line was cut short.

export const DIFF_KINDS = ["data", "zero", "hole"] as const;
/** What the later moment has there: stored data, zeros that were written, nothing. */
export type DiffKindJson = (typeof DIFF_KINDS)[number];

export interface DiffMomentJson {
  readonly volume: string;
  /** What always means it: "db@#123". */
  readonly stableName: string;
  readonly lsn: number;
  readonly at: string;
  readonly sizeBytes: number;
}

export interface DiffHeadJson {
  readonly from: DiffMomentJson;
  readonly to: DiffMomentJson;
  /** What was compared: as much of what was asked for as the later disk has. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface DiffExtentsJson {
  readonly kind: DiffKindJson;
  /** Offset and length of each, in bytes, one behind the other. */
  readonly extents: readonly number[];
}

export interface DiffEndJson {
  readonly extentCount: number;
  /** By kind, in bytes. */
  readonly dataBytes: number;
  readonly zeroBytes: number;
  readonly holeBytes: number;
  /** Of them, what counts as changed because damage keeps from telling whether it is. */
  readonly untoldBytes: number;
}

/** What is asked for: VOLUME@MOMENT or VOLUME, which means now; without offset and length all of it. */
export interface DiffAsked {
  readonly from: string;
  readonly to: string;
  readonly offset?: string;
  readonly length?: string;
}

/** Takes a difference as it is found. */
export interface DiffTaker {
  /** False: nobody wants more. */
  extent(offsetBytes: number, lengthBytes: number, kind: DiffKindJson): boolean;
  /** Called again and again; ends when more can be taken. */
  room(): Promise<void> | undefined;
}

export interface DiffSource {
  /** Calls `begin` once, before anything is told; undefined: nobody waited for the end. Failures are StorageErrors. */
  diff(
    asked: DiffAsked,
    begin: (head: DiffHeadJson) => DiffTaker,
  ): Promise<DiffEndJson | undefined>;
}
