// SPDX-License-Identifier: Apache-2.0
//
// Commands of the operator's that run when a client attaches and detaches: to mount, to fence, to let in
// or to tell somebody. They get what is known of the client in the environment. The one before may
// refuse: any exit status but 0, or no end in time, and the client is told so. The ones after are told
// what has happened already, and change nothing.

import { StorageError } from "../base/errors.ts";
import type { ClientIdentity } from "./block-device.ts";

export type HookEvent = "before-attach" | "after-attach" | "after-detach";

export interface HookSettings {
  /** Program and arguments, by event; what isn't there isn't run. */
  readonly commands: Readonly<Partial<Record<HookEvent, readonly string[]>>>;
  /** A hook that takes longer is killed, and counts as a refusal. Default 10 s. */
  readonly timeoutMs: number;
}

/** The machine's way of running a program (host/node). */
export type HookRunner = (run: {
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}) => Promise<{ readonly status: number | undefined; readonly output: string }>;

/** Runs the hook of `event`, if there is one. Throws ACCESS_DENIED when it doesn't end with 0. */
export async function runHookFor(
  event: HookEvent,
  about: { exportName: string; client: ClientIdentity },
  { settings, runner }: { settings: HookSettings; runner: HookRunner },
): Promise<void> {
  const command = settings.commands[event];
  if (command === undefined || command.length === 0) return;
  const environment = hookEnvironment(event, about.exportName, about.client);
  const { status, output } = await runner({ command, environment, timeoutMs: settings.timeoutMs });
  if (status === 0) return;
  const how = status === undefined ? "did not run to its end" : `ended with status ${status}`;
  const said = output === "" ? "" : `: ${output.replaceAll("\n", " ")}`;
  throw new StorageError(
    "ACCESS_DENIED",
    `export "${about.exportName}": client refused: hook ${event} ${how}${said}`,
    { hint: `run ${command[0]} by hand with the same VARVE_ variables` },
  );
}

function hookEnvironment(
  event: HookEvent,
  exportName: string,
  client: ClientIdentity,
): Record<string, string> {
  const { address, unixUid, certificateName, pskIdentity } = client;
  return {
    VARVE_EVENT: event,
    VARVE_EXPORT: exportName,
    VARVE_CLIENT: address,
    ...(unixUid === undefined ? {} : { VARVE_CLIENT_UID: String(unixUid) }),
    ...(certificateName === undefined ? {} : { VARVE_CLIENT_CERTIFICATE: certificateName }),
    ...(pskIdentity === undefined ? {} : { VARVE_CLIENT_PSK: pskIdentity }),
  };
}
