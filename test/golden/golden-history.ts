// SPDX-License-Identifier: Apache-2.0
//
// What the kept pool with a history holds, said once, as the steps that made it: the script takes them on a pool, the test
// in its head, and compares every moment.

export const HISTORY_FOLDER: string = new URL("pool-v1-history/", import.meta.url).pathname;
export const HISTORY_BLOCKS = 1200;
export const HISTORY_HOUR = 3_600_000_000;

export type HistoryStep =
  | { readonly kind: "make" | "remove" | "undo"; readonly volume: string }
  | {
      readonly kind: "put";
      readonly volume: string;
      readonly block: number;
      readonly label: string;
    }
  | {
      readonly kind: "trim" | "zero";
      readonly volume: string;
      readonly first: number;
      readonly count: number;
    }
  | { readonly kind: "name" | "rewind"; readonly volume: string; readonly moment: string }
  | {
      readonly kind: "clone";
      readonly volume: string;
      readonly moment: string;
      readonly to: string;
    }
  /** An hour passes, and then. */
  | { readonly kind: "checkpoint" | "restart" };

/** By block, all others are zeros. */
export type HeldBlocks = ReadonlyMap<number, string>;

/** What the volumes held after each step. */
export interface HeldHistory {
  readonly after: readonly ReadonlyMap<string, HeldBlocks>[];
  /** "volume@name" */
  readonly named: ReadonlyMap<string, HeldBlocks>;
}

function puts(volume: string, blocks: readonly number[], label: string): HistoryStep[] {
  return blocks.map((block) => ({ kind: "put", volume, block, label: `${label} ${block}` }));
}

export const HISTORY_STEPS: readonly HistoryStep[] = [
  { kind: "make", volume: "disk" },
  ...puts("disk", [0, 1, 2, 511, 512, 1100], "first"),
  { kind: "name", volume: "disk", moment: "installed" },
  { kind: "checkpoint" },
  ...puts("disk", [1, 3, 513], "second"),
  { kind: "trim", volume: "disk", first: 512, count: 600 },
  ...puts("disk", [600], "behind the trim"),
  { kind: "clone", volume: "disk", moment: "installed", to: "test" },
  ...puts("test", [2, 700], "test"),
  { kind: "checkpoint" },
  ...puts("disk", [0, 4], "third"),
  { kind: "name", volume: "disk", moment: "before" },
  ...puts("disk", [0, 1, 2, 3, 4], "scrambled"),
  { kind: "restart" },
  { kind: "rewind", volume: "disk", moment: "before" },
  ...puts("disk", [5], "rescued"),
  { kind: "zero", volume: "test", first: 0, count: 512 },
  { kind: "clone", volume: "test", moment: "now", to: "copy" },
  ...puts("copy", [9], "copy"),
  ...puts("test", [9], "test again"),
  { kind: "checkpoint" },
  { kind: "name", volume: "copy", moment: "kept" },
  { kind: "remove", volume: "copy" },
  { kind: "undo", volume: "disk" },
  ...puts("disk", [6], "after all"),
  { kind: "checkpoint" },
  { kind: "undo", volume: "disk" },
  ...puts("disk", [7, 511], "last"),
  { kind: "clone", volume: "disk", moment: "installed", to: "late" },
  ...puts("late", [8], "late"),
];

/** The volumes as they are by the steps alone. */
export function heldHistory(): HeldHistory {
  const volumes = new Map<string, Map<number, string>>();
  /** Before its last rewind or undo. */
  const left = new Map<string, Map<number, string>>();
  const named = new Map<string, HeldBlocks>();
  const at = (volume: string, moment: string): Map<number, string> =>
    new Map(moment === "now" ? volumes.get(volume) : named.get(`${volume}@${moment}`));
  const goBack = (volume: string, to: Map<number, string>): void => {
    left.set(volume, volumes.get(volume) as Map<number, string>);
    volumes.set(volume, to);
  };
  const after = HISTORY_STEPS.map((step) => {
    if (step.kind === "make") volumes.set(step.volume, new Map());
    else if (step.kind === "remove") volumes.delete(step.volume);
    else if (step.kind === "put") volumes.get(step.volume)?.set(step.block, step.label);
    else if (step.kind === "trim" || step.kind === "zero")
      for (let block = step.first; block < step.first + step.count; block++)
        volumes.get(step.volume)?.delete(block);
    else if (step.kind === "name")
      named.set(`${step.volume}@${step.moment}`, at(step.volume, "now"));
    else if (step.kind === "clone") volumes.set(step.to, at(step.volume, step.moment));
    else if (step.kind === "rewind") goBack(step.volume, at(step.volume, step.moment));
    else if (step.kind === "undo")
      goBack(step.volume, new Map(left.get(step.volume) as Map<number, string>));
    return new Map([...volumes].map(([name, blocks]) => [name, new Map(blocks)]));
  });
  return { after, named };
}
