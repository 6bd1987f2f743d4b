// SPDX-License-Identifier: Apache-2.0
//
// What a generation of the catalog says: which points there are, who is writing, who is reading, and what is about to be
// deleted. It is small (some hundred bytes a point) and written whole each time. Its bytes come from a place that others
// can write: every field is checked and bounded before anything is done with it. Fields that this program doesn't know
// are kept as they are, for a newer one put them there.

import { isObjectName } from "../host/object-store.ts";
import {
  isCount,
  isFlag,
  isId,
  isListOf,
  isNameField,
  isSize,
  isText,
} from "../pool/catalog-fields.ts";
import { damagedDocument } from "./document.ts";
import { isHex } from "./target-key.ts";

/** Also of points, sessions and leases: 16 random bytes, in hexadecimal. */
const ID_BYTES = 16;
const POINTS_MAX = 65_536;
const VOLUMES_MAX = 1024;
const SESSIONS_MAX = 1024;
const LEASES_MAX = 4096;
/** In all lists together; more is condemned when these are gone. */
export const CONDEMNED_NAMES_MAX = 65_536;
export const CATALOG_BYTES_MAX: number = 64 << 20;
const TEXT_LENGTH_MAX = 256;
/** A moment's name, or a time. */
const POINT_NAME = /^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,62}$/;

export interface CatalogState {
  /** Of the newest commit that this state has in it. */
  readonly generation: number;
  /** Generations before this one are deleted. */
  readonly oldestGeneration: number;
  /** In the order of their commits. */
  readonly points: readonly PointEntry[];
  readonly sessions: readonly SessionEntry[];
  readonly leases: readonly LeaseEntry[];
  readonly condemned: readonly CondemnedEntry[];
}

/** Something that can be restored. */
export interface PointEntry {
  readonly id: string;
  /** The moment's name when it has one, else its time. */
  readonly name: string;
  /** The object that says what is in it; another one when a prune has moved its content. */
  readonly manifest: string;
  readonly createdMicros: number;
  readonly poolId: string;
  readonly volumes: readonly PointVolume[];
  /** Stored bytes that its backup added to the target. */
  readonly newBytes: number;
  /** Never removed by a rule. */
  readonly isProtected: boolean;
}

export interface PointVolume {
  readonly name: string;
  readonly volumeId: number;
  readonly sizeBytes: number;
  readonly lsn: number;
  readonly branch: number;
  readonly timeMicros: number;
}

/** Somebody who writes. Never ends by time: what it refers to stays until it commits, or is ended. */
export interface SessionEntry {
  readonly id: string;
  /** Who has it now: a backup that takes it over makes it its own. */
  readonly owner: string;
  /** The generation that it began with. */
  readonly generation: number;
  readonly beganMicros: number;
  /** When its owner took it. */
  readonly takenMicros: number;
  readonly purpose: "backup" | "prune";
  readonly poolId: string;
  readonly volumes: readonly SessionVolume[];
  /** For people: which machine. */
  readonly host: string;
}

export interface SessionVolume {
  readonly name: string;
  readonly volumeId: number;
}

/** Somebody who reads; ends by time unless it is renewed. */
export interface LeaseEntry {
  readonly id: string;
  readonly generation: number;
  readonly expiresMicros: number;
  /** For people: "restore", "serve". */
  readonly purpose: string;
}

/** Objects that nothing referred to in the generation before this one. */
export interface CondemnedEntry {
  readonly generation: number;
  readonly names: readonly string[];
}

export const EMPTY_STATE: CatalogState = {
  generation: 1,
  oldestGeneration: 1,
  points: [],
  sessions: [],
  leases: [],
  condemned: [],
};

export function encodeState(state: CatalogState): Uint8Array {
  return Buffer.from(JSON.stringify(state));
}

/** `name` is that of the object. Throws TARGET_CORRUPT. */
export function decodeState(name: string, body: Uint8Array): CatalogState {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body).toString());
  } catch (error) {
    throw damagedDocument(name, "it isn't JSON", error);
  }
  if (typeof value !== "object" || value === null) throw damagedDocument(name, "it is no object");
  const problem = problemOf(value as Record<string, unknown>);
  if (problem !== undefined) throw damagedDocument(name, problem);
  return value as CatalogState;
}

function problemOf(state: Readonly<Record<string, unknown>>): string | undefined {
  const { generation, oldestGeneration, points, sessions, leases, condemned } = state;
  const isPlaced =
    isCount(generation) &&
    isCount(oldestGeneration) &&
    oldestGeneration >= 1 &&
    oldestGeneration <= generation;
  if (!isPlaced) return "its generations make no sense";
  if (!isBounded(points, POINTS_MAX, isPoint)) return "its points make no sense";
  if (!isBounded(sessions, SESSIONS_MAX, isSession)) return "its sessions make no sense";
  if (!isBounded(leases, LEASES_MAX, isLease)) return "its leases make no sense";
  if (!isBounded(condemned, CONDEMNED_NAMES_MAX, isCondemned))
    return "what it condemns makes no sense";
  const nameCount = condemned.reduce((sum, { names }) => sum + names.length, 0);
  if (nameCount > CONDEMNED_NAMES_MAX) return `it condemns ${nameCount} objects at once`;
  const began = [...sessions, ...leases, ...condemned].map((entry) => entry.generation);
  if (began.some((number) => number > generation)) return "it has something of a later generation";
  for (const list of [points, sessions, leases])
    if (new Set(list.map(({ id }) => id)).size < list.length) return "it has an id twice";
  return undefined;
}

/** Whether a generation can hold it. */
export function fits({ points, sessions, leases, condemned }: CatalogState): boolean {
  const nameCount = condemned.reduce((sum, { names }) => sum + names.length, 0);
  return (
    points.length <= POINTS_MAX &&
    sessions.length <= SESSIONS_MAX &&
    leases.length <= LEASES_MAX &&
    nameCount <= CONDEMNED_NAMES_MAX
  );
}

/** What can't be read back isn't written. */
export function isReadable(state: CatalogState): boolean {
  return problemOf({ ...state }) === undefined;
}

function isPoint(value: unknown): value is PointEntry {
  const point = value as PointEntry;
  return (
    isEntry(point) &&
    isText(point.name) &&
    POINT_NAME.test(point.name) &&
    isText(point.manifest) &&
    isObjectName(point.manifest) &&
    isCount(point.createdMicros) &&
    isHex(point.poolId, ID_BYTES) &&
    isBounded(point.volumes, VOLUMES_MAX, isPointVolume) &&
    point.volumes.length > 0 &&
    isCount(point.newBytes) &&
    isFlag(point.isProtected)
  );
}

function isPointVolume(value: unknown): value is PointVolume {
  const volume = value as PointVolume;
  return (
    isSessionVolume(volume) &&
    isSize(volume.sizeBytes) &&
    isCount(volume.lsn) &&
    isCount(volume.branch) &&
    isCount(volume.timeMicros)
  );
}

function isSession(value: unknown): value is SessionEntry {
  const session = value as SessionEntry;
  return (
    isEntry(session) &&
    isHex(session.owner, ID_BYTES) &&
    isCount(session.generation) &&
    isCount(session.beganMicros) &&
    isCount(session.takenMicros) &&
    (session.purpose === "backup" || session.purpose === "prune") &&
    isHex(session.poolId, ID_BYTES) &&
    isBounded(session.volumes, VOLUMES_MAX, isSessionVolume) &&
    isShortText(session.host)
  );
}

function isSessionVolume(value: unknown): value is SessionVolume {
  const volume = value as SessionVolume | null;
  return typeof volume === "object" && isNameField(volume?.name) && isId(volume.volumeId);
}

function isLease(value: unknown): value is LeaseEntry {
  const lease = value as LeaseEntry;
  return (
    isEntry(lease) &&
    isCount(lease.generation) &&
    isCount(lease.expiresMicros) &&
    isShortText(lease.purpose)
  );
}

function isCondemned(value: unknown): value is CondemnedEntry {
  const entry = value as CondemnedEntry | null;
  return (
    typeof entry === "object" &&
    isCount(entry?.generation) &&
    isListOf(entry.names, isText) &&
    entry.names.every(isDeletable)
  );
}

/** What a prune may delete by name: content, never the catalog or the descriptor. */
export function isDeletable(name: string): boolean {
  return isObjectName(name) && /^(?:packs|runs|points|history|index)\//.test(name);
}

function isEntry(value: { readonly id: string } | null): boolean {
  return typeof value === "object" && value !== null && isHex(value.id, ID_BYTES);
}

function isShortText(value: unknown): value is string {
  return isText(value) && value.length <= TEXT_LENGTH_MAX;
}

function isBounded<T>(
  value: unknown,
  countMax: number,
  isItem: (item: unknown) => item is T,
): value is T[] {
  return Array.isArray(value) && value.length <= countMax && isListOf(value, isItem);
}
