// SPDX-License-Identifier: Apache-2.0
//
// The most that a pool's files still tell of its volumes. The log from its beginning comes first: it needs nothing
// else. Where its chain breaks below a checkpoint's cut, that checkpoint says what all before the cut came to,
// and the log is read on from there: then only the frames that are damaged or gone themselves are lost. A log whose
// beginning garbage collection let go is read from a checkpoint as a matter of course.

import { StorageError } from "../base/errors.ts";
import type { Directory } from "../host/ports.ts";
import {
  type CheckpointSource,
  type LoadedCheckpoint,
  readCheckpoints,
} from "../index/checkpoint-loader.ts";
import { runName } from "../index/run-file.ts";
import { type BranchPoint, readBranchPoints } from "../log/branch-points.ts";
import { FileStore } from "../log/file-store.ts";
import { readLogBegin } from "../log/log-begin.ts";
import { isDamage, type LogReach, readLogReach } from "../log/log-reach.ts";
import { PlainState } from "../log/plain-state.ts";
import { LOG_BEGIN, type ReplayStart } from "../log/replay-start.ts";
import type { BlockMemory } from "../reduce/block-memory.ts";
import { type CheckpointState, readCheckpointState } from "./checkpoint-state.ts";

const OPEN_FILES_MAX = 16;

export interface SalvageSource {
  readonly memory: BlockMemory;
  readonly log: Directory;
  readonly poolId: Uint8Array;
}

export interface Salvage {
  readonly state: PlainState;
  readonly reach: LogReach;
  /** LSN of the cut of the checkpoint that was begun from; undefined: the log's beginning. */
  readonly cutLsn: number | undefined;
  /** Why this isn't all, or not from the log alone though that should be whole; undefined when nothing says so. */
  readonly damage: StorageError | undefined;
}

/** Reads what can be read. Throws FORMAT_UNSUPPORTED. */
export async function salvagePool(source: SalvageSource): Promise<Salvage> {
  const { memory, log: directory, poolId } = source;
  const { lateStart } = await readLogBegin({ memory, directory, poolId });
  const runs = new FileStore(directory, runName, OPEN_FILES_MAX);
  const index = { memory, directory, runs, poolId };
  try {
    const checkpoints = await checkpointsOf(index);
    return lateStart === undefined
      ? await salvageWhole(index, checkpoints)
      : await salvageLate(index, checkpoints, lateStart);
  } finally {
    await runs.closeAll();
  }
}

/** From the log's beginning; from a checkpoint where that reaches further. */
async function salvageWhole(
  index: CheckpointSource,
  checkpoints: readonly LoadedCheckpoint[],
): Promise<Salvage> {
  const whole = beginAt(LOG_BEGIN);
  const reach = await readFrom(index, LOG_BEGIN, whole);
  let best: Salvage = { state: whole.state, reach, cutLsn: undefined, damage: reach.damage };
  for (const checkpoint of checkpoints) {
    const { body } = checkpoint;
    if (body.cut.nextLsn <= best.reach.nextLsn) continue;
    const begun = await readCheckpointState(index, checkpoint);
    if (begun === undefined) continue;
    const further = await readFrom(index, body.cut, begun);
    const damage = best.damage ?? endsEarly(best.reach, body.cut);
    best = { state: begun.state, reach: further, cutLsn: body.cut.nextLsn, damage };
  }
  return best;
}

/** From the newest checkpoint that is whole, or else the one of which least is lost. */
async function salvageLate(
  index: CheckpointSource,
  checkpoints: readonly LoadedCheckpoint[],
  lateStart: ReplayStart,
): Promise<Salvage> {
  let best: Salvage | undefined;
  let fewestLost = Number.POSITIVE_INFINITY;
  for (const checkpoint of checkpoints) {
    const { body } = checkpoint;
    const begun = fewestLost === 0 ? undefined : await readCheckpointState(index, checkpoint);
    if (begun === undefined || begun.lostNodes >= fewestLost) continue;
    fewestLost = begun.lostNodes;
    const reach = await readFrom(index, body.cut, begun);
    best = { state: begun.state, reach, cutLsn: body.cut.nextLsn, damage: reach.damage };
  }
  if (best === undefined) {
    const rest = beginAt(lateStart);
    const reach = await readFrom(index, lateStart, rest);
    return { state: rest.state, reach, cutLsn: undefined, damage: beginsLate(lateStart) };
  }
  const { reach } = best;
  const behind = checkpoints.find(({ body }) => body.cut.nextLsn > reach.nextLsn);
  if (behind === undefined) return best;
  return { ...best, damage: best.damage ?? endsEarly(reach, behind.body.cut) };
}

/** A state, and how it is told of branches that are to come. */
type Begun = Pick<CheckpointState, "state" | "expectBranches">;

/** Of a reader that has nothing in front of the place it begins at. */
function beginAt({ nextLsn }: ReplayStart): Begun {
  const state = new PlainState();
  const expectBranches = (points: readonly BranchPoint[]): Promise<void> =>
    Promise.resolve(state.expectBranches(points, nextLsn));
  return { state, expectBranches };
}

async function readFrom(
  index: CheckpointSource,
  start: ReplayStart,
  { state, expectBranches }: Begun,
): Promise<LogReach> {
  await expectBranches(await readBranchPoints({ ...index, start }));
  const onRecord = state.apply.bind(state, index.memory);
  return readLogReach({ ...index, start, onRecord });
}

async function checkpointsOf(index: CheckpointSource): Promise<readonly LoadedCheckpoint[]> {
  try {
    return (await readCheckpoints(index)).checkpoints;
  } catch (error) {
    if (isDamage(error)) return [];
    throw error;
  }
}

/** LOG_CORRUPT: nothing in the log says that it went on, but a checkpoint does. */
export function endsEarly(reach: LogReach, cut: ReplayStart): StorageError {
  const { nextLsn } = reach;
  return new StorageError(
    "LOG_CORRUPT",
    `log: cut off before LSN ${nextLsn}: a checkpoint holds everything below LSN ${cut.nextLsn}`,
    { data: { lsn: nextLsn, durableLsn: cut.nextLsn } },
  );
}

/** LOG_CORRUPT: what was before is in no checkpoint either. */
export function beginsLate({ nextLsn, segmentNumber }: ReplayStart): StorageError {
  return new StorageError(
    "LOG_CORRUPT",
    `log: it begins at LSN ${nextLsn}, and no checkpoint that says what came before can be read`,
    { data: { segment: segmentNumber, lsn: nextLsn } },
  );
}
