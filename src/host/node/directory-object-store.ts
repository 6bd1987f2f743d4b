// SPDX-License-Identifier: Apache-2.0
//
// A store of objects in a directory: an object is a file, its name the path below.
//
//   putIfAbsent  draft beside the object → fdatasync → link (refuses a name that is there) → fsync of the directory
//   put          draft beside the object → fdatasync → rename → fsync of the directory
//
// A draft (".put-…") stands in the directory of its object, so a part of the target may lie on a disk of its own. One
// that a crash left is found by unfinished(); no age decides about it, for clocks lie and laptops sleep. A put whose draft
// was taken away begins anew.
//
// A disk that is unmounted leaves an empty directory behind, on another file system, where every object seems to be missing
// and a backup would fill the wrong disk. So the directory's identity is remembered when it is opened, and looked at
// before each put and whenever something isn't there.

import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import {
  type FileHandle,
  link,
  mkdir,
  open,
  opendir,
  rename,
  rmdir,
  stat,
  unlink,
} from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { assert } from "../../base/assert.ts";
import { type ErrorCode, StorageError } from "../../base/errors.ts";
import {
  isObjectName,
  type ListedObject,
  type ObjectRange,
  type ObjectStore,
  rangeWithin,
} from "../object-store.ts";
import { makeDirectory } from "./directory.ts";
import { DirectorySyncs } from "./directory-syncs.ts";

/** Backups hold their users' data: nobody else reads them. */
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const DRAFT = /^(?:[a-z0-9._-]+\/){0,3}\.put-[0-9a-f]{16}$/;
const DRAFT_PREFIX = ".put-";
/** A draft is taken away at most by a prune at a time; nobody prunes that often. */
const ATTEMPTS_MAX = 4;
const DEPTH_MAX = 4;

const FULL = new Set(["ENOSPC", "EDQUOT"]);
const NO_LINKS = new Set(["EPERM", "EXDEV", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"]);
const HINTS: Readonly<Record<string, string>> = {
  EACCES: "run varve as the user who owns the target, or change the owner of its directory",
  EPERM: "run varve as the user who owns the target, or change the owner of its directory",
  EROFS: "its file system is mounted read-only; look for errors (dmesg), then remount it",
};

/** Opens a directory that exists. Throws TARGET_NOT_FOUND, TARGET_UNAVAILABLE. */
export async function openDirectoryStore(path: string): Promise<ObjectStore> {
  const root = resolve(path);
  try {
    const { dev, ino } = await statDirectory(root);
    return new DirectoryObjectStore(root, { dev, ino });
  } catch (error) {
    if (hasErrno(error, "ENOENT")) throw notFound(path, "there is no such directory", error);
    if (hasErrno(error, "ENOTDIR")) throw notFound(path, "it isn't a directory", error);
    throw failure({ label: path, operation: "open" }, error);
  }
}

/** Opens a directory, and makes it where it is missing, with its parents. */
export async function makeDirectoryStore(path: string): Promise<ObjectStore> {
  try {
    await makeDirectory(path);
  } catch (error) {
    throw failure({ label: path, operation: "make directory" }, systemErrorOf(error));
  }
  return openDirectoryStore(path);
}

interface Identity {
  readonly dev: bigint;
  readonly ino: bigint;
}

class DirectoryObjectStore implements ObjectStore {
  readonly label: string;
  readonly #identity: Identity;
  readonly #syncs = new DirectorySyncs();

  constructor(root: string, identity: Identity) {
    this.label = root;
    this.#identity = identity;
  }

  putIfAbsent(name: string, parts: readonly Uint8Array[]): Promise<boolean> {
    const path = this.#pathOf(name);
    return this.#attempt("put", name, async () => {
      await this.#checkRoot();
      for (let attempt = 1; ; attempt += 1) {
        if ((await sizeOfFile(path)) !== undefined) {
          // Whoever made it may have died before its name was durable.
          await this.#syncs.sync(dirname(path));
          return false;
        }
        const draft = await this.#writeDraft(path, parts);
        const outcome = await linkDraft(draft, path);
        if (outcome === "no-draft" && attempt < ATTEMPTS_MAX) continue;
        await removeIfThere(draft);
        if (outcome === "no-draft") throw this.#robbed(name);
        await this.#syncs.sync(dirname(path));
        return outcome === "linked";
      }
    });
  }

  put(name: string, parts: readonly Uint8Array[]): Promise<void> {
    const path = this.#pathOf(name);
    return this.#attempt("put", name, async () => {
      await this.#checkRoot();
      for (let attempt = 1; ; attempt += 1) {
        const draft = await this.#writeDraft(path, parts);
        try {
          await rename(draft, path);
          break;
        } catch (error) {
          await removeIfThere(draft);
          if (!hasErrno(error, "ENOENT")) throw error;
          if (attempt >= ATTEMPTS_MAX) throw this.#robbed(name);
        }
      }
      await this.#syncs.sync(dirname(path));
    });
  }

  get(name: string, range?: ObjectRange): Promise<Uint8Array | undefined> {
    const path = this.#pathOf(name);
    return this.#attempt("get", name, () =>
      this.#unlessMissing(async () => {
        const file = await open(path, constants.O_RDONLY);
        try {
          const { start, end } = rangeWithin((await file.stat()).size, range);
          const bytes = new Uint8Array(end - start);
          return bytes.subarray(0, await readAll(file, bytes, start));
        } finally {
          await file.close();
        }
      }),
    );
  }

  sizeOf(name: string): Promise<number | undefined> {
    const path = this.#pathOf(name);
    return this.#attempt("stat", name, () =>
      this.#unlessMissing(async () => (await stat(path)).size),
    );
  }

  async *list(prefix: string): AsyncGenerator<ListedObject> {
    const folder = prefix.slice(0, prefix.lastIndexOf("/") + 1);
    for await (const name of this.#walk(folder, 1)) {
      if (!name.startsWith(prefix) || !isObjectName(name)) continue;
      const sizeBytes = await this.#attempt("list", name, () => sizeOfFile(this.#pathOf(name)));
      if (sizeBytes !== undefined) yield { name, sizeBytes };
    }
  }

  delete(name: string): Promise<void> {
    const path = this.#pathOf(name);
    return this.#attempt("delete", name, async () => {
      const wasThere = await this.#unlessMissing(async () => {
        await unlink(path);
        return true;
      });
      if (!wasThere) return;
      const folder = dirname(path);
      // Each session has a folder: they would pile up. One that isn't empty stays, as does one that somebody mounted.
      if (folder !== this.label) await rmdir(folder).catch(() => {});
      await this.#syncs.sync(folder);
    });
  }

  async *unfinished(): AsyncGenerator<string> {
    for await (const name of this.#walk("", 1)) if (DRAFT.test(name)) yield name;
  }

  discard(unfinished: string): Promise<void> {
    assert(DRAFT.test(unfinished), "only a draft is discarded");
    return this.#attempt("discard", unfinished, () => removeIfThere(join(this.label, unfinished)));
  }

  /** All files below `folder` ("packs/ab/", ""), drafts too. What vanishes meanwhile is left out. */
  async *#walk(folder: string, depth: number): AsyncGenerator<string> {
    const entries = await this.#attempt("list", folder, () =>
      this.#unlessMissing(async () => {
        const names: { name: string; isFolder: boolean }[] = [];
        for await (const entry of await opendir(join(this.label, folder))) {
          // A link may stand for a folder that an administrator moved to another disk.
          const isFolder = entry.isDirectory() || entry.isSymbolicLink();
          names.push({ name: entry.name, isFolder });
        }
        return names;
      }),
    );
    for (const { name, isFolder } of entries ?? []) {
      const path = `${folder}${name}`;
      if (!isFolder) yield path;
      else if (depth < DEPTH_MAX && isObjectName(path)) yield* this.#walk(`${path}/`, depth + 1);
    }
  }

  /** Writes a file beside `path`, durably but for its name; gives its path. */
  async #writeDraft(path: string, parts: readonly Uint8Array[]): Promise<string> {
    const draft = join(dirname(path), `${DRAFT_PREFIX}${randomBytes(8).toString("hex")}`);
    const file = await this.#createFile(draft);
    try {
      let position = 0;
      for (const part of parts) {
        await writeAll(file, part, position);
        position += part.length;
      }
      await file.datasync();
      await file.close();
      return draft;
    } catch (error) {
      await file.close().catch(() => {});
      await removeIfThere(draft).catch(() => {});
      throw error;
    }
  }

  /** Creates a file, and the directories above it where they are missing. */
  async #createFile(path: string): Promise<FileHandle> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await open(path, "wx", FILE_MODE);
      } catch (error) {
        // Whoever deletes the last object of a folder removes it, again and again if need be.
        if (!hasErrno(error, "ENOENT") || attempt >= ATTEMPTS_MAX) throw error;
      }
      await this.#makeFolders(dirname(path));
    }
  }

  /** Step by step from the root, which is never made anew: it may be where a disk was mounted. */
  async #makeFolders(path: string): Promise<void> {
    await this.#checkRoot();
    let made = this.label;
    for (const segment of path
      .slice(this.label.length)
      .split("/")
      .filter((part) => part !== "")) {
      const parent = made;
      made = join(parent, segment);
      try {
        await mkdir(made, DIRECTORY_MODE);
      } catch (error) {
        if (hasErrno(error, "ENOENT")) await this.#checkRoot();
        if (!hasErrno(error, "EEXIST")) throw error;
      }
      await this.#syncs.sync(parent);
    }
  }

  /** The result of `run`, or undefined where what it asks for isn't in the target, which is there. */
  async #unlessMissing<T>(run: () => Promise<T>): Promise<T | undefined> {
    try {
      return await run();
    } catch (error) {
      if (!hasErrno(error, "ENOENT")) throw error;
      await this.#checkRoot();
      return undefined;
    }
  }

  async #checkRoot(): Promise<void> {
    let now: Identity | undefined;
    try {
      now = await statDirectory(this.label);
    } catch (error) {
      if (!hasErrno(error, "ENOENT") && !hasErrno(error, "ENOTDIR")) throw error;
    }
    if (now?.dev === this.#identity.dev && now.ino === this.#identity.ino) return;
    const why = now === undefined ? "its directory is gone" : "another directory is in its place";
    throw new StorageError("TARGET_UNAVAILABLE", `target "${this.label}": lost: ${why}`, {
      hint: "mount it again, then start the command again; what is in it stays whole",
    });
  }

  #robbed(name: string): StorageError {
    const what = `target "${this.label}": put of "${name}" failed`;
    return new StorageError(
      "TARGET_UNAVAILABLE",
      `${what}: its temporary file was removed again and again`,
    );
  }

  async #attempt<T>(operation: string, name: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      throw failure({ label: this.label, operation: `${operation} of "${name}"` }, error);
    }
  }

  #pathOf(name: string): string {
    assert(isObjectName(name), "an object has a plain name");
    return join(this.label, name);
  }
}

/** Gives the draft the object's name, unless there is one of that name. Throws TARGET_UNSUITABLE where there are no links. */
export async function linkDraft(
  draft: string,
  path: string,
): Promise<"linked" | "taken" | "no-draft"> {
  try {
    await link(draft, path);
    return "linked";
  } catch (error) {
    if (hasErrno(error, "ENOENT")) return "no-draft";
    // Over a network file system the answer to a link that was made may be lost, and the question asked again.
    if (hasErrno(error, "EEXIST")) return (await isSameFile(draft, path)) ? "linked" : "taken";
    await removeIfThere(draft).catch(() => {});
    throw NO_LINKS.has((error as NodeJS.ErrnoException).code ?? "")
      ? unsuitable(path, error)
      : error;
  }
}

async function isSameFile(one: string, other: string): Promise<boolean> {
  const [first, second] = await Promise.all(
    [one, other].map((path) => stat(path, { bigint: true }).catch(() => undefined)),
  );
  return first !== undefined && first.ino === second?.ino && first.dev === second.dev;
}

async function statDirectory(path: string): Promise<Identity> {
  const stats = await stat(path, { bigint: true });
  if (stats.isDirectory()) return stats;
  throw Object.assign(new Error("ENOTDIR: not a directory, stat"), {
    code: "ENOTDIR",
    syscall: "stat",
  });
}

/** undefined: there is none. */
async function sizeOfFile(path: string): Promise<number | undefined> {
  try {
    const stats = await stat(path);
    return stats.isFile() ? stats.size : undefined;
  } catch (error) {
    if (hasErrno(error, "ENOENT")) return undefined;
    throw error;
  }
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!hasErrno(error, "ENOENT")) throw error;
  }
}

async function readAll(file: FileHandle, target: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const { bytesRead } = await file.read(target, done, target.length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

async function writeAll(file: FileHandle, source: Uint8Array, position: number): Promise<void> {
  let done = 0;
  while (done < source.length) {
    const { bytesWritten } = await file.write(source, done, source.length - done, position + done);
    done += bytesWritten;
  }
}

function hasErrno(error: unknown, errno: string): boolean {
  return (error as NodeJS.ErrnoException).code === errno;
}

function notFound(path: string, why: string, cause: unknown): StorageError {
  return new StorageError("TARGET_NOT_FOUND", `target "${path}": not found: ${why}`, { cause });
}

function unsuitable(path: string, cause: unknown): StorageError {
  const why = `its file system makes no hard links (${(cause as NodeJS.ErrnoException).code})`;
  return new StorageError("TARGET_UNSUITABLE", `target "${dirname(path)}": refused: ${why}`, {
    cause,
  });
}

/** What a StorageError of a plain directory was made from. */
function systemErrorOf(error: unknown): unknown {
  return error instanceof StorageError ? (error.cause ?? error) : error;
}

/** A StorageError for what the operating system answered; other errors stay as they are. */
function failure(
  { label, operation }: { readonly label: string; readonly operation: string },
  error: unknown,
): unknown {
  if (error instanceof StorageError) return error;
  const { code, message, syscall } = error as NodeJS.ErrnoException;
  if (typeof code !== "string" || syscall === undefined) return error;
  // The runtime writes "EIO: i/o error, write"; the reason is what stands between.
  const reason = /^\w+: (.*?), /.exec(message)?.[1] ?? message;
  const kind: ErrorCode = FULL.has(code) ? "TARGET_FULL" : "TARGET_UNAVAILABLE";
  const hint = HINTS[code];
  return new StorageError(kind, `target "${label}": ${operation} failed: ${reason} (${code})`, {
    ...(hint === undefined ? {} : { hint }),
    data: { errno: code, operation },
    cause: error,
  });
}
