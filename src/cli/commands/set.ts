// SPDX-License-Identifier: Apache-2.0
//
// `varve set`: key=value pairs for a volume, or for the daemon when the first word is a pair already.
// The keys are those of the configuration, where there is one of the kind.

import { LOG_LEVELS } from "../../api/schemas.ts";
import type { PoolJson } from "../../api/types.ts";
import { StorageError } from "../../base/errors.ts";
import { nearest } from "../../base/names.ts";
import { type CommandContext, required } from "../command.ts";

const VOLUME_KEYS = ["read-only", "description"];
const POOL_KEYS = ["log-level"];

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const what = required(context, "WHAT");
  const rest = context.variadic("KEY=VALUE");
  const isPool = what.includes("=");
  const pairs = isPool ? [what, ...rest] : rest;
  if (pairs.length === 0) {
    throw new StorageError("USAGE", "argument KEY=VALUE: missing", {
      hint: `write "varve set ${what} KEY=VALUE"; the keys are ${VOLUME_KEYS.join(", ")}`,
    });
  }
  const values = parsePairs(pairs, isPool ? POOL_KEYS : VOLUME_KEYS);
  const daemon = await context.daemon();
  if (isPool) {
    const pool = await daemon.call("setPool", { logLevel: logLevelOf(values.get("log-level")) });
    if (context.isJson) output.json(pool);
    else output.line(`pool "${pool.directory}" set: log-level=${pool.logLevel}`);
    return;
  }
  const readOnly = values.get("read-only");
  const description = values.get("description");
  const volume = await daemon.call("setVolume", {
    volume: what,
    ...(readOnly === undefined ? {} : { isReadOnly: booleanOf("read-only", readOnly) }),
    ...(description === undefined ? {} : { description }),
  });
  if (context.isJson) output.json(volume);
  else output.line(`volume "${volume.name}" set: ${pairs.join(" ")}`);
}

function parsePairs(pairs: readonly string[], keys: readonly string[]): Map<string, string> {
  const values = new Map<string, string>();
  for (const pair of pairs) {
    const equals = pair.indexOf("=");
    const key = equals === -1 ? pair : pair.slice(0, equals);
    if (!keys.includes(key)) {
      const guess = nearest(key, keys);
      throw new StorageError("USAGE", `setting "${key}": not known`, {
        hint:
          guess === undefined ? `the settings are ${keys.join(", ")}` : `did you mean "${guess}"?`,
      });
    }
    if (equals === -1) {
      throw new StorageError("USAGE", `setting "${key}": its value is missing`, {
        hint: `write ${key}=VALUE`,
      });
    }
    values.set(key, pair.slice(equals + 1));
  }
  return values;
}

function booleanOf(key: string, text: string): boolean {
  if (text === "true") return true;
  if (text === "false") return false;
  throw new StorageError(
    "USAGE",
    `setting "${key}": "${text}" refused: it is neither true nor false`,
    { hint: `write ${key}=true or ${key}=false` },
  );
}

function logLevelOf(text: string | undefined): PoolJson["logLevel"] {
  const level = LOG_LEVELS.find((candidate) => candidate === text);
  if (level !== undefined) return level;
  const guess = text === undefined ? undefined : nearest(text, LOG_LEVELS);
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
