// SPDX-License-Identifier: Apache-2.0
//
// The code behind each command, loaded when it runs. Apart from the table, because some commands read the
// table themselves (completion), and because nothing that only describes commands should load them.

import type { Command } from "./command.ts";

export const LOADERS: Readonly<Record<string, () => Promise<Command>>> = {
  serve: () => import("./commands/serve.ts"),
  create: () => import("./commands/create.ts"),
  list: () => import("./commands/list.ts"),
  info: () => import("./commands/info.ts"),
  set: () => import("./commands/set.ts"),
  retention: () => import("./commands/retention.ts"),
  snapshot: () => import("./commands/snapshot.ts"),
  snapshots: () => import("./commands/snapshots.ts"),
  history: () => import("./commands/history.ts"),
  diff: () => import("./commands/diff.ts"),
  mark: () => import("./commands/mark.ts"),
  when: () => import("./commands/when.ts"),
  bisect: () => import("./commands/bisect.ts"),
  resolve: () => import("./commands/resolve.ts"),
  clone: () => import("./commands/clone.ts"),
  rewind: () => import("./commands/rewind.ts"),
  undo: () => import("./commands/undo.ts"),
  resize: () => import("./commands/resize.ts"),
  rename: () => import("./commands/rename.ts"),
  remove: () => import("./commands/remove.ts"),
  attach: () => import("./commands/attach.ts"),
  detach: () => import("./commands/detach.ts"),
  import: () => import("./commands/import.ts"),
  export: () => import("./commands/export.ts"),
  backups: () => import("./commands/backups.ts"),
  prune: () => import("./commands/prune.ts"),
  backup: () => import("./commands/backup.ts"),
  restore: () => import("./commands/restore.ts"),
  gc: () => import("./commands/gc.ts"),
  scrub: () => import("./commands/scrub.ts"),
  stats: () => import("./commands/stats.ts"),
  top: () => import("./commands/top.ts"),
  events: () => import("./commands/events.ts"),
  "log dump": () => import("./commands/log-dump.ts"),
  "log cat": () => import("./commands/log-cat.ts"),
  "log export": () => import("./commands/log-export.ts"),
  check: () => import("./commands/check.ts"),
  completion: () => import("./commands/completion.ts"),
  version: () => import("./commands/version.ts"),
};
