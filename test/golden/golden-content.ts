// SPDX-License-Identifier: Apache-2.0
//
// What the kept pool holds, said once: for the script that made it and for the tests that open it.

export const GOLDEN_FOLDER: string = new URL("pool-v1/", import.meta.url).pathname;
export const BLOCK = 4096;
export const MIB: number = 1 << 20;

/** The text that fills a block. */
export function blockText(label: string): Uint8Array {
  return new Uint8Array(Buffer.from(`${label}. `.repeat(BLOCK).slice(0, BLOCK)));
}

export interface GoldenVolume {
  readonly name: string;
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  /** Block → label; all others read as zeros. */
  readonly blocks: ReadonlyMap<number, string>;
  /** Blocks that were zeroed and stay allocated. */
  readonly zeroed: readonly (readonly [first: number, count: number])[];
}

function labels(first: number, count: number, prefix: string): [number, string][] {
  return Array.from({ length: count }, (_, at) => [first + at, `${prefix} ${first + at}`]);
}

/** At the last flush; what was written behind it was torn. */
export const GOLDEN_VOLUMES: readonly GoldenVolume[] = [
  {
    name: "database",
    sizeBytes: 5 * MIB,
    isReadOnly: false,
    blocks: new Map([
      ...labels(0, 12, "first life"),
      ...labels(600, 3, "second page"),
      ...labels(20, 6, "second life"),
      ...labels(40, 2, "third life"),
    ]),
    zeroed: [[64, 256]],
  },
  {
    name: "renamed",
    sizeBytes: 2 * MIB + 512,
    isReadOnly: true,
    blocks: new Map([...labels(3, 1, "kept"), [512, "edge"]]),
    zeroed: [],
  },
];
