// SPDX-License-Identifier: Apache-2.0
//
// npm run check:machine: what needs more than this machine has: guests with kernels of their own, and
// newer programs than its distribution's. The tools that bring them are looked for on PATH and in the
// directory VARVE_TOOLS, other programs where VARIABLES say; tests that need one which is missing are
// skipped, and this says which.

import { delimiter } from "node:path";
import { findProgram } from "./packages.ts";
import { runSuites } from "./test.ts";

const TOOLS: readonly (readonly [program: string, purpose: string])[] = [
  ["setup", "fetches the guests and programs of the others"],
  ["kernel-nbd-check", "ext4 over the kernel's own NBD client, in a guest"],
  ["uml-run", "runs a script in a User-Mode Linux guest"],
  ["vm-run", "runs a script in an emulated machine with a stock kernel"],
];

const VARIABLES: readonly (readonly [variable: string, purpose: string])[] = [
  ["VARVE_QEMU", "directory of the programs of QEMU 8.2 or newer; else PATH's are tried"],
  ["VARVE_NBD_TESTER", "nbd-tester-client of nbd-server's source, integrity-test.tr beside it"],
];

const folder = process.env.VARVE_TOOLS;
const path = [...(folder === undefined ? [] : [folder]), process.env.PATH ?? ""].join(delimiter);
process.env.PATH = path;

for (const [program, purpose] of TOOLS) {
  const where = findProgram(program, path);
  console.log(`${program.padEnd(18)} ${where ?? `missing: ${purpose}`}`);
}
for (const [variable, purpose] of VARIABLES) {
  console.log(`${variable.padEnd(18)} ${process.env[variable] ?? `not set: ${purpose}`}`);
}
if (folder === undefined) {
  console.log("VARVE_TOOLS isn't set: only PATH was searched");
}
process.exitCode = await runSuites(["machine", ...process.argv.slice(2)]);
