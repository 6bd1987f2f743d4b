// SPDX-License-Identifier: Apache-2.0
//
// Who needs frames, one after the other: what volumes hold, then what a history shows besides, then another history that
// reaches further back. A frame belongs to the first of them that refers to it, so what a later one adds is what would
// be garbage without it: the volumes' own data counts for no history, however many moments show it too.

import type { LogWriter } from "../log/log-writer.ts";
import {
  type History,
  type HistoryScanOptions,
  type ReferenceTaker,
  scanHistory,
} from "./history.ts";
import { type ScanOptions, scanReferences } from "./reference-scan.ts";
import { SeenLeaves } from "./seen-leaves.ts";

export interface Need {
  /** Branches whose newest content counts. */
  readonly isLive: (branch: number) => boolean;
  readonly history: History;
}

export const NO_HISTORY: History = {
  kind: "some",
  start: undefined,
  fromLsnOf: () => undefined,
  moments: [],
};

export interface VisitOptions extends Omit<ScanOptions, "isLive">, HistoryScanOptions {
  readonly log: LogWriter;
}

/**
 * Visits what the needs refer to, in their order; what was visited for one may be left out for the next. Of a history that
 * is all there is nothing is visited. `onNeed` is told whose turn it is, by its place. Throws POOL_CORRUPT, LOG_CORRUPT,
 * DISK_IO, and what `checkStopped` throws.
 */
export async function visitNeeds(
  options: VisitOptions,
  needs: readonly Need[],
  taker: ReferenceTaker,
  onNeed: (place: number) => void = () => undefined,
): Promise<void> {
  const { log } = options;
  const endLsn = log.nextLsn;
  const pasts = needs.map(({ history }) => pastOf(history));
  if (pasts.some((past) => past?.start !== undefined)) await log.durable();
  const seen = new SeenLeaves();
  // Without a past each page is visited once anyway.
  const seenThere = needs.length === 1 && pasts[0] === undefined ? undefined : seen;
  for (const [place, { isLive }] of needs.entries()) {
    onNeed(place);
    const before = needs.slice(0, place);
    const isOwn = (branch: number): boolean =>
      isLive(branch) && !before.some((need) => need.isLive(branch));
    await scanReferences({ ...options, isLive: isOwn }, taker, seenThere);
    const past = pasts[place];
    if (past !== undefined) await scanHistory(options, past, { endLsn, taker, seen });
  }
}

/** The part of a history that must be looked for. */
function pastOf(history: History): Extract<History, { readonly kind: "some" }> | undefined {
  if (history.kind === "all") return undefined;
  return history.start === undefined && history.moments.length === 0 ? undefined : history;
}
