// SPDX-License-Identifier: Apache-2.0
//
// Backups as people make them, of a real daemon into a real directory: every point restores to what the volume held, by
// checksum, however the backups before it ended, and a moment that was backed up is never read as a whole again.
//
// BACKUP_KILLS=200 for a long campaign; SEED=n repeats the choices of a run.

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { BackedUpDisk, sha256, sizeBetween } from "./backed-up-disk.ts";
import { Chance } from "./chance.ts";
import { delay, run, until } from "./command.ts";
import { requires } from "./requires.ts";
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

/** Objects of a kind, the largest first. */
async function objectsOf(target: string, kind: string): Promise<string[]> {
  const names = await readdir(join(target, kind), { recursive: true, withFileTypes: true });
  const files = names
    .filter((name) => name.isFile())
    .map((name) => join(name.parentPath, name.name));
  const sized = await Promise.all(files.map(async (path) => ({ path, ...(await stat(path)) })));
  return sized.toSorted((a, b) => b.size - a.size).map(({ path }) => path);
}

interface Verified {
  readonly isSound: boolean;
  readonly lostBytes: number;
  readonly losses: readonly {
    pointName: string;
    volume?: string;
    offsetBytes: number;
    lengthBytes: number;
  }[];
}

async function verify(target: string): Promise<Verified> {
  const { stdout, status } = await run(VARVE, ["verify", target, "--data", "--json"], {
    accept: [0, 13],
  });
  const report = JSON.parse(stdout) as Verified;
  equal(status, report.isSound ? 0 : 13);
  return report;
}

test("what is damaged or missing is named, and all the rest is restored", { skip }, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 32 * MIB, chance: new Chance(3) });
  await disk.change(300);
  await disk.backUp();
  const before = Buffer.from(disk.content);
  await disk.change(20);
  await disk.backUp();
  ok((await verify(disk.target)).isSound);
  const [largest = ""] = await objectsOf(disk.target, "packs");
  const whole = await readFile(largest);
  const harms = {
    "a flipped bit": async () => {
      const bytes = Buffer.from(whole);
      bytes[1000]! ^= 4;
      await writeFile(largest, bytes);
    },
    "a cut pack": () => truncate(largest, whole.length - 100_000),
    "a missing pack": () => rm(largest),
  };
  for (const [what, harm] of Object.entries(harms)) {
    await harm();
    const report = await verify(disk.target);
    ok(!report.isSound && report.lostBytes > 0, what);
    const file = scratch.path("rest.raw");
    const args = ["restore", `${disk.target}@p0`, "--volume", "db", "--to", file, "--force"];
    const strict = await disk.varve([...args, "--json"], { accept: [13] });
    match(strict.stderr, /TARGET_CORRUPT/);
    await disk.varve([...args, "--skip-damaged"], { accept: [13] });
    const restored = await readFile(file);
    const expected = Buffer.from(before);
    for (const { pointName, offsetBytes, lengthBytes } of report.losses)
      if (pointName === "p0") expected.fill(0, offsetBytes, offsetBytes + lengthBytes);
    equal(sha256(restored), sha256(expected), `${what}: what isn't named as lost is there`);
    await writeFile(largest, whole);
  }
  ok((await verify(disk.target)).isSound);
  const manifests = await objectsOf(disk.target, "points");
  for (const manifest of manifests) await truncate(manifest, 40);
  const report = await verify(disk.target);
  deepEqual(
    report.losses.map(({ volume }) => volume),
    [undefined, undefined],
  );
  // With nothing left to compare with, the next one reads everything, and is whole.
  const answer = await disk.backUp();
  equal(answer.volumes[0]?.parent, undefined);
  const last = disk.points.at(-1)!;
  equal(await disk.digestOf(last.name), last.digest);
});

test("a target that is full, or goes away in the middle, costs nothing that was there", {
  skip: skip || requires("mount --version", { what: "root", isMet: process.getuid?.() === 0 }),
}, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 64 * MIB, chance: new Chance(4) });
  await disk.change(100);
  await disk.varve(["backup", "db", disk.target]).then(() => rm(disk.target, { recursive: true }));
  const small = scratch.path("small");
  await run("mkdir", [small]);
  await run("mount", ["-t", "tmpfs", "-o", "size=12M", "tmpfs", small]);
  scratch.defer("the small file system", () => run("umount", ["-l", small], { accept: [0, 32] }));
  const target = join(small, "target");
  const restored = async (name: string): Promise<string> => {
    const file = scratch.path("restored.raw");
    await disk.varve(["restore", `${target}@${name}`, "--volume", "db", "--to", file, "--force"]);
    return sha256(await readFile(file));
  };
  await disk.varve(["backup", "db", target, "--name", "first"]);
  const first = sha256(disk.content);
  await disk.change(600);
  const full = await disk.varve(["backup", "db", target, "--json"], { accept: [1, 12] });
  match(full.stderr, /TARGET_FULL/);
  equal(await restored("first"), first, "what was there is there");
  await run("mount", ["-o", "remount,size=64M", small]);
  const { stdout } = await disk.varve(["backup", "db", target, "--name", "second", "--json"]);
  const { lostParent } = (JSON.parse(stdout) as { volumes: { lostParent?: string }[] }).volumes[0]!;
  equal(lostParent, undefined);
  equal(await restored("second"), sha256(disk.content));
  // It goes away under a backup that runs.
  await disk.change(200);
  const words = ["backup", "db", target, "--limit-rate", "2M", "--json"];
  const running = disk.varve(words, { accept: [12] });
  await delay(1500);
  await rename(target, `${target}-away`);
  match((await running).stderr, /TARGET_UNAVAILABLE/);
  await rename(`${target}-away`, target);
  await disk.varve(["backup", "db", target, "--name", "third"]);
  equal(await restored("third"), sha256(disk.content));
  equal(await restored("first"), first);
});

test("prunes beside backups of two pools take nothing that a point needs", {
  skip,
}, async (context) => {
  context.diagnostic(`SEED=${seed}`);
  await using scratch = await Scratch.create();
  const chance = new Chance(seed);
  const one = await BackedUpDisk.start(scratch, { sizeBytes: 16 * MIB, chance });
  await using otherScratch = await Scratch.create();
  const options = { sizeBytes: 16 * MIB, chance, target: one.target };
  const other = await BackedUpDisk.start(otherScratch, options);
  await one.change(100);
  await one.backUp();
  let isOver = false;
  const prune = async (): Promise<number> => {
    let count = 0;
    for (; !isOver; count += 1) {
      // Several may be at work at once; who loses every race says so, and tries again.
      const words = ["prune", one.target, "--keep-last", "2", "--max-unused", "10%"];
      await run(VARVE, words, { accept: [0, 12] });
    }
    return count;
  };
  const backUp = async (disk: BackedUpDisk): Promise<void> => {
    for (let round = 0; round < 4; round += 1) {
      await disk.change(40);
      await disk.backUp();
    }
  };
  const pruned = prune();
  await Promise.all([backUp(one), backUp(other)]).finally(() => {
    isOver = true;
  });
  ok((await pruned) > 0);
  ok((await verify(one.target)).isSound);
  // Both are called db: the newest point of a name is the one that it means, so the name of the pool's own is looked for.
  const { stdout } = await run(VARVE, ["backups", one.target, "--json"]);
  const { points } = JSON.parse(stdout) as {
    points: { id: string; name: string; poolId: string }[];
  };
  for (const disk of [one, other]) {
    const pool = await disk.varve(["info", "--json"]);
    const { id: poolId } = JSON.parse(pool.stdout) as { id: string };
    const own = points.filter((point) => point.poolId === poolId);
    ok(own.length >= 2, `${own.length} points are left`);
    for (const { id, name } of own) {
      const made = disk.points.find((point) => point.name === name);
      equal(await disk.digestOf(id), made?.digest, `${name} of ${poolId}`);
    }
  }
});

test("a restored volume has the moments of the window, with their names, and ends as the point", {
  skip,
}, async (context) => {
  context.diagnostic(`SEED=${seed}`);
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 16 * MIB, chance: new Chance(seed) });
  const moments: { name: string; digest: string }[] = [];
  const remember = async (): Promise<() => Promise<void>> => {
    const goBack = await disk.snapshot();
    moments.push({ name: `s${moments.length + 1}`, digest: sha256(disk.content) });
    return goBack;
  };
  await disk.change(60);
  const goBack = await remember();
  await disk.change(30);
  await disk.backUp(["--history", "24h"]);
  await disk.resize(20 * MIB);
  await disk.change(30);
  await remember();
  await disk.change(10);
  await disk.backUp(["--history", "24h"]);
  const table = scratch.path("moments.tsv");
  const restore = ["restore", `${disk.target}@p1`, "back", "--volume", "db"];
  await disk.varve([...restore, "--moments", table]);
  const digestOf = async (name: string): Promise<string> => {
    const file = scratch.path("moment.raw");
    await disk.varve(["export", name, file, "--force"]);
    return sha256(await readFile(file));
  };
  equal(await digestOf("back"), disk.points[1]?.digest);
  // The new volume has its last size from the first moment on: what was smaller is followed by zeros.
  for (const { name, digest } of moments) {
    const file = scratch.path("moment.raw");
    await disk.varve(["export", `back@${name}`, file, "--force"]);
    const bytes = await readFile(file);
    const length = name === "s1" ? 16 * MIB : bytes.length;
    equal(sha256(bytes.subarray(0, length)), digest, name);
    ok(bytes.subarray(length).every((byte) => byte === 0));
  }
  const rows = (await readFile(table, "utf8")).trim().split("\n");
  ok(rows.length > 60, `${rows.length} moments are in the table`);
  // What a rewind left behind isn't on the way to the point: its history begins with the rewind.
  await goBack();
  await disk.change(10);
  await disk.backUp(["--history", "24h"]);
  await disk.varve(["restore", `${disk.target}@p2`, "again", "--volume", "db"]);
  equal(await digestOf("again"), disk.points[2]?.digest);
  // Where nothing of the past is kept, the point has none, and is whole.
  await disk.varve(["retention", "--none"]);
  await disk.change(10);
  await disk.backUp(["--history", "24h"]);
  await disk.varve(["restore", `${disk.target}@p3`, "last", "--volume", "db"]);
  equal(await digestOf("last"), disk.points[3]?.digest);
  ok((await verify(disk.target)).isSound);
});

test("volumes of one command are of one moment, and a clone is stored once with what it was cloned from", {
  skip,
}, async () => {
  await using scratch = await Scratch.create();
  const disk = await BackedUpDisk.start(scratch, { sizeBytes: 16 * MIB, chance: new Chance(11) });
  await disk.change(200);
  const first = await disk.backUp();
  await disk.varve(["clone", "db", "copy"]);
  await disk.change(5);
  const words = ["backup", "db", "copy", disk.target, "--json", "--name", "both"];
  const { stdout } = await disk.varve(words);
  const answer = JSON.parse(stdout) as {
    volumes: { lsn: number }[];
    newBytes: number;
    knownBytes: number;
  };
  equal(answer.volumes[0]?.lsn, answer.volumes[1]?.lsn);
  ok(answer.knownBytes >= first.newBytes, `${answer.knownBytes} bytes were known`);
  ok(answer.newBytes < first.newBytes / 2, `${answer.newBytes} bytes were sent`);
  equal(await disk.digestOf("both"), sha256(disk.content));
  const file = scratch.path("copy.raw");
  await disk.varve(["restore", `${disk.target}@both`, "--volume", "copy", "--to", file]);
  equal(sha256(await readFile(file)), disk.points[0]?.digest);
});
