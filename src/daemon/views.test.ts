// SPDX-License-Identifier: Apache-2.0
//
// Views are opened once per moment, shared, bounded, and let go whatever happens on the way.

import { deepEqual, equal, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SmallPast } from "../../test/cli/small-past.ts";
import { SmallPool } from "../../test/cli/small-pool.ts";
import { hasCode, StorageError } from "../base/errors.ts";
import { createClock } from "../host/node/clock.ts";
import type { ResolvedMoment } from "../pool/types.ts";
import { EventLog } from "./event-log.ts";
import { type HeldView, SharedViews, VIEWS_MAX } from "./views.ts";

interface Fixture {
  readonly past: SmallPast;
  readonly views: SharedViews;
  readonly at: (lsn: number) => Promise<ResolvedMoment>;
  readonly events: () => string[];
}

async function fixture(): Promise<Fixture> {
  const pool = new SmallPool();
  await pool.createVolume("db", 1 << 20);
  const past = new SmallPast(pool);
  const log = new EventLog(createClock(), { log: () => {} });
  return {
    past,
    views: new SharedViews(past, log),
    at: (lsn) => past.resolve("db", { kind: "lsn", lsn }),
    events: () => log.recent().map(({ event, fields }) => `${event} ${fields.moment}`),
  };
}

test("one moment is opened once, shared, and let go with its last client", async () => {
  const { past, views, at, events } = await fixture();
  const [first, second] = await Promise.all([views.open(await at(7)), views.open(await at(7))]);
  const third = await views.open(await at(7));
  const other = await views.open(await at(8));
  deepEqual([past.openedCount, views.count], [2, 2]);
  for (const view of [first, second, second, first]) view?.close();
  equal(past.closedCount, 0);
  third.close();
  deepEqual([past.closedCount, views.count], [1, 1]);
  other.close();
  const anew = await views.open(await at(7));
  equal(past.openedCount, 3);
  anew.close();
  deepEqual(events(), [
    "view.opened db@#7",
    "view.opened db@#8",
    "view.closed db@#7",
    "view.closed db@#8",
    "view.opened db@#7",
    "view.closed db@#7",
  ]);
});

test("an open that fails is told to all who wait, and tried anew by the next", async () => {
  const { past, views, at } = await fixture();
  past.beforeOpen = () =>
    Promise.reject(new StorageError("POOL_STOPPED", "pool: stopped: on test"));
  const moment = await at(7);
  const both = [views.open(moment), views.open(moment)];
  for (const open of both) await rejects(open, (error) => hasCode(error, "POOL_STOPPED"));
  equal(views.count, 0);
  past.beforeOpen = () => Promise.resolve();
  (await views.open(moment)).close();
  deepEqual([past.openedCount, past.openCount, views.count], [1, 0, 0]);
});

test("a bounded number of moments is open at once; the refusal names the limit", async () => {
  const { past, views, at } = await fixture();
  const held: HeldView[] = [];
  for (let lsn = 1; lsn <= VIEWS_MAX; lsn++) held.push(await views.open(await at(lsn)));
  await rejects(
    views.open(await at(999)),
    (error) => hasCode(error, "BUSY") && /db@#999.*256 moments are open/.test(error.message),
  );
  held.push(await views.open(await at(1)));
  held.shift()?.close();
  held.shift()?.close();
  held.push(await views.open(await at(999)));
  for (const view of held) view.close();
  deepEqual([views.count, past.openCount], [0, 0]);
});

test("whatever comes, fails and goes in whatever order, what is held is open and nothing else is", async () => {
  const step = fc.record({
    what: fc.constantFrom("open", "open", "close", "settle", "fail"),
    which: fc.nat(5),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { past, views, at } = await fixture();
      const pending: { readonly done: PromiseWithResolvers<void> }[] = [];
      past.beforeOpen = () => {
        const done = Promise.withResolvers<void>();
        pending.push({ done });
        return done.promise;
      };
      const held: { lsn: number; view: HeldView }[] = [];
      const waiting: Promise<void>[] = [];
      for (const { what, which } of steps) {
        if (what === "open") {
          const moment = await at(which);
          const open = views.open(moment).then(
            (view) => void held.push({ lsn: which, view }),
            (error: unknown) => equal(hasCode(error, "DISK_IO"), true),
          );
          waiting.push(open);
        } else if (what === "close") held.splice(which, 1)[0]?.view.close();
        else {
          const [next] = pending.splice(which % Math.max(1, pending.length), 1);
          if (what === "settle") next?.done.resolve();
          else next?.done.reject(new StorageError("DISK_IO", "disk: not read: on test"));
        }
        await new Promise(setImmediate);
        equal(past.openCount, new Set(held.map(({ lsn }) => lsn)).size);
      }
      for (const { done } of pending.splice(0)) done.resolve();
      await Promise.all(waiting);
      for (const { view } of held) view.close();
      deepEqual([views.count, past.openCount], [0, 0]);
    }),
    { numRuns: 100 },
  );
});
