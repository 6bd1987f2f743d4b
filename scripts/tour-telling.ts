// SPDX-License-Identifier: Apache-2.0
//
// How the tour talks: titles, steps with the time they took, and claims, of which it counts those that
// turn out to be wrong.

let failureCount = 0;

export function title(text: string): void {
  console.log(`\n${text}`);
}

export function say(text: string): void {
  console.log(`   ${text}`);
}

export function step(text: string, elapsedMs?: number): void {
  say(elapsedMs === undefined ? `· ${text}` : `· ${text} (${(elapsedMs / 1000).toFixed(2)} s)`);
}

export async function timed<Result>(text: string, work: () => Promise<Result>): Promise<Result> {
  const start = performance.now();
  const result = await work();
  step(text, performance.now() - start);
  return result;
}

export function verify(claim: string, isTrue: boolean): void {
  if (!isTrue) failureCount++;
  say(`${isTrue ? "✓" : "✗ NOT SO:"} ${claim}`);
}

/** What a program printed, as it printed it. */
export function quote(text: string): void {
  for (const line of text.trimEnd().split("\n")) console.log(`   | ${line}`);
}

/** The tour can't go on. */
export function fail(error: unknown): void {
  failureCount++;
  console.error(`\ntour: failed: ${error instanceof Error ? error.message : String(error)}`);
}

export function allIsWell(): boolean {
  return failureCount === 0;
}

export function count(number: number): string {
  return number.toLocaleString("en-US");
}
