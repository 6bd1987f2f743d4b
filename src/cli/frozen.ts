// SPDX-License-Identifier: Apache-2.0
//
// Work between two other things that must both happen: a command before and one after, file systems frozen and thawed.
// A frozen file system stops all who write to it, so the way back is the part that counts: it is taken after a failure,
// after Ctrl-C, and when the work doesn't end in time. Only a process that is killed outright leaves something frozen.

import { StorageError } from "../base/errors.ts";
import { createClock } from "../host/node/clock.ts";
import { runBounded } from "../host/node/program.ts";
import { onStopSignal } from "../host/node/signals.ts";
import { isOnSameFileSystem } from "../host/node/text-file.ts";

/** Freezing writes out what is dirty first. */
const FREEZE_MS_MAX = 60_000;
/** A service that is held up for longer is a failure of its own. */
const FROZEN_MS_MAX = 30_000;
const HOOK_MS_MAX = 600_000;

export interface Hooks {
  /** For the shell. */
  readonly before: string | undefined;
  readonly after: string | undefined;
  readonly pool: string;
  /** "db@v1". */
  readonly names: readonly string[];
  readonly note: (text: string) => void;
}

/** Does the work unless the command before it fails; the one after it runs always. Throws COMMAND_FAILED. */
export async function withHooks<T>(hooks: Hooks, work: () => Promise<T>): Promise<T> {
  const outcome = await runHook("before", hooks, {})
    .then(work)
    .then(
      (value) => ({ isDone: true, value }) as const,
      (error: unknown) => ({ isDone: false, error }) as const,
    );
  const afterwards = runHook("after", hooks, { VARVE_RESULT: outcome.isDone ? "taken" : "failed" });
  if (outcome.isDone) {
    await afterwards;
    return outcome.value;
  }
  await afterwards.catch((error: Error) => hooks.note(error.message));
  throw outcome.error;
}

/** Does the work while the file systems are frozen, in order, and thaws them in reverse. Throws COMMAND_FAILED, BUSY, INTERRUPTED. */
export async function whileFrozen<T>(
  { mountPoints, pool }: { readonly mountPoints: readonly string[]; readonly pool: string },
  work: () => Promise<T>,
): Promise<T> {
  if (mountPoints.length === 0) return work();
  for (const mountPoint of mountPoints) {
    if (await isOnSameFileSystem(mountPoint, pool))
      throw new StorageError(
        "USAGE",
        `mount point "${mountPoint}": not frozen: the pool is on it`,
        {
          hint: "a pool on a frozen file system can't name anything; freeze file systems that are on its volumes",
        },
      );
  }
  let signal: string | undefined;
  const endWatch = onStopSignal((name) => {
    signal = name;
  });
  const frozen: string[] = [];
  try {
    for (const mountPoint of mountPoints) {
      await freeze(mountPoint, frozen);
      if (signal !== undefined)
        throw new StorageError("INTERRUPTED", `snapshot: not taken: ${signal} while freezing`);
    }
    return await inTime(work());
  } finally {
    await thaw(frozen.reverse()).finally(endWatch);
  }
}

async function freeze(mountPoint: string, frozen: string[]): Promise<void> {
  const { status, output } = await runBounded({
    command: ["fsfreeze", "-f", mountPoint],
    environment: {},
    timeoutMs: FREEZE_MS_MAX,
  });
  // One that was ended in the middle may have done it; one that says no has not, and somebody else may have.
  if (status === 0 || status === undefined) frozen.push(mountPoint);
  if (status !== 0) throw failed(`mount point "${mountPoint}": not frozen`, status, output);
}

/** All of them are tried, whatever becomes of the others. */
async function thaw(mountPoints: readonly string[]): Promise<void> {
  let problem: StorageError | undefined;
  for (const mountPoint of mountPoints) {
    const { status, output } = await runBounded({
      command: ["fsfreeze", "-u", mountPoint],
      environment: {},
      timeoutMs: FREEZE_MS_MAX,
    });
    if (status !== 0)
      problem ??= failed(`mount point "${mountPoint}": still frozen`, status, output, {
        hint: `thaw it: fsfreeze -u ${mountPoint}`,
      });
  }
  // More urgent than whatever went wrong before.
  if (problem !== undefined) throw problem;
}

/** The work goes on, but nobody waits for it any more. */
async function inTime<T>(work: Promise<T>): Promise<T> {
  const pause = Promise.withResolvers<undefined>();
  const cancel = createClock().after(FROZEN_MS_MAX, () => pause.resolve(undefined));
  const done = work.then((value) => ({ value }));
  const first = await Promise.race([done, pause.promise]).finally(cancel);
  if (first !== undefined) return first.value;
  done.catch(() => {});
  throw new StorageError(
    "BUSY",
    `snapshot: not confirmed: no answer while file systems were frozen, for ${FROZEN_MS_MAX / 1000} s`,
    {
      hint: 'they are thawed again; if "varve snapshots" shows it, it may be of a later moment: remove it',
    },
  );
}

async function runHook(
  which: "before" | "after",
  hooks: Hooks,
  variables: Readonly<Record<string, string>>,
): Promise<void> {
  const command = hooks[which];
  if (command === undefined) return;
  const { status, output } = await runBounded({
    command: ["sh", "-c", command],
    environment: {
      VARVE_POOL: hooks.pool,
      VARVE_SNAPSHOTS: hooks.names.join(" "),
      ...variables,
    },
    timeoutMs: HOOK_MS_MAX,
  });
  if (status === 0) return;
  const isTaken = variables.VARVE_RESULT === "taken";
  throw failed(`command --${which}: failed`, status, output, {
    hint: isTaken ? "the snapshot was taken" : "no snapshot was taken",
  });
}

function failed(
  what: string,
  status: number | undefined,
  output: string,
  details: { readonly hint?: string } = {},
): StorageError {
  const how = status === undefined ? "it didn't end, or couldn't be begun" : `exit code ${status}`;
  const words = output === "" ? how : `${how}: ${output.replaceAll("\n", "; ")}`;
  return new StorageError("COMMAND_FAILED", `${what}: ${words}`, details);
}
