// SPDX-License-Identifier: Apache-2.0
//
// Every form of a moment, what each means, and what is said about a text that is none.

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "./errors.ts";
import {
  formatMoment,
  isRelative,
  type Moment,
  parseMoment,
  parsePastMoment,
  parseVolumeMoment,
  stableName,
} from "./moment.ts";

/** 2026-03-01T12:00:00Z */
const NOON = 1_772_366_400_000_000;
const SECOND = 1_000_000;
const HOUR = 3600 * SECOND;

function refused(text: string, why: RegExp, parse: (text: string) => unknown = parseMoment): void {
  throws(
    () => parse(text),
    (error) => {
      ok(hasCode(error, "MOMENT_INVALID"), String(error));
      equal(error.kind, "invalid");
      ok(why.test(error.message), `${error.message} has no ${why}`);
      ok(error.hint.includes("flush:MOMENT"));
      return true;
    },
    text,
  );
}

test("a position is an LSN behind # or lsn:", () => {
  deepEqual(parseMoment("#1234567"), { kind: "lsn", lsn: 1234567 });
  deepEqual(parseMoment("lsn:1234567"), { kind: "lsn", lsn: 1234567 });
  deepEqual(parseMoment("#0"), { kind: "lsn", lsn: 0 });
  deepEqual(parseMoment("#007"), { kind: "lsn", lsn: 7 });
  deepEqual(parseMoment("#9007199254740991"), { kind: "lsn", lsn: Number.MAX_SAFE_INTEGER });
});

test("a time has any precision from a day to a microsecond, and means its first instant", () => {
  const cases: [string, number][] = [
    ["2026-03-01", NOON - 12 * HOUR],
    ["2026-03-01T12:00", NOON],
    ["2026-03-01T12:00Z", NOON],
    ["2026-03-01T12:00:00Z", NOON],
    ["2026-03-01T12:00:00.2Z", NOON + 200_000],
    ["2026-03-01T12:00:00.250Z", NOON + 250_000],
    ["2026-03-01T12:00:00.250007Z", NOON + 250_007],
    ["2026-03-01T12:00:01", NOON + SECOND],
    ["1970-01-01", 0],
    ["2028-02-29T00:00Z", 1_835_395_200_000_000],
    ["2254-12-31T23:59:59.999999Z", 8_993_721_599_999_999],
  ];
  for (const [text, micros] of cases) deepEqual(parseMoment(text), { kind: "time", micros }, text);
});

test("digits beyond microseconds are cut, never rounded up", () => {
  deepEqual(parseMoment("2026-03-01T12:00:00.9999999999Z"), {
    kind: "time",
    micros: NOON + 999_999,
  });
});

test("a time is UTC unless it has an offset, and its letters may be small or a space", () => {
  for (const text of [
    "2026-03-01T14:00:00+02:00",
    "2026-03-01T06:30-05:30",
    "2026-03-02T11:59+23:59",
    "2026-03-01T12:00:00-00:00",
    "2026-03-01t12:00:00z",
    "2026-03-01 12:00",
    "2026-03-01 14:00+02:00",
  ])
    deepEqual(parseMoment(text), { kind: "time", micros: NOON }, text);
});

test("a time ago has units from weeks to milliseconds, the large ones first", () => {
  const cases: [string, number][] = [
    ["-10m", 600 * SECOND],
    ["-1h30m", 1.5 * HOUR],
    ["-1.5h", 1.5 * HOUR],
    ["-2w1d", 15 * 24 * HOUR],
    ["-250ms", 250_000],
    ["-0s", 0],
  ];
  for (const [text, micros] of cases) deepEqual(parseMoment(text), { kind: "ago", micros }, text);
});

test("a flush is looked for from any other moment", () => {
  deepEqual(parseMoment("flush:-10m"), {
    kind: "flush",
    at: { kind: "ago", micros: 600 * SECOND },
  });
  deepEqual(parseMoment("flush:now"), { kind: "flush", at: { kind: "now" } });
  deepEqual(parseMoment("flush:lsn:7"), { kind: "flush", at: { kind: "lsn", lsn: 7 } });
  deepEqual(parseMoment("flush:#7"), { kind: "flush", at: { kind: "lsn", lsn: 7 } });
  deepEqual(parseMoment("flush:v1"), { kind: "flush", at: { kind: "name", name: "v1" } });
  deepEqual(parseMoment("flush:2026-03-01T12:00Z"), {
    kind: "flush",
    at: { kind: "time", micros: NOON },
  });
});

test("anything else that may be a name is a snapshot's", () => {
  deepEqual(parseMoment("now"), { kind: "now" });
  for (const name of ["before-upgrade", "v1", "Now", "nowhere", "lsn5", "flush-2", "T12", "z"])
    deepEqual(parseMoment(name), { kind: "name", name }, name);
});

test("a day, an hour or an offset that doesn't exist is refused with those that do", () => {
  refused("2026-02-30", /days of 2026-02 go from 01 to 28/);
  refused("2100-02-29", /days of 2100-02 go from 01 to 28/);
  refused("2028-02-30", /days of 2028-02 go from 01 to 29/);
  refused("2026-04-31T10:00Z", /days of 2026-04 go from 01 to 30/);
  refused("2026-03-00", /days of 2026-03 go from 01 to 31/);
  refused("2026-13-01", /months go from 01 to 12/);
  refused("2026-00-01", /months go from 01 to 12/);
  refused("2026-03-01T24:00Z", /hours go from 00 to 23/);
  refused("2026-03-01T12:60Z", /minutes go from 00 to 59/);
  refused("2016-12-31T23:59:60Z", /seconds go from 00 to 59/);
  refused("2026-03-01T12:00+24:00", /offset is at most 23:59/);
  refused("2026-03-01T12:00+02:60", /offset is at most 23:59/);
});

test("a time outside 1970 to 2254 is refused, also when only its offset takes it there", () => {
  const why = /times go from 1970 to 2254/;
  for (const text of [
    "1969-12-31",
    "1970-01-01T00:00+00:01",
    "2255-01-01",
    "2254-12-31T23:59-00:01",
    "0000-01-01",
    "9999-12-31",
  ])
    refused(text, why);
});

test("a half-written time is refused with how it goes on", () => {
  refused("2026-03", /a day is written 2026-03-01/);
  refused("2026-3-1", /a day is written 2026-03-01/);
  refused("2026-03-01T", /T12:00/);
  refused("2026-03-01T12", /T12:00/);
  refused("2026-03-01_12:00", /T12:00/);
  refused("2026-03-01Z", /T12:00/);
  refused("2026-03-01T12:00:", /offset like \+02:00/);
  refused("2026-03-01T12:00:00.", /offset like \+02:00/);
  refused("2026-03-01T12:00:00,250Z", /offset like \+02:00/);
  refused("2026-03-01T12:00+0200", /offset like \+02:00/);
  refused("2026-03-01T12:00 02:00", /offset like \+02:00/);
  refused("2026-03-01T12:00 CET", /offset like \+02:00/);
  refused("2026-03-01T12:00Z\n", /offset like \+02:00/);
});

test("a text that is almost a moment is told what it lacks", () => {
  refused("", /it is empty/);
  refused("1234567", /an LSN is written #1234567 or lsn:1234567/);
  refused("10m", /that long ago is written -10m/);
  refused("20260301T120000Z", /a time is written 2026-03-01T12:00:00Z/);
  refused("1st-of-may", /a snapshot's name begins with a letter/);
  refused("lsn", /followed by a number/);
  refused("flush", /followed by a moment/);
  refused("flush:", /followed by a moment/);
  refused("flush:flush:-10m", /stands once/);
  refused("flush:2026-02-30", /days of 2026-02/);
  refused("#", /an LSN is a whole number/);
  refused("#-1", /an LSN is a whole number/);
  refused("#1e3", /an LSN is a whole number/);
  refused("lsn:#5", /an LSN is a whole number/);
  refused("#١٢", /an LSN is a whole number/);
  refused("#9007199254740992", /LSNs go up to 9007199254740991/);
  refused("-", /after the minus/);
  refused("-10", /after the minus/);
  refused("--10m", /after the minus/);
  refused("- 10m", /after the minus/);
  refused("-30m1h", /after the minus/);
  refused("-1m1m", /after the minus/);
  refused("-1M", /after the minus/);
  refused("-99999999999w", /after the minus/);
  refused(" now", /white space/);
  refused("v1 ", /white space/);
  refused("LSN:5", /neither a position, a time, nor a name/);
  refused("a..b", /neither a position, a time, nor a name/);
  refused("−10m", /neither a position, a time, nor a name/);
  refused("v1@v2", /neither a position, a time, nor a name/);
  refused("a".repeat(64), /neither a position, a time, nor a name/);
});

test("a text of any length is refused without being shown whole", () => {
  refused("9".repeat(4096), /4096 characters, 128 are allowed/);
  throws(
    () => parseMoment("x".repeat(4096)),
    (error) => error instanceof Error && error.message.length < 200,
  );
});

test("an option that looks back takes a duration with and without its minus", () => {
  const hourAgo: Moment = { kind: "ago", micros: HOUR };
  deepEqual(parsePastMoment("1h"), hourAgo);
  deepEqual(parsePastMoment("-1h"), hourAgo);
  deepEqual(parsePastMoment("v1"), { kind: "name", name: "v1" });
  refused("1x", /a time is written/, parsePastMoment);
  refused("9".repeat(4096), /128 are allowed/, parsePastMoment);
});

test("the first @ parts a volume from its moment", () => {
  deepEqual(parseVolumeMoment("db"), { volume: "db", moment: undefined });
  deepEqual(parseVolumeMoment("db@#5"), { volume: "db", moment: { kind: "lsn", lsn: 5 } });
  deepEqual(parseVolumeMoment("db@flush:now"), {
    volume: "db",
    moment: { kind: "flush", at: { kind: "now" } },
  });
  refused("db@", /it is empty/, parseVolumeMoment);
  refused("db@v1@v2", /neither/, parseVolumeMoment);
});

test("a stable name is read back as the LSN it names", () => {
  equal(stableName("db", 123), "db@#123");
  deepEqual(parseVolumeMoment(stableName("db", 123)).moment, { kind: "lsn", lsn: 123 });
});

test("now and times ago are relative, and so are flushes before them", () => {
  for (const text of ["now", "-10m", "flush:now", "flush:-10m"])
    equal(isRelative(parseMoment(text)), true, text);
  for (const text of ["#5", "2026-03-01", "v1", "flush:#5", "flush:v1"])
    equal(isRelative(parseMoment(text)), false, text);
});

test("a moment is written in its shortest exact form", () => {
  const cases: [string, string][] = [
    ["lsn:0012", "#12"],
    ["2026-03-01", "2026-03-01T00:00:00.000Z"],
    ["2026-03-01 14:00+02:00", "2026-03-01T12:00:00.000Z"],
    ["2026-03-01T12:00:00.250007Z", "2026-03-01T12:00:00.250007Z"],
    ["-90m", "-1h30m"],
    ["-2w", "-14d"],
    ["flush:-60s", "flush:-1m"],
    ["flush:lsn:7", "flush:#7"],
  ];
  for (const [text, canonical] of cases) equal(formatMoment(parseMoment(text)), canonical);
});
