// SPDX-License-Identifier: Apache-2.0
//
// Finds the record that broke a volume, between a moment that is good and one that is bad, by asking of moments in between.
// Only the volume's own records change it, so they are what is halved; where they are too many to list, the numbers of
// records are, until they aren't. A moment of which nothing can be said is passed over, and its neighbours are asked: so
// the answer may be a range in the end.

export type Verdict = "good" | "bad" | "skip";

export interface BisectionSource {
  /** Records that changed the volume behind `good`, up to `bad`, ascending; undefined: too many. */
  changesBetween(good: number, bad: number): Promise<readonly number[] | undefined>;
  /** `leftCount`: moments that it may still be. */
  probe(lsn: number, leftCount: number): Promise<Verdict>;
}

export interface Bisection {
  /** The last that is known to be good, and the first that is known to be bad. */
  readonly good: number;
  readonly bad: number;
  /** Between them: of these nothing can be said. */
  readonly skipped: readonly number[];
}

/** Undefined: nothing changed the volume between the two. */
export async function bisect(
  source: BisectionSource,
  { good, bad }: { readonly good: number; readonly bad: number },
): Promise<Bisection | undefined> {
  let range = { good, bad };
  for (;;) {
    const changes = await source.changesBetween(range.good, range.bad);
    if (changes?.length === 0) return undefined;
    if (changes !== undefined) return await bisectList(source, range.good, changes);
    const narrower = await halve(source, range);
    if (narrower === undefined) return { ...range, skipped: [] };
    range = narrower;
  }
}

/** The middle of so many numbers; where nothing can be said of it, the middles of the halves, and so on. */
async function halve(
  source: BisectionSource,
  { good, bad }: { readonly good: number; readonly bad: number },
): Promise<{ readonly good: number; readonly bad: number } | undefined> {
  const span = bad - good;
  for (let parts = 2; parts <= Math.min(span, 16); parts *= 2) {
    for (let part = 1; part < parts; part += 2) {
      const lsn = good + Math.floor((span * part) / parts);
      const verdict = await source.probe(lsn, span);
      if (verdict === "good") return { good: lsn, bad };
      if (verdict === "bad") return { good, bad: lsn };
    }
  }
  return undefined;
}

/** The last of the changes makes what is bad. */
async function bisectList(
  source: BisectionSource,
  good: number,
  changes: readonly number[],
): Promise<Bisection> {
  const skipped = new Set<number>();
  let low = -1;
  let high = changes.length - 1;
  for (;;) {
    const asked = nearestUnskipped(low, high, skipped);
    if (asked === undefined) break;
    const verdict = await source.probe(changes[asked] as number, high - low);
    if (verdict === "good") low = asked;
    else if (verdict === "bad") high = asked;
    else skipped.add(asked);
  }
  const between = [...skipped].filter((at) => at > low && at < high).sort((a, b) => a - b);
  return {
    good: changes[low] ?? good,
    bad: changes[high] as number,
    skipped: between.map((at) => changes[at] as number),
  };
}

/** Of what lies between the two, the next to the middle. */
function nearestUnskipped(
  low: number,
  high: number,
  skipped: ReadonlySet<number>,
): number | undefined {
  const middle = Math.floor((low + high) / 2);
  for (let distance = 0; distance < high - low; distance++)
    for (const at of [middle - distance, middle + distance])
      if (at > low && at < high && !skipped.has(at)) return at;
  return undefined;
}
