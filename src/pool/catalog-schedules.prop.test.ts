// SPDX-License-Identifier: Apache-2.0
//
// Schedules in the catalog against a plain model, through JSON and back at any time; and records and checkpoints that make
// no sense.

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import { encodeJsonRecord, newRecordCursor, parseRecord, RECORD_KIND } from "../log/record.ts";
import { Catalog } from "./catalog.ts";
import type { Fields } from "./catalog-fields.ts";
import { SCHEDULES_MAX } from "./catalog-schedules.ts";

const K = RECORD_KIND;
const PLACE = { lsn: 7, timeMicros: 1000 };
const SCHEDULE = {
  schedule: 1,
  name: "a",
  volumes: [1, 2],
  target: "/srv/backup",
  everyMicros: 3_600_000_000,
  beginMicros: 5,
  activeMicros: 5,
  isPaused: false,
  keep: { last: 3, withinMicros: 7 },
  keyFile: "/etc/key",
  limitBytesPerSecond: 1 << 20,
};
const RUN = {
  schedule: 1,
  dueMicros: 5,
  startedMicros: 6,
  durationMicros: 7,
  isDone: true,
  attempt: 1,
  point: "p",
  readBytes: 3,
  sentBytes: 2,
  storedBytes: 1,
};

/** A value as a checkpoint brings it back. */
function reopened(catalog: Catalog): Catalog {
  return Catalog.fromJson(JSON.parse(JSON.stringify(catalog.toJson())) as Fields);
}

const schedule = fc.integer({ min: 1, max: 5 });
const set = fc.record({
  schedule,
  name: fc.constantFrom("a", "b", "c"),
  isPaused: fc.boolean(),
  everyMicros: fc.constantFrom(60_000_000, 366 * 86_400_000_000),
});
const ran = fc.record({ schedule, isDone: fc.boolean(), sentBytes: fc.nat(9) });
const step = fc.oneof(
  fc.record({ kind: fc.constant(K.SCHEDULE_SET), body: set }),
  fc.record({ kind: fc.constant(K.SCHEDULE_REMOVED), body: fc.record({ schedule }) }),
  fc.record({ kind: fc.constant(K.SCHEDULE_RAN), body: ran }),
);

test("a schedule is what the last record that set it says, with its last result and its last point", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.nat(40), (steps, reopenAt) => {
      let catalog = new Catalog();
      let model: { schedule: number; name: string; last?: unknown; done?: unknown }[] = [];
      for (const [index, { kind, body }] of steps.entries()) {
        if (index === reopenAt) catalog = reopened(catalog);
        const { schedule: id } = body;
        const found = model.find((one) => one.schedule === id);
        if (kind === K.SCHEDULE_SET) {
          const { name } = body as { name: string };
          model = model.filter((one) => one.schedule !== id && one.name !== name);
          model.push({ ...(body as { schedule: number; name: string }), ...results(found) });
          ok(catalog.apply(kind, { ...SCHEDULE, ...body }, PLACE));
        } else if (kind === K.SCHEDULE_REMOVED) {
          model = model.filter((one) => one.schedule !== id);
          ok(catalog.apply(kind, body, PLACE));
        } else {
          const { isDone, sentBytes } = body as { isDone: boolean; sentBytes: number };
          if (found !== undefined) found.last = sentBytes;
          if (found !== undefined && isDone) found.done = sentBytes;
          ok(catalog.apply(kind, { ...RUN, ...body }, PLACE));
        }
      }
      catalog.checkInvariants();
      const seen = reopened(catalog).schedules.all();
      deepEqual(
        seen.map(({ id, name, isPaused, everyMicros, lastRun, lastDone }) => ({
          schedule: id,
          name,
          isPaused,
          everyMicros,
          last: lastRun?.sentBytes,
          done: lastDone?.sentBytes,
        })),
        model
          .sort((a, b) => a.schedule - b.schedule)
          .map((one) => ({ ...results(undefined), ...one })),
      );
    }),
    { numRuns: 300 },
  );
});

function results(found: { last?: unknown; done?: unknown } | undefined) {
  return { last: found?.last, done: found?.done };
}

test("a record of a schedule that makes no sense is refused, and changes nothing", () => {
  const catalog = new Catalog();
  ok(catalog.apply(K.SCHEDULE_SET, SCHEDULE, PLACE));
  ok(catalog.apply(K.SCHEDULE_RAN, RUN, PLACE));
  const before = JSON.stringify(catalog.toJson());
  const long = `/${"x".repeat(2000)}`;
  const wrong: [kind: number, change: object][] = [
    ...[0, -1, 1.5, "1", 2 ** 40].map((id): [number, object] => [K.SCHEDULE_SET, { schedule: id }]),
    ...["", "now", "a/b", 7].map((name): [number, object] => [K.SCHEDULE_SET, { name }]),
    ...[[], [1, 1], [0], "1", [1.5], Array.from({ length: 65 }, (_, n) => n + 1)].map(
      (volumes): [number, object] => [K.SCHEDULE_SET, { volumes }],
    ),
    ...["relative", "", "/a\nb", "/a\u0000", long, 7].map((target): [number, object] => [
      K.SCHEDULE_SET,
      { target },
    ]),
    ...[59_999_999, 367 * 86_400_000_000, -1, Number.NaN, "1h"].map(
      (everyMicros): [number, object] => [K.SCHEDULE_SET, { everyMicros }],
    ),
    ...[{ last: -1 }, { last: 0 }, { daily: 1e9 }, { withinMicros: -1 }].map(
      (keep): [number, object] => [K.SCHEDULE_SET, { keep }],
    ),
    [K.SCHEDULE_SET, { isPaused: 1 }],
    [K.SCHEDULE_SET, { passphraseFile: "/etc/passphrase" }],
    [K.SCHEDULE_SET, { keyFile: "key" }],
    [K.SCHEDULE_SET, { limitBytesPerSecond: 3 }],
    [K.SCHEDULE_SET, { beginMicros: -1 }],
    [K.SCHEDULE_REMOVED, { schedule: "a" }],
    [K.SCHEDULE_RAN, { schedule: 0 }],
    [K.SCHEDULE_RAN, { dueMicros: 0.5 }],
    [K.SCHEDULE_RAN, { durationMicros: -1 }],
    [K.SCHEDULE_RAN, { isDone: "yes" }],
    [K.SCHEDULE_RAN, { sentBytes: -1 }],
    [K.SCHEDULE_RAN, { point: long }],
    [K.SCHEDULE_RAN, { problem: "no" }],
    [K.SCHEDULE_RAN, { problem: { code: "X", message: long } }],
  ];
  for (const [kind, change] of wrong) {
    const whole = kind === K.SCHEDULE_RAN ? RUN : SCHEDULE;
    equal(catalog.apply(kind, { ...whole, ...change }, PLACE), false, JSON.stringify(change));
    equal(JSON.stringify(catalog.toJson()), before);
  }
});

test("a checkpoint whose schedules make no sense is refused", () => {
  const catalog = new Catalog();
  ok(catalog.apply(K.SCHEDULE_SET, SCHEDULE, PLACE));
  ok(catalog.apply(K.SCHEDULE_RAN, RUN, PLACE));
  const json = catalog.toJson();
  const [one] = (json.schedules as { list: object[] }).list;
  const many = Array.from({ length: SCHEDULES_MAX + 1 }, (_, n) => ({
    ...one,
    id: n + 1,
    name: `s${n}`,
  }));
  const wrong = [
    7,
    {},
    { nextId: 2 },
    { nextId: 1, list: [one] },
    { nextId: 3, list: [one, one] },
    { nextId: 3, list: [one, { ...one, id: 2 }] },
    { nextId: 99, list: many },
    { nextId: 2, list: [{ ...one, lastRun: 7 }] },
    { nextId: 2, list: [{ ...one, lastDone: { ...RUN, isDone: false } }] },
  ];
  for (const schedules of wrong)
    throws(
      () => Catalog.fromJson({ ...json, schedules }),
      (error) => hasCode(error, "POOL_CORRUPT"),
      JSON.stringify(schedules).slice(0, 100),
    );
  equal(Catalog.fromJson({ ...json, schedules: undefined }).schedules.all().length, 0);
});

test("what an older version passed over contradicts nothing: results of unknown schedules, and taken places", () => {
  const catalog = new Catalog();
  ok(catalog.apply(K.SCHEDULE_RAN, RUN, PLACE));
  ok(catalog.apply(K.SCHEDULE_REMOVED, { schedule: 9 }, PLACE));
  for (let id = 1; id <= SCHEDULES_MAX + 3; id++)
    ok(catalog.apply(K.SCHEDULE_SET, { ...SCHEDULE, schedule: id, name: `s${id}` }, PLACE));
  equal(catalog.schedules.all().length, SCHEDULES_MAX);
  equal(catalog.schedules.all()[0]?.name, "s4");
  equal(reopened(catalog).schedules.nextId, SCHEDULES_MAX + 4);
});

test("a reader that doesn't know schedules may pass over their records, and one that does reads them back", () => {
  for (const kind of [K.SCHEDULE_SET, K.SCHEDULE_REMOVED, K.SCHEDULE_RAN]) {
    const bytes = encodeJsonRecord(kind, { schedule: 1 });
    equal(bytes[1], 0, "the flag that demands to be understood isn't set");
    const cursor = newRecordCursor();
    equal(parseRecord(new DataView(bytes.buffer), 0, bytes.length, cursor), bytes.length);
    deepEqual(cursor.json, { schedule: 1 });
  }
});
