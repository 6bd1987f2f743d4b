// SPDX-License-Identifier: Apache-2.0
//
// Commands around a snapshot: which run, and what is told when several things go wrong. File systems that are frozen
// around it are in test/cli/freeze.txt, which has a stand-in for fsfreeze.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../base/errors.ts";
import { type Hooks, withHooks } from "./frozen.ts";

function around(commands: Pick<Hooks, "before" | "after">): { hooks: Hooks; notes: string[] } {
  const notes: string[] = [];
  const note = (text: string): void => {
    notes.push(text);
  };
  return { hooks: { ...commands, pool: "/srv/pool", names: ["db@v1", "web@v1"], note }, notes };
}

const refused = new StorageError("SNAPSHOT_EXISTS", "it exists");
const none = { before: undefined, after: undefined };

test("without commands there is only the work, with its answer or its error", async () => {
  const { hooks } = around(none);
  equal(await withHooks(hooks, async () => 7), 7);
  await rejects(
    withHooks(hooks, () => Promise.reject(refused)),
    refused,
  );
});

test("commands are told what it is about, and how it went", async () => {
  const before = 'test "$VARVE_SNAPSHOTS" = "db@v1 web@v1" && test "$VARVE_POOL" = /srv/pool';
  const good = around({ before, after: 'test "$VARVE_RESULT" = taken' });
  equal(await withHooks(good.hooks, async () => 7), 7);
  const bad = around({ before, after: 'test "$VARVE_RESULT" = failed' });
  await rejects(
    withHooks(bad.hooks, () => Promise.reject(refused)),
    refused,
  );
  deepEqual(bad.notes, []);
});

test("what fails before the work keeps it from being done; the command after it has its turn", async () => {
  const { hooks, notes } = around({ before: "echo not ready >&2; exit 3", after: "exit 4" });
  let isDone = false;
  const work = async (): Promise<void> => {
    isDone = true;
  };
  await rejects(withHooks(hooks, work), {
    code: "COMMAND_FAILED",
    message: "command --before: failed: exit code 3: not ready",
  });
  equal(isDone, false);
  deepEqual(notes, ["command --after: failed: exit code 4"], "the second failure isn't swallowed");
});

test("a command after the work that fails is a failure, and says that the snapshot is there", async () => {
  const { hooks } = around({ ...none, after: "exit 4" });
  await rejects(
    withHooks(hooks, async () => 7),
    { code: "COMMAND_FAILED", hint: "the snapshot was taken" },
  );
});
