// SPDX-License-Identifier: Apache-2.0
//
// A backup target without content: points of volumes that were never written, at fixed times, made without a daemon.
//
//   v1, v2, v3   db      2026-03-01, -02 and -03 at 10:00
//   nightly      web     2026-03-03 at 02:00
//   packs/ab/…   a pack that no point needs
//   a session    of db and web, that was interrupted when all of that was there

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { sealDocument } from "../../src/backup/document.ts";
import { encodeManifest } from "../../src/backup/manifest.ts";
import { beginSession, commitPoint, newId } from "../../src/backup/sessions.ts";
import { openOrMakeTarget, type Target } from "../../src/backup/target.ts";
import { parseKeyFile } from "../../src/backup/target-key.ts";
import { parseTime } from "../../src/base/moment-time.ts";
import { makeDirectoryStore } from "../../src/host/node/directory-object-store.ts";
import { createRandom } from "../../src/host/node/random.ts";

const POOL = "ab".repeat(16);
const POINTS = [
  { name: "v1", volume: "db", time: "2026-03-01T10:00" },
  { name: "v2", volume: "db", time: "2026-03-02T10:00" },
  { name: "nightly", volume: "web", time: "2026-03-03T02:00" },
  { name: "v3", volume: "db", time: "2026-03-03T10:00" },
] as const;
const IDS = { db: 1, web: 2 } as const;

/** `DIR [key FILE]`, below `directory`. */
export async function makeSmallTarget(directory: string, words: readonly string[]): Promise<void> {
  const [name = "target", , keyFile] = words;
  const key =
    keyFile === undefined ? undefined : parseKeyFile(readFileSync(join(directory, keyFile)));
  const store = await makeDirectoryStore(join(directory, name));
  let nowMicros = 0;
  const clock = {
    wallMicros: () => nowMicros,
    monotoneMicros: () => nowMicros,
    after: () => () => {},
    afterInput: () => {},
  };
  const target = await openOrMakeTarget({ store, key, clock, random: createRandom() });
  for (const { name, volume, time } of POINTS) {
    nowMicros = parseTime(time) as number;
    await backUp(target, name, volume);
  }
  await store.putIfAbsent(`packs/ab/${"ab".repeat(32)}`, [new Uint8Array(5000)]);
  const volumes = [volumeOf("db"), volumeOf("web")];
  const wish = { purpose: "backup", poolId: POOL, volumes, host: "somewhere" } as const;
  await beginSession(target.catalog, { ...target, wish });
}

function volumeOf(name: keyof typeof IDS): { name: string; volumeId: number } {
  return { name, volumeId: IDS[name] };
}

async function backUp(target: Target, name: string, volume: keyof typeof IDS): Promise<void> {
  const { catalog, clock, random, sealer, store } = target;
  const volumes = [volumeOf(volume)];
  const wish = { purpose: "backup", poolId: POOL, volumes, host: "here" } as const;
  const { session } = await beginSession(catalog, { ...target, wish });
  const id = newId(random);
  const manifest = `points/${id}`;
  const timeMicros = clock.wallMicros();
  const moment = { lsn: 17, branch: 1, timeMicros };
  const whole = { id, name, createdMicros: timeMicros, poolId: POOL };
  const size = { ...volumeOf(volume), sizeBytes: 1 << 30 };
  const body = encodeManifest({ ...whole, volumes: [{ ...size, moment, runs: [] }] });
  await store.putIfAbsent(
    manifest,
    sealDocument({ kind: "point", name: manifest, sealer, random }, body),
  );
  const point = {
    ...whole,
    manifest,
    volumes: [{ ...size, ...moment }],
    newBytes: 3 << 20,
    isProtected: false,
  };
  await commitPoint(catalog, { session, point, reach: async () => new Set() });
}
