// SPDX-License-Identifier: Apache-2.0
//
// A volume as the oracle of moments sees it: what it was called, how large it was and which line of history it was
// on, from change to change; and whose name it was at any moment, as far as anybody can know.

import type { HistoryLine } from "./block-versions.ts";
import type { KnownEffect } from "./known-effect.ts";

export interface HistoryState {
  /** Makes the volume what the rest says. */
  readonly effect: KnownEffect;
  readonly name: string;
  readonly sizeBytes: number;
  readonly line: HistoryLine;
  readonly isRemoved: boolean;
}

/** What undoing would take back: the line and size before the change. */
export interface UndoableChange {
  readonly before: HistoryState;
  readonly change: HistoryState;
}

export class HistoryVolume {
  readonly id: number;
  /** As the store calls it; known once it said so. */
  storeId: number | undefined;
  /** Oldest first. */
  states: HistoryState[] = [];
  /** Flushes of clients: a record that marks one lies somewhere in there. */
  flushes: { readonly line: HistoryLine; readonly low: number; high: number }[] = [];

  constructor(id: number) {
    this.id = id;
  }

  /** After all changes; undefined: a crash took the one that made it. */
  get newest(): HistoryState | undefined {
    return this.states[this.states.length - 1];
  }

  get isLive(): boolean {
    return this.newest?.isRemoved === false;
  }

  /** What it may have been at a moment, newest first; undefined among them: it wasn't made yet. */
  statesAt(lsn: number): (HistoryState | undefined)[] {
    const possible: (HistoryState | undefined)[] = [];
    for (let at = this.states.length - 1; at >= 0; at--) {
      const state = this.states[at] as HistoryState;
      if (!state.effect.isPossibleAt(lsn)) continue;
      possible.push(state);
      if (state.effect.isCertainAt(lsn)) return possible;
    }
    possible.push(undefined);
    return possible;
  }

  /** It was found to be this at the moment. */
  seenAt(seen: HistoryState | undefined, lsn: number): void {
    for (const state of this.statesAt(lsn)) {
      if (state === seen) break;
      state?.effect.missingAt(lsn);
    }
    seen?.effect.seenAt(lsn);
  }

  /** The last of rewind, undo, shrink, and a removal while it holds. */
  get undoable(): UndoableChange | undefined {
    for (let at = this.states.length - 1; at > 0; at--) {
      const change = this.states[at] as HistoryState;
      const before = this.states[at - 1] as HistoryState;
      const isRemoval = change.isRemoved && this.newest?.isRemoved === true;
      const isBack = change.line !== before.line || change.sizeBytes < before.sizeBytes;
      if (isRemoval || isBack) return { before, change };
    }
    return undefined;
  }

  forgetLost(): void {
    this.states = this.states.filter(({ effect }) => effect.state !== "lost");
    for (const { line } of this.states) line.forgetLost();
  }
}

/** Who certainly had the name at a moment; "nobody" if certainly nobody had; undefined: that isn't known. */
export function holderOf(
  volumes: Iterable<HistoryVolume>,
  name: string,
  lsn: number,
): { readonly volume: HistoryVolume; readonly state: HistoryState } | "nobody" | undefined {
  let isPossible = false;
  for (const volume of volumes) {
    const states = volume.statesAt(lsn);
    const [only] = states;
    const isHeldIn = (state: HistoryState | undefined): boolean =>
      state !== undefined && !state.isRemoved && state.name === name;
    if (states.length === 1 && only !== undefined && isHeldIn(only)) return { volume, state: only };
    isPossible ||= states.some(isHeldIn);
  }
  return isPossible ? undefined : "nobody";
}
