// SPDX-License-Identifier: Apache-2.0
//
// Turns flags, environment and configuration file into one plain, validated record: nothing below the
// daemon ever sees a string that a user wrote. Whatever is unknown is refused with the nearest known
// name, because a misspelled limit that is silently ignored is found on the worst day.

import { parse as parseToml, TomlError } from "smol-toml";
import {
  EXPORT_KEYS,
  EXPORTS_TABLE,
  environmentName,
  parseSetting,
  SETTING_NAMES,
  SETTINGS,
  type SettingName,
  type SettingValue,
} from "../api/settings.ts";
import { StorageError } from "../base/errors.ts";
import { checkName, nearest } from "../base/names.ts";
import { spellSize } from "../base/units.ts";
import type { AccessEntry, AccessRule } from "../nbd/access.ts";
import type { HookEvent, HookSettings } from "../nbd/hooks.ts";
import { THREADS_MAX } from "../reduce/block-memory.ts";

export interface DaemonSettings {
  readonly pool: string;
  readonly listen: readonly TcpAddress[];
  readonly socket: string | undefined;
  readonly socketMode: number;
  readonly memoryBytes: number;
  /** Part of it; 0: the usual share. */
  readonly dedupMemoryBytes: number;
  /** At most; never more than the cores but one. */
  readonly threadCountMax: number;
  /** 0: as much as the file system has; undefined: what the pool itself says. */
  readonly poolSizeBytes: number | undefined;
  readonly ack: "written" | "memory" | "durable";
  readonly logLevel: "debug" | "info" | "warn" | "error";
  readonly tls: TlsFiles;
  readonly hooks: HookSettings;
  readonly handshakeTimeoutMs: number;
  readonly clientCountMax: number;
  readonly http: { readonly address: TcpAddress; readonly tokenFile: string } | undefined;
  readonly segmentBytes: number;
  readonly checkpointChanges: number;
  readonly isBoundToParent: boolean;
  /** Who may open which export; an export without a rule is open to everyone who can connect. */
  readonly access: readonly AccessRule[];
}

export interface TlsFiles {
  readonly mode: "off" | "optional" | "required";
  readonly certificate: string | undefined;
  readonly key: string | undefined;
  readonly authority: string | undefined;
  readonly presharedKeys: string | undefined;
}

export interface TcpAddress {
  readonly host: string;
  readonly port: number;
}

export interface SettingSources {
  /** Flags as they were typed, by setting. */
  readonly flags: Readonly<Partial<Record<SettingName, string>>>;
  readonly environment: (name: string) => string | undefined;
  /** Of those that are set and begin with VARVE_. */
  readonly environmentNames: readonly string[];
  /** The configuration file, where one was named. */
  readonly file: { readonly path: string; readonly text: string } | undefined;
  readonly defaultPool: string;
}

/** Conditions of an access list as they are written, and as the door knows them. */
const ACCESS_KEYS: Readonly<Record<string, keyof AccessEntry>> = {
  address: "address",
  uid: "unixUid",
  certificate: "certificateName",
  psk: "pskIdentity",
};
const EVERYONE = "everyone";
const ALL_EXPORTS = "*";

/** Variables that aren't settings: for the command line, for hooks, and for tools around it. */
const OTHER_VARIABLES: readonly string[] = [
  "VARVE_CONFIG",
  "VARVE_EVENT",
  "VARVE_EXPORT",
  "VARVE_CLIENT",
  "VARVE_CLIENT_UID",
  "VARVE_CLIENT_CERTIFICATE",
  "VARVE_CLIENT_PSK",
  "VARVE_PROGRAM",
  "VARVE_QEMU",
  "VARVE_NBD_TESTER",
];
/** What Kubernetes and container links set for a service that is called varve; and our tools' places. */
const FOREIGN_VARIABLE = /^VARVE_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP)|TOOLS)(_|$)/;
const SERVICE_ADDRESS = /^(tcp|udp):\/\//;

type Values = Partial<Record<SettingName, SettingValue>>;

export function loadSettings(sources: SettingSources): DaemonSettings {
  const values: Values = {};
  for (const name of SETTING_NAMES) {
    const { standard } = SETTINGS[name];
    if (standard !== undefined) put(values, name, { text: standard, where: "default" });
  }
  const access = readFile(values, sources.file);
  for (const name of sources.environmentNames) checkVariable(name, sources.environment(name));
  for (const name of SETTING_NAMES) {
    const variable = environmentName(name);
    const text = sources.environment(variable);
    if (text !== undefined) put(values, name, { text, where: variable });
  }
  for (const name of SETTING_NAMES) {
    const text = sources.flags[name];
    if (text !== undefined) put(values, name, { text, where: `--${name}` });
  }
  return toSettings(values, access, sources.defaultPool);
}

function put(
  values: Values,
  name: SettingName,
  { text, where }: { text: string; where: string },
): void {
  const value = parseSetting(SETTINGS[name], text);
  if (typeof value === "object" && "why" in value) {
    throw invalid(where, `${JSON.stringify(text)} refused: ${value.why}`);
  }
  values[name] = value;
}

function checkVariable(name: string, text: string | undefined): void {
  const known = [...SETTING_NAMES.map(environmentName), ...OTHER_VARIABLES];
  if (known.includes(name) || FOREIGN_VARIABLE.test(name)) return;
  if (name === "VARVE_PORT" && SERVICE_ADDRESS.test(text ?? "")) return;
  const guess = nearest(name, known);
  throw invalid(name, "refused: there is no such setting", {
    hint:
      guess === undefined
        ? '"varve serve --help" lists all settings: pool-size is VARVE_POOL_SIZE'
        : `did you mean ${guess}?`,
  });
}

/** Puts the file's keys into `values` and returns its access lists. */
function readFile(values: Values, file: SettingSources["file"]): readonly AccessRule[] {
  if (file === undefined) return [];
  const { path } = file;
  let table: Record<string, unknown>;
  try {
    table = parseToml(file.text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw tomlError(file, error);
  }
  for (const [key, value] of Object.entries(table)) {
    if (key === EXPORTS_TABLE) continue;
    checkKey(path, key, [...SETTING_NAMES, EXPORTS_TABLE]);
    put(values, key as SettingName, { text: textOf(value, path, key), where: `"${path}" ${key}` });
  }
  return readAccess(table[EXPORTS_TABLE] ?? {}, path);
}

function tomlError({ path, text }: { path: string; text: string }, error: TomlError): StorageError {
  const { line, column } = error;
  const where = `"${path}" line ${line} column ${column}`;
  const [why = "it isn't TOML"] = error.message.replace(/^Invalid TOML document: /, "").split("\n");
  // The parser says that a line end is no character of a text, or where the text that never ends begins.
  const isAtLineEnd = column > (text.split(/\r?\n/)[line - 1] ?? "").length;
  const isOpen = why.includes("unfinished string") || (why.includes("control char") && isAtLineEnd);
  if (!isOpen) return invalid(where, `not understood: ${why}`, { cause: error });
  return invalid(where, "not understood: a text isn't closed", {
    hint: "a text ends in the line in which it begins: see whether a quotation mark is missing",
    cause: error,
  });
}

function readAccess(table: unknown, path: string): readonly AccessRule[] {
  if (!isTable(table)) throw invalid(`"${path}" ${EXPORTS_TABLE}`, "refused: it isn't a table");
  return Object.entries(table).map(([exportName, row]) => {
    if (exportName !== ALL_EXPORTS) checkName("export", exportName);
    const where = `${EXPORTS_TABLE}.${exportName}`;
    if (!isTable(row)) throw invalid(`"${path}" ${where}`, "refused: it isn't a table");
    for (const key of Object.keys(row)) checkKey(path, key, EXPORT_KEYS, `${where}.`);
    const { allow = [EVERYONE], "needs-tls": needsTls = false } = row;
    if (typeof needsTls !== "boolean") {
      throw invalid(`"${path}" ${where}.needs-tls`, "refused: it is neither true nor false");
    }
    if (!Array.isArray(allow) || !allow.every((entry) => typeof entry === "string")) {
      throw invalid(`"${path}" ${where}.allow`, "refused: it isn't a list of texts");
    }
    const entries = allow.map((entry) => parseEntry(entry, `"${path}" ${where}.allow`));
    return { exportName, needsTls, allow: entries };
  });
}

/** "uid:1000", "certificate:backup address:10.0.0.0/8" (both must hold), "everyone". */
function parseEntry(text: string, where: string): AccessEntry {
  if (text === EVERYONE) return {};
  const entry: Record<string, string | number> = {};
  for (const condition of text.trim().split(/\s+/)) {
    const colon = condition.indexOf(":");
    const value = condition.slice(colon + 1);
    const key = ACCESS_KEYS[condition.slice(0, Math.max(0, colon))];
    if (key === undefined || value === "" || (key === "unixUid" && !/^\d{1,10}$/.test(value))) {
      throw invalid(where, `${JSON.stringify(text)} refused: "${condition}" isn't a condition`, {
        hint: "conditions are address:10.0.0.0/8, uid:1000, certificate:NAME and psk:NAME; or everyone",
      });
    }
    entry[key] = key === "unixUid" ? Number(value) : value;
  }
  return entry;
}

function checkKey(path: string, key: string, known: readonly string[], prefix = ""): void {
  if (known.includes(key)) return;
  const guess = nearest(key, known);
  throw invalid(`"${path}" ${prefix}${key}`, "refused: there is no such key", {
    hint:
      guess === undefined
        ? `the keys are ${known.join(", ")}`
        : `did you mean "${prefix}${guess}"?`,
  });
}

/** A TOML value as it would be typed on the command line. */
function textOf(value: unknown, path: string, key: string): string {
  if (typeof value === "string") return value;
  if (typeof value === "boolean" || typeof value === "number") return String(value);
  if (Array.isArray(value) && value.every((part) => typeof part === "string")) {
    return value.length === 0 ? "none" : value.join(",");
  }
  throw invalid(`"${path}" ${key}`, "refused: it is neither a text, a number nor a list of texts");
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function toSettings(
  values: Values,
  access: readonly AccessRule[],
  defaultPool: string,
): DaemonSettings {
  const text = (name: SettingName): string | undefined => values[name] as string | undefined;
  const number = (name: SettingName): number => values[name] as number;
  const tls: TlsFiles = {
    mode: values.tls as TlsFiles["mode"],
    certificate: text("tls-certificate"),
    key: text("tls-key"),
    authority: text("tls-ca"),
    presharedKeys: text("tls-psk-file"),
  };
  checkTls(tls);
  const httpListen = text("http-listen");
  const tokenFile = text("http-token-file");
  const hasHttp = httpListen !== undefined && httpListen !== "none";
  if (hasHttp && (tokenFile === undefined || tls.certificate === undefined)) {
    throw invalid("http-listen", "refused: over TCP the control door needs a token and TLS", {
      hint: "set http-token-file, tls-certificate and tls-key as well",
    });
  }
  return {
    pool: text("pool") ?? defaultPool,
    listen: (values.listen as readonly string[]).map((part) => parseTcpAddress("listen", part)),
    socket: text("socket"),
    socketMode: Number.parseInt(text("socket-mode")!, 8),
    memoryBytes: number("memory"),
    dedupMemoryBytes: dedupMemoryOf(values),
    threadCountMax: (values.threads ?? THREADS_MAX) as number,
    poolSizeBytes: values["pool-size"] as number | undefined,
    ack: values.ack as DaemonSettings["ack"],
    logLevel: values["log-level"] as DaemonSettings["logLevel"],
    tls,
    hooks: hooksOf(text, number("hook-timeout")),
    handshakeTimeoutMs: number("handshake-timeout"),
    clientCountMax: number("clients-max"),
    http: hasHttp
      ? { address: parseTcpAddress("http-listen", httpListen), tokenFile: tokenFile! }
      : undefined,
    segmentBytes: number("segment-size"),
    checkpointChanges: number("checkpoint-changes"),
    isBoundToParent: values["exit-with-parent"] === true,
    access,
  };
}

function dedupMemoryOf(values: Values): number {
  const bytes = (values["dedup-memory"] ?? 0) as number;
  const memoryBytes = values.memory as number;
  if (bytes <= memoryBytes / 2) return bytes;
  throw invalid(
    "dedup-memory",
    `${spellSize(bytes)} refused: it is more than half of memory, which is ${spellSize(memoryBytes)}`,
    { hint: "raise memory, or leave dedup-memory out: then it is an eighth" },
  );
}

function hooksOf(text: (name: SettingName) => string | undefined, timeoutMs: number): HookSettings {
  const command = (event: HookEvent): [HookEvent, readonly string[]][] => {
    const program = text(`hook-${event}`);
    return program === undefined ? [] : [[event, [program]]];
  };
  const events: readonly HookEvent[] = ["before-attach", "after-attach", "after-detach"];
  return { commands: Object.fromEntries(events.flatMap(command)), timeoutMs };
}

function checkTls({ mode, certificate, key, authority, presharedKeys }: TlsFiles): void {
  if ((certificate === undefined) !== (key === undefined)) {
    const missing = certificate === undefined ? "tls-certificate" : "tls-key";
    throw invalid(missing, "missing: a certificate and its key come together");
  }
  if (mode !== "off" && certificate === undefined && presharedKeys === undefined) {
    throw invalid("tls", `"${mode}" refused: there is neither a certificate nor a pre-shared key`, {
      hint: "set tls-certificate and tls-key, or tls-psk-file",
    });
  }
  if (authority !== undefined && certificate === undefined) {
    throw invalid("tls-ca", "refused: client certificates need one of the server's own", {
      hint: "set tls-certificate and tls-key as well",
    });
  }
}

/** "127.0.0.1:10809", "[::1]:10809", "localhost:10809". */
export function parseTcpAddress(setting: string, text: string): TcpAddress {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) {
    throw invalid(setting, `${JSON.stringify(text)} refused: it isn't HOST:PORT`, {
      hint: "write it like 127.0.0.1:10809 or [::1]:10809, or none",
    });
  }
  return { host: (match[1] ?? match[2])!, port };
}

function invalid(
  where: string,
  what: string,
  details: { hint?: string; cause?: unknown } = {},
): StorageError {
  return new StorageError("CONFIG_INVALID", `setting ${where}: ${what}`, details);
}
