// SPDX-License-Identifier: Apache-2.0
//
// `varve set`: key=value pairs for a volume, for a snapshot, or for the pool when the first word is a pair already.
// The keys are those of the configuration, where there is one of the kind.

import { checkPoolSize } from "../../api/operations.ts";
import { LOG_LEVELS, WHEN_FULL } from "../../api/schemas.ts";
import type { OperationTypes, PoolJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import { nearest } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import { type CommandContext, required } from "../command.ts";
import { keepOf, retentionOf, sizeOf, snapshotOf } from "../values.ts";

type PoolChange = OperationTypes["setPool"]["input"];
type SnapshotChange = Omit<OperationTypes["setSnapshot"]["input"], "volume" | "snapshot">;
type VolumeChange = Omit<OperationTypes["setVolume"]["input"], "volume">;

/** What each key changes, from its text. */
const POOL_KEYS: Readonly<Record<string, (text: string) => PoolChange>> = {
  "log-level": (text) => ({ logLevel: logLevelOf(text) }),
  "pool-size": (text) => ({ poolSizeBytes: poolSizeOf(text) }),
  retention: (text) => ({ retention: retentionOf('setting "retention"', text) }),
  "when-full": (text) => ({ whenFull: whenFullOf(text) }),
  "history-floor": (text) => ({ historyFloorMs: keepOf('setting "history-floor"', text) }),
};
const VOLUME_KEYS: Readonly<Record<string, (text: string) => VolumeChange>> = {
  "read-only": (text) => ({ isReadOnly: eitherOf("read-only", text, ["true", "false"]) }),
  description: (text) => ({ description: text }),
  dedup: (text) => ({ isDeduplicated: eitherOf("dedup", text, ["on", "off"]) }),
  compression: (text) => ({ isCompressed: eitherOf("compression", text, ["on", "off"]) }),
};

const SNAPSHOT_KEYS: Readonly<Record<string, (text: string) => SnapshotChange>> = {
  keep: (text) => ({ keepMs: text === "forever" ? null : keepOf('setting "keep"', text) }),
  protected: (text) => ({ isProtected: eitherOf("protected", text, ["on", "off"]) }),
  description: (text) => ({ description: text }),
};

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const what = required(context, "WHAT");
  const rest = context.variadic("KEY=VALUE");
  const isPool = what.includes("=");
  const pairs = isPool ? [what, ...rest] : rest;
  const isSnapshot = !isPool && what.includes("@");
  if (pairs.length === 0) {
    const keys = Object.keys(isSnapshot ? SNAPSHOT_KEYS : VOLUME_KEYS).join(", ");
    throw new StorageError("USAGE", "argument KEY=VALUE: missing", {
      hint: `write "varve set ${what} KEY=VALUE"; the keys are ${keys}`,
    });
  }
  if (isPool) {
    const change = parsePairs(pairs, POOL_KEYS);
    const pool = await (await context.daemon()).call("setPool", change);
    if (context.isJson) return output.json(pool) as undefined;
    output.line(`pool "${pool.directory}" set: ${pairs.join(" ")}`);
    if (change.poolSizeBytes !== undefined) noteStartedSize(pool, context);
    return;
  }
  if (isSnapshot) {
    const { volume, name } = snapshotOf("argument", what);
    const input = { volume, snapshot: name, ...parsePairs(pairs, SNAPSHOT_KEYS) };
    const snapshot = await (await context.daemon()).call("setSnapshot", input);
    if (context.isJson) return output.json(snapshot) as undefined;
    output.line(`snapshot "${snapshot.volume}@${snapshot.name}" set: ${pairs.join(" ")}`);
    return;
  }
  const change = parsePairs(pairs, VOLUME_KEYS);
  const volume = await (await context.daemon()).call("setVolume", { volume: what, ...change });
  if (context.isJson) output.json(volume);
  else output.line(`volume "${volume.name}" set: ${pairs.join(" ")}`);
}

/** What was set is part of the pool, but a size in the configuration goes before it when the daemon starts. */
function noteStartedSize(
  { startedPoolSizeBytes, poolSizeBytes }: PoolJson,
  context: CommandContext,
): void {
  if (startedPoolSizeBytes === undefined || startedPoolSizeBytes === poolSizeBytes) return;
  const started = startedPoolSizeBytes === 0 ? "no limit" : formatSize(startedPoolSizeBytes);
  context.output.note(
    `the daemon was started with pool-size ${startedPoolSizeBytes} (${started}), which holds again when it restarts`,
  );
}

function parsePairs<T extends object>(
  pairs: readonly string[],
  keys: Readonly<Record<string, (text: string) => T>>,
): T {
  const change = {} as T;
  for (const pair of pairs) {
    const equals = pair.indexOf("=");
    const key = equals === -1 ? pair : pair.slice(0, equals);
    const parse = Object.hasOwn(keys, key) ? keys[key] : undefined;
    if (parse === undefined) {
      const names = Object.keys(keys);
      const guess = nearest(key, names);
      throw new StorageError("USAGE", `setting "${key}": not known`, {
        hint:
          guess === undefined ? `the settings are ${names.join(", ")}` : `did you mean "${guess}"?`,
      });
    }
    if (equals === -1) {
      throw new StorageError("USAGE", `setting "${key}": its value is missing`, {
        hint: `write ${key}=VALUE`,
      });
    }
    Object.assign(change, parse(pair.slice(equals + 1)));
  }
  return change;
}

/** True for the first word. */
function eitherOf(key: string, text: string, [yes, no]: readonly [string, string]): boolean {
  if (text === yes || text === no) return text === yes;
  throw new StorageError(
    "USAGE",
    `setting "${key}": "${text}" refused: it is neither ${yes} nor ${no}`,
    { hint: `write ${key}=${yes} or ${key}=${no}` },
  );
}

function whenFullOf(text: string): PoolJson["whenFull"] {
  const word = WHEN_FULL.find((candidate) => candidate === text);
  if (word !== undefined) return word;
  throw new StorageError(
    "USAGE",
    `setting "when-full": "${text}" refused: it is neither ${WHEN_FULL.join(" nor ")}`,
    { hint: `write ${WHEN_FULL.map((one) => `when-full=${one}`).join(" or ")}` },
  );
}

function poolSizeOf(text: string): number {
  const bytes = text === "none" ? 0 : sizeOf("pool size", text);
  checkPoolSize(bytes);
  return bytes;
}

function logLevelOf(text: string): PoolJson["logLevel"] {
  const level = LOG_LEVELS.find((candidate) => candidate === text);
  if (level !== undefined) return level;
  const guess = nearest(text, LOG_LEVELS);
  throw new StorageError(
    "USAGE",
    `setting "log-level": "${text}" refused: it is none of ${LOG_LEVELS.join(", ")}`,
    {
      hint:
        guess === undefined
          ? `write log-level=info, or another of them`
          : `did you mean "${guess}"?`,
    },
  );
}
