// SPDX-License-Identifier: Apache-2.0
//
// Which record and which volume a moment means; and of one that isn't there, that the answer says what is.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseMoment } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import { RECORD_KIND } from "../log/record.ts";
import { Catalog } from "./catalog.ts";
import { MomentResolver, momentNamed } from "./moments.ts";

const K = RECORD_KIND;
const SECOND = 1_000_000;
const BEGIN = 1_772_366_400 * SECOND; // 2026-03-01T12:00:00Z
const LAST = 100;

/** A log with a record each second; some are flushes, and some moments are no longer there. */
class Log {
  readonly catalog = new Catalog();
  readonly flushes: { branch: number; lsn: number }[] = [];
  /** Below it retention has let everything go. */
  firstReachable = 1;
  /** Records that the log doesn't hold any more. */
  hole = { start: 0, end: 0 };
  nowMicros = timeOf(LAST) + SECOND / 2;
  readonly resolver: MomentResolver;

  constructor() {
    const at = (lsn: number) => ({
      lsn,
      timeMicros: timeOf(lsn),
      isBeforeHole: this.#isHole(lsn + 1),
    });
    this.resolver = new MomentResolver({
      catalog: () => this.catalog,
      times: {
        atOrBefore: async (micros) => {
          let lsn = Math.min(LAST, Math.floor((micros - BEGIN) / SECOND));
          const asked = lsn;
          while (this.#isHole(lsn)) lsn--;
          return lsn < 1 ? undefined : { ...at(lsn), isBeforeHole: lsn < asked };
        },
        timeOf: async (lsn) => (this.#isHole(lsn) ? undefined : timeOf(lsn)),
        lastFlush: async ({ branch, fromLsn, lsn }) => {
          const found = this.flushes.findLast(
            (flush) => flush.branch === branch && flush.lsn >= fromLsn && flush.lsn <= lsn,
          );
          return found && { ...at(found.lsn), isBeforeHole: false };
        },
      },
      history: {
        kept: () => undefined,
        isReachable: (_branch, lsn) => lsn >= this.firstReachable,
        nearest: (_branch, lsn) => ({
          ...(lsn > this.firstReachable ? { before: at(Math.min(lsn, this.hole.start - 1)) } : {}),
          after: at(Math.max(this.firstReachable, this.hole.end, lsn)),
        }),
      },
      newest: () => at(LAST),
      ago: (micros) => this.nowMicros - micros,
    });
  }

  record(lsn: number, kind: number, body: Record<string, unknown>): void {
    equal(this.catalog.apply(kind, body, { lsn, timeMicros: timeOf(lsn) }), true);
  }

  async at(text: string): Promise<string> {
    const [volume = "", moment = ""] = text.split("@");
    return (await this.resolver.resolve(volume, parseMoment(moment))).stableName;
  }

  refuses(text: string, code: string, ...words: string[]): Promise<void> {
    return rejects(this.at(text), (error: Error & { code: string; hint: string }) => {
      const told = `${error.message} | ${error.hint}`;
      const missing = words.filter((word) => !told.includes(word));
      deepEqual([error.code, missing], [code, []], told);
      return true;
    });
  }

  #isHole(lsn: number): boolean {
    return lsn >= this.hole.start && lsn < this.hole.end;
  }
}

function timeOf(lsn: number): number {
  return BEGIN + lsn * SECOND;
}

/** "db" from #10 on, called "web" from #30 to #50, removed at #70; another "db" was made at #80. */
function lived(): Log {
  const log = new Log();
  log.record(10, K.VOLUME_MADE, { id: 1, name: "db", sizeBytes: 4096, branch: 1 });
  log.record(20, K.VOLUME_RESIZED, { id: 1, sizeBytes: 8192 });
  log.record(30, K.VOLUME_SET, { id: 1, name: "web" });
  log.record(50, K.VOLUME_SET, { id: 1, name: "db" });
  log.record(70, K.VOLUME_REMOVED, { id: 1 });
  log.record(80, K.VOLUME_MADE, { id: 2, name: "db", sizeBytes: 512, branch: 2 });
  return log;
}

test("every way to say a moment finds its last record, and the size and branch of then", async () => {
  const log = lived();
  const resolve = (text: string) => log.resolver.resolve("db", parseMoment(text));
  const expected = { volumeId: 1, volume: "db", branch: 1, lsn: 15, timeMicros: timeOf(15) };
  const then = { ...expected, sizeBytes: 4096, stableName: "db@#15" };
  deepEqual(await resolve("#15"), { ...then, isRelative: false });
  deepEqual(await resolve("lsn:15"), { ...then, isRelative: false });
  deepEqual(await resolve("2026-03-01T12:00:15Z"), { ...then, isRelative: false });
  deepEqual(await resolve("2026-03-01T12:00:15.999999Z"), { ...then, isRelative: false });
  deepEqual(await resolve("-85s"), { ...then, isRelative: true });
  equal((await resolve("-80s")).sizeBytes, 8192, "the resize has taken effect with its record");
  const now = await resolve("now");
  deepEqual([now.volumeId, now.lsn, now.sizeBytes, now.isRelative], [2, LAST, 512, true]);
  equal((await resolve(formatTime(log.nowMicros))).lsn, LAST, "nothing was written since");
});

test("a name means the volume that had it then", async () => {
  const log = lived();
  const { resolver } = log;
  equal((await resolver.resolve("web", parseMoment("#30"))).volumeId, 1);
  equal((await resolver.resolve("web", parseMoment("#49"))).volumeId, 1);
  equal((await resolver.resolve("db", parseMoment("#50"))).volumeId, 1);
  equal((await resolver.resolve("db", parseMoment("#69"))).volumeId, 1);
  equal((await resolver.resolve("db", parseMoment("#80"))).volumeId, 2);
});

test("a time when nobody had the name says when somebody had", async () => {
  const log = lived();
  const missing = "MOMENT_NOT_FOUND";
  await log.refuses("db@#9", missing, 'no volume was named "db" then', "db@#10", "12:00:10");
  await log.refuses("db@#40", missing, "got another name", "db@#29", "12:00:30", "db@#50");
  await log.refuses(
    "db@#75",
    missing,
    "removed",
    "db@#69",
    "12:01:10",
    "db@#80",
    "varve history db",
  );
  await log.refuses("db@-30s", missing, "db@#69");
  await log.refuses("bd@#75", "VOLUME_NOT_FOUND", 'did you mean "db"?');
  await log.refuses("wob@now", "VOLUME_NOT_FOUND", 'did you mean "web"?');
});

test("what is in the future, or from before the log, is refused with what there is", async () => {
  const log = lived();
  const missing = "MOMENT_NOT_FOUND";
  await log.refuses("db@#101", missing, "in the future", "#100", "db@now");
  await log.refuses("db@2026-03-01T12:01:40.6Z", missing, "in the future", "12:01:40.500");
  await log.refuses("db@#0", missing, "before", "db@#10");
  await log.refuses("db@2026-02-28T12:00:00Z", missing, "before", "db@#10", "12:00:10");
  await log.refuses("db@-1w", missing, "before", "db@#10");
  await log.refuses("none@-1w", "VOLUME_NOT_FOUND", "varve list");
});

test("what retention let go is refused, never answered with its neighbour", async () => {
  const log = lived();
  log.firstReachable = 60;
  await log.refuses("db@#55", "MOMENT_GONE", "retention", "db@#60", "12:01:00");
  await log.refuses("db@-45s", "MOMENT_GONE", "db@#60");
  log.firstReachable = 1;
  log.hole = { start: 55, end: 60 };
  await log.refuses("db@#57", "MOMENT_GONE", "db@#54", "db@#60");
  await log.refuses("db@-43s", "MOMENT_GONE", "db@#54", "db@#60");
  equal(await log.at(`db@${formatTime(timeOf(54))}`), "db@#54", "this one is there");
});

test("a flush is the last one of that line of history, at or before", async () => {
  const log = lived();
  log.flushes.push({ branch: 1, lsn: 12 }, { branch: 1, lsn: 60 }, { branch: 9, lsn: 90 });
  equal(await log.at("db@flush:#11").catch(() => "none"), "none");
  equal(await log.at("db@flush:#12"), "db@#12");
  equal(await log.at("db@flush:-40s"), "db@#60");
  const flush = await log.resolver.resolve("db", parseMoment("flush:#25"));
  deepEqual([flush.lsn, flush.sizeBytes, flush.isRelative], [12, 4096, false]);
  const early = await log.resolver.resolve("web", parseMoment("flush:#35"));
  equal(early.stableName, "db@#12", "by the name that it had then");
  await log.refuses("db@flush:now", "MOMENT_NOT_FOUND", "no client flushed", "db@#100");
});

test("behind a rewind the last flush is of what the volume went back to; a clone has none from before it", async () => {
  const log = new Log();
  log.record(10, K.VOLUME_MADE, { id: 1, name: "db", sizeBytes: 4096, branch: 1 });
  const from = { parent: 1, parentLsn: 40, sizeBytes: 4096 };
  log.record(60, K.BRANCHED, { ...from, id: 1, branch: 2, reason: "rewind" });
  log.record(70, K.BRANCHED, { ...from, id: 2, branch: 3, reason: "clone", name: "copy" });
  log.flushes.push({ branch: 1, lsn: 30 }, { branch: 1, lsn: 50 });
  equal(await log.at("db@flush:#59"), "db@#50");
  equal(await log.at("db@flush:now"), "db@#30");
  await log.refuses("copy@flush:now", "MOMENT_NOT_FOUND", "no client flushed");
  await log.refuses("copy@#65", "MOMENT_NOT_FOUND", "copy@#70");
  log.flushes.push({ branch: 2, lsn: 90 });
  equal(await log.at("db@flush:now"), "db@#90");
});

test("a snapshot is found by its volume's name, by any that it had, and a wrong name says what there is", async () => {
  const log = lived();
  const moments = [{ volume: 1, name: "v1" }];
  log.record(81, K.MOMENT_NAMED, { lsn: 35, timeMicros: timeOf(35), moments });
  equal(await log.at("web@v1"), "web@#35");
  equal((await log.resolver.resolve("web", parseMoment("v1"))).isRelative, false);
  await log.refuses("db@v1", "MOMENT_NOT_FOUND", "no snapshot", "varve snapshots db");
  log.record(82, K.VOLUME_REMOVED, { id: 2 });
  log.record(83, K.VOLUME_RESTORED, { id: 1, name: "db" });
  equal(await log.at("db@v1"), "web@#35", "it has that name now");
  await log.refuses("db@v2", "MOMENT_NOT_FOUND", 'did you mean "v1"?');
  await log.refuses("db@before-upgrade", "MOMENT_NOT_FOUND", "it has v1");
  log.firstReachable = 50;
  await log.refuses("db@v1", "MOMENT_GONE", "db@#50");
});

test("of two volumes with one name and a snapshot each the live one is meant, then the last that was removed", () => {
  const { catalog, record } = ((log) => ({ catalog: log.catalog, record: log.record.bind(log) }))(
    lived(),
  );
  const named = (lsn: number, volume: number) => ({
    lsn,
    timeMicros: timeOf(lsn),
    moments: [{ volume, name: "v" }],
  });
  record(81, K.MOMENT_NAMED, named(60, 1));
  equal(momentNamed(catalog, "db", "v").volume, 1, "the live one has none");
  record(85, K.MOMENT_NAMED, named(84, 2));
  equal(momentNamed(catalog, "db", "v").volume, 2);
  record(86, K.VOLUME_REMOVED, { id: 2 });
  equal(momentNamed(catalog, "db", "v").volume, 2);
});

test("any LSN and any time give the last record at or before, or say why not", async () => {
  const log = lived();
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: -5, max: 105 }), fc.nat(999_999), async (lsn, micros) => {
      const moment = { kind: "time", micros: timeOf(lsn) + micros } as const;
      const expected = Math.min(lsn, LAST);
      const isFuture = moment.micros > log.nowMicros;
      const holder = isFuture ? undefined : log.catalog.volumeAt("db", expected);
      const found = await log.resolver.resolve("db", moment).catch(({ code }) => code);
      equal(typeof found === "object" ? found.lsn : found, holder ? expected : "MOMENT_NOT_FOUND");
      if (lsn < 0) return;
      const byLsn = await log.resolver
        .resolve("db", { kind: "lsn", lsn })
        .catch(({ code }) => code);
      const isThere = lsn <= LAST && log.catalog.volumeAt("db", lsn) !== undefined;
      equal(typeof byLsn === "object" ? byLsn.lsn : byLsn, isThere ? lsn : "MOMENT_NOT_FOUND");
    }),
  );
});
