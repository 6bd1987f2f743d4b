// SPDX-License-Identifier: Apache-2.0
//
// What a run of a schedule starts, and what it believes of the answers: programs that say nothing, too much or nonsense.

import { deepEqual, equal, match } from "node:assert/strict";
import { test } from "node:test";
import { createClock } from "../host/node/clock.ts";
import type { OwnProgramOutput } from "../host/node/own-program.ts";
import type { Clock } from "../host/ports.ts";
import { type BackupJob, createBackupRunner, type RunningBackup } from "./backup-runner.ts";

const JOB: BackupJob = {
  volumes: ["db", "web"],
  target: "/srv/backup",
  keep: {},
  keyFile: undefined,
  passphraseFile: undefined,
  limitBytesPerSecond: undefined,
};
const POINT = {
  point: { id: "0123456789abcdef", name: "v1" },
  readBytes: 3,
  newBytes: 2,
  storedBytes: 1,
};
const DONE = { point: "v1", pointId: POINT.point.id, readBytes: 3, sentBytes: 2, storedBytes: 1 };

class Started {
  readonly words: readonly string[];
  readonly output: OwnProgramOutput;
  readonly signals: string[] = [];
  readonly ended = Promise.withResolvers<{ status: number | undefined }>();

  constructor(words: readonly string[], output: OwnProgramOutput) {
    this.words = words;
    this.output = output;
  }

  /** Prints and ends. */
  async end(status: number | undefined, text = "", lines: readonly string[] = []): Promise<void> {
    this.output.onOutput(text);
    for (const line of lines) this.output.onErrorLine(line);
    this.ended.resolve({ status });
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  }
}

function begin(job: Partial<BackupJob> = {}, clock: Clock = createClock()) {
  const programs: Started[] = [];
  const runner = createBackupRunner({
    directory: "/srv/pool",
    clock,
    start: (words, output) => {
      const started = new Started(words, output);
      programs.push(started);
      const { ended, signals } = started;
      return {
        ended: ended.promise,
        end: () => void signals.push("SIGTERM"),
        kill: () => void signals.push("SIGKILL"),
      };
    },
  });
  const run: RunningBackup = runner.start({ ...JOB, ...job });
  return { run, programs, first: programs[0]! };
}

test("it is a backup of the volumes into a target that is there, and without rules nothing else", async () => {
  const { run, programs, first } = begin({ limitBytesPerSecond: 4096, passphraseFile: "/p" });
  equal(
    first.words.join(" "),
    "backup db web /srv/backup --pool /srv/pool --existing --progress json --limit-rate 4096 --passphrase-file /p --json --exit-with-parent",
  );
  await first.end(0, JSON.stringify(POINT));
  deepEqual(await run.ended, { ...DONE, problem: undefined });
  equal(programs.length, 1);
});

test("with rules a prune follows, among points like the new one; when it fails the backup is done all the same", async () => {
  const { run, programs, first } = begin({
    keep: { daily: 7, withinMicros: 172_800_000_000 },
    keyFile: "/k",
  });
  await first.end(0, JSON.stringify(POINT));
  equal(
    programs[1]?.words.join(" "),
    "prune /srv/backup --like 0123456789abcdef --keep-daily 7 --keep-within 2d --key-file /k --json --exit-with-parent",
  );
  const error = { code: "TARGET_UNAVAILABLE", message: "target: gone" };
  await programs[1]?.end(12, "", [JSON.stringify({ error })]);
  deepEqual(await run.ended, { ...DONE, problem: error });
});

test("its progress is what it last said of it", async () => {
  const { run, first } = begin();
  for (const line of [
    JSON.stringify({ progress: "db", doneBytes: 5, totalBytes: 9 }),
    JSON.stringify({ progress: "db", doneBytes: -1, totalBytes: 9 }),
    JSON.stringify({ doneBytes: 7, totalBytes: 9 }),
    "varve: a note",
    "{",
    "null",
    "[]",
  ])
    first.output.onErrorLine(line);
  deepEqual(run.progress, { doneBytes: 5, totalBytes: 9 });
});

test("an answer that isn't one is no point, whatever the exit code", async () => {
  const { point } = POINT;
  const answers = [
    "",
    "null",
    "[1]",
    "{}",
    JSON.stringify(POINT).slice(0, -1),
    JSON.stringify({ ...POINT, point: "v1" }),
    JSON.stringify({ ...POINT, point: { ...point, id: "--remove" } }),
    JSON.stringify({ ...POINT, point: { ...point, name: "x".repeat(1000) } }),
    JSON.stringify({ ...POINT, readBytes: "3" }),
    JSON.stringify({ ...POINT, newBytes: 2 ** 60 }),
    JSON.stringify({ ...POINT, padding: "x".repeat(1 << 20) }).slice(0, 1 << 19),
  ];
  for (const answer of answers) {
    const { run, programs, first } = begin({ keep: { last: 1 } });
    await first.end(0, answer);
    const outcome = await run.ended;
    match(JSON.stringify(outcome), /exit code 0, without a word/, answer.slice(0, 80));
    equal(programs.length, 1, "nothing is pruned then");
  }
});

test("why it failed is in its own words, when they are an error of ours", async () => {
  const cases: [status: number | undefined, line: string, problem: RegExp][] = [
    [10, '{"error":{"code":"TARGET_NOT_FOUND","message":"gone"}}', /"TARGET_NOT_FOUND".*"gone"/],
    [1, '{"error":{"code":"toString","message":"gone"}}', /COMMAND_FAILED.*exit code 1/],
    [1, '{"error":{"code":"DISK_IO","message":7}}', /COMMAND_FAILED/],
    [undefined, "Segmentation fault", /COMMAND_FAILED.*killed/],
  ];
  for (const [status, line, problem] of cases) {
    const { run, first } = begin();
    await first.end(status, JSON.stringify(POINT), [line]);
    const outcome = await run.ended;
    match(JSON.stringify(outcome), problem);
    equal(outcome === "stopped" || outcome.point === undefined, true);
  }
  const { run, first } = begin();
  const message = "x".repeat(5000);
  await first.end(1, "", [JSON.stringify({ error: { code: "DISK_IO", message } })]);
  const outcome = await run.ended;
  equal(outcome !== "stopped" && outcome.problem?.message.length, 500);
});

test("one that is stopped gets SIGTERM, and SIGKILL when it doesn't end", async () => {
  let fire: () => void = () => {};
  const clock: Clock = {
    ...createClock(),
    after: (delayMs, callback) => {
      equal(delayMs, 5000);
      fire = callback;
      return () => {
        fire = () => {};
      };
    },
  };
  const { run, programs, first } = begin({ keep: { last: 1 } }, clock);
  run.stop();
  run.stop();
  deepEqual(first.signals, ["SIGTERM"]);
  fire();
  deepEqual(first.signals, ["SIGTERM", "SIGKILL"]);
  await first.end(undefined);
  equal(await run.ended, "stopped");
  equal(programs.length, 1);
});

test("one that was done when it was told to stop has made a point, and prunes nothing", async () => {
  const { run, programs, first } = begin({ keep: { last: 1 } });
  run.stop();
  await first.end(0, JSON.stringify(POINT));
  deepEqual(await run.ended, { ...DONE, problem: undefined });
  equal(programs.length, 1);
});
