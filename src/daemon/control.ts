// SPDX-License-Identifier: Apache-2.0
//
// The control door's life: its sockets stand at once, its code (fastify, the contract's validators, the
// metrics) is loaded when the first request comes or a second after the start, whichever is first.
// Loading takes a tenth of a second on the event loop, which NBD clients that come back after a restart
// must not wait for. Requests that are early wait for it.

import { join } from "node:path";
import type { DiffSource } from "../api/diff.ts";
import type { EventSource, Operations } from "../api/types.ts";
import { StorageError } from "../base/errors.ts";
import { type HttpListener, listenHttp } from "../host/node/http-listener.ts";
import { readText } from "../host/node/text-file.ts";
import type { Clock, Logger } from "../host/ports.ts";
import type { ControlDoor } from "../http/control-door.ts";
import type { DaemonSettings } from "./settings.ts";

const LOAD_AFTER_MS = 1000;
const CLOSE_GRACE_MS = 1000;
const TOKEN_LENGTH_MIN = 16;

export const CONTROL_SOCKET = "control.sock";

export interface ControlOptions {
  readonly settings: DaemonSettings;
  /** Absolute. */
  readonly directory: string;
  readonly operations: Operations;
  readonly events: EventSource;
  readonly diffs: DiffSource;
  readonly version: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onBug: (error: unknown) => void;
}

export interface Control {
  /** Where it listens. */
  readonly addresses: readonly string[];
  close(): Promise<void>;
}

export async function startControl(options: ControlOptions): Promise<Control> {
  const { settings, directory, clock } = options;
  let door: Promise<ControlDoor> | undefined;
  const load = (): Promise<ControlDoor> => {
    door ??= loadDoor(options);
    return door;
  };
  const listeners: HttpListener[] = [];
  const listen = async (place: Parameters<typeof listenHttp>[0], token?: string): Promise<void> => {
    const listener = await listenHttp(place, (request, response) => {
      load().then((loaded) => loaded.handle(request, response, { token }), options.onBug);
    });
    listeners.push(listener);
  };
  const close = async (): Promise<void> => {
    cancel();
    const loaded = await door;
    await loaded?.close();
    await Promise.all(listeners.map((listener) => listener.close(CLOSE_GRACE_MS)));
  };
  const cancel = clock.after(LOAD_AFTER_MS, () => void load().catch(options.onBug));
  try {
    await listen({ path: join(directory, CONTROL_SOCKET) });
    if (settings.http !== undefined) {
      const { address, tokenFile } = settings.http;
      const token = await readToken(tokenFile);
      const certificate = await readSecret("tls-certificate", settings.tls.certificate);
      const key = await readSecret("tls-key", settings.tls.key);
      await listen({ ...address, certificate, key }, token);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { addresses: listeners.map(({ address }) => address), close };
}

async function loadDoor({
  operations,
  events,
  diffs,
  version,
  logger,
  onBug,
}: ControlOptions): Promise<ControlDoor> {
  const { createControlDoor } = await import("../http/control-door.ts");
  return createControlDoor({ operations, events, diffs, version, logger, onBug });
}

async function readToken(path: string): Promise<string> {
  const text = await readSecret("http-token-file", path);
  const token = (text.split("\n")[0] ?? "").trim();
  if (token.length < TOKEN_LENGTH_MIN) {
    throw new StorageError(
      "CONFIG_INVALID",
      `setting http-token-file "${path}": refused: its first line has ${token.length} characters, ${TOKEN_LENGTH_MIN} are needed`,
      { hint: "make one: openssl rand -hex 32" },
    );
  }
  return token;
}

/** The text of a file that a setting names. */
export async function readSecret(setting: string, path: string | undefined): Promise<string> {
  const text = path === undefined ? undefined : await readText(path);
  if (text === undefined) {
    throw new StorageError(
      "CONFIG_INVALID",
      `setting ${setting} "${path}": not read: there is no such file`,
      {
        hint: `name a file that exists, or leave ${setting} out`,
      },
    );
  }
  return text;
}
