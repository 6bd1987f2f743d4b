// SPDX-License-Identifier: Apache-2.0
//
// The settings of the daemon, as one table: `varve serve` takes each as a flag (--pool-size), the
// configuration file as a key of the same name (pool-size), the environment as VARVE_POOL_SIZE. Flags
// win over the environment, the environment over the file. --help, man pages, shell completion and
// docs/guides/configuration.md are made from this table, and each row says why the default is what it is.

import { formatDuration, parseDurationMs, parseSize, spellSize } from "../base/units.ts";

export type SettingType = "path" | "size" | "duration" | "count" | "choice" | "list" | "switch";

export interface SettingRow {
  readonly type: SettingType;
  /** How the value is called in help texts. */
  readonly value: string;
  /** As it would be written; undefined: none. */
  readonly standard?: string;
  /** In words, where the default depends on others. */
  readonly standardText?: string;
  readonly choices?: readonly string[];
  readonly least?: number;
  /** Below `least` there is this one. */
  readonly isZeroAllowed?: boolean;
  readonly most?: number;
  readonly help: string;
  readonly reason: string;
}

const GIB = 1024 ** 3;

export type SettingName =
  | "pool"
  | "listen"
  | "socket"
  | "socket-mode"
  | "memory"
  | "dedup-memory"
  | "threads"
  | "pool-size"
  | "ack"
  | "log-level"
  | "tls"
  | "tls-certificate"
  | "tls-key"
  | "tls-ca"
  | "tls-psk-file"
  | "hook-before-attach"
  | "hook-after-attach"
  | "hook-after-detach"
  | "hook-timeout"
  | "handshake-timeout"
  | "clients-max"
  | "http-listen"
  | "http-token-file"
  | "segment-size"
  | "checkpoint-changes"
  | "exit-with-parent";

export const SETTINGS: Readonly<Record<SettingName, SettingRow>> = {
  pool: {
    type: "path",
    value: "DIR",
    standardText: "./varve-pool when it exists, else /var/lib/varve",
    help: "The pool's directory; made when it is missing or empty",
    reason: "A try-out stays in the working directory; a service has its place in /var/lib.",
  },
  listen: {
    type: "list",
    value: "HOST:PORT",
    standard: "127.0.0.1:10809",
    help: "Where NBD is served over TCP: addresses separated by commas, or none",
    reason:
      "10809 is NBD's port; loopback only, because without TLS anyone who reaches it reads all.",
  },
  socket: {
    type: "path",
    value: "PATH",
    standardText: "nbd.sock in the pool",
    help: "Where NBD is served over a Unix socket",
    reason: "The fastest door for clients on the same machine, with the pool's own permissions.",
  },
  "socket-mode": {
    type: "choice",
    value: "MODE",
    standard: "0600",
    choices: ["0600", "0660", "0666"],
    help: "Permissions of the NBD socket",
    reason: "Whoever can open the socket can write all volumes without an access list.",
  },
  memory: {
    type: "size",
    value: "SIZE",
    standard: "1G",
    least: GIB / 4,
    most: 4 * GIB,
    help: "Budget for everything the pool keeps in memory",
    reason: "Enough for the index of 100 GiB of random writes; the disk's cache is the system's.",
  },
  "dedup-memory": {
    type: "size",
    value: "SIZE",
    standardText: "an eighth of memory",
    least: 4 * 1024 ** 2,
    most: 2 * GIB,
    help: "Part of memory for finding duplicates; at most half of it",
    reason:
      "Beyond what it holds in full the index of what is stored is sampled: more finds more scattered duplicates.",
  },
  threads: {
    type: "count",
    value: "COUNT",
    standardText: "the cores but one, at most 4",
    least: 1,
    isZeroAllowed: true,
    most: 4,
    help: "Threads that hash and compress large writes beside the event loop; 0: none",
    reason: "One core orders the writes; small ones are compressed in line, which is quicker.",
  },
  "pool-size": {
    type: "size",
    value: "SIZE",
    standardText: "what varve set gave it, else all that the file system has",
    least: GIB / 4,
    isZeroAllowed: true,
    help: "Limit on what the pool stores; 0: as much as the file system has",
    reason:
      "It is part of the pool and changed live: varve set pool-size=500G. Given here it goes before that.",
  },
  ack: {
    type: "choice",
    value: "MODE",
    standard: "written",
    choices: ["written", "memory", "durable"],
    help: "When a write is acknowledged; a flush always means stable storage",
    reason: "written survives the death of the daemon, as a page cache does; memory doesn't.",
  },
  "log-level": {
    type: "choice",
    value: "LEVEL",
    standard: "info",
    choices: ["debug", "info", "warn", "error"],
    help: "Which events the log on stderr shows",
    reason: "info is a line per change of state, never per request.",
  },
  tls: {
    type: "choice",
    value: "MODE",
    standard: "off",
    choices: ["off", "optional", "required"],
    help: "TLS for NBD over TCP; Unix sockets never need it",
    reason: "It needs a certificate or keys; with required nothing is said before TLS.",
  },
  "tls-certificate": {
    type: "path",
    value: "FILE",
    help: "Certificate chain of this server, PEM",
    reason: "X.509, so that clients can check whom they write to.",
  },
  "tls-key": {
    type: "path",
    value: "FILE",
    help: "Private key of tls-certificate, PEM",
    reason: "A file, so that it never shows in a process list.",
  },
  "tls-ca": {
    type: "path",
    value: "FILE",
    help: "Authority that client certificates must come from, PEM; without it none is asked for",
    reason: "With it access lists can name clients by certificate.",
  },
  "tls-psk-file": {
    type: "path",
    value: "FILE",
    help: "Pre-shared keys, one identity:hex-key per line, as psktool writes them",
    reason: "The simplest TLS where both ends are yours: no certificates to renew.",
  },
  "hook-before-attach": {
    type: "path",
    value: "PROGRAM",
    help: "Program run before a client attaches to an export; unless it ends with 0, the client is refused",
    reason:
      "For what an access list can't say. VARVE_EXPORT and VARVE_CLIENT tell it who and what.",
  },
  "hook-after-attach": {
    type: "path",
    value: "PROGRAM",
    help: "Program run after a client has attached",
    reason: "To tell somebody; it changes nothing.",
  },
  "hook-after-detach": {
    type: "path",
    value: "PROGRAM",
    help: "Program run after a client has left",
    reason: "The counterpart of the other two.",
  },
  "hook-timeout": {
    type: "duration",
    value: "TIME",
    standard: "10s",
    least: 100,
    most: 600_000,
    help: "How long a hook may run; one that takes longer is killed and counts as a refusal",
    reason: "A client waits for it.",
  },
  "handshake-timeout": {
    type: "duration",
    value: "TIME",
    standard: "10s",
    least: 100,
    most: 600_000,
    help: "How long a client may take to choose an export",
    reason: "A client that says nothing must not hold a connection for ever.",
  },
  "clients-max": {
    type: "count",
    value: "COUNT",
    standard: "1024",
    least: 1,
    most: 65_536,
    help: "NBD connections at a time; more are refused",
    reason:
      "Each costs a descriptor and some buffers; the usual limit on descriptors is 1024 times 64.",
  },
  "http-listen": {
    type: "path",
    value: "HOST:PORT",
    standard: "none",
    help: "Where the control door is served over TCP with TLS; needs http-token-file and a certificate",
    reason: "Off: on the machine itself the socket control.sock in the pool is enough and safer.",
  },
  "http-token-file": {
    type: "path",
    value: "FILE",
    help: "File whose first line is the bearer token of the control door over TCP",
    reason: "A file, so that it never shows in a process list.",
  },
  "segment-size": {
    type: "size",
    value: "SIZE",
    standard: "64M",
    least: 64 * 1024,
    most: 120 * 1024 ** 2,
    help: "Size at which a piece of the log is sealed",
    reason: "Large enough for few files, small enough to be compacted or uploaded in a second.",
  },
  "checkpoint-changes": {
    type: "count",
    value: "COUNT",
    standard: "1048576",
    least: 1024,
    most: 64 * 1024 ** 2,
    help: "Blocks changed between two checkpoints of the index",
    reason: "Bounds what the next start must replay, at about 12 bytes of index per change.",
  },
  "exit-with-parent": {
    type: "switch",
    value: "",
    help: "Stop cleanly when the process that started the daemon ends",
    reason: "For tests and scripts that must not leave a daemon behind.",
  },
};

export const SETTING_NAMES: readonly SettingName[] = Object.keys(SETTINGS) as SettingName[];

/** Tables of the configuration file beyond the flat keys. */
export const EXPORTS_TABLE = "exports";
export const EXPORT_KEYS: readonly string[] = ["allow", "needs-tls"];

export function environmentName(setting: SettingName): string {
  return `VARVE_${setting.replaceAll("-", "_").toUpperCase()}`;
}

export type SettingValue = string | number | boolean | readonly string[];

/** The value, or why it can't be one: "it is less than 256 MiB". */
export function parseSetting(row: SettingRow, text: string): SettingValue | { why: string } {
  switch (row.type) {
    case "path":
      return text === "" ? { why: "it is empty" } : text;
    case "list":
      return text === "none" ? [] : text.split(",").map((part) => part.trim());
    case "choice":
      return row.choices?.includes(text)
        ? text
        : { why: `it is none of ${row.choices?.join(", ")}` };
    case "switch":
      return text === "true"
        ? true
        : text === "false"
          ? false
          : { why: "it is neither true nor false" };
    case "size":
      return within(row, parseSize(text), "a size like 512M or 10G", spellSize);
    case "duration":
      return within(row, parseDurationMs(text), "a time like 10s or 5m", formatDuration);
    case "count":
      return within(row, /^\d{1,15}$/.test(text) ? Number(text) : undefined, "a number", String);
  }
}

function within(
  row: SettingRow,
  value: number | undefined,
  what: string,
  spell: (value: number) => string,
): number | { why: string } {
  if (value === undefined) return { why: `it isn't ${what}` };
  if (value === 0 && row.isZeroAllowed) return 0;
  if (row.least !== undefined && value < row.least)
    return { why: `it is less than ${spell(row.least)}` };
  if (row.most !== undefined && value > row.most)
    return { why: `it is more than ${spell(row.most)}` };
  return value;
}
