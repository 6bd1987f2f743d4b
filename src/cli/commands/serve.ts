// SPDX-License-Identifier: Apache-2.0
//
// `varve serve`: settings from flags, environment and file, then the daemon until it ends. Of all
// commands the only one that is the daemon instead of talking to it.

import { SETTING_NAMES, SETTINGS, type SettingName } from "../../api/settings.ts";
import { StorageError } from "../../base/errors.ts";
import { startDaemon } from "../../daemon/daemon.ts";
import { loadSettings } from "../../daemon/settings.ts";
import { environmentNames, environmentVariable } from "../../host/node/environment.ts";
import { exitNow } from "../../host/node/process-usage.ts";
import { fileKind, readText } from "../../host/node/text-file.ts";
import type { CommandContext } from "../command.ts";
import { opening } from "../named-file.ts";
import { defaultPoolDirectory } from "../pool-directory.ts";

export async function run(context: CommandContext): Promise<never> {
  const { output, isJson } = context;
  const settings = loadSettings({
    flags: flagsOf(context),
    environment: environmentVariable,
    environmentNames: environmentNames(),
    file: await configurationOf(context.option("config") ?? environmentVariable("VARVE_CONFIG")),
    defaultPool: await defaultPoolDirectory(),
  });
  const daemon = await startDaemon(settings);
  const { directory, pid, listeners } = daemon;
  if (isJson) {
    output.jsonLine({ ready: true, pool: directory, pid, listeners });
  } else {
    output.line(`pool "${directory}" ready, process ${pid}; stop it with SIGTERM or Ctrl-C`);
    for (const uri of listeners) output.line(`  ${uri}`);
  }
  const { exitCode, error } = await daemon.ended;
  if (error !== undefined) output.error(error);
  // A pool that has stopped was not closed, and what it left open must not keep the process: systemd
  // starts the next one when this one has ended.
  exitNow(exitCode);
}

function flagsOf(context: CommandContext): Partial<Record<SettingName, string>> {
  const flags: Partial<Record<SettingName, string>> = {};
  for (const name of SETTING_NAMES) {
    const isSet = SETTINGS[name].type === "switch" && context.flag(name);
    const text = isSet ? "true" : context.option(name);
    if (text !== undefined) flags[name] = text;
  }
  return flags;
}

async function configurationOf(
  path: string | undefined,
): Promise<{ path: string; text: string } | undefined> {
  if (path === undefined) return undefined;
  if ((await fileKind(path)) === "directory") {
    throw new StorageError(
      "CONFIG_INVALID",
      `configuration "${path}": not read: it is a directory`,
      {
        hint: "name the file in it with --config",
      },
    );
  }
  const text = await opening(`configuration "${path}": not read`, () => readText(path));
  if (text !== undefined) return { path, text };
  throw new StorageError(
    "CONFIG_INVALID",
    `configuration "${path}": not read: there is no such file`,
    {
      hint: "name a file that exists with --config, or leave it out",
    },
  );
}
