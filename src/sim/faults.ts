// SPDX-License-Identifier: Apache-2.0
//
// When and how a simulated disk fails. A plan looks at each operation as it begins and may name a fault;
// plans are functions, so a test can count ("the third datasync", "every write from the fifth on"), and a
// long run can draw from its seed. What a fault leaves behind is the disk's business: a failed write has
// written a part, a failed datasync has forgotten what it should have made durable.

import type { Prng } from "./prng.ts";

const DISK_OPERATION_KINDS = [
  "list",
  "open",
  "create",
  "remove",
  "rename",
  "sync",
  "size",
  "read",
  "write",
  "datasync",
  "truncate",
  "close",
  "free",
] as const;
export type DiskOperationKind = (typeof DISK_OPERATION_KINDS)[number];

export interface SimOperation {
  readonly kind: DiskOperationKind;
  /** Directory and file: "log/0000000000000001.seg". */
  readonly path: string;
  /** Counts all operations of this disk's life, from 1. */
  readonly number: number;
}

/**
 * io: EIO. full: ENOSPC. lie: a read that returns a wrong bit and says nothing. applied: EIO, but the
 * change was made (only names: create, remove, rename).
 */
export type Fault = "io" | "full" | "lie" | "applied";

export type FaultPlan = (operation: SimOperation) => Fault | undefined;

/** The `count` operations of these kinds from the `first` on (from 1) fail. */
export function failOperations(options: {
  readonly fault: Fault;
  readonly kinds?: readonly DiskOperationKind[];
  readonly first: number;
  readonly count?: number;
}): FaultPlan & { readonly hasFired: () => boolean } {
  const { fault, kinds = DISK_OPERATION_KINDS, first, count = 1 } = options;
  let seen = 0;
  let isFired = false;
  const plan = ({ kind }: SimOperation): Fault | undefined => {
    if (!kinds.includes(kind)) return undefined;
    seen += 1;
    if (seen < first || seen >= first + count) return undefined;
    isFired = true;
    return fault;
  };
  return Object.assign(plan, { hasFired: () => isFired });
}

export type FaultRatios = { readonly [kind in DiskOperationKind]?: number };

/** Each operation fails with its kind's ratio. */
export function failAtRandom(prng: Prng, ratios: FaultRatios): FaultPlan {
  return ({ kind }) => {
    const ratio = ratios[kind];
    if (ratio === undefined || !prng.chance(ratio)) return undefined;
    switch (kind) {
      case "write":
      case "create":
        return prng.chance(0.5) ? "full" : "io";
      case "read":
        return prng.chance(0.7) ? "io" : "lie";
      case "remove":
      case "rename":
        return prng.chance(0.7) ? "io" : "applied";
      default:
        return "io";
    }
  };
}
