// SPDX-License-Identifier: Apache-2.0
//
// npm start: from a fresh clone to a disk in one command. Starts a daemon for ./varve-pool unless one
// runs, waits until it answers, makes the volume `demo` unless it exists, and says how to look at it and
// how to stop. Running it again changes nothing; a first start that fails leaves no pool behind. Arguments
// go to `varve serve`: npm start -- --listen none

import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { connect } from "node:net";
import { join, relative } from "node:path";
import { REPOSITORY } from "./source-files.ts";

const POOL = join(REPOSITORY, "varve-pool");
const CONTROL = join(POOL, "control.sock");
const LOG = join(REPOSITORY, ".cache/varve-start.log");
const VARVE = join(REPOSITORY, "bin/varve");
const VOLUME = "demo";
const SIZE = "10G";
const START_MS_MAX = 30_000;

process.exitCode = await start(process.argv.slice(2));

async function start(serveArgs: readonly string[]): Promise<number> {
  const wasRunning = await answers();
  if (!wasRunning && !(await startDaemon(serveArgs))) return 1;
  if (!provideVolume()) return 1;
  const pid = holderPid();
  const here = relative(process.cwd(), REPOSITORY) || ".";
  console.log(`varve ${wasRunning ? "is already running" : "is running"} (process ${pid})

  pool      ${POOL}
  volume    ${VOLUME}, 10 GiB, thin
  NBD       ${join(POOL, "nbd.sock")} and 127.0.0.1:10809, unless told otherwise
  log       ${LOG}

Try:
  ${here}/bin/varve info ${VOLUME}
  qemu-img info "nbd+unix:///${VOLUME}?socket=${join(POOL, "nbd.sock")}"
  nbdinfo "nbd+unix:///${VOLUME}?socket=${join(POOL, "nbd.sock")}"

To make a file system on it: ${here}/bin/varve attach ${VOLUME} --device
To stop: kill ${pid}`);
  return 0;
}

async function startDaemon(serveArgs: readonly string[]): Promise<boolean> {
  mkdirSync(join(LOG, ".."), { recursive: true });
  const isNewPool = !existsSync(POOL);
  const log = openSync(LOG, "a");
  const { size: logStart } = fstatSync(log);
  const daemon = spawn(VARVE, ["serve", "--pool", POOL, ...serveArgs], {
    cwd: REPOSITORY,
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  let ended: string | undefined;
  daemon.once("error", (error) => {
    ended = error.message;
  });
  daemon.once("exit", (code, signal) => {
    ended = `it ended with ${signal ?? `exit code ${code}`}`;
  });
  daemon.unref();
  for (const deadline = Date.now() + START_MS_MAX; Date.now() < deadline && ended === undefined; ) {
    if (await answers()) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const said = readFileSync(LOG).subarray(logStart).toString("utf8").trimEnd();
  console.error(said.split("\n").slice(-15).join("\n"));
  console.error(
    `varve: error: the daemon didn't start: ${ended ?? `no answer in ${START_MS_MAX} ms`}`,
  );
  console.error(
    said.includes("LISTEN_FAILED")
      ? "varve: hint: take another port (npm start -- --listen 127.0.0.1:10810), or none (npm start -- --listen none)"
      : `varve: hint: see ${LOG}`,
  );
  // Nobody can have written into a pool whose daemon ended before it answered.
  if (isNewPool && ended !== undefined) rmSync(POOL, { recursive: true, force: true });
  return false;
}

function provideVolume(): boolean {
  const known = spawnSync(VARVE, ["info", VOLUME, "--pool", POOL, "--json"], { encoding: "utf8" });
  if (known.status === 0) return true;
  const args = ["create", VOLUME, SIZE, "--pool", POOL];
  return spawnSync(VARVE, args, { stdio: ["ignore", "ignore", "inherit"] }).status === 0;
}

/** True when something accepts connections on the pool's control socket. */
function answers(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(CONTROL);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** The daemon writes its pid into the pool's lock. */
function holderPid(): string {
  return readFileSync(join(POOL, "lock"), "utf8").trim();
}
