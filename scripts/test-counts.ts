// SPDX-License-Identifier: Apache-2.0
//
// A reporter for node:test that writes one line of JSON: how many tests passed, failed and were left
// out, and which were left out and why. scripts/test.ts runs it beside the readable reporter, because
// counts parsed from text for people break with the next version of that text.

import type { TestEvent } from "node:test/reporters";

export interface TestCounts {
  passed: number;
  failed: number;
  skipped: number;
  /** "title: reason" of each test that was skipped or is still to do. */
  skips: string[];
}

// biome-ignore lint/style/noDefaultExport: the test runner demands it of a reporter
export default async function* count(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const counts: TestCounts = { passed: 0, failed: 0, skipped: 0, skips: [] };
  for await (const event of source) {
    if (event.type !== "test:pass" && event.type !== "test:fail") continue;
    const { details, name, skip, todo } = event.data;
    // A suite is counted by its tests, unless it failed by itself.
    if (details.type === "suite" && event.type === "test:pass") continue;
    const reason = skip || todo;
    if (reason !== undefined && reason !== false) {
      counts.skipped += 1;
      counts.skips.push(`${name}: ${reason === true ? "no reason given" : reason}`);
    } else if (event.type === "test:pass") counts.passed += 1;
    else counts.failed += 1;
  }
  yield `${JSON.stringify(counts)}\n`;
}
