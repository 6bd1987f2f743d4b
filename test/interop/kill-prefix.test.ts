// SPDX-License-Identifier: Apache-2.0
//
// The prefix promise under real kills: a stamping writer loads the real daemon over NBD, the daemon gets
// SIGKILL in the middle of it, is started again, sometimes killed once more while it recovers, and the
// whole disk must then be exactly a prefix of what was written. 60 kills under load in a normal run;
// KILLS=1000 for a long one. SEED=n repeats the choices of a run.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { Chance } from "./chance.ts";
import { delay } from "./command.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, Server } from "./server.ts";
import { type Acknowledgement, StampingWriter } from "./stamping-writer.ts";

const MIB = 1024 * 1024;
const isVarve = KIND_UNDER_TEST === "varve";
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const killCount = Number(process.env.KILLS ?? 60);

interface Case {
  readonly title: string;
  readonly acknowledgement: Acknowledgement;
  readonly connectionCount: number;
  readonly depth: number;
  readonly mayOverlap?: boolean;
  /** Small segments and checkpoints, so that kills also hit roll-overs and half-written runs. */
  readonly isCramped?: boolean;
  /** Of all kills. */
  readonly share: number;
}

const CASES: readonly Case[] = [
  {
    title: "acknowledged once written, one connection at depth 32, with overlaps",
    mayOverlap: true,
    acknowledgement: "written",
    connectionCount: 1,
    depth: 32,
    share: 0.2,
  },
  {
    title: "acknowledged once written, with small segments and many checkpoints",
    acknowledgement: "written",
    connectionCount: 2,
    depth: 16,
    isCramped: true,
    share: 0.3,
  },
  {
    title: "acknowledged once written, three connections",
    acknowledgement: "written",
    connectionCount: 3,
    depth: 8,
    share: 0.15,
  },
  {
    title: "acknowledged once in memory: what was flushed stays, the rest is a prefix",
    acknowledgement: "memory",
    connectionCount: 2,
    depth: 16,
    isCramped: true,
    share: 0.25,
  },
  {
    title: "acknowledged once durable",
    acknowledgement: "durable",
    connectionCount: 1,
    depth: 16,
    share: 0.1,
  },
];

const CRAMPED = ["--segment-size", "256K", "--checkpoint-changes", "1024"];

for (const { title, share, ...one } of CASES) {
  const { depth, connectionCount, acknowledgement, mayOverlap = false, isCramped = false } = one;
  const kills = Math.ceil(killCount * share);
  test(`${kills} kills -9 under load leave a prefix: ${title}`, async (context) => {
    context.diagnostic(`SEED=${seed}`);
    await using scratch = await Scratch.create();
    const sizeBytes = 32 * MIB;
    const serveArgs = ["--ack", acknowledgement, ...(isCramped ? CRAMPED : [])];
    const server = await Server.inScratch(scratch, { sizeBytes, serveArgs });
    const chance = new Chance(seed);
    const writer = new StampingWriter({
      seed,
      sectorCount: sizeBytes / 512,
      connectionCount,
      depth,
      // The peers tear what crosses a page.
      sectorCountMax: isVarve ? 2048 : 1,
      acknowledgement,
      // The peers promise no order among requests in flight.
      mayOverlap: isVarve && mayOverlap,
    });
    let [answeredCount, lostCount, secondKillCount] = [0, 0, 0];
    for (let kill = 0; kill < kills; kill++) {
      const { done } = await writer.begin(server);
      await delay(20 + chance.below(180));
      ok(server.isRunning, `the daemon ended by itself: ${lastWords(server)}`);
      await server.kill9();
      await done;
      if (chance.below(4) === 0) {
        secondKillCount++;
        await server.launch();
        await delay(chance.below(250));
        await server.kill9();
      }
      await server.restart();
      const report = await writer.check(server).catch((cause: unknown) => {
        throw new Error(`after kill ${kill + 1} of SEED=${seed}`, { cause });
      });
      answeredCount += report.answeredCount;
      lostCount += report.lostCount;
    }
    context.diagnostic(
      `${answeredCount} operations were answered, ${lostCount} others were lost, ` +
        `${secondKillCount} recoveries were killed too`,
    );
    ok(answeredCount > 10 * kills, "the load was a load");
    if (!isVarve) return;
    equal(await server.stop(), 0, "it ends cleanly on SIGTERM");
    await server.varve(["check"]);
  });
}

/** What a daemon that gave up said last. */
function lastWords(server: Server): string {
  return server.output
    .split("\n")
    .filter((line) => !line.includes('"level":"info"'))
    .join("\n");
}

const ENDINGS: Readonly<Record<string, (server: Server) => Promise<unknown>>> = {
  "without any restart": async () => {},
  "after SIGTERM and a start": async (server) => {
    equal(await server.stop(), 0, lastWords(server));
    await server.restart();
  },
  "after a kill -9 when all is quiet": async (server) => {
    await server.kill9();
    await server.restart();
  },
};

for (const [title, ending] of Object.entries(ENDINGS)) {
  test(`all that was answered is there ${title}, across many checkpoints`, async (context) => {
    context.diagnostic(`SEED=${seed}`);
    await using scratch = await Scratch.create();
    const sizeBytes = 32 * MIB;
    const server = await Server.inScratch(scratch, { sizeBytes, serveArgs: CRAMPED });
    const writer = new StampingWriter({
      seed,
      sectorCount: sizeBytes / 512,
      connectionCount: 2,
      depth: 16,
      sectorCountMax: isVarve ? 2048 : 1,
      acknowledgement: "written",
      mayOverlap: false,
    });
    for (let round = 0; round < 10; round++) {
      const { done, end } = await writer.begin(server);
      await delay(200);
      end();
      await done;
      ok(server.isRunning, `the daemon ended by itself: ${lastWords(server)}`);
      await ending(server);
      const { sentCount, answeredCount, lostCount } = await writer.check(server);
      deepEqual({ answeredCount, lostCount }, { answeredCount: sentCount, lostCount: 0 });
    }
    if (!isVarve) return;
    equal(await server.stop(), 0);
    await server.varve(["check"]);
  });
}
