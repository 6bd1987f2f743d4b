// SPDX-License-Identifier: Apache-2.0
//
// When a range of a volume changed: the records on the branches that it was in their turn, and those that made it another
// branch, for a rewind may change anything. Newest first, as many as are asked for.

import type { ChangeSearch, FoundChange } from "../index/change-search.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { Volume, VolumeState } from "./catalog-volume.ts";
import type { ChangesAsked, VolumeChange, VolumeChanges } from "./types.ts";

/** Changes by records with LSNs from `fromLsn` to before `endLsn`. Throws POOL_CORRUPT, DISK_IO. */
export async function changesOfVolume(
  search: ChangeSearch,
  volume: Volume,
  asked: Pick<ChangesAsked, "offsetBytes" | "lengthBytes" | "limit"> & {
    readonly fromLsn: number;
    readonly endLsn: number;
    readonly timeOf: (lsn: number) => Promise<number | undefined>;
  },
): Promise<VolumeChanges> {
  const { offsetBytes, lengthBytes, limit, timeOf } = asked;
  const lba = Math.floor(offsetBytes / BLOCK_BYTES);
  const end = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
  const { states } = volume;
  const found: (FoundChange & { readonly isBranch: boolean })[] = [];
  // One more than is asked for says whether there are more.
  for (let at = states.length - 1; at >= 0 && found.length <= limit; at--) {
    const { branch, fromLsn: begin, isRemoved } = states[at] as VolumeState;
    const next = states[at + 1]?.fromLsn ?? Number.POSITIVE_INFINITY;
    const before = states[at - 1];
    const fromLsn = Math.max(asked.fromLsn, begin);
    const endLsn = Math.min(asked.endLsn, next);
    if (fromLsn >= endLsn) continue;
    if (!isRemoved) {
      const part = { branch, lba, end, fromLsn, endLsn };
      for (const change of await search.newest(part, limit + 1 - found.length))
        found.push({ ...change, isBranch: false });
    }
    const isBranch = before !== undefined && before.branch !== branch && begin >= asked.fromLsn;
    if (isBranch) found.push({ lsn: begin, lba, end, isBranch });
  }
  const changes: VolumeChange[] = [];
  for (const change of found.slice(0, limit)) {
    const from = Math.max(offsetBytes, change.lba * BLOCK_BYTES);
    const to = Math.min(offsetBytes + lengthBytes, change.end * BLOCK_BYTES);
    changes.push({
      lsn: change.lsn,
      timeMicros: (await timeOf(change.lsn)) ?? 0,
      offsetBytes: from,
      lengthBytes: to - from,
      isBranch: change.isBranch,
    });
  }
  const [first] = states as [VolumeState];
  const knownFromLsn = Math.max(first.fromLsn, search.knownFromLsn);
  return { volume: volume.name, changes, isMore: found.length > limit, knownFromLsn };
}
