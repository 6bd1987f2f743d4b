// SPDX-License-Identifier: Apache-2.0
//
// Programs of a QEMU that is newer than the distribution's. VARVE_QEMU names the directory they are in, for
// example one that a package of a newer suite was unpacked into; without it those on PATH are taken.
// QEMU has extended headers, as a client and as a server, from 8.2 on.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { programEnv } from "../interop/command.ts";
import type { Need } from "../interop/requires.ts";

export type QemuProgram = "qemu-img" | "qemu-io" | "qemu-nbd";

const FIRST = { major: 8, minor: 2 } as const;
const folder = process.env.VARVE_QEMU;

/** What to call to run `program`. */
export function qemuPath(program: QemuProgram): string {
  return folder === undefined ? program : join(folder, program);
}

/** All three programs, with extended headers. */
export function newerQemu(): Need {
  const programs = ["qemu-img", "qemu-io", "qemu-nbd"] as const;
  const versions = programs.map((program) => `${program} ${versionOf(program) ?? "missing"}`);
  return {
    what: `QEMU ${FIRST.major}.${FIRST.minor} or newer in VARVE_QEMU or PATH (${versions.join(", ")})`,
    isMet: programs.every((program) => isNewEnough(versionOf(program))),
  };
}

function versionOf(program: QemuProgram): string | undefined {
  const options = { env: programEnv(), encoding: "utf8", timeout: 20_000 } as const;
  const { stdout } = spawnSync(qemuPath(program), ["--version"], options);
  return /^\S+ (?:version )?(\d+\.\d+\S*)/.exec(stdout ?? "")?.[1];
}

function isNewEnough(version: string | undefined): boolean {
  if (version === undefined) return false;
  const [major = 0, minor = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return major > FIRST.major || (major === FIRST.major && minor >= FIRST.minor);
}
