// SPDX-License-Identifier: Apache-2.0
//
// Backups as people make them, of a real daemon into a real directory: every point restores to what the volume held, by
// checksum, however the backups before it ended, and a moment that was backed up is never read as a whole again.
//
// BACKUP_KILLS=200 for a long campaign; SEED=n repeats the choices of a run.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { BackedUpDisk, sizeBetween } from "./backed-up-disk.ts";
import { Chance } from "./chance.ts";
import { delay, run, until } from "./command.ts";
import { Scratch } from "./scratch.ts";
import { KIND_UNDER_TEST, VARVE } from "./server.ts";

const MIB = 1 << 20;
const skip = KIND_UNDER_TEST !== "varve";
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const killCount = Number(process.env.BACKUP_KILLS ?? 8);
const killingMsMax = process.env.BACKUP_KILLS === undefined ? 25_000 : Number.POSITIVE_INFINITY;

for (const isEncrypted of [false, true]) {
  const how = isEncrypted ? "encrypted" : "plain";
  const roundCount = isEncrypted ? 5 : 20;
  test(`a full backup and ${roundCount} incrementals restore to what the volume held, ${how}`, {
    skip,
  }, async (context) => {
    context.diagnostic(`SEED=${seed}`);
    await using scratch = await Scratch.create();
    const chance = new Chance(seed);
    const keyArgs = isEncrypted ? ["--key-file", scratch.path("backup.key")] : [];
    if (isEncrypted) await writeFile(scratch.path("backup.key"), Buffer.alloc(32, 7));
    const disk = await BackedUpDisk.start(scratch, { sizeBytes: 24 * MIB, chance, keyArgs });
    await disk.change(120);
    const full = await disk.backUp(isEncrypted ? ["--encrypt"] : []);
    equal(full.volumes[0]?.parent, undefined);
    let goBack = await disk.snapshot();
    for (let round = 1; round <= roundCount; round += 1) {
      const event = chance.below(8);
      if (event === 0) await disk.resize(sizeBetween(chance, 12, 30));
      else if (event === 1) {
        await goBack();
        goBack = await disk.snapshot();
      } else if (event === 2) goBack = await disk.snapshot();
      else if (event === 3) {
        await disk.disconnect();
        await disk.server.kill9();
        await disk.server.restart();
      }
      await disk.change(1 + chance.below(20));
      const answer = await disk.backUp();
      equal(answer.volumes[0]?.parent, `p${round - 1}`, "it is compared with the one before");
      equal(answer.volumes[0]?.lostParent, undefined);
    }
    for (const { name, digest } of disk.points) equal(await disk.digestOf(name), digest, name);
    const { stdout } = await disk.varve(["snapshots", "db", "--json"]);
    const pins = (JSON.parse(stdout) as { snapshots: { name: string }[] }).snapshots;
    equal(pins.filter(({ name }) => name.startsWith("backup-")).length, 1, "one moment is held");
  });
}

test("a backup that is killed at any time costs no full one, and no block", {
  skip,
}, async (context) => {
  context.diagnostic(`SEED=${seed}`);
  await using scratch = await Scratch.create();
  const chance = new Chance(seed);
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 96 * MIB, chance });
  await disk.varve(["retention", "--none"]);
  await disk.change(900);
  await disk.backUp();
  const begin = performance.now();
  for (let kill = 0; kill < killCount && performance.now() - begin < killingMsMax; kill += 1) {
    await disk.change(100 + chance.below(200));
    const { child, ended } = disk.beginBackup();
    // From before its first request to behind its commit.
    await delay(chance.below(1200));
    child.kill("SIGKILL");
    await ended;
    if (chance.below(4) === 0) {
      await disk.disconnect();
      await disk.server.kill9();
      await disk.server.restart();
    }
    await disk.change(chance.below(30));
    if (chance.below(2) === 0) continue;
    const answer = await disk.backUp();
    equal(answer.volumes[0]?.lostParent, undefined, "the moment before is there");
    ok(answer.volumes[0]?.parent !== undefined, "it is compared with a point");
    const read = answer.readBytes / disk.content.length;
    ok(read < 0.6, `${answer.readBytes} bytes were read`);
    const last = disk.points.at(-1)!;
    equal(await disk.digestOf(last.name), last.digest, last.name);
  }
  for (const { name, digest } of disk.points) equal(await disk.digestOf(name), digest, name);
});

test("two backups of a volume to one target: the second is told of the first, which goes on", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 8 * MIB, chance: new Chance(1) });
  await disk.change(150);
  await disk.varve(["create", "web", "8M"]);
  const { ended } = disk.beginBackup(["--limit-rate", "1M"]);
  const hasSession = async (): Promise<boolean> => {
    if (!existsSync(join(disk.target, "varve-backup.json"))) return false;
    const { stdout } = await disk.varve(["snapshots", "db"]);
    return stdout.includes("backup-");
  };
  await until("the first one is under way", hasSession);
  const second = await disk.varve(["backup", "db", disk.target, "--json"], { accept: [11] });
  const { error } = JSON.parse(second.stderr) as { error: { code: string; message: string } };
  equal(error.code, "BACKUP_RUNNING");
  match(error.message, /process \d+ is backing it up/);
  // Another volume, and the same one to another target, don't mind.
  await disk.varve(["backup", "web", disk.target]);
  await disk.varve(["backup", "db", scratch.path("other")]);
  equal(await ended, 0);
  const { stdout } = await run(VARVE, ["backups", disk.target, "--json"]);
  const { points } = JSON.parse(stdout) as { points: { volumes: { name: string }[] }[] };
  deepEqual(points.map(({ volumes }) => volumes[0]?.name).sort(), ["db", "web"]);
});
