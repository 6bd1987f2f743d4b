// SPDX-License-Identifier: Apache-2.0
//
// What the kept backup targets hold, said once: for the script that made them and for the tests that open them. Each has
// two points of one volume, the second one made of what changed, with the moments between them as history.

import type { TargetKey } from "../../src/backup/target-key.ts";
import type { SmallChange } from "../../src/sim/small-target.ts";
import { blockText } from "./golden-content.ts";

export const GOLDEN_TARGETS: readonly {
  readonly folder: string;
  readonly key: TargetKey | undefined;
}[] = [
  { folder: golden("backup-v1"), key: undefined },
  {
    folder: golden("backup-v1-encrypted"),
    key: { from: "key-file", bytes: Uint8Array.from({ length: 32 }, (_, index) => index * 7) },
  },
];

export const GOLDEN_BLOCKS = 500;
/** A second after the other. */
export const GOLDEN_MICROS = 1_700_000_000_000_000;

/** What the volume was given before each point. */
export const GOLDEN_CHANGES: readonly ReadonlyMap<number, SmallChange>[] = [
  new Map<number, SmallChange>([
    ...Array.from({ length: 90 }, (_, index) => block(index * 3, "first")),
    [400, "zero"],
    [401, "hole"],
  ]),
  new Map<number, SmallChange>([
    block(0, "second"),
    block(7, "second"),
    [3, "hole"],
    [6, "zero"],
    block(499, "second"),
  ]),
];

/** The disk at a point. */
export function goldenDisk(point: number): Uint8Array {
  const disk = new Uint8Array(GOLDEN_BLOCKS * 4096);
  for (const changes of GOLDEN_CHANGES.slice(0, point + 1))
    for (const [lba, what] of changes)
      disk.set(typeof what === "string" ? new Uint8Array(4096) : what, lba * 4096);
  return disk;
}

function block(lba: number, when: string): [number, SmallChange] {
  return [lba, blockText(`${when} ${lba}`)];
}

function golden(name: string): string {
  return new URL(`${name}/`, import.meta.url).pathname;
}
