// SPDX-License-Identifier: Apache-2.0
//
// A change that a client asked for, and what is known of the record that makes it: its LSN lies somewhere between
// the call and the answer. Whoever sees the change in a moment, or doesn't, knows more from then on, and so does
// everybody who looks later: a store that shows a change at #120 and not at #121 has none that fits.
//
//        low                      high
//   ──────[════════════════════════]──────     called at head low - 1, answered at head high
//                 ↑ not there yet      →       low goes up
//                           ↑ there    →       high comes down

import { Stop, violationOf } from "./rig.ts";

/** Where the change has come to. */
type EffectState =
  /** No crash can have taken it: it is in the log, or will be. */
  | "certain"
  /** A crash came before its answer, or before it was durable: it is there or isn't. */
  | "doubtful"
  /** A crash took it. */
  | "lost";

export class KnownEffect {
  /** In words, for the report of a failure. */
  readonly what: string;
  low: number;
  high: number = Number.POSITIVE_INFINITY;
  state: EffectState = "certain";
  isAnswered = false;
  /** What the same request made before it, with a record of its own. */
  companion: KnownEffect | undefined;
  /** It was promised to survive. */
  isRequired = false;

  constructor(what: string, head: number) {
    this.what = what;
    this.low = head + 1;
  }

  answered(head: number): void {
    this.high = Math.min(this.high, head);
    this.isAnswered = true;
    if (this.low <= this.high) return;
    const check = "a change that was answered has a record";
    throw new Stop(violationOf(check, `${this.what}: #${this.low}`, `the log ends with #${head}`));
  }

  isPossibleAt(lsn: number): boolean {
    return this.state !== "lost" && this.low <= lsn;
  }

  isCertainAt(lsn: number): boolean {
    return this.state === "certain" && this.high <= lsn;
  }

  seenAt(lsn: number): void {
    this.high = Math.min(this.high, lsn);
    this.state = "certain";
  }

  missingAt(lsn: number): void {
    this.low = Math.max(this.low, lsn + 1);
    if (this.low > this.high) this.state = "lost";
  }

  /** The log ends with record `last` after a crash. False when it was promised that this would be there. */
  recovered(last: number): boolean {
    if (this.low > last) {
      this.state = "lost";
      return !this.isRequired;
    }
    if (!this.isRequired && this.high > last) this.state = "doubtful";
    this.high = Math.min(this.high, last);
    return true;
  }

  toString(): string {
    return `${this.what} (#${this.low} to #${this.high}, ${this.state})`;
  }
}
