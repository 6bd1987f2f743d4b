// SPDX-License-Identifier: Apache-2.0
//
// The operations of the control door that let a disk go on from its past. A rewind changes a disk under whoever has it
// open, more than any write could: it is refused while there are clients, or they are hung up first and find the other
// content when they come back. What is asked for is looked up before anyone is hung up.

import type { Operations, VolumeJson } from "../api/types.ts";
import { formatMoment, parseMoment } from "../base/moment.ts";
import { checkName } from "../base/names.ts";
import type { VolumeSummary } from "../pool/types.ts";
import type { ServedBranches, ServedMoments } from "./served-pool.ts";

export interface BranchOperationsOptions {
  readonly pool: ServedBranches &
    Pick<ServedMoments, "resolve"> & {
      volumes(): readonly VolumeSummary[];
    };
  /** The live volume. Throws VOLUME_NOT_FOUND. */
  readonly find: (name: string) => VolumeSummary;
  readonly toVolume: (volume: VolumeSummary) => VolumeJson;
  /** Changes a volume while nobody has it open. Throws VOLUME_BUSY. */
  readonly changeAlone: (
    volume: VolumeSummary,
    options: { readonly what: string; readonly reason: string; readonly isForced: boolean },
    change: () => Promise<VolumeSummary>,
  ) => Promise<VolumeJson>;
}

export function createBranchOperations({
  pool,
  find,
  toVolume,
  changeAlone,
}: BranchOperationsOptions): Pick<Operations, "cloneVolume" | "rewindVolume" | "undoVolume"> {
  return {
    cloneVolume: async ({ volume, moment = "now", to, isTemporary = false }) => {
      checkName("volume", to);
      return toVolume(await pool.clone(volume, parseMoment(moment), to, { isTemporary }));
    },
    rewindVolume: async ({ volume: name, moment: text, force = false }) => {
      const moment = parseMoment(text);
      const volume = find(name);
      const { lsn, isRelative } = await pool.resolve(name, moment);
      const what = `rewound to ${formatMoment(moment)}`;
      const options = { what, reason: "its volume is being rewound", isForced: force };
      // While clients leave, ten minutes ago becomes another moment.
      return changeAlone(volume, options, () =>
        pool.rewind(name, isRelative ? { kind: "lsn", lsn } : moment),
      );
    },
    undoVolume: async ({ volume: name, as, force = false }) => {
      const live = pool.volumes().find((volume) => volume.name === name);
      if (live === undefined || as !== undefined) return toVolume(await pool.undo(name, as));
      const options = { what: "undone", reason: "its volume is being rewound", isForced: force };
      return changeAlone(live, options, () => pool.undo(name));
    },
  };
}
