// SPDX-License-Identifier: Apache-2.0
//
// All commands of `varve`, one row each, in the order of --help. The parser, the help texts, the man
// pages and shell completion are made from these rows and nothing else; a test fails when a row has no
// example or its man page is stale.

import { SETTING_NAMES, SETTINGS } from "../api/settings.ts";
import { BACKUP_COMMANDS } from "./backup-commands.ts";
import type { ArgumentRow, CommandRow, OptionRow } from "./command.ts";
import { PROGRESS } from "./shared-rows.ts";

const VOLUME: ArgumentRow = { name: "VOLUME", help: "Name of a volume", completes: "volume" };

const POOL_OPTION: OptionRow = {
  name: "pool",
  value: "DIR",
  help: "Directory of the pool; also VARVE_POOL",
  standard: "./varve-pool when it exists, else /var/lib/varve",
};

const JSON_OPTION: OptionRow = {
  name: "json",
  help: "Print JSON for programs; its fields are stable",
};

const HELP_OPTION: OptionRow = { name: "help", letter: "h", help: "Show this help" };

const SNAPSHOT: ArgumentRow = {
  name: "VOLUME@NAME",
  help: "A volume, and the name of a moment of it",
  completes: "volume",
};

const VERBOSE: OptionRow = { name: "verbose", letter: "v", help: "Show every counter" };

export const COMMANDS: readonly CommandRow[] = [
  {
    name: "serve",
    summary: "run the daemon of a pool in the foreground",
    description: [
      "Opens the pool and serves its volumes over NBD until it is told to stop (SIGTERM or SIGINT); a second signal ends it at once, which loses nothing that was acknowledged as written. The pool is made when its directory is missing or empty.",
      "Every setting can also stand in a configuration file (--config) under the same name, or in the environment: --pool-size is pool-size there and VARVE_POOL_SIZE here. Flags win over the environment, the environment over the file.",
      "The daemon is ready when its sockets answer. Its log goes to stderr, a line of JSON per event.",
    ],
    arguments: [],
    options: [
      { name: "config", value: "FILE", help: "Configuration file, TOML" },
      ...SETTING_NAMES.filter((name) => name !== "pool").map(settingOption),
    ],
    examples: [
      {
        command: "varve serve",
        effect: "a pool in the default place, NBD on its socket and on 127.0.0.1:10809",
      },
      { command: "varve serve --pool /srv/pool --listen none", effect: "only the Unix socket" },
      { command: "varve serve --config /etc/varve.toml", effect: "as a service does it" },
    ],
    exits: ["conflict", "corrupt", "bug"],
    json: "one line when the daemon is ready: {ready, pool, pid, listeners}",
    seeAlso: ["varve.toml(5)"],
  },
  {
    name: "create",
    summary: "create a thin volume",
    description: [
      "The volume reads as zeros and occupies nothing until it is written. Its size is 1M to 64T, a multiple of 512 bytes, and can be changed later.",
    ],
    arguments: [
      { name: "NAME", help: "Name of the new volume", completes: "nothing" },
      { name: "SIZE", help: "Its size: 10G, 1.5T, or bytes", completes: "nothing" },
    ],
    options: [{ name: "description", value: "TEXT", help: "What it is for, as lists show it" }],
    examples: [
      { command: "varve create db 100G", effect: "a disk of 100 GiB" },
      {
        command: 'varve create web 1T --description "web server"',
        effect: "one with a description",
      },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume: {name, id, sizeBytes, isReadOnly, description, isDeduplicated, isCompressed, createdAt, clientCount, uris}",
    seeAlso: ["varve-resize(1)", "varve-attach(1)", "varve-import(1)"],
  },
  {
    name: "list",
    summary: "list the volumes",
    description: ["One line per volume, by name, with what it is attached as on this machine."],
    arguments: [],
    options: [
      { name: "removed", help: "Also those that were removed" },
      { name: "names", help: "Only the names, one per line" },
    ],
    examples: [{ command: "varve list", effect: "the volumes of the pool" }],
    exits: ["notFound", "unavailable"],
    json: "{volumes: [{name, id, sizeBytes, isReadOnly, description, isDeduplicated, isCompressed, createdAt, removedAt?, clientCount, uris, attachedAs?}]}",
    seeAlso: ["varve-info(1)"],
  },
  {
    name: "info",
    summary: "show a volume, or the pool",
    description: [
      "With a name, that volume: its size, how to reach it, who has it open and what was done to it. Without one, the pool and the daemon that serves it; its memory is what is set aside for each purpose, of which the process occupies what it has touched so far.",
    ],
    arguments: [{ ...VOLUME, isOptional: true }],
    options: [],
    examples: [
      { command: "varve info db", effect: "one volume" },
      { command: "varve info", effect: "the pool" },
    ],
    exits: ["notFound", "unavailable"],
    json: "the volume with {activity, clients}, or the pool: {directory, state, version, pid, startedAt, ack, logLevel, listeners, …}",
    seeAlso: ["varve-list(1)", "varve-stats(1)"],
  },
  {
    name: "set",
    summary: "change settings while the daemon runs",
    description: [
      "With a volume: read-only=true|false and description=TEXT, which clients see when they connect (a volume in use can't be made read-only); dedup=on|off and compression=on|off, which hold for blocks written from now on.",
      "With a snapshot, VOLUME@NAME: keep=TIME (from now on, or forever), protected=on|off and description=TEXT.",
      "Without one, of the pool: pool-size=SIZE (or none), retention=all|none|TIME, when-full=shorten-history|stop-writes and history-floor=TIME (how much history stays whatever happens), which stay; and of its daemon: log-level=debug|info|warn|error, until it restarts. A pool-size that the daemon is started with, as a flag or in its configuration, goes before the one that is set.",
    ],
    arguments: [
      {
        name: "WHAT",
        help: "A volume, a snapshot (VOLUME@NAME), or the first key=value",
        completes: "volume",
      },
      {
        name: "KEY=VALUE",
        help: "Settings to change",
        isOptional: true,
        isVariadic: true,
        completes: [
          "read-only=true",
          "read-only=false",
          "description=",
          "dedup=on",
          "dedup=off",
          "compression=on",
          "compression=off",
          "keep=",
          "protected=on",
          "protected=off",
          "pool-size=",
          "retention=",
          "when-full=shorten-history",
          "when-full=stop-writes",
          "history-floor=",
          "log-level=debug",
          "log-level=info",
        ],
      },
    ],
    options: [],
    examples: [
      { command: "varve set db read-only=true", effect: "nobody writes it from now on" },
      { command: "varve set db dedup=off", effect: "nothing new of it is deduplicated" },
      { command: "varve set db@v1 keep=30d protected=on", effect: "a snapshot stays for a month" },
      { command: "varve set --pool /srv/pool pool-size=2T", effect: "a larger pool, at once" },
      { command: "varve set log-level=debug", effect: "a more talkative log" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume or the pool after the change, as info prints it; the snapshot, as snapshots does",
    seeAlso: ["varve-retention(1)", "varve-snapshots(1)", "varve-info(1)"],
  },
  {
    name: "retention",
    summary: "show or set how much history is kept",
    description: [
      "History is what volumes held before: overwritten and trimmed blocks, and volumes that were removed. What isn't promised any more takes no space once it has been collected.",
      "Without an option it says what holds. It holds for the whole pool, or for the volume that is named, and stays until it is set again; a new pool keeps every write of a day, a moment of each hour of a week and one of each day of 30 days. A volume has the pool's retention until it gets its own. Times that aren't given stay as they are; instead of a time, all means for ever and none not at all.",
      "Snapshots, clones and open views keep what they need, whatever the retention.",
      "With --dry-run nothing is changed: it shows since when every write can be reached, now and then, which hourly, daily and other moments would go, what stays all the same, how much history holds, and how much of it would be freed once garbage is collected. History is counted in bytes that only the past needs: what no volume holds any more. With --dry-run alone it says what goes next as time passes. A longer retention brings nothing back that has been let go: history grows from there on.",
    ],
    arguments: [{ ...VOLUME, isOptional: true }],
    options: [
      { name: "every-write", value: "TIME", help: "Keep every write of this time: 24h, 7d" },
      { name: "hourly", value: "TIME", help: "Keep one moment of each hour of this time" },
      { name: "daily", value: "TIME", help: "Keep one moment of each day of this time" },
      { name: "weekly", value: "TIME", help: "Keep one moment of each week of this time" },
      { name: "monthly", value: "TIME", help: "Keep one moment of each month of this time" },
      { name: "all", help: "Keep every write for ever" },
      { name: "none", help: "Keep only the newest content" },
      { name: "inherit", help: "Of a volume: as the pool does" },
      { name: "dry-run", help: "Change nothing; say what would go, and what that frees" },
      PROGRESS,
    ],
    examples: [
      { command: "varve retention", effect: "what holds" },
      { command: "varve retention db --hourly 7d --dry-run", effect: "what that would let go" },
      { command: "varve retention --every-write 24h", effect: "the last day, write by write" },
      {
        command: "varve retention db --every-write 24h --hourly 7d --daily 30d",
        effect: "one volume, by the hour and by the day after that",
      },
      { command: "varve retention db --inherit", effect: "as all the others again" },
    ],
    exits: ["notFound", "unavailable"],
    json: "{everyWriteMs, hourlyMs, dailyMs, weeklyMs, monthlyMs}: 0 for none, null for all; of a volume also isInherited; of the pool also historyBytes and historyAt, once that was counted. With --dry-run: {volume?, at, retentionNow, retention, historyBytes, freedBytes, isEstimated, volumes: [{name, id, isRemoved, isForgotten, everyWriteFrom?: {lsn, at}, everyWriteFromThen?, keptCount, keptCountThen, goneCount}], goneMoments: [{lsn, at}], goneMomentCount, snapshotCount, viewCount, cloneCount, isBeyondPast}, with at most the newest 1000 of goneMoments",
    seeAlso: ["varve-gc(1)", "varve-set(1)", "varve-stats(1)"],
  },
  {
    name: "snapshot",
    summary: "name a moment of one or several volumes",
    description: [
      "Takes no time and no space, whatever the size. All volumes of one command get their names for the very same moment, or none of them does. From then on the moment is opened and exported as VOLUME@NAME, and kept until the snapshot is removed or expires. With --at a moment of the past is named.",
      'What applications have not written yet isn\'t in a snapshot. --freeze holds a file system still meanwhile (fsfreeze -f, then -u, on this machine), several in the order given and back in reverse, also after a failure or Ctrl-C. --before and --after are commands for the shell, for a database to get ready and go on: without success of the one before nothing is frozen and no snapshot taken; the one after runs always. They find VARVE_POOL, VARVE_SNAPSHOTS ("db@v1 web@v1") and, after, VARVE_RESULT (taken or failed) in their environment, and have ten minutes.',
    ],
    arguments: [{ ...SNAPSHOT, isVariadic: true }],
    options: [
      { name: "keep", value: "TIME", help: "Remove it by itself after this time: 24h, 7d" },
      { name: "protect", help: "Refuse to remove it before it expires" },
      { name: "description", value: "TEXT", help: "What it is, as lists show it" },
      { name: "at", value: "MOMENT", help: "A moment of the past", standard: "now" },
      {
        name: "freeze",
        value: "MOUNTPOINT",
        help: "Freeze this file system meanwhile; may be repeated",
        isRepeatable: true,
      },
      { name: "before", value: "COMMAND", help: "Run this first" },
      { name: "after", value: "COMMAND", help: "Run this at the end, whatever happened" },
    ],
    examples: [
      { command: "varve snapshot db@before-upgrade", effect: "now it has a name" },
      { command: "varve snapshot db@v1 web@v1 --keep 7d", effect: "two disks at one moment" },
      { command: "varve snapshot db@good --at -10m", effect: "as it was ten minutes ago" },
      { command: "varve snapshot db@v2 --freeze /srv/db", effect: "with its file system at rest" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "{snapshots: [{volume, volumeId, name, lsn, at, sizeBytes, expiresAt?, isProtected, description, uris}]}",
    seeAlso: ["varve-snapshots(1)", "varve-set(1)", "varve-remove(1)"],
  },
  {
    name: "snapshots",
    summary: "list the snapshots of a volume, or all",
    description: [
      "One line per snapshot, oldest moment first, also of volumes that were removed. They are renamed with rename, removed with remove, and changed with set, each as VOLUME@NAME.",
    ],
    arguments: [{ ...VOLUME, isOptional: true }],
    options: [],
    examples: [
      { command: "varve snapshots db", effect: "the snapshots of a volume" },
      { command: "varve snapshots --json", effect: "all of the pool's, for programs" },
    ],
    exits: ["notFound", "unavailable"],
    json: "{snapshots: [{volume, volumeId, name, lsn, at, sizeBytes, expiresAt?, isProtected, description, uris}]}",
    seeAlso: ["varve-snapshot(1)", "varve-resolve(1)"],
  },
  {
    name: "history",
    summary: "show what happened to a volume, and when",
    description: [
      "A line for each interval in which something was written, trimmed or flushed: the moments of it, how much was written and to how many different blocks, how much of that replaced data (as far as it is known), how far new content shrinks, and flushes. Beside them stand the names of snapshots, rewinds and where they went on from, resizes, clones made from it, holes, and steps of the clock. On a terminal two rows of bars show how much was written, and how much of that doesn't shrink.",
      "SUSPICIOUS is a time in which content that shrank gave way to content that doesn't, as when ransomware encrypts files. The last moment before it is said at the end, with what to type. It is also an event, history.suspicious, and a metric, varve_volume_suspicious.",
      "Older intervals are longer: minutes of the last day or so, then ten minutes, hours and more.",
    ],
    arguments: [VOLUME],
    options: [
      { name: "since", value: "MOMENT", help: "Begin there: 1h, a time, a name", standard: "1d" },
      { name: "until", value: "MOMENT", help: "End there", standard: "now" },
      {
        name: "step",
        value: "TIME",
        help: "Length of an interval, in minutes: 1m, 1h",
        standard: "so that some sixty fit",
      },
    ],
    examples: [
      { command: "varve history db", effect: "the last day" },
      { command: "varve history db --since 1h --step 1m", effect: "the last hour, by the minute" },
      { command: "varve history db --since before-upgrade", effect: "since a snapshot" },
    ],
    exits: ["notFound", "unavailable"],
    json: "{volume, from, to, stepMs, lines: [{from, to, firstLsn, lastLsn, writeCount, writtenBytes, distinctBytes, rewrittenBytes, freshBytes, newBlockCount, hardBlockCount, storedBytes, zeroBytes, duplicateBytes, trimCount, trimmedBytes, zeroedCount, zeroedBytes, flushCount}], names: [{name, lsn, at}], everyWriteFrom?: {lsn, at}, kept: [{lsn, at}], holes: [{from, to, fromLsn, toLsn, why}], branches: [{at, lsn, reason, parentLsn?}], changes: [{at, lsn, change, …}], clockSteps: [{at, lsn, stepMs}], flagged: [{since, lastLsnBefore, lastAtBefore, noticedAt}]}",
    seeAlso: ["varve-rewind(1)", "varve-clone(1)", "varve-resolve(1)", "varve-events(1)"],
  },
  {
    name: "when",
    summary: "list the moments at which a range changed",
    description: [
      "Newest first, each with the name of the disk right after that change; the moment before it has the number before. A write that was larger than the range is one change. Rewinds of the volume are among them, for they may have changed anything. How far back changes are known is said at the end: as far as every write is kept.",
      "It reads what the index keeps of changes, not the log, so it is quick also for ranges that changed long ago.",
    ],
    arguments: [VOLUME],
    options: [
      {
        name: "extent",
        value: "OFFSET:LENGTH",
        help: "The range: 1M:64K, or bytes",
        isRequired: true,
      },
      { name: "since", value: "MOMENT", help: "Only what came after: 1h, a time, a name" },
      { name: "until", value: "MOMENT", help: "Only up to there", standard: "now" },
      { name: "limit", value: "COUNT", help: "At most so many, up to 10000", standard: "20" },
    ],
    examples: [
      { command: "varve when db --extent 1M:4K", effect: "the last changes of a block" },
      { command: "varve when db --extent 0:100G --since 10m", effect: "all of ten minutes" },
    ],
    exits: ["notFound", "unavailable"],
    json: "{volume, changes: [{lsn, at, offsetBytes, lengthBytes, isBranch}], isMore, knownFromLsn}",
    seeAlso: ["varve-history(1)", "varve-resolve(1)"],
  },
  {
    name: "diff",
    summary: "list what differs between two moments",
    description: [
      "The ranges whose content differs, in blocks of 4 KiB, and what the second moment has there: data, zero (zeros that were written) or hole (trimmed, or never written). A block that was written and written back is no difference, and neither is one that was trimmed where there were only zeros. A volume without a moment means now, and one moment alone is compared with now.",
      "The moments may be of any volumes: before and after a rewind, of a clone and of what it was cloned from, of two that have nothing in common. It takes time for what changed, not for the size of the volumes. Where one is larger, what lies behind the end of the other is compared with nothing.",
      "--map shows where in the volume the differences are. --cbt-map writes a byte for each piece of the volume, as blksnap readcbtmap does: the number of the last step in which it changed, 0 for none; with a third moment and more, each is a step from the one before.",
      "What can't be read because the disk is damaged counts as different, and is said at the end.",
    ],
    arguments: [
      {
        name: "VOLUME@MOMENT",
        help: "What is compared with the next: db@v1, db@-1h, or db for now",
        isVariadic: true,
        completes: "volume",
      },
    ],
    options: [
      { name: "map", help: "A picture of the volume instead of the list" },
      { name: "cbt-map", value: "FILE", help: "Write a map with a byte for each piece" },
      {
        name: "granularity",
        value: "SIZE",
        help: "Bytes of a piece in it: a power of two from 4K up",
        standard: "64K",
      },
      { name: "force", help: "Replace an existing file" },
    ],
    examples: [
      { command: "varve diff db@before-upgrade", effect: "what the upgrade changed" },
      { command: "varve diff db@-1h db@-10m --map", effect: "where fifty minutes of writes went" },
      {
        command: "varve diff db@v1 copy",
        effect: "a volume that was cloned from v1, as it is now",
      },
      {
        command: "varve diff db@v1 db@v2 db --cbt-map changed.map",
        effect: "1 where it changed by v2, 2 where it changed since",
      },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "{from: {volume, stableName, lsn, at, sizeBytes}, to, offsetBytes, lengthBytes, extents: [{offsetBytes, lengthBytes, kind}], extentCount, dataBytes, zeroBytes, holeBytes, untoldBytes}; a line for each extent. With --cbt-map {file, granularityBytes, sizeBytes, steps: [{from, to, extentCount, dataBytes, …}]}",
    seeAlso: ["varve-mark(1)", "varve-when(1)", "varve-history(1)", "varve-export(1)"],
  },
  {
    name: "mark",
    summary: "let parts of a volume count as changed",
    description: [
      "From now on these parts are in the difference of any moment before this one and any moment after it, whatever is written to them: so the next incremental backup reads them again. That is what blksnap's markdirtyblock does. Nothing else changes. Parts are told in blocks of 4 KiB.",
      "Some hundred marks of a volume are remembered, as long as a moment before them is; beyond that, neighbours become one, with what lies between.",
    ],
    arguments: [VOLUME],
    options: [
      {
        name: "extent",
        value: "OFFSET:LENGTH",
        help: "The part: 1M:64K, or bytes; up to 256 of them",
        isRequired: true,
        isRepeatable: true,
      },
    ],
    examples: [
      { command: "varve mark db --extent 1M:64K", effect: "the next backup reads it again" },
      { command: "varve mark db --extent 0:1M --extent 1G:8K", effect: "two parts at once" },
    ],
    exits: ["notFound", "unavailable"],
    json: "{volume, extents: [{offsetBytes, lengthBytes}], durableLsn}",
    seeAlso: ["varve-diff(1)"],
  },
  {
    name: "bisect",
    summary: "find the write that broke a volume",
    description: [
      "Runs the command again and again, on the volume as it was at moments between one that is good and one that is bad, and halves what is left: some twelve times for four thousand writes. The command finds the moment's NBD URI in VARVE_URI, and in its arguments in place of {}; the disk is read-only. Its exit code says what it thinks: 0 good, 125 can't say, anything else bad. What it prints is dropped.",
      "At first it is asked about the two ends, unless --assume says that they are as they should be. In the end the last good moment and the first bad one are printed; the way there goes to stderr. Moments that retention has let go are passed over.",
    ],
    arguments: [VOLUME, { name: "COMMAND", help: "What looks at it, behind --", isVariadic: true }],
    options: [
      { name: "from", value: "MOMENT", help: "A moment that is good", isRequired: true },
      { name: "to", value: "MOMENT", help: "A later one that is bad", standard: "now" },
      { name: "assume", help: "Don't ask about the two ends" },
    ],
    examples: [
      {
        command: "varve bisect db --from -1h -- sh -c 'nbdcopy {} /tmp/d && fsck.ext4 -fn /tmp/d'",
        effect: "when the file system broke",
      },
      {
        command: "varve bisect db --from v1 --to v2 -- qemu-io -r -f raw -c 'read -P 1 0 4k' {}",
        effect: "which write changed the first block",
      },
    ],
    exits: ["notFound", "unavailable"],
    json: "{volume, good: {stableName, lsn, at}, bad: {stableName, lsn, at}, skipped, probeCount}",
    seeAlso: ["varve-when(1)", "varve-history(1)", "varve-rewind(1)"],
  },
  {
    name: "resolve",
    summary: "say which moment a moment is",
    description: [
      "Prints the name that always means the disk which the moment means now: db@-10m is another one every time, db@#1234567 is not. A name means the volume that had it at that moment, be it renamed or removed since. A moment that isn't there is refused with those nearby.",
      "A moment is #1234567 or lsn:1234567 (after that record of the log), 2026-03-01T12:00:00Z, -10m, flush:MOMENT (the last flush at or before), the name of a snapshot, or now.",
    ],
    arguments: [{ ...SNAPSHOT, name: "VOLUME@MOMENT", help: "A volume, and a moment of it" }],
    options: [{ name: "uri", help: "Print how clients reach it instead" }],
    examples: [
      { command: "varve resolve db@-10m", effect: "db@#1234567" },
      {
        command: "qemu-img convert $(varve resolve db@-1h --uri | head -1) good.qcow2",
        effect: "the disk as it was an hour ago",
      },
    ],
    exits: ["notFound", "unavailable"],
    json: "{volume, volumeId, stableName, lsn, at, sizeBytes, isRelative, uris}",
    seeAlso: ["varve-snapshots(1)"],
  },
  {
    name: "clone",
    summary: "make a new volume out of a moment of another",
    description: [
      "The new volume begins as the other one was at that moment, and takes space only for what is written to it. Neither needs the other: what it was made from can be written, rewound and removed. It has no snapshots, and its history begins with it.",
      "With --temporary it is for one use: it is removed when its last client has left, after at least one came, and when the daemon stops or starts. Until then it is a volume like any other, and may be removed by hand; varve undo brings it back to stay.",
    ],
    arguments: [
      { ...SNAPSHOT, name: "VOLUME@MOMENT", help: "A volume, and a moment of it; without: now" },
      { name: "NEW-NAME", help: "Name of the new volume", completes: "nothing" },
    ],
    options: [{ name: "temporary", help: "Remove it when its last client has left" }],
    examples: [
      { command: "varve clone db@-10m db-test", effect: "a disk to try things on" },
      { command: "varve clone db@v1 scratch --temporary", effect: "a writable image for one use" },
      { command: "varve clone db@before-upgrade old-db", effect: "from a snapshot" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume, as create prints it",
    seeAlso: ["varve-rewind(1)", "varve-snapshot(1)", "varve-resolve(1)"],
  },
  {
    name: "rewind",
    summary: "let a volume go on from what it was",
    description: [
      "The volume is what it was at that moment, and goes on from there. What it was until now stays in the history, under the moments of then, and undo brings it back. Snapshots stay.",
      "It is refused while clients are connected: they would have another disk under them. With --force they are hung up first. Unmount file systems before: what they hold in memory doesn't fit any more.",
    ],
    arguments: [{ ...SNAPSHOT, name: "VOLUME@MOMENT", help: "A volume, and a moment of it" }],
    options: [{ name: "force", help: "Hang up the clients that are connected" }],
    examples: [
      { command: "varve rewind db@-10m", effect: "as it was ten minutes ago" },
      { command: "varve rewind db@before-upgrade --force", effect: "whoever has it open" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume after the change",
    seeAlso: ["varve-undo(1)", "varve-clone(1)", "varve-snapshots(1)"],
  },
  {
    name: "undo",
    summary: "take back a rewind, a shrink or a removal",
    description: [
      "The volume is what it was just before the last rewind, undo or shrink. An undo can be undone, with what was written in between. A volume that was removed is there again, as long as retention promises it (varve list --removed); where another one has its name by now, --as gives it a new one.",
      "As a rewind it is refused while clients are connected, unless --force hangs them up first.",
    ],
    arguments: [VOLUME],
    options: [
      { name: "as", value: "NAME", help: "Bring the removed volume back under this name" },
      { name: "force", help: "Hang up the clients that are connected" },
    ],
    examples: [
      { command: "varve undo db", effect: "before the rewind, or the removal" },
      { command: "varve undo db --as old-db", effect: "the removed one, beside the new db" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume after the change",
    seeAlso: ["varve-rewind(1)", "varve-list(1)"],
  },
  {
    name: "resize",
    summary: "grow or shrink a volume",
    description: [
      "Clients see the new size when they reconnect. What a shrink cuts off stays in the history of the pool, but clients that are connected would write beyond the end: shrinking is refused while there are any. With --force they are hung up first, and see the new size when they come back.",
    ],
    arguments: [VOLUME, { name: "SIZE", help: "The new size", completes: "nothing" }],
    options: [{ name: "force", help: "Shrink it although clients are connected" }],
    examples: [{ command: "varve resize db 200G", effect: "twice the disk" }],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume after the change",
  },
  {
    name: "rename",
    summary: "rename a volume or a snapshot",
    description: [
      "Clients that are connected stay so; when they reconnect they must use the new name. A snapshot is VOLUME@NAME.",
    ],
    arguments: [
      { ...VOLUME, name: "NAME", help: "A volume, or a snapshot (VOLUME@NAME)" },
      { name: "NEW-NAME", help: "Its new name", completes: "nothing" },
    ],
    options: [],
    examples: [
      { command: "varve rename db orders", effect: "the same disk under another name" },
      { command: "varve rename db@v1 db@before-upgrade", effect: "the same moment, likewise" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the volume or the snapshot after the change",
  },
  {
    name: "remove",
    summary: "remove a volume or a snapshot",
    description: [
      "Asks first, unless --yes is given; without a terminal to ask on it refuses. A volume with clients connected isn't removed. Its snapshots stay.",
      "Of a snapshot (VOLUME@NAME) only the name goes: the moment stays as long as retention promises it. One that is protected isn't removed.",
    ],
    arguments: [{ ...VOLUME, name: "NAME", help: "A volume, or a snapshot (VOLUME@NAME)" }],
    options: [{ name: "yes", letter: "y", help: "Don't ask" }],
    examples: [
      { command: "varve remove db --yes", effect: "removed, no question asked" },
      { command: "varve remove db@v1 --yes", effect: "a snapshot" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "the removed volume, with removedAt, or the removed snapshot",
    seeAlso: ["varve-list(1)", "varve-snapshots(1)"],
  },
  {
    name: "attach",
    summary: "make a volume a local block device",
    description: [
      "Uses the kernel's NBD client where the machine has one, else nbdfuse and a loop device. Prints the path of the device. A block device needs root; without it the disk appears as a file through FUSE, unless --device insists.",
      "What was set up is remembered in the pool's directory, so that detach works later and from anywhere.",
    ],
    arguments: [VOLUME],
    options: [
      { name: "device", help: "A block device or nothing: fail where only a file can be had" },
      { name: "read-only", help: "Attach it read-only" },
    ],
    examples: [
      { command: "mkfs.ext4 $(varve attach db)", effect: "a file system on the volume" },
      { command: "mount $(varve attach db --device) /mnt", effect: "only if it is a block device" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "{volume, path, isBlockDevice, method}; method is kernel-nbd, fuse-loop or fuse",
    seeAlso: ["varve-detach(1)"],
  },
  {
    name: "detach",
    summary: "take a volume's block device away",
    description: [
      "Undoes attach, in the right order. Refused while the device is mounted or in use. A volume that was renamed meanwhile goes by its new name.",
    ],
    arguments: [VOLUME],
    options: [],
    examples: [{ command: "varve detach db", effect: "the device is gone, its data flushed" }],
    exits: ["notFound", "conflict", "unavailable"],
    json: "{volume, detached, path}",
    seeAlso: ["varve-attach(1)"],
  },
  {
    name: "import",
    summary: "copy a disk image, or another system's log, into a volume",
    description: [
      "Reads a raw or qcow2 image (or a raw stream from stdin with '-') into a volume, which is created with the image's size when it doesn't exist. Zeros cost nothing. A volume that holds data is only overwritten with --force; what lies behind the image then reads as zeros.",
      "Without --format the first bytes of the image decide. Say --format raw for a raw disk whose content others could write: they could make it look like a qcow2 image. An image that refers to other files is refused unless --allow-backing says that they may be read.",
      "An import that fails or is interrupted takes the volume that it made away again. An empty image is refused: the program that should have written it has failed. One that was cut short in a pipe looks complete; give the length with --size where you know it, and let the shell tell when the writer failed (set -o pipefail).",
      "With --format nbd-transactionlog the image is a log of nbd-server's, written with datalog = true; with --format blockcdp it is the metafiles of BlockCDP or QEMU-CDP, each with its datafile beside it, or the directory they are in. Such a log becomes a volume with its history: the base image first, if --base names one, then every write in the log's order, each a moment of the volume. What the server refused or didn't answer is left out, and told. A volume that holds data has the log applied onto it with --force. The log's own times can't become the volume's; --moments writes a table of them.",
      "A log that is damaged or cut short is imported up to there: the volume stays, the message says where, and the exit status is 13.",
    ],
    arguments: [
      {
        name: "IMAGE",
        help: "File, block device, or '-' for stdin; a log's file, metafiles or directory",
        isVariadic: true,
        completes: "file",
      },
      { ...VOLUME, help: "Volume to write; created when missing" },
    ],
    options: [
      {
        name: "format",
        value: "FORMAT",
        help: "Format of the image or log",
        standard: "of an image, what its first bytes say",
        choices: ["raw", "qcow2", "nbd-transactionlog", "blockcdp"],
      },
      {
        name: "size",
        value: "SIZE",
        help: "Size of a new volume; of a stream also its exact length",
        standard: "that of the image; of a log, its base's, else what it writes to",
      },
      { name: "force", help: "Overwrite a volume that holds data, or apply a log onto it" },
      { name: "allow-backing", help: "Follow a qcow2 image's backing and data files" },
      { name: "base", value: "FILE", help: "Image of the disk from before the log began" },
      {
        name: "base-format",
        value: "FORMAT",
        help: "Format of the base image",
        standard: "what its first bytes say",
        choices: ["raw", "qcow2"],
      },
      {
        name: "moments",
        value: "FILE",
        help: "Write a table of the log's records: time, moment of the volume, place, change",
      },
      {
        name: "utc-offset",
        value: "OFFSET",
        help: "How far ahead of UTC the clock of a blockcdp log was; QEMU-CDP's is local time",
        standard: "+08:00, as BlockCDP writes everywhere",
      },
      PROGRESS,
    ],
    examples: [
      { command: "varve import disk.qcow2 db", effect: "a volume with the disk's content" },
      { command: "zstdcat disk.raw.zst | varve import - db", effect: "from a stream" },
      {
        command: "varve import nbd.log db --format nbd-transactionlog --base before.img",
        effect: "nbd-server's log as the volume's history",
      },
      {
        command: "varve import /var/log/cdp db --format blockcdp --moments db.tsv",
        effect: "BlockCDP's, with a table of times and moments",
      },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{volume, image, format, sizeBytes, writtenBytes, volumeBytes}; sizeBytes is the image's. Of a log {volume, log, format, sizeBytes, base?, baseBytes?, changes: {write, zero, trim, flush}, writtenBytes, firstLsn, lastLsn, leftOutCount, leftOut: [{place, kind, offsetBytes, lengthBytes, why}], warnings, damage?: {place, reason}, moments?}; leftOut has the first 10",
    seeAlso: ["varve-export(1)"],
  },
  {
    name: "export",
    summary: "copy a volume into a disk image",
    description: [
      "Writes a raw or qcow2 image, sparse where the volume is. To stdout ('-') it writes raw, all bytes; a reader that goes away before the end makes it fail. A file takes its name when it is complete; an existing one is only replaced with --force.",
      "A moment of a volume, as db@-10m, gives the disk as it was then. A volume alone that is written meanwhile gives an image of no single moment: db@now is one.",
      "Damaged data ends the export with the bytes it is in. With --fill-damaged the image is completed without it.",
    ],
    arguments: [
      { ...SNAPSHOT, name: "VOLUME[@MOMENT]", help: "A volume, or one as it was at a moment" },
      { name: "IMAGE", help: "File, block device, or '-' for stdout", completes: "file" },
    ],
    options: [
      {
        name: "format",
        value: "FORMAT",
        help: "Format of the image",
        standard: "qcow2 for a name that ends in .qcow2, else raw",
        choices: ["raw", "qcow2"],
      },
      {
        name: "compress",
        value: "METHOD",
        help: "Compress a qcow2 image",
        standard: "no compression",
        choices: ["zlib", "zstd"],
      },
      { name: "force", help: "Replace an existing file, or overwrite a block device" },
      {
        name: "fill-damaged",
        help: "Go on where data is damaged: zeros in its place, each range listed, exit code 13",
      },
      PROGRESS,
    ],
    examples: [
      { command: "varve export db db.qcow2", effect: "a qcow2 image of the disk" },
      { command: "varve export db@-10m old.raw", effect: "as it was ten minutes ago" },
      { command: "varve export db - | zstd > db.raw.zst", effect: "as a stream" },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{volume, image, format, sizeBytes, writtenBytes, damaged?: [{startBytes, endBytes}]}; on stderr when the image goes to stdout",
    seeAlso: ["varve-import(1)"],
  },
  ...BACKUP_COMMANDS,
  {
    name: "gc",
    summary: "give back space that nothing needs any more",
    description: [
      "What was overwritten, trimmed or removed, and what retention doesn't promise, is garbage. The daemon collects it by itself when the pool fills; this command collects now, waits for the end and says what came of it. Segments of the log that hold nothing else are deleted; of those that hold much of it what is live is moved first.",
      "With --dry-run nothing is changed: it says what would be freed, and what holds the rest. Ctrl-C ends the waiting; the collection goes on in the daemon.",
    ],
    arguments: [],
    options: [
      { name: "dry-run", help: "Only say what would be freed, and what holds the rest" },
      PROGRESS,
    ],
    examples: [
      { command: "varve gc --dry-run", effect: "why the pool is as large as it is" },
      { command: "varve retention --none && varve gc", effect: "history is let go, and its space" },
    ],
    exits: ["notFound", "unavailable", "corrupt"],
    json: "{isDryRun, startedAt, durationMs, segmentsExamined, segmentsFreed, segmentsCompacted, bytesBefore, bytesAfter, bytesFreed, bytesMoved, garbageBytes, liveBytes, holders: [{what, bytes}], coldGainBytes?}",
    seeAlso: ["varve-retention(1)", "varve-stats(1)"],
  },
  {
    name: "scrub",
    summary: "verify all that is stored, while it is served",
    description: [
      "The daemon reads everything that the pool stores, but for the segment that is still being written, and verifies its checksums, slowly enough that clients hardly notice, and the command shows how far it is. Damage is a result: it is listed, and the exit code is 13.",
      "Ctrl-C ends the waiting; the scrub goes on in the daemon. What also compares the index with the log, but needs the daemon to be stopped, is `varve check`.",
    ],
    arguments: [],
    options: [
      { name: "status", help: "Only show the one that runs, or the report of the last one" },
      { name: "stop", help: "End the one that runs" },
      PROGRESS,
    ],
    examples: [
      { command: "varve scrub", effect: "everything, with progress and a report" },
      { command: "varve scrub --status", effect: "how far it is, or what came of it" },
    ],
    exits: ["notFound", "unavailable", "corrupt"],
    json: "{isRunning, progress?: {phase, doneBytes, totalBytes, problemCount}, report?: {startedAt, durationMs, isComplete, segmentsChecked, framesChecked, bytesChecked, problemCount, problems: [{code, message, data}]}}",
    seeAlso: ["varve-check(1)", "varve-stats(1)"],
  },
  {
    name: "stats",
    summary: "show how full the pool is, what is saved, and the counters",
    description: [
      "A line for the pool and one for each volume. Of the pool: how much it may store, what it takes on the disk, and what its volumes would take more without deduplication and compression. Of a volume: its size, what it holds that isn't zeros, and how much of that it doesn't take for itself alone, because it is shared or compressed.",
      "What is stored is counted for this in the background, and of a large pool in samples; a count that takes long isn't waited for, then the one before is shown, with its time. With --verbose every counter is shown under its name in the JSON. Counters of what was done begin with the start of the daemon.",
    ],
    arguments: [],
    options: [VERBOSE],
    examples: [
      { command: "varve stats", effect: "size, used, available, and what is saved" },
      { command: "varve stats --verbose", effect: "every counter there is" },
    ],
    exits: ["notFound", "unavailable"],
    json: "{pool: {state, storedBytes, capacityBytes, liveBytes, historyBytes?, historyAt?, …}, dedup: {savedBytes, indexMemoryBytes, indexEntries, hitCount, …}, compression: {savedBytes, …}, zero: {savedBytes, …}, gc, scrub, census?: {at, ageMs, isSampled}, volumes: [{name, sizeBytes, mappedBytes, uniqueBytes, …}]}, whether --verbose or not",
    seeAlso: ["varve-gc(1)", "varve-retention(1)", "varve-top(1)"],
  },
  {
    name: "top",
    summary: "watch the volumes work",
    description: [
      "Requests and bytes per second of each volume, until q or Ctrl-C on a terminal. Elsewhere, and with --json, one table or line per interval.",
    ],
    arguments: [],
    options: [
      { name: "interval", value: "TIME", help: "Time between two looks", standard: "1s" },
      { name: "count", value: "COUNT", help: "Stop after so many looks" },
    ],
    examples: [{ command: "varve top --interval 5s", effect: "a look every five seconds" }],
    exits: ["notFound", "unavailable"],
    json: "per interval one line: {at, intervalMs, volumes: [{name, readsPerSecond, readBytesPerSecond, …}]}",
    seeAlso: ["varve-stats(1)"],
  },
  {
    name: "events",
    summary: "show what happened to the pool",
    description: [
      "The latest changes of state: volumes made and removed, clients that came and went, warnings and errors. With --follow also those to come.",
      "With --wait it prints the first event of one of these names and ends; with status 12 when --timeout passes or the daemon ends before one came. Only events to come count, or with --after those that came behind that time too: give it the time of the last event that was seen, and none is missed between two waits.",
      "Worth waiting for: history.shortened (moments went earlier than promised, for want of space), pool.watermark, pool.full and pool.has-space, snapshot.expired, history.suspicious, log.frame-damaged, volume.removed.",
    ],
    arguments: [],
    options: [
      { name: "follow", letter: "f", help: "Go on with events as they come" },
      {
        name: "wait",
        value: "EVENT",
        help: 'End with the first event of this name; "pool." is every name that begins so',
        isRepeatable: true,
      },
      { name: "after", value: "TIME", help: "With --wait: also those that came after it" },
      { name: "timeout", value: "TIME", help: "With --wait: give up after so long, as in 30s" },
    ],
    examples: [
      { command: "varve events --follow", effect: "until Ctrl-C or the end of the daemon" },
      {
        command: "varve events --wait history.shortened --wait pool.full --timeout 1h",
        effect: "what a script that needs the past wants to know",
      },
    ],
    exits: ["notFound", "unavailable"],
    json: "one line per event: {at, level, event, fields}",
  },
  {
    name: "log dump",
    summary: "print the log's records",
    description: [
      "Reads the pool's files directly and changes nothing, with or without a daemon. Prints one line per batch and record, in the order of the log, and says where garbage collection let a part of it go. Damage ends it, with an error that says where.",
    ],
    arguments: [],
    options: [
      { name: "from", value: "LSN", help: "Begin at this record", standard: "the oldest" },
      { name: "count", value: "COUNT", help: "Stop after so many records" },
    ],
    examples: [
      { command: "varve log dump --pool /srv/pool", effect: "every record the pool holds" },
    ],
    exits: ["notFound", "corrupt"],
    json: "one line per batch, {type: batch, segment, offset, incarnation, firstLsn, records, frameBytes, durableLsn, timeMicros, isMarker}, and per record, {type: record, lsn, timeMicros, kind, branch?, lba?, blocks?, references?, place?, storedBytes?, body?}; {type: gap, segment, lsn} where what came before was let go",
    seeAlso: ["varve-log-cat(1)", "varve-check(1)"],
  },
  {
    name: "log cat",
    summary: "recover a volume's content from the log alone",
    description: [
      "Reads the pool's files directly and changes nothing: replays the log and writes the volume, raw, to stdout. It needs neither index nor cache, so it works where the daemon doesn't; where garbage collection let the beginning of the log go, it begins from the newest checkpoint. When stdout is an empty file, zeros stay holes in it.",
      "Damage ends it, with an error that says where, and what could be given nevertheless. With --salvage that is given: the content up to the place where the log broke, or, where a checkpoint knows more, all but the blocks whose own place is damaged or gone. What can't be read is zeros; stderr says up to which record and time the content goes, and lists these ranges, the first 20 of them.",
    ],
    arguments: [VOLUME],
    options: [{ name: "salvage", help: "Give what can be read of a damaged pool" }],
    examples: [
      { command: "varve log cat db > db.raw", effect: "the disk, from the log" },
      {
        command: "varve log cat db --salvage --json > db.raw 2> lost.json",
        effect: "what is left of it, and a list of what isn't",
      },
    ],
    exits: ["notFound", "corrupt"],
    json: "{volume, sizeBytes} on stderr, with --salvage also {isComplete, lsn, timeMicros, checkpointLsn?, damage?, lostBytes, lost: [{start, end, reason}]}; the content goes to stdout",
    seeAlso: ["varve-log-dump(1)", "varve-export(1)"],
  },
  {
    name: "log export",
    summary: "write a volume's history as a log for other systems",
    description: [
      "Reads the pool's files directly and changes nothing, with or without a daemon. Writes what happened to the volume between two moments, with its data, as a transaction log of nbd-server: nbd-trplay replays it onto an image of the first moment and so makes one of the second, byte by byte. Without moments it is all that happened since the volume was made, for an image of zeros.",
      "Each request is answered, and its cookie is the LSN of its change. A log has no sizes: where the volume was resized in between, the message says both. Not written are a range in which the volume was rewound, and what retention has let go of.",
    ],
    arguments: [
      {
        name: "VOLUME[@A..B]",
        help: "A volume, and the moments between which: db@-1h..now, db@#17..#42, db@..v1",
        completes: "volume",
      },
    ],
    options: [
      {
        name: "format",
        value: "FORMAT",
        help: "Format of the log",
        standard: "nbd-transactionlog",
        choices: ["nbd-transactionlog"],
      },
      { name: "output", value: "FILE", help: "File to write, or '-'", standard: "-, stdout" },
      { name: "force", help: "Replace an existing file" },
    ],
    examples: [
      {
        command: "varve log export db@-1h..now --output hour.log",
        effect: "what was written in the last hour",
      },
      {
        command: "nbd-trplay -i before.img -l hour.log",
        effect: "the image of an hour ago becomes that of now",
      },
    ],
    exits: ["notFound", "conflict", "corrupt"],
    json: "{volume, output, fromLsn, lsn, fromSizeBytes, sizeBytes, changes: {write, zero, trim, flush}, logBytes}; on stderr when the log goes to stdout",
    seeAlso: ["varve-import(1)", "varve-log-dump(1)", "nbd-trplay(1)"],
  },
  {
    name: "check",
    summary: "verify a pool offline",
    description: [
      "Reads all of the pool and verifies every invariant: the chain of batches, checksums, the index against the log, and that every reference, also of the history that is promised, comes to its frame. Changes nothing. A pool that a daemon has open is refused, because it changes meanwhile.",
      "Damage doesn't end it: what lies behind a break of the log is looked at piece by piece, and all runs node by node. A clean close leaves a mark, and the result says when it was. A log whose end was cut off looks like one that a crash ended: then the result says up to which record the pool is sound, and that nothing is known of what may have come behind.",
    ],
    arguments: [],
    options: [
      {
        name: "memory",
        value: "SIZE",
        help: "Memory to work in, besides 8 bytes per block that is mapped, 10 per frame, and 50 per frame that was moved",
        standard: "256M",
      },
    ],
    examples: [{ command: "varve check --pool /srv/pool", effect: "what is wrong, if anything" }],
    exits: ["notFound", "conflict", "corrupt"],
    json: "{isSound, poolId, firstLsn, lsn, timeMicros, segment, offset, closedMicros?, isLogWhole, volumes, blocksCompared, checkpoints, counted?: {references, danglingReferences, damagedReferences, frames, frameBytes, unreferencedFrames, unreferencedBytes}, tail, findings: [{code, message, data}]}; lsn is the first that wasn't read",
    seeAlso: ["varve-log-dump(1)"],
  },
  {
    name: "completion",
    summary: "print a completion script for a shell",
    description: ["Completes commands, options, their values, and the names of volumes."],
    arguments: [{ name: "SHELL", help: "bash, zsh or fish", completes: ["bash", "zsh", "fish"] }],
    options: [],
    examples: [
      { command: "varve completion bash > /etc/bash_completion.d/varve", effect: "for everybody" },
      { command: "varve completion fish | source", effect: "for this shell" },
    ],
    exits: [],
    json: "{shell, script}",
    isPoolless: true,
  },
  {
    name: "version",
    summary: "print the version",
    description: ["Of the command line; the daemon's own is in `varve info`."],
    arguments: [],
    options: [],
    examples: [{ command: "varve version", effect: "the version" }],
    exits: [],
    json: "{version, node}",
    isPoolless: true,
  },
];

function settingOption(name: (typeof SETTING_NAMES)[number]): OptionRow {
  const row = SETTINGS[name];
  const standard = row.standardText ?? row.standard;
  return {
    name,
    help: row.help,
    ...(row.type === "switch" ? {} : { value: row.value }),
    ...(standard === undefined ? {} : { standard }),
    ...(row.choices === undefined ? {} : { choices: row.choices }),
  };
}

/** All options of a command, its own first. */
export function optionsOf(row: CommandRow): readonly OptionRow[] {
  return [...row.options, ...(row.isPoolless ? [] : [POOL_OPTION]), JSON_OPTION, HELP_OPTION];
}
