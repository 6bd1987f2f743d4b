// SPDX-License-Identifier: Apache-2.0
//
// A transaction log gives what took effect and nothing else: replies count, ends and leftovers are found.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import {
  COMMANDS,
  changesOf,
  chunk,
  dataLogged,
  filled,
  MemoryDisk,
  reply,
  request,
  written,
} from "../../test/image/handmade-log.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { hasCode } from "../base/errors.ts";
import { replayLog } from "./log-replay.ts";
import type { LogSurvey } from "./seed-log.ts";
import { TransactionLogSource } from "./transaction-log-source.ts";

function logOf(...records: Uint8Array[]): TransactionLogSource {
  return new TransactionLogSource(MemoryFile.of(Buffer.concat(records)), "nbd.log");
}

async function read(...records: Uint8Array[]): Promise<{ survey: LogSurvey; changes: string[] }> {
  const log = logOf(...records);
  const survey = await log.survey();
  return { survey, changes: await changesOf(log) };
}

const { write, zero, trim, flush, disc, cache } = COMMANDS;
const DISC = request({ command: disc, cookie: 0 });

test("changes come in the order of their requests, whatever the order of the replies", async () => {
  const { survey, changes } = await read(
    dataLogged(),
    request({ command: write, cookie: 1, offset: 4096, payload: filled(1, 512) }),
    request({ command: trim, cookie: 2, offset: 8192, length: 4096 }),
    request({ command: zero, cookie: 3, offset: 0, length: 100 }),
    reply(3),
    request({ command: COMMANDS.read, cookie: 4, offset: 0, length: 4096 }),
    reply(1),
    reply(4),
    reply(2),
    request({ command: flush, cookie: 5 }),
    reply(5),
    DISC,
  );
  deepEqual(changes, ["write 4096+512", "trim 8192+4096", "zero 0+100", "flush 0+0"]);
  equal(survey.changeCount, 4);
  equal(survey.endBytes, 12288);
  equal(survey.damage, undefined);
  deepEqual(survey.warnings, []);
});

test("what was refused or never answered is left out and told", async () => {
  const { survey, changes } = await read(
    dataLogged(),
    request({ command: write, cookie: 1, offset: 1 << 30, payload: filled(1, 512) }),
    reply(1, 28),
    request({ command: write, cookie: 2, offset: 0, payload: filled(2, 512) }),
    written(3, 512, filled(3, 512)),
    request({ command: zero, cookie: 4, offset: 0, length: 512 }),
    chunk(4, { isLast: false, type: 0x8001 }),
    chunk(4, { isLast: true, type: 0 }),
  );
  deepEqual(changes, ["write 512+512"]);
  equal(survey.endBytes, 1024);
  equal(survey.leftOutCount, 3);
  deepEqual(
    survey.leftOut.map(({ place, kind, why }) => [place, kind, why]),
    [
      ["byte 28", "write", "the server answered with error 28"],
      ["byte 1680", "zero", "the server answered with an error"],
      ["byte 584", "write", "it has no reply"],
    ],
  );
  equal(survey.damage, undefined);
});

test("structured replies answer with their last chunk", async () => {
  const { changes, survey } = await read(
    dataLogged(),
    request({ command: write, cookie: 1, payload: filled(1, 512) }),
    chunk(1, { isLast: false, type: 0 }),
    request({ command: cache, cookie: 2, length: 4096 }),
    chunk(1, { isLast: true, type: 0 }),
    chunk(2, { isLast: true, type: 0 }),
  );
  deepEqual(changes, ["write 0+512"]);
  equal(survey.leftOutCount, 0);
});

test("a log without data is refused with what to do", async () => {
  const records = [request({ command: write, cookie: 1, length: 4096 }), reply(1)];
  const isRefused = (error: unknown): boolean => {
    ok(hasCode(error, "IMAGE_UNSUPPORTED"));
    match(error.message, /it has no data/);
    match(error.hint, /datalog = true/);
    return true;
  };
  await rejects(read(...records), isRefused);
  await rejects(read(dataLogged(0), ...records), isRefused);
});

test("what is no log is refused", async () => {
  for (const bytes of [filled(0, 0), filled(7, 100), dataLogged(), filled(0x25, 2)]) {
    await rejects(logOf(bytes).survey(), (error) => hasCode(error, "IMAGE_UNSUPPORTED"));
  }
});

test("a command that isn't known ends it only if the server carried it out", async () => {
  const resize = request({ command: 8, cookie: 9, offset: 1 << 20 });
  const { changes } = await read(dataLogged(), resize, reply(9, 22), written(1, 0, filled(1, 512)));
  deepEqual(changes, ["write 0+512"]);
  await rejects(read(dataLogged(), resize, reply(9)), (error) =>
    hasCode(error, "IMAGE_UNSUPPORTED"),
  );
});

test("what a longer connection left behind the end of this one isn't read", async () => {
  const before = Buffer.concat([
    dataLogged(),
    ...[1, 2, 3, 4].map((cookie) => written(cookie, cookie * 512, filled(cookie, 512))),
  ]);
  const now = Buffer.concat([
    dataLogged(),
    request({ command: write, cookie: 7, payload: filled(9, 512) }),
    DISC,
    reply(7), // the server closed the log later than the client went
  ]);
  const file = Buffer.concat([now, before.subarray(now.length)]);
  const { survey, changes } = await read(file);
  deepEqual(changes, ["write 0+512"]);
  equal(survey.damage, undefined);
  deepEqual(survey.warnings, [
    `${before.length - now.length} bytes from byte ${now.length} on were left by an earlier connection and not read`,
  ]);
});

test("leftovers that happen to begin with a record aren't read either", async () => {
  const record = written(1, 0, filled(1, 512));
  const { changes, survey } = await read(
    dataLogged(),
    record,
    DISC,
    written(2, 512, filled(2, 512)),
  );
  deepEqual(changes, ["write 0+512"]);
  equal(survey.warnings.length, 1);
});

test("logs that were put one behind the other are read to the end", async () => {
  const first = Buffer.concat([
    dataLogged(),
    request({ command: write, cookie: 5, payload: filled(5, 512) }),
    written(1, 0, filled(1, 512)),
    DISC,
  ]);
  // The same cookie, on another connection: this reply isn't the first one's.
  const second = Buffer.concat([dataLogged(), written(5, 512, filled(2, 512)), DISC]);
  const { changes, survey } = await read(first, second);
  deepEqual(changes, ["write 0+512", "write 512+512"]);
  equal(survey.leftOutCount, 1);
});

test("replies to nothing are told", async () => {
  const { survey } = await read(dataLogged(), written(1, 0, filled(1, 512)), reply(2), reply(3));
  match(survey.warnings.join(), /^replies to no request: 2, first at byte 584/);
});

test("garbage ends the log where it begins", async () => {
  const good = Buffer.concat([dataLogged(), written(1, 0, filled(1, 512))]);
  const { survey, changes } = await read(good, filled(0xab, 64), written(2, 0, filled(2, 512)));
  deepEqual(changes, ["write 0+512"]);
  deepEqual(survey.damage, {
    place: `byte ${good.length}`,
    reason: "0xabababab begins no record",
  });
});

test("a log that is cut anywhere gives the changes answered until there", async () => {
  const records = [
    dataLogged(),
    written(1, 0, filled(1, 512)),
    written(2, 512, filled(2, 30)),
    Buffer.concat([request({ command: flush, cookie: 3 }), reply(3)]),
    Buffer.concat([request({ command: zero, cookie: 4, length: 512 }), reply(4)]),
    DISC,
  ];
  const wanted = ["write 0+512", "write 512+30", "flush 0+0", "zero 0+512"];
  const whole = Buffer.concat(records);
  const ends = records.map((_, at) => Buffer.concat(records.slice(0, at + 1)).length);
  const starts = new Set([0]);
  for (const at of [28, 568, 584, 642, 658, 686, 702, 730, 746, 774]) starts.add(at);
  for (let bytes = 29; bytes <= whole.length; bytes += 1) {
    const log = logOf(whole.subarray(0, bytes));
    if (bytes < 28 + 28 + 512) {
      await rejects(log.survey(), (error) => hasCode(error, "IMAGE_UNSUPPORTED"));
      continue;
    }
    const { damage } = await log.survey();
    const changes = await changesOf(log);
    deepEqual(
      changes,
      wanted.slice(0, ends.filter((end) => end > 28 && end <= bytes).length).slice(0, 4),
    );
    equal(damage === undefined, starts.has(bytes), `cut at ${bytes}: ${damage?.reason}`);
  }
});

test("a length of 4 GiB costs nothing, and its data must be there", async () => {
  const huge = { command: write, cookie: 1, offset: 0, length: 0xffffffff };
  const log = logOf(dataLogged(), written(2, 0, filled(2, 512)), request(huge), reply(1));
  const { damage } = await log.survey();
  deepEqual(damage, { place: "byte 584", reason: "its data ends with the file" });
  deepEqual(await changesOf(log), ["write 0+512"]);
});

test("an offset beyond every disk is seen in the end of the changes", async () => {
  const beyond = request({ command: zero, cookie: 1, offset: 2n ** 64n - 1n, length: 512 });
  const { survey } = await read(beyond, reply(1));
  ok(survey.endBytes >= 2 ** 53);
});

test("requests that nobody answers don't fill memory", async () => {
  const many = Array.from({ length: 70_000 }, (_, cookie) =>
    request({ command: flush, cookie: cookie + 10 }),
  );
  const { survey } = await read(dataLogged(), written(1, 0, filled(1, 512)), Buffer.concat(many));
  equal(survey.leftOutCount, 70_000);
  equal(survey.leftOut.length, 10);
});

test("flags reach the disk", async () => {
  const log = logOf(
    dataLogged(),
    request({ command: write, cookie: 1, flags: 1, payload: filled(1, 512) }),
    reply(1),
    request({ command: zero, cookie: 2, flags: 2, length: 4096 }),
    reply(2),
    request({ command: trim, cookie: 3, offset: 4096, length: 4096 }),
    reply(3),
    request({ command: trim, cookie: 4, offset: 100, length: 4096 }),
    reply(4),
  );
  await log.survey();
  const disk = new MemoryDisk(16384);
  await replayLog(log, disk);
  // A trim may leave parts of blocks as they were; what the log means are zeros.
  deepEqual(disk.calls, ["write 0+512 fua", "zero 0+4096 kept", "trim 4096+4096", "zero 100+4096"]);
});

test("a log that changes between the two readings is refused", async () => {
  const file = MemoryFile.of(Buffer.concat([dataLogged(), written(1, 0, filled(1, 512))]));
  const log = new TransactionLogSource(file, "nbd.log");
  await log.survey();
  file.writeSync(filled(0, 28), 28);
  await rejects(changesOf(log), (error) => hasCode(error, "IMAGE_CORRUPT"));
});
