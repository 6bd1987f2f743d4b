// SPDX-License-Identifier: Apache-2.0
//
// Pairs of BlockCDP give their writes in order, with their times, and end where they are damaged.

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { changesOf, filled, MemoryDisk } from "../../test/image/handmade-log.ts";
import { MemoryFile } from "../../test/image/memory-file.ts";
import { hasCode } from "../base/errors.ts";
import { formatTime } from "../base/units.ts";
import { isUtcOffset, parseMetaLine, suffixOf } from "./blockcdp.ts";
import { BlockCdpSource } from "./blockcdp-source.ts";
import { replayLog } from "./log-replay.ts";
import type { LoggedChange, LogSurvey } from "./seed-log.ts";

interface Pair {
  readonly meta: string;
  readonly data: Uint8Array;
}

let openFiles = 0;

function sourceOf(...pairs: Pair[]): BlockCdpSource {
  openFiles = 0;
  const open = async (bytes: Uint8Array): Promise<MemoryFile> => {
    const file = MemoryFile.of(bytes);
    openFiles += 1;
    const close = file.close.bind(file);
    file.close = () => {
      openFiles -= 1;
      return close();
    };
    return file;
  };
  return new BlockCdpSource(
    pairs.map(({ meta, data }, at) => ({
      name: `metafile.${at}`,
      openMeta: () => open(Buffer.from(meta)),
      openData: () => open(data),
    })),
    { utcOffset: "+08:00" },
  );
}

async function read(...pairs: Pair[]): Promise<{ survey: LogSurvey; changes: string[] }> {
  const log = sourceOf(...pairs);
  const survey = await log.survey();
  const changes = await changesOf(log);
  equal(openFiles, 0, "every file is closed");
  return { survey, changes };
}

const STAMP = "2024-03-01-14-03-12";

test("a line says time, place and length", () => {
  const line = parseMetaLine(`${STAMP}:[2048][4096][8192]`, "+08:00");
  deepEqual(line && { ...line, timeMicros: formatTime(line.timeMicros) }, {
    timeMicros: "2024-03-01T06:03:12.000Z",
    offsetBytes: 1 << 20,
    lengthBytes: 4096,
    dataPosition: 8192,
  });
  const summer = parseMetaLine(`2024-07-01-00-30-00:[0][512][0]`, "+02:00");
  equal(formatTime(summer?.timeMicros ?? 0), "2024-06-30T22:30:00.000Z");
});

test("anything else is no line", () => {
  const wrong = [
    "",
    "(a long line)",
    `${STAMP}:[1][2]`,
    `${STAMP}:[1][2][3`,
    `${STAMP}:[1][2][3]]`,
    `${STAMP}:[-1][2][3]`,
    `${STAMP}:[1][2][4294967296]`,
    `${STAMP}:[1][2][99999999999]`,
    "2024-02-30-00-00-00:[1][2][3]",
    "2024-13-01-00-00-00:[1][2][3]",
    "2024-03-01-24-00-00:[1][2][3]",
    `x${STAMP}:[1][2][3]`,
  ];
  for (const text of wrong) equal(parseMetaLine(text, "Z"), undefined, text);
});

test("offsets from UTC are those of RFC 3339", () => {
  for (const text of ["+08:00", "-03:30", "Z"]) ok(isUtcOffset(text), text);
  for (const text of ["", "8", "+8", "+08:60", "+24:00", "CST"]) ok(!isUtcOffset(text), text);
});

test("names say what is a pair", () => {
  equal(suffixOf("metafile", `metafile.${STAMP}`), STAMP);
  equal(suffixOf("metafile", "metafile."), undefined);
  equal(suffixOf("metafile", "datafile.1"), undefined);
});

test("pairs become writes in the order of their lines", async () => {
  const log = sourceOf(
    {
      meta: `${STAMP}:[8][1024][0]\n\n${STAMP}:[0][512][1024]\r\n`,
      data: Buffer.concat([filled(1, 1024), filled(2, 512)]),
    },
    { meta: "2024-03-01-14-03-13:[9][512][0]\n", data: filled(3, 512) },
  );
  const survey = await log.survey();
  deepEqual(survey, {
    logBytes: 2048,
    changeCount: 3,
    endBytes: 5120,
    leftOutCount: 0,
    leftOut: [],
    warnings: [],
    damage: undefined,
  });
  const changes: LoggedChange[] = [];
  for await (const change of log.changes()) changes.push(change);
  deepEqual(
    changes.map(({ place, timeMicros, doneBytes }) => [
      place,
      formatTime(timeMicros ?? 0),
      doneBytes,
    ]),
    [
      ["metafile.0:1", "2024-03-01T06:03:12.000Z", 1024],
      ["metafile.0:3", "2024-03-01T06:03:12.000Z", 1536],
      ["metafile.1:1", "2024-03-01T06:03:13.000Z", 2048],
    ],
  );
  const disk = new MemoryDisk(8192);
  await replayLog(log, disk);
  ok(disk.bytes.subarray(0, 512).equals(filled(2, 512)));
  ok(disk.bytes.subarray(4096, 4608).equals(filled(1, 512)));
  ok(disk.bytes.subarray(4608, 5120).equals(filled(3, 512)));
});

test("the last sector that has a number is reached, with a doubt", async () => {
  const { survey } = await read({ meta: `${STAMP}:[4294967295][512][0]\n`, data: filled(1, 512) });
  equal(survey.endBytes, 2 ** 41);
  match(survey.warnings.join(), /was the disk larger\?/);
});

test("a write whose data isn't there ends it", async () => {
  const { survey, changes } = await read(
    { meta: `${STAMP}:[0][512][0]\n${STAMP}:[1][512][512]\n`, data: filled(1, 1000) },
    { meta: `${STAMP}:[0][512][0]\n`, data: filled(1, 512) },
  );
  deepEqual(changes, ["write 0+512"]);
  deepEqual(survey.damage, {
    place: "metafile.0:2",
    reason: "its data ends at 1024, the datafile at 1000",
  });
});

test("a metafile that is cut anywhere gives its whole lines", async () => {
  const lines = [`${STAMP}:[0][512][0]`, `${STAMP}:[1][512][512]`, `${STAMP}:[2][512][1024]`];
  const whole = `${lines.join("\n")}\n`;
  for (let bytes = lines[0]!.length; bytes < whole.length; bytes += 1) {
    const meta = whole.slice(0, bytes);
    const { survey, changes } = await read({ meta, data: filled(1, 1536) });
    const count = lines.filter((_, at) => meta.includes(lines[at]!)).length;
    equal(changes.length, count, `cut at ${bytes}`);
    const isWhole = meta.endsWith("]") && lines.includes(meta.split("\n").at(-1)!);
    equal(survey.damage === undefined, isWhole || meta.endsWith("\n"), `cut at ${bytes}`);
  }
});

test("data that no line is about is told", async () => {
  const { survey, changes } = await read(
    { meta: `${STAMP}:[0][512][512]\n${STAMP}:[0][512][1024]\n`, data: filled(1, 1536) },
    { meta: `${STAMP}:[0][512][0]\n`, data: filled(1, 700) },
  );
  equal(changes.length, 3);
  match(
    survey.warnings.join(),
    /^gaps in the datafile, .*: 2, first before metafile.0:1: writes are missing$/,
  );
});

test("two disks in one file are seen", async () => {
  const { survey } = await read({
    meta: `${STAMP}:[0][512][0]\n${STAMP}:[0][4096][0]\n`,
    data: filled(1, 4096),
  });
  match(survey.damage?.reason ?? "", /two disks may have written the same files/);
});

test("a clock that goes back is told, and the order stays that of the lines", async () => {
  const { survey, changes } = await read({
    meta: `${STAMP}:[0][512][0]\n2024-03-01-14-03-11:[1][512][512]\n`,
    data: filled(1, 1024),
  });
  deepEqual(changes, ["write 0+512", "write 512+512"]);
  match(survey.warnings.join(), /^steps back of the clock: 1, first at metafile.0:2/);
});

test("writes of nothing change nothing", async () => {
  const { changes } = await read({
    meta: `${STAMP}:[0][0][0]\n${STAMP}:[1][512][0]\n`,
    data: filled(1, 512),
  });
  deepEqual(changes, ["write 512+512"]);
});

test("a log without a write is refused", async () => {
  await rejects(sourceOf({ meta: "", data: Buffer.alloc(0) }).survey(), (error) =>
    hasCode(error, "IMAGE_UNSUPPORTED"),
  );
  await rejects(sourceOf().survey(), (error) => hasCode(error, "IMAGE_UNSUPPORTED"));
});

test("a line of megabytes is one that is wrong", async () => {
  const { survey } = await read({
    meta: `${STAMP}:[0][512][0]\n${STAMP}:[1][512][512]${" ".repeat(3 << 20)}\n`,
    data: filled(1, 1024),
  });
  deepEqual(survey.damage, { place: "metafile.0:2", reason: "this line is no record of a write" });
});
