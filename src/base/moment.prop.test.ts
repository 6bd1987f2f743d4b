// SPDX-License-Identifier: Apache-2.0
//
// Laws of moments: what is written is read back, any bytes get an answer at once, and no text can be taken for two
// kinds. Times agree with the runtime's own reader wherever that one has an opinion.

import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "./errors.ts";
import {
  formatMoment,
  type Moment,
  type PlainMoment,
  parseMoment,
  parsePastMoment,
  parseVolumeMoment,
} from "./moment.ts";
import { isName } from "./names.ts";

const END_MICROS = Date.UTC(2255, 0) * 1000;

const name = fc.stringMatching(/^[A-Za-z][A-Za-z0-9_.-]{0,62}$/).filter(isName);
const plain: fc.Arbitrary<PlainMoment> = fc.oneof(
  fc.constant({ kind: "now" } as const),
  fc.maxSafeNat().map((lsn) => ({ kind: "lsn", lsn }) as const),
  fc.integer({ min: 0, max: END_MICROS - 1 }).map((micros) => ({ kind: "time", micros }) as const),
  fc.maxSafeNat().map((micros) => ({ kind: "ago", micros }) as const),
  name.map((text) => ({ kind: "name", name: text }) as const),
);
const moment: fc.Arbitrary<Moment> = fc.oneof(
  plain,
  plain.map((at) => ({ kind: "flush", at }) as const),
);

/** A valid text with a few characters removed, replaced, doubled or put in. */
const almostMoment = fc
  .tuple(
    moment.map(formatMoment),
    fc.array(fc.tuple(fc.nat(), fc.nat(3), fc.constantFrom(..."#:-+@.TZtz 0129dhmsw\n\0é٣")), {
      minLength: 1,
      maxLength: 4,
    }),
  )
  .map(([text, edits]) =>
    edits.reduce((edited, [where, how, character]) => {
      const at = where % (edited.length + 1);
      const kept =
        how === 0
          ? ""
          : how === 1
            ? character
            : how === 2
              ? edited.charAt(at)
              : character + edited.charAt(at);
      return edited.slice(0, at) + kept + (how === 2 ? edited.slice(at) : edited.slice(at + 1));
    }, text),
  );
const anyText = fc.oneof(
  fc.string({ maxLength: 200 }),
  fc.string({ unit: "binary", maxLength: 200 }),
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
  almostMoment,
);

test("every moment is written so that it is read back exactly", () => {
  fc.assert(fc.property(moment, (value) => deepEqual(parseMoment(formatMoment(value)), value)));
});

test("a volume's name and a moment are parted as they were joined", () => {
  fc.assert(
    fc.property(name, moment, (volume, value) =>
      deepEqual(parseVolumeMoment(`${volume}@${formatMoment(value)}`), { volume, moment: value }),
    ),
  );
});

test("any text is a moment that can be written and read again, or refused as invalid", () => {
  let validCount = 0;
  fc.assert(
    fc.property(anyText, (text) => {
      for (const parse of [parseMoment, parsePastMoment]) {
        const value = parsedOrRefused(() => parse(text));
        if (value === undefined) continue;
        validCount += 1;
        deepEqual(parseMoment(formatMoment(value)), value);
      }
      parsedOrRefused(() => parseVolumeMoment(text));
    }),
    { numRuns: 2000 },
  );
  ok(validCount > 100, `${validCount} of the texts were moments`);
});

test("a hostile text of a mebibyte is answered at once", () => {
  const long = 1 << 20;
  for (const text of ["9", "#0", "-1h", "flush:", "2026-03-01T12:00:00.0", "a.", " ", "1h"]) {
    equal(
      parsedOrRefused(() => parseMoment(text.repeat(long / text.length))),
      undefined,
    );
    equal(
      parsedOrRefused(() => parsePastMoment(text.repeat(long / text.length))),
      undefined,
    );
  }
});

test("the first character decides between a position, a time, a time ago and a name", () => {
  fc.assert(
    fc.property(anyText, (text) => {
      const value = parsedOrRefused(() => parseMoment(text));
      if (value === undefined) return ok(!isName(text), "a name is always a moment");
      equal(value.kind === "name", isName(text));
      if (value.kind === "lsn") ok(/^(#|lsn:)\d+$/.test(text));
      if (value.kind === "time") ok(/^\d{4}-\d\d-\d\d/.test(text));
      if (value.kind === "ago") ok(text.startsWith("-"));
      if (value.kind === "flush") ok(text.startsWith("flush:"));
    }),
    { numRuns: 2000 },
  );
});

test("a time means what the runtime takes it for", () => {
  const two = (max: number) => fc.nat(max).map((value) => String(value).padStart(2, "0"));
  const text = fc
    .tuple(
      fc.integer({ min: 1960, max: 2265 }),
      two(14),
      two(33),
      two(25),
      two(61),
      fc.option(fc.tuple(two(61), fc.option(fc.stringMatching(/^\.\d{1,9}$/), { nil: "" })), {
        nil: undefined,
      }),
      fc.oneof(
        fc.constant("Z"),
        fc
          .tuple(fc.constantFrom("+", "-"), two(23), two(59))
          .map(([sign, hours, minutes]) => `${sign}${hours}:${minutes}`),
      ),
    )
    .map(([year, month, day, hour, minute, second, zone]) => {
      const seconds = second === undefined ? "" : `:${second.join("")}`;
      return `${year}-${month}-${day}T${hour}:${minute}${seconds}${zone}`;
    });
  let agreedCount = 0;
  fc.assert(
    fc.property(text, (time) => {
      const ours = parsedOrRefused(() => parseMoment(time));
      const theirs = Date.parse(time);
      if (Number.isNaN(theirs) || isOnlyTheirs(time, theirs)) return equal(ours, undefined, time);
      ok(ours?.kind === "time", time);
      equal(Math.floor(ours.micros / 1000), theirs, time);
      agreedCount += 1;
    }),
    { numRuns: 3000 },
  );
  ok(agreedCount > 500, `${agreedCount} times were compared`);
});

/** The runtime carries 30 February into March, takes 24:00 for the next day, and knows years that we don't. */
function isOnlyTheirs(time: string, millis: number): boolean {
  const [year, month, day, hour] = time.split(/[-T:]/).map(Number) as [
    number,
    number,
    number,
    number,
  ];
  const dayCount = new Date(Date.UTC(year, month, 0)).getUTCDate();
  const isKnownYear = year >= 1970 && year < 2255 && millis >= 0 && millis * 1000 < END_MICROS;
  return day > dayCount || hour > 23 || !isKnownYear;
}

/** Undefined where it was refused as it should be; anything else that is thrown is a bug. */
function parsedOrRefused<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (!hasCode(error, "MOMENT_INVALID")) throw error;
    return undefined;
  }
}
