// SPDX-License-Identifier: Apache-2.0
//
// A program between the client and the server under test: nbdkit or a storage daemon of QEMU's, which
// serves on what it gets from the server. It must outlive the server's death; it ends with the test.

import { spawn } from "node:child_process";
import { connect } from "node:net";
import { closed, programEnv, until } from "./command.ts";
import type { Scratch } from "./scratch.ts";
import { accepts } from "./server.ts";

export interface Front {
  readonly command: readonly string[];
  /** Where it answers. */
  readonly socket?: string;
  readonly port?: number;
}

/** Starts `command` and waits until it answers. */
export async function startBetween(
  scratch: Scratch,
  { command, socket, port }: Front,
): Promise<void> {
  const [program, ...args] = command;
  const child = spawn(program!, args, { env: programEnv(), stdio: "ignore" });
  const ended = closed(child);
  scratch.defer(program!, () => {
    child.kill();
    return ended;
  });
  await until(`${program} answers`, () => {
    if (child.exitCode !== null) throw new Error(`${command.join(" ")}: ended`);
    return socket === undefined ? listens(port!) : accepts(socket);
  });
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(port, "127.0.0.1");
    connection.once("connect", () => {
      connection.destroy();
      resolve(true);
    });
    connection.once("error", () => resolve(false));
  });
}
