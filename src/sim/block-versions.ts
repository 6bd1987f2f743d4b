// SPDX-License-Identifier: Apache-2.0
//
// Every version of every block of a line of history. A version is eight sectors, each named by the write that made
// it, so keeping all of them costs little; what a block held at a moment is the newest version of which the record
// isn't behind it, or what the line began with.
//
// Of versions whose records' place isn't known exactly (known-effect.ts) there may be several that are right. What
// is found decides for one of them, and all that look later are held to it.

import { type ContentSource, describeContent, fillContent, SECTOR_BYTES } from "./content.ts";
import type { KnownEffect } from "./known-effect.ts";
import type { Violation } from "./violation.ts";

export const BLOCK_BYTES = 4096;
const BLOCK_SECTORS: number = BLOCK_BYTES / SECTOR_BYTES;

/** By sector; undefined: zeros. */
export type BlockContent = readonly (ContentSource | undefined)[];

interface Version {
  readonly effect: KnownEffect;
  readonly content: BlockContent;
}

/** What a block may hold at a moment, newest first: one of these is right. */
interface Candidate {
  readonly content: BlockContent;
  /** Undefined: what there was before anything was written. */
  readonly effect: KnownEffect | undefined;
  /** The moment in terms of the line that the version belongs to. */
  readonly lsn: number;
}

/** A line, and the moment of it that another one begins with. */
export interface LineMoment {
  readonly line: HistoryLine;
  readonly lsn: number;
}

export const ZEROS: BlockContent = new Array<undefined>(BLOCK_SECTORS).fill(undefined);

export class HistoryLine {
  readonly id: number;
  readonly origin: LineMoment | undefined;
  /** As the store calls it; known once it said so. */
  storeId: number | undefined;
  readonly #blocks = new Map<number, Version[]>();

  constructor(id: number, origin: LineMoment | undefined) {
    this.id = id;
    this.origin = origin;
  }

  /** Blocks that may hold anything but zeros, or did. */
  touched(): Set<number> {
    const blocks = new Set(this.#blocks.keys());
    for (const block of this.origin?.line.touched() ?? []) blocks.add(block);
    return blocks;
  }

  /** A change gives the block this content. */
  put(block: number, version: Version): void {
    const versions = this.#blocks.get(block);
    if (versions === undefined) this.#blocks.set(block, [version]);
    else versions.push(version);
  }

  /** What the block holds after all changes; undefined when that isn't certain. */
  newest(block: number): BlockContent | undefined {
    const candidates = this.#candidates(block, Number.MAX_SAFE_INTEGER);
    return candidates.length === 1 ? candidates[0]?.content : undefined;
  }

  /** Compares what was read of the block at a moment; takes note of what that decides. */
  judge(block: number, lsn: number, found: Uint8Array): BlockSurprise | undefined {
    const candidates = this.#candidates(block, lsn);
    const matching = candidates.filter(({ content }) => isContent(found, content, block));
    const [match] = matching;
    if (match === undefined) return { candidates, block, found };
    if (matching.length > 1) return undefined;
    for (const { effect, lsn: at } of candidates.slice(0, candidates.indexOf(match)))
      effect?.missingAt(at);
    match.effect?.seenAt(match.lsn);
    return undefined;
  }

  /** Changes that a crash took are forgotten. */
  forgetLost(): void {
    for (const [block, versions] of this.#blocks) {
      const left = versions.filter(({ effect }) => effect.state !== "lost");
      if (left.length < versions.length) this.#blocks.set(block, left);
    }
  }

  #candidates(block: number, lsn: number): Candidate[] {
    const candidates: Candidate[] = [];
    let line: HistoryLine | undefined = this;
    let moment = lsn;
    while (line !== undefined) {
      const versions: readonly Version[] = line.#blocks.get(block) ?? [];
      for (let at = versions.length - 1; at >= 0; at--) {
        const { effect, content } = versions[at] as Version;
        if (!effect.isPossibleAt(moment)) continue;
        candidates.push({ content, effect, lsn: moment });
        if (effect.isCertainAt(moment)) return candidates;
      }
      const origin: LineMoment | undefined = line.origin;
      moment = Math.min(moment, origin?.lsn ?? 0);
      line = origin?.line;
    }
    candidates.push({ content: ZEROS, effect: undefined, lsn });
    return candidates;
  }
}

/** A block that holds what no version explains. */
export interface BlockSurprise {
  readonly block: number;
  readonly candidates: readonly Candidate[];
  readonly found: Uint8Array;
}

export function surpriseToViolation(
  { block, candidates, found }: BlockSurprise,
  where: { readonly check: string; readonly volume: string },
): Violation {
  let sector = 0;
  for (; sector < BLOCK_SECTORS - 1; sector++)
    if (!candidates.some(({ content }) => isSector(found, { content, block }, sector))) break;
  const expected = candidates.map(
    ({ content, effect, lsn }) =>
      `${nameOf(content[sector])} at #${lsn}, by ${effect ?? "nobody: it was never written"}`,
  );
  return {
    ...where,
    sector: block * BLOCK_SECTORS + sector,
    expected: expected.join("; or "),
    found: describeContent(found.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)),
  };
}

function nameOf(source: ContentSource | undefined): string {
  if (source === undefined || source.pattern === "zeros") return "zeros";
  return `the content of #${source.sequence} (${source.pattern}, volume ${source.volumeId})`;
}

function isContent(found: Uint8Array, content: BlockContent, block: number): boolean {
  for (let sector = 0; sector < BLOCK_SECTORS; sector++)
    if (!isSector(found, { content, block }, sector)) return false;
  return true;
}

const scratch = new Uint8Array(SECTOR_BYTES);

function isSector(
  found: Uint8Array,
  { content, block }: { readonly content: BlockContent; readonly block: number },
  sector: number,
): boolean {
  const source = content[sector];
  const offset = sector * SECTOR_BYTES;
  // The last block of a volume may be cut.
  if (offset >= found.length) return true;
  if (source === undefined) scratch.fill(0);
  else fillContent(scratch, source, block * BLOCK_BYTES + offset);
  return Buffer.compare(found.subarray(offset, offset + SECTOR_BYTES), scratch) === 0;
}
