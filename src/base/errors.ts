// SPDX-License-Identifier: Apache-2.0
//
// Every error that can leave Varve, as one table. A row says what kind of answer the caller should
// give (retry, fix the request, restore), how each door spells it (NBD errno, HTTP status, exit code),
// and what to do next. Callers match on `code`, never on text or class. docs/errors.md is generated
// from this table; a test fails when a code is never thrown, never tested or has no hint.

/** What the caller should do. */
export type ErrorKind =
  | "invalid" // fix the request
  | "not_found" // name something that exists
  | "conflict" // exists already, busy, or fenced
  | "full" // free or add space
  | "unavailable" // retry later
  | "corrupt" // stop, scrub, restore
  | "internal"; // report a bug

/** NBD error numbers (NBD protocol, "Error values"); the only ones that go on the wire. */
export const NBD_ERROR = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Process exit codes of `varve`; every man page lists them. */
export const EXIT_CODE = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 10,
  conflict: 11,
  unavailable: 12,
  corrupt: 13,
  bug: 70,
} as const;

interface KindRow {
  readonly nbd: number;
  readonly http: number;
  readonly exit: number;
}

const KINDS: Record<ErrorKind, KindRow> = {
  invalid: { nbd: NBD_ERROR.EINVAL, http: 400, exit: EXIT_CODE.usage },
  not_found: { nbd: NBD_ERROR.EINVAL, http: 404, exit: EXIT_CODE.notFound },
  conflict: { nbd: NBD_ERROR.EPERM, http: 409, exit: EXIT_CODE.conflict },
  full: { nbd: NBD_ERROR.ENOSPC, http: 507, exit: EXIT_CODE.failed },
  unavailable: { nbd: NBD_ERROR.ESHUTDOWN, http: 503, exit: EXIT_CODE.unavailable },
  corrupt: { nbd: NBD_ERROR.EIO, http: 500, exit: EXIT_CODE.corrupt },
  internal: { nbd: NBD_ERROR.EIO, http: 500, exit: EXIT_CODE.bug },
};

interface ErrorRow {
  readonly kind: ErrorKind;
  /** The next command or action; used when the thrower has nothing more exact to say. */
  readonly hint: string;
}

export const ERRORS = {
  // Requests
  USAGE: { kind: "invalid", hint: 'see "varve --help"' },
  NAME_INVALID: {
    kind: "invalid",
    hint: "names match [A-Za-z][A-Za-z0-9_.-]{0,62}, without '..', and are not now, lsn or flush",
  },
  SIZE_INVALID: {
    kind: "invalid",
    hint: "a volume is 1M to 64T, a multiple of 512 bytes; write it like 10G",
  },
  MOMENT_INVALID: {
    kind: "invalid",
    hint: "a moment is #1234567 or lsn:1234567, 2026-03-01T12:00:00Z, -10m, flush:MOMENT, a snapshot's name, or now",
  },
  CONFIG_INVALID: {
    kind: "invalid",
    hint: '"varve serve --help" lists all settings; in a file they have the same names',
  },
  RANGE_INVALID: { kind: "invalid", hint: 'see the size with "varve info VOLUME"' },
  IMAGE_UNSUPPORTED: {
    kind: "invalid",
    hint: "convert it first: qemu-img convert -O raw IMAGE disk.raw",
  },

  // Things that are or aren't there
  VOLUME_NOT_FOUND: { kind: "not_found", hint: 'see "varve list"' },
  MOMENT_NOT_FOUND: { kind: "not_found", hint: 'see "varve history VOLUME"' },
  MOMENT_GONE: { kind: "not_found", hint: 'see what is left with "varve history VOLUME"' },
  POOL_NOT_FOUND: {
    kind: "not_found",
    hint: 'make one with "varve serve --pool DIR", or name it with --pool or VARVE_POOL',
  },
  NOT_ATTACHED: {
    kind: "not_found",
    hint: 'attach it with "varve attach VOLUME"; findmnt and losetup show what else is there',
  },
  EXPORT_NOT_FOUND: { kind: "not_found", hint: 'see "varve list"' },
  NOTHING_TO_UNDO: {
    kind: "conflict",
    hint: 'see what was with "varve history VOLUME", and go there with "varve rewind VOLUME@MOMENT"',
  },
  SNAPSHOT_EXISTS: {
    kind: "conflict",
    hint: 'choose another name, or see "varve snapshots VOLUME"',
  },
  SNAPSHOT_PROTECTED: {
    kind: "conflict",
    hint: 'take the protection off first with "varve set VOLUME@NAME protected=off"',
  },
  SCHEDULE_NOT_FOUND: { kind: "not_found", hint: 'see "varve schedule"' },
  SCHEDULE_EXISTS: {
    kind: "conflict",
    hint: 'choose another with --name, or see "varve schedule"',
  },
  VOLUME_EXISTS: { kind: "conflict", hint: 'choose another name, or see "varve list"' },
  IMAGE_NOT_FOUND: { kind: "not_found", hint: "name a file that exists, or '-' for stdin" },
  IMAGE_EXISTS: { kind: "conflict", hint: "choose another name, or pass --force to replace it" },
  VOLUME_BUSY: { kind: "conflict", hint: "disconnect its clients first, or pass --force" },
  POOL_LOCKED: {
    kind: "conflict",
    hint: "another varve daemon has this pool open; stop it first, or talk to it with the other commands",
  },
  NOT_A_POOL: {
    kind: "conflict",
    hint: "name an empty or new directory, or one that holds a pool.json",
  },
  ACCESS_DENIED: {
    kind: "conflict",
    hint: "see the access list of the export in the configuration",
  },

  // Backup targets
  TARGET_NOT_FOUND: {
    kind: "not_found",
    hint: 'name a directory that holds a varve-backup.json; "varve backup VOLUME@MOMENT TARGET" makes one',
  },
  NOT_A_TARGET: {
    kind: "conflict",
    hint: "name an empty or new directory, or one that holds a varve-backup.json",
  },
  TARGET_UNSUITABLE: {
    kind: "invalid",
    hint: "choose a directory on a file system with hard links, like ext4, xfs, btrfs, zfs or NFS",
  },
  TARGET_KEY_WRONG: {
    kind: "invalid",
    hint: "give the key that the target was made with: --key-file FILE, or --passphrase-file FILE",
  },
  POINT_NOT_FOUND: { kind: "not_found", hint: 'see "varve backups TARGET"' },
  POINT_PROTECTED: {
    kind: "conflict",
    hint: 'take the protection off first: "varve prune TARGET --unprotect POINT"',
  },
  SESSION_NOT_FOUND: { kind: "not_found", hint: 'see "varve backups TARGET"' },
  BACKUP_RUNNING: {
    kind: "conflict",
    hint: "wait until it has ended, or end it (Ctrl-C there); what it has sent is used by the next one",
  },
  SESSION_ENDED: {
    kind: "conflict",
    hint: "another program took it over, or it was ended by hand; start it again",
  },
  LISTEN_FAILED: {
    kind: "conflict",
    hint: "see who listens there (ss -lpn), or choose another place",
  },

  // Space and availability
  POOL_FULL: {
    kind: "full",
    hint: '"varve gc --dry-run" says what holds the space; free it with "varve gc", keep less with "varve retention", or raise the limit with "varve set pool-size=SIZE"',
  },
  DISK_FULL: {
    kind: "full",
    hint: "free space on the file system that holds the pool; writes resume by themselves",
  },
  TARGET_FULL: {
    kind: "full",
    hint: 'free space where the target is, or let go of old points: "varve prune TARGET --keep-daily 7 --dry-run"',
  },
  TARGET_UNAVAILABLE: {
    kind: "unavailable",
    hint: "see that the target is mounted and answers, then start it again; what is in it stays whole",
  },
  DAEMON_NOT_RUNNING: { kind: "unavailable", hint: 'start it with "varve serve --pool DIR"' },
  POOL_STOPPED: {
    kind: "unavailable",
    hint: "the pool stopped after an I/O error; read the daemon's log, then restart it",
  },
  OUTPUT_CLOSED: {
    kind: "unavailable",
    hint: "what was written is incomplete; start it again with a reader that takes all of it",
  },
  INTERRUPTED: { kind: "unavailable", hint: "start it again; what was half done was taken away" },
  ATTACH_FAILED: {
    kind: "unavailable",
    hint: "the message has the program's own words; nothing was left attached",
  },
  COMMAND_FAILED: { kind: "unavailable", hint: "the message has the command's own words" },
  PROGRAM_MISSING: { kind: "unavailable", hint: "install the program that the message names" },
  BUSY: { kind: "unavailable", hint: "the daemon is at its limit; try again" },
  PEER_FAILED: { kind: "unavailable", hint: "see that the server runs and answers: nbdinfo URI" },
  PEER_REFUSED: {
    kind: "invalid",
    hint: "the other side says why; see what it offers: nbdinfo --list URI",
  },

  // Damage and bugs
  DISK_IO: {
    kind: "corrupt",
    hint: "check the disk (dmesg, smartctl); the daemon must be restarted to trust it again",
  },
  FRAME_CORRUPT: {
    kind: "corrupt",
    hint: 'see "varve check"; restore these blocks from a backup or another copy',
  },
  LOG_CORRUPT: {
    kind: "corrupt",
    hint: 'nothing was changed; see "varve check", copy the pool before any repair',
  },
  POOL_CORRUPT: {
    kind: "corrupt",
    hint: 'nothing was changed; see "varve check", copy the pool before any repair',
  },
  IMAGE_CORRUPT: {
    kind: "corrupt",
    hint: 'see "qemu-img check IMAGE", or get the image again; its other parts may be whole',
  },
  TARGET_CORRUPT: {
    kind: "corrupt",
    hint: 'nothing was changed; "varve verify TARGET" says what is lost',
  },
  FORMAT_UNSUPPORTED: {
    kind: "conflict",
    hint: "open it with the version of varve that wrote it, or a newer one",
  },
  INTERNAL: {
    kind: "internal",
    hint: "this is a bug of varve: please report it with the daemon's log",
  },
} as const;

export type ErrorCode = keyof typeof ERRORS;

// Also the proof that every row is complete: a wrong kind in the table doesn't compile.
const ROWS: Readonly<Record<ErrorCode, ErrorRow>> = ERRORS;

/** Where a code is spelled otherwise than its kind. */
const DIFFERENCES: { readonly [code in ErrorCode]?: Partial<KindRow> } = {
  ACCESS_DENIED: { http: 403 },
  DISK_IO: { exit: EXIT_CODE.failed },
  OUTPUT_CLOSED: { exit: EXIT_CODE.failed },
  COMMAND_FAILED: { exit: EXIT_CODE.failed },
  FORMAT_UNSUPPORTED: { exit: EXIT_CODE.corrupt },
};

export interface ErrorDetails {
  /** The next command, where the table's hint can be made more exact. */
  readonly hint?: string;
  /** Numbers and names for programs; part of the JSON form. */
  readonly data?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** The one error class. `message` is "subject: what happened: why": lower-case, no period. */
export class StorageError extends Error {
  override readonly name = "StorageError";
  readonly code: ErrorCode;
  readonly kind: ErrorKind;
  readonly hint: string;
  readonly data: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.kind = ROWS[code].kind;
    this.hint = details.hint ?? ROWS[code].hint;
    this.data = details.data ?? {};
  }

  toJSON(): Record<string, unknown> {
    return {
      code: this.code,
      kind: this.kind,
      message: this.message,
      hint: this.hint,
      data: this.data,
    };
  }
}

/** How one door spells `code`. */
export function spell(code: ErrorCode, door: "nbd" | "http" | "exit"): number {
  return DIFFERENCES[code]?.[door] ?? KINDS[ROWS[code].kind][door];
}

/** True for an error of ours with this code; the only way to match. */
export function hasCode(error: unknown, code: ErrorCode): error is StorageError {
  return error instanceof StorageError && error.code === code;
}
