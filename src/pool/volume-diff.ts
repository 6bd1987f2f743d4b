// SPDX-License-Identifier: Apache-2.0
//
// The difference of two moments, block by block: what content one has that the other hasn't, however it came about.
//
//   pages that may differ     by what happened since the common past, else by the directories (index/differing-pages.ts)
//   references of a block     equal: the same content; zeros on both sides, written or not: likewise
//   two different frames      compared by hash, and by bytes where that doesn't tell (volume/frame-comparison.ts)
//
// So a block that was written and written back is no change, and no change is missed: what damage keeps from being told
// counts as one, and is counted. docs/decisions/0011-diff.md says why it is so.

import { type BranchLine, type WayPart, waysBetween } from "../index/branch-ways.ts";
import type { ChangedPages } from "../index/changed-pages.ts";
import { DifferingPages, type References } from "../index/differing-pages.ts";
import { MarkedBlocks } from "../index/marked-blocks.ts";
import { PAGE_BLOCKS } from "../index/page-directory.ts";
import type { Past } from "../index/past.ts";
import { LOW_HOLE, LOW_ZERO, REFERENCE_STATE, stateOf } from "../log/reference.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { FrameComparison } from "../volume/frame-comparison.ts";
import type { MarkedExtent } from "./catalog-marks.ts";
import { DiffExtents, KIND } from "./diff-extents.ts";
import type { DiffMoment, DiffRange, DiffSummary, DiffVisitor } from "./types.ts";

export interface VolumeDiffOptions {
  readonly branches: ReadonlyMap<number, BranchLine>;
  readonly past: Past;
  readonly changed: ChangedPages;
  readonly comparison: FrameComparison;
  readonly pause: () => Promise<void>;
}

export interface DiffAsked extends DiffRange {
  readonly from: DiffMoment;
  readonly to: DiffMoment;
  /** What was marked on a branch. */
  readonly marksOf: (branch: number) => readonly MarkedExtent[];
}

/** Blocks whose content is compared at once, at most: they take 45 bytes each. */
const ENTRIES_MAX: number = 1 << 19;

/** Everything that is read is pinned by the caller. */
export async function diffMoments(
  options: VolumeDiffOptions,
  { from, to, offsetBytes, lengthBytes, marksOf }: DiffAsked,
  visitor: DiffVisitor,
): Promise<DiffSummary> {
  const { branches, past, changed, comparison, pause } = options;
  const endBytes = Math.max(offsetBytes, Math.min(to.sizeBytes, offsetBytes + lengthBytes));
  const first = Math.floor(offsetBytes / BLOCK_BYTES);
  const end = Math.ceil(endBytes / BLOCK_BYTES);
  const ways = waysBetween(branches, from, to);
  const marks = (ways ?? []).flatMap((part) =>
    marksOf(part.branch).filter((one) => isOn(part, one)),
  );
  const marked = new MarkedBlocks(marks, { lba: first, end });
  const pages = new DifferingPages({
    ...{ past, changed, ways, from, to, marked, pause },
    firstPage: Math.floor(first / PAGE_BLOCKS),
    endPage: Math.ceil(end / PAGE_BLOCKS),
  });
  const entriesMax = Math.min(ENTRIES_MAX, visitor.extentsMax ?? ENTRIES_MAX);
  const extents = new DiffExtents({
    comparison,
    pause,
    visitor,
    offsetBytes,
    endBytes,
    entriesMax,
  });
  while (!extents.isEnough && (await pages.next())) {
    const block = pages.page * PAGE_BLOCKS;
    const inPage = {
      block,
      first: Math.max(0, first - block),
      end: Math.min(PAGE_BLOCKS, end - block),
    };
    if (marked.isNone) comparePage(extents, inPage, pages);
    else compareMarked(extents, inPage, pages, marked);
    if (extents.isFull) await extents.flush();
  }
  await extents.finish();
  const [dataBytes, zeroBytes, holeBytes] = extents.changedBytes;
  return {
    fromSizeBytes: from.sizeBytes,
    toSizeBytes: to.sizeBytes,
    extentCount: extents.extentCount,
    dataBytes,
    zeroBytes,
    holeBytes,
    untoldBytes: extents.untoldBytes,
    nextOffsetBytes: extents.isEnough ? extents.toldBytes : undefined,
  };
}

/** Whether a way leads over a record that made the mark. */
function isOn({ afterLsn, lsn }: WayPart, mark: MarkedExtent): boolean {
  return mark.lsn > afterLsn && mark.fromLsn <= lsn;
}

/** Blocks of a page some of which count as changed whatever they hold. */
function compareMarked(
  extents: DiffExtents,
  { block, first, end }: InPage,
  pages: Pages,
  marked: MarkedBlocks,
): void {
  for (let at = first; at < end; at++) {
    const { to } = pages;
    if (to !== undefined && marked.has(block + at))
      extents.add(block + at, 1, kindOf(to[at * 2 + 1] as number));
    else comparePage(extents, { block, first: at, end: at + 1 }, pages);
  }
}

/** Blocks [first, end) of a page that begins at `block`. */
interface InPage {
  readonly block: number;
  readonly first: number;
  readonly end: number;
}

interface Pages {
  readonly from: References;
  readonly to: References;
}

function comparePage(
  extents: DiffExtents,
  { block, first, end }: InPage,
  { from, to }: Pages,
): void {
  if (to === undefined) {
    extents.add(block + first, end - first, KIND.DATA, true);
    return;
  }
  for (let at = first; at < end; at++) {
    const low = to[at * 2 + 1] as number;
    if (from === undefined) {
      extents.add(block + at, 1, kindOf(low), true);
      continue;
    }
    const fromLow = from[at * 2 + 1] as number;
    if (from[at * 2] === to[at * 2] && fromLow === low) continue;
    const wasFrame = stateOf(fromLow) === REFERENCE_STATE.FRAME;
    const isFrame = stateOf(low) === REFERENCE_STATE.FRAME;
    if (wasFrame && isFrame) extents.addPair(block + at, from, to);
    else if (wasFrame || isFrame) extents.add(block + at, 1, kindOf(low));
  }
}

function kindOf(low: number): number {
  if (low === LOW_HOLE) return KIND.HOLE;
  return low === LOW_ZERO ? KIND.ZERO : KIND.DATA;
}
