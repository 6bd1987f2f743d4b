// SPDX-License-Identifier: Apache-2.0
//
// What a pool says of a volume's past: every change stands on the line once, in order, and what retention let go of is a hole.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { BLOCK, noise, PoolRig } from "../../test/crash/memory-rig.ts";
import { parseMoment } from "../base/moment.ts";
import type { VolumeHistory } from "./volume-history.ts";

const MIB = 1 << 20;
const EVER = {
  from: { kind: "time", micros: 0 },
  to: { kind: "now" },
  stepMicros: undefined,
} as const;

function marksOf({ marks }: VolumeHistory): string[] {
  return marks.map(({ kind }) => kind);
}

test("what became of a volume stands on the line, also what undid it", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  await pool.createVolume("db", MIB);
  await rig.write("db", 0, noise(1, BLOCK));
  await pool.snapshot([{ volume: "db", name: "v1" }]);
  const { lsn: v1 } = await pool.resolve("db", parseMoment("v1"));
  await rig.write("db", 0, noise(2, 3 * BLOCK));
  await rig.flush("db");
  await pool.rewind("db", parseMoment("v1"));
  await rig.write("db", 0, noise(3, BLOCK));
  await pool.undo("db");
  await pool.resizeVolume("db", 2 * MIB);
  await pool.clone("db", parseMoment("v1"), "copy");
  await pool.renameVolume("db", "main");
  await rig.write("main", 0, noise(4, BLOCK));
  await pool.removeVolume("main");
  const history = await pool.history("main", EVER);
  deepEqual(marksOf(history), [
    "created",
    "rewind",
    "undo",
    "resized",
    "cloned",
    "renamed",
    "removed",
  ]);
  deepEqual(
    history.names.map(({ name, lsn }) => [name, lsn]),
    [["v1", v1]],
  );
  const rewind = history.marks.find(({ kind }) => kind === "rewind");
  equal(rewind?.kind === "rewind" && rewind.parentLsn, v1);
  const sum = (count: (line: VolumeHistory["lines"][number]) => number): number =>
    history.lines.reduce((total, line) => total + count(line), 0);
  equal(
    sum((line) => line.writeCount),
    4,
    "on all three branches",
  );
  equal(
    sum((line) => line.blockCount),
    6,
  );
  equal(
    sum((line) => line.flushCount),
    1,
  );
  equal(history.hole, undefined);
  equal(history.everyWriteFrom?.lsn, history.marks[0]?.lsn);
  const copy = await pool.history("copy", EVER);
  deepEqual(
    copy.marks.map((mark) => [mark.kind, mark.kind === "clone" && mark.parentLsn]),
    [["clone", v1]],
  );
  const again = await PoolRig.open(rig.kill());
  deepEqual(marksOf(await again.pool.history("main", EVER)), marksOf(history));
  await again.close();
});

test("a part of the past has what lies in it", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  await pool.createVolume("db", MIB);
  await rig.write("db", 0, noise(1, BLOCK));
  await pool.snapshot([{ volume: "db", name: "v1" }]);
  await pool.snapshot([{ volume: "db", name: "v2" }]);
  const from = { kind: "name", name: "v2" } as const;
  const history = await pool.history("db", { ...EVER, from });
  deepEqual(
    history.names.map(({ name }) => name),
    ["v2"],
  );
  deepEqual(marksOf(history), []);
  await rejects(pool.history("web", EVER), { code: "VOLUME_NOT_FOUND" });
  await rejects(pool.history("db", { ...EVER, from: { kind: "name", name: "v3" } }), {
    code: "MOMENT_NOT_FOUND",
  });
  await rig.close();
});

test("what retention let go of is a hole, up to where every write is kept", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  await pool.createVolume("db", MIB);
  await rig.write("db", 0, noise(1, BLOCK));
  await pool.setPolicy({
    retention: {
      everyWriteMicros: 0,
      hourlyMicros: 0,
      dailyMicros: 0,
      weeklyMicros: 0,
      monthlyMicros: 0,
    },
  });
  await rig.write("db", 0, noise(2, BLOCK));
  await pool.checkpoint();
  const { hole, everyWriteFrom, marks, lines } = await pool.history("db", EVER);
  equal(everyWriteFrom, undefined);
  deepEqual([hole?.from.lsn, hole?.to.lsn], [marks[0]?.lsn, pool.log.nextLsn - 1]);
  ok(lines.length > 0, "what happened is known nevertheless");
  await rig.close();
});

test("a volume that was rewound back and forth has each part of its time from one branch", async () => {
  const rig = await PoolRig.create();
  const { pool } = rig;
  await pool.createVolume("db", MIB);
  for (let version = 1; version < 20; version++) {
    await rig.write("db", 0, noise(version, BLOCK));
    if (version % 5 === 0) await pool.rewind("db", { kind: "lsn", lsn: pool.log.nextLsn - 2 });
  }
  const history = await pool.history("db", EVER);
  equal(
    history.lines.reduce((sum, { writeCount }) => sum + writeCount, 0),
    19,
  );
  await rig.close();
});
