// SPDX-License-Identifier: Apache-2.0
//
// Whatever the place of the record that broke it, it is found, with few questions, and never by one that was skipped.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { type BisectionSource, bisect, type Verdict } from "./bisection.ts";

class Broken implements BisectionSource {
  readonly changes: readonly number[];
  readonly limit: number;
  readonly verdict: (lsn: number) => Verdict;
  probeCount = 0;

  constructor(changes: readonly number[], limit: number, verdict: (lsn: number) => Verdict) {
    this.changes = changes;
    this.limit = limit;
    this.verdict = verdict;
  }

  async changesBetween(good: number, bad: number): Promise<readonly number[] | undefined> {
    const between = this.changes.filter((lsn) => lsn > good && lsn <= bad);
    return between.length > this.limit ? undefined : between;
  }

  async probe(lsn: number): Promise<Verdict> {
    this.probeCount += 1;
    return this.verdict(lsn);
  }
}

test("every first bad record is found, with a list and without", async () => {
  const changes = Array.from({ length: 200 }, (_, at) => 10 + 3 * at);
  for (const limit of [1000, 20])
    for (const [at, first] of changes.entries()) {
      const source = new Broken(changes, limit, (lsn) => (lsn >= first ? "bad" : "good"));
      const found = await bisect(source, { good: 5, bad: 700 });
      equal(found?.bad, first);
      const before = changes[at - 1] ?? 5;
      // Without a list the last good moment may be one at which nothing changed.
      ok(found !== undefined && found.good >= before && found.good < first, `${found?.good}`);
      deepEqual(found.skipped, []);
      ok(source.probeCount <= 11, `${source.probeCount} questions`);
    }
});

test("where nothing can be said the answer is a range", async () => {
  const changes = [10, 20, 30, 40, 50, 60];
  const source = new Broken(changes, 100, (lsn) =>
    lsn === 30 || lsn === 40 ? "skip" : lsn < 30 ? "good" : "bad",
  );
  deepEqual(await bisect(source, { good: 1, bad: 65 }), { good: 20, bad: 50, skipped: [30, 40] });
});

test("where nothing can be said of anything it ends", async () => {
  const changes = Array.from({ length: 100 }, (_, at) => at);
  const source = new Broken(changes, 10, () => "skip");
  deepEqual(await bisect(source, { good: 1, bad: 90 }), { good: 1, bad: 90, skipped: [] });
  ok(source.probeCount < 20);
});

test("between two moments at which nothing changed there is nothing to find", async () => {
  equal(await bisect(new Broken([5], 10, () => "bad"), { good: 5, bad: 9 }), undefined);
});
