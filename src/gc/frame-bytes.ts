// SPDX-License-Identifier: Apache-2.0
//
// What the frames that a survey counted take on the disk: by branch, for statistics, or by need (needs.ts), for what a
// history holds. Of few segments it is read what each frame takes; of more the average of each segment is good enough, as
// the survey itself is a sample then.
//
// For needs a segment's size is shared out among its frames, so that padding, headers and records go with them: that is
// what comes back when the frames aren't needed any more.

import { RELOCATION, type RelocationIndex } from "../index/relocation-index.ts";
import { offset8Of } from "../log/reference.ts";
import { BLOCK_BYTES } from "../reduce/block-memory.ts";
import type { FrameSizes } from "./segment-frames.ts";
import type { Survey } from "./survey.ts";

export interface FrameBytesOptions {
  readonly relocations: RelocationIndex;
  /** What the frames of a segment take; undefined where that can't be read. */
  readonly frameSizes: (segment: number) => Promise<Pick<FrameSizes, "bytesOf"> | undefined>;
  /** Of an average frame, as far as it is known. */
  readonly averageFrameBytes: (segment: number) => Promise<number>;
  /** Awaited before and after a segment is read, and after some thousand frames. */
  readonly pause: () => Promise<void>;
}

/** Of frames that nobody before refers to. */
export interface FrameBytes {
  firstCount: number;
  firstBytes: number;
  /** Of them, what nobody else refers to at all. */
  uniqueBytes: number;
}

export const NO_FRAME_BYTES: Readonly<FrameBytes> = {
  firstCount: 0,
  firstBytes: 0,
  uniqueBytes: 0,
};

interface CountedFrame {
  readonly offset8: number;
  readonly firstBranch: number;
  readonly isUnique: boolean;
}

/** A segment, and how it is shared out among the frames in it. */
export interface SegmentShares {
  readonly sizeBytes: number;
  /** The frame's bytes, or the same for each. */
  readonly weightOf: (offset8: number) => number;
  readonly totalWeight: number;
}

export interface ShareOptions extends Pick<FrameBytesOptions, "relocations" | "pause"> {
  /** All there are. */
  readonly segments: readonly number[];
  /** `isExact`: by bytes; else by number, of which so many are needed. Undefined: that can't be read. */
  readonly sharesOf: (
    segment: number,
    by: { readonly isExact: boolean; readonly neededCount: number },
  ) => Promise<SegmentShares | undefined>;
  /** Of each owner that the survey has had, in their order: whether all that is left is its. */
  readonly areGreedy: readonly boolean[];
}

const EXACT_SEGMENTS_MAX = 256;
/** Half a millisecond. */
const SLICE_FRAMES = 4096;

/** By branch, or who else the survey took for an owner. Throws DISK_IO, POOL_CORRUPT, and what `pause` throws. */
export async function frameBytesOf(
  options: FrameBytesOptions,
  survey: Survey,
): Promise<Map<number, FrameBytes>> {
  const bytesOf = new Map<number, FrameBytes>();
  const places = await framesByPlace(options, survey);
  const isExact = places.size <= EXACT_SEGMENTS_MAX && survey.scale === 1;
  for (const [segment, frames] of places) {
    await options.pause();
    const exact = isExact ? await options.frameSizes(segment) : undefined;
    const average = exact === undefined ? await options.averageFrameBytes(segment) : 0;
    await options.pause();
    const sharers = sharersOf(frames);
    for (const { offset8, firstBranch, isUnique } of frames) {
      const part = (exact?.bytesOf(offset8) ?? 0) / (sharers.get(offset8) ?? 1);
      const bytes = part || average || BLOCK_BYTES;
      const sum = bytesOf.get(firstBranch) ?? { ...NO_FRAME_BYTES };
      sum.firstCount += survey.scale;
      sum.firstBytes += bytes * survey.scale;
      if (isUnique) sum.uniqueBytes += bytes * survey.scale;
      bytesOf.set(firstBranch, sum);
    }
  }
  return bytesOf;
}

/** Bytes of each owner of the survey. Throws DISK_IO, POOL_CORRUPT, and what `pause` throws. */
export async function sharedOut(options: ShareOptions, survey: Survey): Promise<number[]> {
  const { segments, areGreedy, sharesOf, pause } = options;
  const bytes = areGreedy.map(() => 0);
  const places = await framesByPlace(options, survey);
  const isExact = segments.length <= EXACT_SEGMENTS_MAX && survey.scale === 1;
  for (const segment of segments) {
    await pause();
    const frames = places.get(segment) ?? [];
    const neededCount = frames.length * survey.scale;
    const shares = await sharesOf(segment, { isExact, neededCount });
    if (shares === undefined) continue;
    await pause();
    const weights = weightsOf(frames, shares.weightOf, areGreedy.length);
    let left = shares.sizeBytes;
    for (const [owner, isGreedy] of areGreedy.entries()) {
      const share = ((weights[owner] as number) * survey.scale) / Math.max(1, shares.totalWeight);
      const part = isGreedy ? left : Math.min(left, shares.sizeBytes * share);
      bytes[owner] = (bytes[owner] as number) + part;
      left -= part;
    }
  }
  return bytes;
}

function weightsOf(
  frames: readonly CountedFrame[],
  weightOf: (offset8: number) => number,
  ownerCount: number,
): Float64Array {
  const weights = new Float64Array(ownerCount);
  const sharers = sharersOf(frames);
  for (const { offset8, firstBranch: owner } of frames)
    weights[owner] = (weights[owner] as number) + weightOf(offset8) / (sharers.get(offset8) ?? 1);
  return weights;
}

/** How many of the blocks in a frame were counted: it belongs to them in equal parts. */
function sharersOf(frames: readonly CountedFrame[]): Map<number, number> {
  const sharers = new Map<number, number>();
  for (const { offset8 } of frames) sharers.set(offset8, (sharers.get(offset8) ?? 0) + 1);
  return sharers;
}

/** The counted frames by the segment that they are in now. */
async function framesByPlace(
  { relocations, pause }: Pick<FrameBytesOptions, "relocations" | "pause">,
  survey: Survey,
): Promise<Map<number, CountedFrame[]>> {
  const places = new Map<number, CountedFrame[]>();
  let sliceLeft = SLICE_FRAMES;
  for (const { homeSegment, homeOffset8, firstBranch, branch } of survey.frames()) {
    sliceLeft -= 1;
    if (sliceLeft === 0) {
      sliceLeft = SLICE_FRAMES;
      await pause();
    }
    let resolved = relocations.resolve(homeSegment, homeOffset8);
    while (resolved === RELOCATION.NOT_LOADED) {
      await relocations.load(homeSegment, homeOffset8);
      resolved = relocations.resolve(homeSegment, homeOffset8);
    }
    const isHome = resolved !== RELOCATION.FOUND;
    const segment = isHome ? homeSegment : relocations.foundSegment;
    const offset8 = isHome ? homeOffset8 : offset8Of(relocations.foundLow);
    const frames = places.get(segment) ?? [];
    frames.push({ offset8, firstBranch, isUnique: branch >= 0 });
    places.set(segment, frames);
  }
  return places;
}
