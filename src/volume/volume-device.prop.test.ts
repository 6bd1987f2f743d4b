// SPDX-License-Identifier: Apache-2.0
//
// Volumes against flat arrays, through a real pool on a machine in memory with the least of everything: requests
// of every alignment and size, many at once and overlapping, in the order of their calls; checkpoints at any
// time; then a kill, and everything once more from what is on disk, by the pool and by the log alone.

import { equal, ok } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { newHost, noise, type PoolFiles, PoolRig, sameBytes } from "../../test/crash/memory-rig.ts";
import { catVolume } from "../log/log-dump.ts";
import { poolIdBytes, readIdentity } from "../pool/identity.ts";
import { checkPool } from "../pool/pool-check.ts";
import { Prng } from "../sim/prng.ts";

const MIB = 1 << 20;
const SETTINGS = { segmentBytes: MIB, checkpointChanges: 3000 };

interface Watch {
  readonly start: number;
  readonly versions: Uint8Array[];
}

/** A volume as a flat array. A read may see any state from its call to its end. */
class FlatVolume {
  readonly name: string;
  bytes: Uint8Array;
  readonly #watches: Set<Watch> = new Set();

  constructor(name: string, sizeBytes: number) {
    this.name = name;
    this.bytes = new Uint8Array(sizeBytes);
  }

  set(start: number, source: Uint8Array): void {
    this.bytes.set(source, start);
    this.#note(start, start + source.length);
  }

  clear(start: number, lengthBytes: number): void {
    this.bytes.fill(0, start, start + lengthBytes);
    this.#note(start, start + lengthBytes);
  }

  watch(start: number, lengthBytes: number): Watch {
    const watch = { start, versions: [this.bytes.slice(start, start + lengthBytes)] };
    this.#watches.add(watch);
    return watch;
  }

  judge(watch: Watch, found: Uint8Array | number, what: string): void {
    this.#watches.delete(watch);
    ok(typeof found !== "number", `${what}: error ${String(found)}`);
    if (watch.versions.length === 1) sameBytes(found, watch.versions[0] as Uint8Array, what);
    for (let at = 0; at < found.length; at++)
      if (!watch.versions.some((version) => version[at] === found[at]))
        throw new Error(`${what}: byte ${at} was never there`);
  }

  #note(start: number, end: number): void {
    for (const watch of this.#watches) {
      const first = watch.versions[0] as Uint8Array;
      if (start < watch.start + first.length && watch.start < end)
        watch.versions.push(this.bytes.slice(watch.start, watch.start + first.length));
    }
  }
}

class Session {
  readonly rig: PoolRig;
  readonly volumes: FlatVolume[];
  readonly #prng: Prng;
  #pending: Promise<void>[] = [];
  #seed = 1;

  constructor(rig: PoolRig, volumes: FlatVolume[], prng: Prng) {
    this.rig = rig;
    this.volumes = volumes;
    this.#prng = prng;
  }

  /** Some requests at once, then all their ends. */
  async burst(): Promise<void> {
    const count = this.#prng.skewed(24);
    for (let at = 0; at < count; at++) this.#send(this.#prng.pick(this.volumes));
    await Promise.all(this.#pending.splice(0));
  }

  #range(volume: FlatVolume, lengthMax: number): { start: number; lengthBytes: number } {
    const prng = this.#prng;
    const unit = prng.pick([1, 512, 4096, 4096]);
    const size = volume.bytes.length;
    // Mostly in one place, so that requests meet.
    const place = prng.chance(0.6) ? Math.min(size, 256 << 10) : size;
    const start = prng.chance(0.1) ? size - unit : Math.floor(prng.below(place) / unit) * unit;
    const wanted = Math.max(1, Math.ceil(prng.skewed(lengthMax) / unit)) * unit;
    return { start, lengthBytes: Math.min(wanted, size - start) };
  }

  #send(volume: FlatVolume): void {
    const prng = this.#prng;
    const { name } = volume;
    const isForced = prng.chance(0.1);
    switch (prng.below(9)) {
      case 0:
      case 1:
      case 2: {
        const { start, lengthBytes } = this.#range(volume, prng.chance(0.05) ? MIB : 20_000);
        const source = prng.chance(0.1)
          ? new Uint8Array(lengthBytes)
          : noise(++this.#seed, lengthBytes);
        const written = this.rig.write(name, start, source, { isForced, isSlow: prng.chance(0.2) });
        volume.set(start, source);
        this.#expect(written, `write of ${lengthBytes} at ${start}`);
        return;
      }
      case 3: {
        const { start, lengthBytes } = this.#range(volume, volume.bytes.length);
        const trimmed = this.rig.trim(name, start, lengthBytes, { isForced });
        volume.clear(start, lengthBytes);
        this.#expect(trimmed, `trim of ${lengthBytes} at ${start}`);
        return;
      }
      case 4: {
        const { start, lengthBytes } = this.#range(volume, volume.bytes.length);
        const zeroed = this.rig.zero(name, start, lengthBytes, {
          isForced,
          isHoleForbidden: prng.chance(0.5),
        });
        volume.clear(start, lengthBytes);
        this.#expect(zeroed, `zero of ${lengthBytes} at ${start}`);
        return;
      }
      case 5:
        this.#expect(
          prng.chance(0.3) ? this.rig.cache(name, 0, volume.bytes.length) : this.rig.flush(name),
          "flush or cache",
        );
        return;
      case 6:
        if (prng.chance(0.2)) this.#pending.push(this.rig.pool.checkpoint());
        return;
      default: {
        const { start, lengthBytes } = this.#range(volume, 100_000);
        const watch = volume.watch(start, lengthBytes);
        const read = this.rig.read(name, start, lengthBytes);
        this.#pending.push(
          read.then((found) =>
            volume.judge(watch, found, `${name}: read of ${lengthBytes} at ${start}`),
          ),
        );
      }
    }
  }

  #expect(answer: Promise<number>, what: string): void {
    this.#pending.push(answer.then((errno) => equal(errno, 0, what)));
  }

  /** Nothing is under way: content and status are exactly the model's. */
  async compare(): Promise<void> {
    this.rig.pool.checkInvariants();
    for (const { name, bytes } of this.volumes) {
      for (let start = 0; start < bytes.length; start += MIB) {
        const end = Math.min(bytes.length, start + MIB);
        sameBytes(
          await this.rig.read(name, start, end - start),
          bytes.subarray(start, end),
          `${name} at ${start}`,
        );
      }
      let at = 0;
      let previous = -1;
      for (const { lengthBytes, flags } of await this.rig.status(name, 0, bytes.length)) {
        ok(lengthBytes > 0, "an extent has a length");
        ok(flags !== previous, "neighbours that are alike are one extent");
        if (flags !== 0)
          ok(
            bytes.subarray(at, at + lengthBytes).every((byte) => byte === 0),
            `${name}: ${at} reads as zeros`,
          );
        previous = flags;
        at += lengthBytes;
      }
      equal(at, bytes.length, "the extents cover what was asked");
    }
  }
}

async function sameByLogAlone(files: PoolFiles, volumes: readonly FlatVolume[]): Promise<void> {
  const { root, log, zstd } = newHost(files);
  const report = await checkPool({ root, log, zstd, memoryBytes: 64 * MIB });
  equal(report.findings.length, 0, report.findings[0]?.message);
  const poolId = poolIdBytes(await readIdentity(root));
  for (const { name, bytes } of volumes) {
    const found = new Uint8Array(bytes.length);
    const onContent = (piece: Uint8Array, offset: number): Promise<void> => {
      found.set(piece, offset);
      return Promise.resolve();
    };
    equal(await catVolume({ log, poolId, zstd, volume: name, onContent }), bytes.length);
    sameBytes(found, bytes, `cat ${name}`);
  }
}

test("volumes are flat arrays, whatever is under way at once, and after a kill", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 2 ** 31 }),
      fc.constantFrom("written", "memory", "durable"),
      async (seed, ack) => {
        const prng = new Prng(seed);
        const settings = { ...SETTINGS, ack, syncWriteBytes: prng.pick([768 << 10, 8192]) };
        const volumes = [new FlatVolume("a", 3 * MIB + 1536), new FlatVolume("b", 9 * MIB)];
        let rig = await PoolRig.create(settings);
        for (const { name, bytes } of volumes) await rig.pool.createVolume(name, bytes.length);
        for (let life = 0; life < 2; life++) {
          const session = new Session(rig, volumes, prng);
          for (let burst = 0; burst < 12; burst++) await session.burst();
          await session.compare();
          await rig.pool.flush();
          const files = prng.chance(0.5) ? rig.kill() : await rig.close();
          await sameByLogAlone(files, volumes);
          rig = await PoolRig.open(files, settings);
          await new Session(rig, volumes, prng).compare();
        }
        await rig.close();
      },
    ),
    { numRuns: 4 },
  );
});
