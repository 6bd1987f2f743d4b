// SPDX-License-Identifier: Apache-2.0
//
// Names that a moment of a volume is known by, for access lists: renaming a volume must never open its past to somebody whom
// one of its lists keeps out.

import type { ResolvedMoment } from "../pool/types.ts";
import type { ServedPool } from "./served-pool.ts";

/** What the volume was called then, and what it is called now, or was when it was removed. */
export function namesOf(
  pool: Pick<ServedPool, "volumes">,
  { volumeId, volume: nameThen }: ResolvedMoment,
): string[] {
  const nameNow = pool.volumes({ includesRemoved: true }).find(({ id }) => id === volumeId)?.name;
  return nameNow === undefined || nameNow === nameThen ? [nameThen] : [nameThen, nameNow];
}
