// SPDX-License-Identifier: Apache-2.0
//
// Who writes to a target has a session in its catalog, from before its first object until its point is committed. It
// doesn't end by time: clocks lie, laptops sleep, and a lock that expires under a backup is how stores like this one have
// lost data. While it is open, nothing is deleted that was condemned after it began; so what a writer finds in the target
// stays, and so does what it puts there.
//
// What a writer may refer to: whatever a state that it read *after* its session was committed doesn't condemn.
//
// A session belongs to a pool and volumes. The next backup of the same takes it over, with all that was sent; it makes
// itself the owner, and the one before, should it still be there (a machine that slept), is refused when it commits.

import { StorageError } from "../base/errors.ts";
import type { Random } from "../host/ports.ts";
import type {
  CatalogState,
  CondemnedEntry,
  PointEntry,
  SessionEntry,
  SessionVolume,
} from "./catalog-state.ts";
import type { TargetCatalog, TargetHost } from "./target-catalog.ts";

export interface SessionWish {
  readonly purpose: SessionEntry["purpose"];
  readonly poolId: string;
  /** Those of the backup, in any order. */
  readonly volumes: readonly SessionVolume[];
  /** For people: which machine. */
  readonly host: string;
}

export interface BegunSession {
  readonly session: SessionEntry;
  /** The first state that a writer may go by. */
  readonly state: CatalogState;
  /** It was another's before, and may have sent a part already. */
  readonly isTakenOver: boolean;
}

/** What of the target's objects a new point refers to. */
export interface Reached {
  has(objectName: string): boolean;
}

/** 16 random bytes, as an id of a point, a session or a lease. */
export function newId(random: Random): string {
  const bytes = new Uint8Array(16);
  random.fill(bytes);
  return Buffer.from(bytes).toString("hex");
}

/** Begins a session, or takes over the one that a backup of the same volumes has left open. */
export async function beginSession(
  catalog: TargetCatalog,
  options: TargetHost & { readonly wish: SessionWish },
): Promise<BegunSession> {
  const { clock, random, wish } = options;
  const owner = newId(random);
  const id = newId(random);
  let isTakenOver = false;
  const state = await catalog.update((before) => {
    const takenMicros = clock.wallMicros();
    const found = before.sessions.find((session) => isFor(session, wish));
    isTakenOver = found !== undefined && found.id !== id;
    const { purpose, poolId, volumes, host } = wish;
    const session: SessionEntry =
      found === undefined
        ? {
            id,
            owner,
            generation: before.generation + 1,
            beganMicros: takenMicros,
            takenMicros,
            purpose,
            poolId,
            volumes,
            host,
          }
        : { ...found, owner, takenMicros, host };
    const others = before.sessions.filter((other) => other !== found);
    return { ...before, sessions: [...others, session] };
  });
  const session = state.sessions.find((one) => one.owner === owner);
  if (session === undefined) throw sessionEnded(id);
  return { session, state, isTakenOver };
}

/**
 * Makes the point one of the target's, and ends the session. What it reaches is taken off the lists of condemned objects
 * in the same generation, so that no point ever refers to something that is about to be deleted. `reach` is only asked
 * when something is condemned. Throws SESSION_ENDED.
 */
export async function commitPoint(
  catalog: TargetCatalog,
  options: {
    readonly session: SessionEntry;
    readonly point: PointEntry;
    readonly reach: () => Promise<Reached>;
  },
): Promise<CatalogState> {
  const { session, point, reach } = options;
  return catalog.update(async (state) => {
    // An answer that was lost, to a commit that was made.
    if (state.points.some(({ id }) => id === point.id)) return undefined;
    requireOwner(state, session);
    const points = [...state.points, point];
    const sessions = state.sessions.filter(({ id }) => id !== session.id);
    if (state.condemned.length === 0) return { ...state, points, sessions };
    const reached = await reach();
    const isReached = (name: string): boolean => name === point.manifest || reached.has(name);
    return { ...state, points, sessions, condemned: spare(state.condemned, { has: isReached }) };
  });
}

/**
 * Gives points other manifests, that say the same of other objects, and ends the session. `made` is what the session has
 * put, manifests too: it is taken off the lists, as by commitPoint. A point that has gone meanwhile, or that was given
 * another manifest, is left alone. Throws SESSION_ENDED.
 */
export async function commitManifests(
  catalog: TargetCatalog,
  options: {
    readonly session: SessionEntry;
    /** New ones by the names of the old ones. */
    readonly manifests: ReadonlyMap<string, string>;
    readonly made: Reached;
  },
): Promise<CatalogState> {
  const { session, manifests, made } = options;
  return catalog.update((state) => {
    // An answer that was lost, to a commit that was made.
    if (state.points.some(({ manifest }) => made.has(manifest))) return undefined;
    requireOwner(state, session);
    const points = state.points.map((point) => {
      const manifest = manifests.get(point.manifest);
      return manifest === undefined ? point : { ...point, manifest };
    });
    const sessions = state.sessions.filter(({ id }) => id !== session.id);
    return { ...state, points, sessions, condemned: spare(state.condemned, made) };
  });
}

/** The session goes without a point: a backup that gives up, or a prune at its end. One that is gone is fine. */
export function leaveSession(catalog: TargetCatalog, session: SessionEntry): Promise<CatalogState> {
  return catalog.update((state) => {
    const sessions = state.sessions.filter(({ owner }) => owner !== session.owner);
    return sessions.length === state.sessions.length ? undefined : { ...state, sessions };
  });
}

/** Ends a session by hand, by its id or the beginning of it; gives it. Throws SESSION_NOT_FOUND. */
export async function endSession(catalog: TargetCatalog, id: string): Promise<SessionEntry> {
  let ended: SessionEntry | undefined;
  await catalog.update((state) => {
    ended = sessionOf(state, id);
    return { ...state, sessions: state.sessions.filter((session) => session !== ended) };
  });
  return ended ?? sessionNotFound(id, "there is none of that id");
}

/** Whether it is still this writer's. */
function requireOwner(state: CatalogState, session: SessionEntry): void {
  const found = state.sessions.find(({ id }) => id === session.id);
  if (found?.owner !== session.owner) throw sessionEnded(session.id);
}

/** The lists without what is reached. */
export function spare(condemned: readonly CondemnedEntry[], reached: Reached): CondemnedEntry[] {
  return condemned
    .map((entry) => ({ ...entry, names: entry.names.filter((name) => !reached.has(name)) }))
    .filter(({ names }) => names.length > 0);
}

function isFor(session: SessionEntry, { purpose, poolId, volumes }: SessionWish): boolean {
  if (session.purpose !== "backup" || purpose !== "backup" || session.poolId !== poolId)
    return false;
  const ids = (list: readonly SessionVolume[]): string =>
    list
      .map(({ volumeId }) => volumeId)
      .sort((one, other) => one - other)
      .join();
  return ids(session.volumes) === ids(volumes);
}

function sessionOf({ sessions }: CatalogState, id: string): SessionEntry {
  const found = sessions.filter((session) => session.id.startsWith(id.toLowerCase()));
  const [first] = found;
  if (first === undefined) return sessionNotFound(id, "there is none of that id");
  return found.length === 1 ? first : sessionNotFound(id, `${found.length} begin like that`);
}

function sessionNotFound(id: string, why: string): never {
  throw new StorageError("SESSION_NOT_FOUND", `session "${id}": not found: ${why}`);
}

function sessionEnded(id: string): StorageError {
  const what = `session "${id.slice(0, 8)}": not committed: it isn't this program's any more`;
  return new StorageError("SESSION_ENDED", what);
}
