// SPDX-License-Identifier: Apache-2.0
//
// `varve snapshot`: one moment of one or several volumes gets a name. With file systems on the volumes held still
// around it, and with commands of the operator's before and after, it is the moment of an application's choice:
//
//   --before … → freeze A → freeze B → name the moment → thaw B → thaw A → --after …
//
// What was begun is ended, whatever happens in between: frozen.ts.

import type { SnapshotJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import { formatMoment, parsePastMoment } from "../../base/moment.ts";
import type { CommandContext } from "../command.ts";
import { whileFrozen, withHooks } from "../frozen.ts";
import { counted, keepOf, snapshotOf } from "../values.ts";

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const names = context.variadic("VOLUME@NAME");
  const targets = names.map((text) => snapshotOf("argument", text));
  const at = context.option("at");
  const keep = context.option("keep");
  const description = context.option("description");
  const input = {
    targets,
    ...(at === undefined ? {} : { at: formatMoment(parsePastMoment(at)) }),
    ...(keep === undefined ? {} : { keepMs: keepOf('option "--keep"', keep) }),
    ...(context.flag("protect") ? { isProtected: true } : {}),
    ...(description === undefined ? {} : { description }),
  };
  const mountPoints = context.options("freeze");
  if (at !== undefined && mountPoints.length > 0) {
    throw new StorageError("USAGE", "snapshot: refused: a moment of the past can't be frozen", {
      hint: "leave out --freeze or --at",
    });
  }
  const pool = await context.pool();
  const daemon = await context.daemon();
  const hooks = { before: context.option("before"), after: context.option("after") };
  const taken = await withHooks({ ...hooks, pool, names, note: (text) => output.note(text) }, () =>
    whileFrozen({ mountPoints, pool }, () => daemon.call("takeSnapshot", input)),
  );
  if (context.isJson) output.json(taken);
  else output.line(sentenceOf(taken.snapshots));
}

function sentenceOf(snapshots: readonly SnapshotJson[]): string {
  const [first] = snapshots;
  const names = snapshots.map(({ volume, name }) => `${volume}@${name}`);
  const what =
    snapshots.length === 1 ? `snapshot ${names[0]}` : counted(snapshots.length, "snapshot");
  const list = snapshots.length === 1 ? "" : `: ${names.join(" ")}`;
  return `${what} taken: moment #${first?.lsn} of ${first?.at}${list}`;
}
