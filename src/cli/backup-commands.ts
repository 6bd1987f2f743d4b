// SPDX-License-Identifier: Apache-2.0
//
// The commands that have to do with backups, as rows of the command table (command-table.ts). They need a target, and only
// those that read or write a volume need a daemon.

import { KEY_OPTIONS } from "./backup-keys.ts";
import type { ArgumentRow, CommandRow, OptionRow } from "./command.ts";
import { EXIT_WITH_PARENT, PROGRESS } from "./shared-rows.ts";

const TARGET: ArgumentRow = {
  name: "TARGET",
  help: "Directory with the backups",
  completes: "file",
};

const POINT: ArgumentRow = {
  name: "TARGET[@POINT]",
  help: "Directory with the backups, and a point in it: a name, a time, or the beginning of its id",
  completes: "file",
};

/** Which points a prune keeps. */
const KEEP_OPTIONS: readonly OptionRow[] = [
  { name: "keep-last", value: "COUNT", help: "Keep the newest points" },
  {
    name: "keep-within",
    value: "TIME",
    help: "Keep all that are so much older than the newest at most: 36h, 7d",
  },
  { name: "keep-hourly", value: "COUNT", help: "Keep one of each hour that has one, so many" },
  { name: "keep-daily", value: "COUNT", help: "Keep one of each day, so many" },
  { name: "keep-weekly", value: "COUNT", help: "Keep one of each week, from Monday, so many" },
  { name: "keep-monthly", value: "COUNT", help: "Keep one of each month, so many" },
  { name: "keep-yearly", value: "COUNT", help: "Keep one of each year, so many" },
  {
    name: "max-unused",
    value: "SHARE",
    help: "Rewrite packs until at most this share of their blocks is unused; 100%: none",
    standard: "5%",
  },
];

export const BACKUP_COMMANDS: readonly CommandRow[] = [
  {
    name: "backup",
    summary: "back up volumes to a directory",
    description: [
      "Sends what the volumes held at a moment to the target and makes it a point, from which they can be restored. The first backup of a volume reads all of it; later ones read what has changed since, block by block, and send what the target doesn't hold yet, of whatever volume or pool. Every point restores on its own, so there is no chain to keep.",
      "Without a moment it is now, the same now for all volumes of the command. Volumes of one point are of one moment.",
      "The target is made if it isn't there. With --encrypt and a key nothing in it can be read without that key, and without it nobody can help: keep a copy of it elsewhere.",
      "The moment gets a name, backup-…, and is protected until the next backup to the same target has used it: so a crash costs time and never a full backup. --max-behind bounds how long it holds history; after that the next backup reads everything once, and still sends only what the target lacks.",
      "A backup that was interrupted, however, is simply started again: it goes on with what was sent. Two of the same volume to one target at once are refused.",
    ],
    arguments: [
      {
        name: "VOLUME[@MOMENT]",
        help: "A volume, or one as it was at a moment",
        isVariadic: true,
        completes: "volume",
      },
      TARGET,
    ],
    options: [
      {
        name: "name",
        value: "NAME",
        help: "Name of the point",
        standard: "the moment's, or its time",
      },
      { name: "encrypt", help: "Make the target encrypted, if it isn't there yet" },
      ...KEY_OPTIONS,
      { name: "limit-rate", value: "SIZE", help: "Read no more than this a second: 50M" },
      { name: "history", value: "TIME", help: "The moments of this time before go with it: 24h" },
      { name: "full", help: "Read everything again; only what the target lacks is sent" },
      { name: "max-behind", value: "TIME", help: "Let the moment go after this time: 7d" },
      { name: "existing", help: "Fail where the target isn't there, instead of making it" },
      EXIT_WITH_PARENT,
      PROGRESS,
    ],
    examples: [
      { command: "varve backup db /srv/backup", effect: "as it is now" },
      { command: "varve backup db@v1 web@v1 /srv/backup", effect: "a snapshot of two volumes" },
      {
        command: "varve backup db /mnt/usb --encrypt --key-file backup.key",
        effect: "to a disk that may get lost",
      },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{target, point: {id, name, createdAt}, volumes: [{name, lsn, parent?, lostParent?, isResumed}], readBytes, zeroBytes, knownBytes, newBytes, storedBytes, elapsedMs}; progress on stderr, a document a second: {progress, phase, storedBytes, doneBytes, totalBytes, elapsedMs, bytesPerSecond, secondsLeft, isDone}",
    seeAlso: ["varve-restore(1)", "varve-backups(1)", "varve-prune(1)", "varve-snapshot(1)"],
  },
  {
    name: "restore",
    summary: "bring back a volume from a backup",
    description: [
      "Writes what a point holds of a volume into a new volume, an existing one, or with --to an image. Without a point it is the newest one that has the volume. Of an existing volume that isn't blank only what differs is written, and only with --force; a snapshot of it before is a way back.",
      "A point is named by its name, its time or the beginning of its id; of several with one name it is the newest. Targets on a read-only file system can be restored from, too.",
      "A point that was made with --history has moments before it, too: a new or blank volume gets them all, in their order, with their names. Their times can't be taken over; --moments writes down which moment of the volume each of them became.",
      "Damaged parts of the target end the restore with the bytes they cost. With --skip-damaged the rest is restored, and each range that is lost is listed.",
    ],
    arguments: [
      POINT,
      {
        name: "VOLUME",
        help: "The volume that is made or overwritten",
        isOptional: true,
        completes: "volume",
      },
    ],
    options: [
      {
        name: "volume",
        value: "NAME",
        help: "The volume in the backup",
        standard: "the one of that name, or the only one",
      },
      {
        name: "to",
        value: "FILE",
        help: "Write an image instead: a file, a device, '-' for stdout",
      },
      {
        name: "format",
        value: "FORMAT",
        help: "Format of the image",
        standard: "qcow2 for a name that ends in .qcow2, else raw",
        choices: ["raw", "qcow2"],
      },
      { name: "force", help: "Overwrite a volume that holds data, a file, or a device" },
      { name: "no-history", help: "Only the disk, though the backup has its past moments too" },
      {
        name: "moments",
        value: "FILE",
        help: "Write a table: which moment each of the past ones became",
      },
      {
        name: "skip-damaged",
        help: "Go on where the target is damaged: zeros in its place, each range listed, exit code 13",
      },
      ...KEY_OPTIONS,
      PROGRESS,
    ],
    examples: [
      {
        command: "varve restore /srv/backup db-restored --volume db",
        effect: "the newest point of db",
      },
      { command: "varve restore /srv/backup@v1 db --force", effect: "db is as at v1 again" },
      { command: "varve restore /srv/backup@v1 --volume db --to db.raw", effect: "as a file" },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{target, point: {id, name}, volume, image?, sizeBytes, writtenBytes, damaged?: [{startBytes, endBytes}]}; on stderr when the image goes to stdout",
    seeAlso: ["varve-backup(1)", "varve-backups(1)"],
  },
  {
    name: "serve-backup",
    summary: "serve the points of a backup as disks over NBD",
    description: [
      "Nothing is restored: what a client reads is fetched when it is read, so the first byte is there within a second, and one file can be had without the disk around it. Exports are called VOLUME@POINT; VOLUME alone is its newest point. Neither a daemon nor a pool is needed.",
      "The disks are read-only. With --overlay they can be written, so that a file system with a journal can be mounted or a repair tried out; what is written lies in a file in TMPDIR and is gone when the command ends. The backup never changes.",
    ],
    arguments: [TARGET],
    options: [
      { name: "socket", value: "PATH", help: "Listen on this Unix socket" },
      {
        name: "listen",
        value: "HOST:PORT",
        help: "Listen on this TCP address; nothing is encrypted",
      },
      { name: "overlay", help: "Let disks be written, and forget it at the end" },
      ...KEY_OPTIONS,
    ],
    examples: [
      {
        command: "varve serve-backup /srv/backup --socket /run/backup.sock",
        effect: "all points, for this machine",
      },
      {
        command: 'nbdcopy "nbd+unix:///db@v1?socket=/run/backup.sock" db.raw',
        effect: "one of them, by any client of NBD",
      },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "one line when it is ready: {ready, target, uris}",
    seeAlso: ["varve-restore(1)", "varve-backups(1)"],
    isPoolless: true,
  },
  {
    name: "verify",
    summary: "check that backups can be restored",
    description: [
      "Reads the catalog's points, their manifests, the maps of their volumes and the heads of all packs, and says what is missing or damaged, and which bytes of which volumes of which points that costs. With --data all blocks are read and checked too, with --sample a share of them, another one each time. Neither a daemon nor a pool is needed, and nothing is changed.",
      "Damage is a result: it is listed, and the exit code is 13. What isn't listed can be restored; varve restore --skip-damaged restores the rest of what is.",
    ],
    arguments: [
      TARGET,
      {
        name: "POINT",
        help: "Only this point: a name, a time, or the beginning of its id",
        isOptional: true,
      },
    ],
    options: [
      { name: "volume", value: "NAME", help: "The newest point of that name with this volume" },
      { name: "data", help: "Read all blocks" },
      { name: "sample", value: "SHARE", help: "Read this share of the blocks: 5%" },
      ...KEY_OPTIONS,
      PROGRESS,
    ],
    examples: [
      { command: "varve verify /srv/backup", effect: "is everything there" },
      {
        command: "varve verify /srv/backup --sample 5%",
        effect: "with some of the data, each night",
      },
      { command: "varve verify /srv/backup v1 --data", effect: "one point, all of it" },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{target, level, isSound, pointCount, partCount, packCount, groupsRead, bytesRead, damages: [{object, why}], damageCount, losses: [{pointId, pointName, volume?, isHistory?, fromLsn?, offsetBytes, lengthBytes, object, why}], lossCount, lostBytes}",
    seeAlso: ["varve-backups(1)", "varve-restore(1)"],
    isPoolless: true,
  },
  {
    name: "backups",
    summary: "list the points of a backup target",
    description: [
      "One line per point, oldest moment first: what it is called, when its moment was, which volumes are in it, and how much its backup added to the target. Points of one name are told apart by their ids, of which eight digits are enough wherever a point is named.",
      "Who is at work in the target is said, too: backups that are open, or were interrupted and can be resumed, and readers. Neither a daemon nor a pool is needed.",
    ],
    arguments: [TARGET],
    options: [
      { name: "volume", value: "NAME", help: "Only points with this volume" },
      ...KEY_OPTIONS,
    ],
    examples: [
      { command: "varve backups /mnt/backup", effect: "what can be restored" },
      {
        command: "varve backups /mnt/backup --volume db --json",
        effect: "of one volume, for programs",
      },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{repositoryId, isEncrypted, points: [{id, name, at, createdAt, poolId, volumes: [{name, volumeId, sizeBytes, lsn, branch, at}], newBytes, isProtected}], sessions: [{id, purpose, poolId, volumes, beganAt, host}], readers: [{id, purpose, expiresAt}]}",
    seeAlso: ["varve-backup(1)", "varve-prune(1)"],
    isPoolless: true,
  },
  {
    name: "schedule",
    summary: "back up volumes at regular times, by the daemon",
    description: [
      "With volumes and --backup a schedule is made: the daemon backs them up to the target, as one point, at once and then every so often, and after each backup prunes the points of the same volumes by the rules that are given. Without rules every point stays. Without --backup the name of a schedule shows that one, or changes it; without anything all are listed.",
      "The times are a grid that begins when the schedule is made. Of times that were missed, because the daemon was down or a backup took longer, one is made up for, at once. A backup that fails is tried again, after half a minute at first and then ever more rarely, until the next time comes. To one target one backup runs at a time, and of a pool two at once.",
      "A schedule belongs to its volumes: it stays theirs when they are renamed or rewound, and is suspended while one of them is removed. How it stands is in varve info, in the health and the metrics of the daemon, and in its events; a backup that failed, or is overdue by an interval, is a warning there.",
      "The target is made now, if it isn't there. Later it has to be there: a disk that isn't mounted makes a backup fail. The daemon, which may be another user, reads the key and writes the target.",
    ],
    arguments: [
      {
        name: "NAME",
        help: "Volumes, with --backup; else a schedule",
        isOptional: true,
        isVariadic: true,
        completes: "volume",
      },
    ],
    options: [
      { name: "backup", value: "TARGET", help: "Make a schedule of backups to this directory" },
      { name: "every", value: "TIME", help: "How often: 15m, 1h, 1d; 1 minute to 1 year" },
      { name: "name", value: "NAME", help: "Its name", standard: "the first volume's" },
      ...KEEP_OPTIONS,
      { name: "encrypt", help: "Make the target encrypted, if it isn't there yet" },
      ...KEY_OPTIONS,
      { name: "limit-rate", value: "SIZE", help: "Read no more than this a second: 50M" },
      { name: "run-now", help: "Back up now, as soon as the target is free" },
      { name: "pause", help: "Begin no more by itself; a backup that runs goes on" },
      { name: "resume", help: "Go on; what is due begins at once" },
      { name: "remove", help: "Remove the schedule; its backups stay" },
    ],
    examples: [
      {
        command:
          "varve schedule db --backup /srv/backup --every 1h --keep-hourly 24 --keep-daily 7",
        effect: "each hour, thinned out",
      },
      {
        command: "varve schedule db web --backup /srv/backup --every 1d --name night",
        effect: "both as one point, a day apart",
      },
      { command: "varve schedule", effect: "how all of them stand" },
      { command: "varve schedule night --run-now", effect: "one more, now" },
      { command: "varve schedule night --remove", effect: "no more; the backups stay" },
    ],
    exits: ["notFound", "conflict", "unavailable"],
    json: "{schedules: [{name, state, volumes: [{id, name?, isRemoved}], target, everyMs, keep, isPaused, createdAt, nextAt?, progress?, isOverdue, lastRun?, lastDone?}]}; of one schedule that one. A run: {dueAt, startedAt, durationMs, isDone, attempt, point?, readBytes, sentBytes, storedBytes, problem?: {code, message}}",
    seeAlso: ["varve-backup(1)", "varve-prune(1)", "varve-restore(1)", "varve-events(1)"],
  },
  {
    name: "prune",
    summary: "let go of old backups, and give back their space",
    description: [
      "Rules say which points stay; each looks at the points of every set of volumes by itself, by the times of their moments (UTC). --keep-daily 7 keeps the newest point of each of the last seven days that have one. A point that several rules keep stays as long as one does; one that no rule keeps goes, unless it is protected. Without rules no point goes, and only what no point needs is deleted. With --dry-run it says which rule keeps what, and changes nothing.",
      "Blocks are stored in packs, up to 64 MiB of them together. Packs of which much isn't needed any more are rewritten without it, as --max-unused says; that takes space before it gives any back.",
      "Backups, restores and other prunes may run meanwhile. What one of them might need waits for it: a backup that was interrupted holds it until the next backup of the same volumes goes on with it, or --end-session ends it. A prune that is interrupted is finished by the next one. If a point can't be read, nothing is deleted.",
    ],
    arguments: [TARGET],
    options: [
      ...KEEP_OPTIONS,
      { name: "volume", value: "NAME", help: "Look only at points with this volume" },
      {
        name: "like",
        value: "POINT",
        help: "Look only at points of the same volumes, of the same pool, as this one",
      },
      {
        name: "remove",
        value: "POINT",
        help: "Remove this point, by name or id; may be repeated",
        isRepeatable: true,
      },
      {
        name: "protect",
        value: "POINT",
        help: "Let no rule remove this point; may be repeated",
        isRepeatable: true,
      },
      {
        name: "unprotect",
        value: "POINT",
        help: "Take the protection off; may be repeated",
        isRepeatable: true,
      },
      {
        name: "end-session",
        value: "ID",
        help: "End the session of a backup that won't come back",
      },
      {
        name: "repair",
        help: "Take the last change of the catalog back, if that can't be read any more",
      },
      { name: "dry-run", help: "Only say what would stay, by which rule, and what would go" },
      ...KEY_OPTIONS,
      EXIT_WITH_PARENT,
    ],
    examples: [
      {
        command: "varve prune /mnt/backup --keep-daily 7 --keep-weekly 5 --dry-run",
        effect: "what these rules would do",
      },
      {
        command: "varve prune /mnt/backup --keep-daily 7 --keep-weekly 5",
        effect: "the same, done",
      },
      { command: "varve prune /mnt/backup --remove before-upgrade", effect: "one point goes" },
      { command: "varve prune /mnt/backup", effect: "only what no point needs goes" },
    ],
    exits: ["notFound", "conflict", "unavailable", "corrupt"],
    json: "{isDryRun, points: [{id, name, at, …, isKept, keptBy: [text]}], keptCount, removedCount, garbageCount, garbageBytes, deletedCount, deletedBytes, waitingCount, waitingBytes, leftoverCount, repack?: {slotCount, unusedCount, packCount, movedBytes, damagedCount}, repackProblem?}; points are those that the rules looked at",
    seeAlso: ["varve-backup(1)", "varve-backups(1)"],
    isPoolless: true,
  },
];
