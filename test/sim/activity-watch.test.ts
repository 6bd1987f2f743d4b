// SPDX-License-Identifier: Apache-2.0
//
// Real files on a small file system, used and then encrypted: what is suspicious, how soon, and which moment is named as
// the last before it. And what else writes much that doesn't shrink, and must not be. More of it, with more seeds, is
// in docs/decisions/0010-activity.md.

import { equal, ok } from "node:assert/strict";
import { before, describe, test } from "node:test";
import { Prng } from "../../src/sim/prng.ts";
import { ActivityTimeline } from "../../src/volume/activity-timeline.ts";
import type { Suspicion } from "../../src/volume/activity-watch.ts";
import { ActivityDisk, RAW_8, type Sizes, SmallFiles } from "./activity-disk.ts";
import { filesBelow } from "./activity-files.ts";

const MIB_BLOCKS = 256;
const DISK_BLOCKS = 2048 * MIB_BLOCKS;
const WORDS = new Uint32Array(1024);

let content: readonly Sizes[] = [];

class Used {
  readonly suspicions: Suspicion[] = [];
  readonly random: Prng;
  readonly disk: ActivityDisk;
  readonly files: SmallFiles;
  /** After each file that was encrypted: the LSN, and the blocks so far. */
  readonly #encrypted: { readonly lsn: number; readonly blocks: number }[] = [];

  constructor(seed: number, isDiscarding = false) {
    this.random = new Prng(seed);
    const onSuspicious = (suspicion: Suspicion): unknown => this.suspicions.push(suspicion);
    const timeline = new ActivityTimeline(WORDS, { bytesMax: 1 << 20, onSuspicious });
    this.disk = new ActivityDisk(timeline, WORDS, DISK_BLOCKS);
    this.files = new SmallFiles(this.disk, this.random, 2048, DISK_BLOCKS - 2048);
    this.files.isDiscarding = isDiscarding;
    for (let blocks = 0; blocks < 500 * MIB_BLOCKS; ) blocks += this.#any().length;
    this.edit(300);
  }

  /** Creates a file with the content of a real one. */
  #any(): Sizes {
    const sizes = content[this.random.below(content.length)] as Sizes;
    this.files.create(sizes);
    return sizes;
  }

  /** Files are made, changed in place, written anew beside the old one, and removed. */
  edit(mebibytes: number): void {
    for (let blocks = 0; blocks < mebibytes * MIB_BLOCKS; ) {
      const file = this.files.any();
      const changed = file.sizes.map((size) =>
        size === 0 || size === RAW_8
          ? size
          : Math.max(8, Math.min(483, size + this.random.below(21) - 10)),
      );
      const sort = this.random.below(10);
      if (sort < 4) blocks += this.#any().length;
      else if (sort < 8) this.files.overwrite(file, changed);
      else this.files.create(changed);
      if (sort < 4 || sort >= 8) this.files.remove(file);
      blocks += changed.length;
    }
  }

  /** What a backup, a film, or `dd if=/dev/urandom` writes. */
  createHard(mebibytes: number): void {
    this.files.create(hard(mebibytes * MIB_BLOCKS));
  }

  encryptInPlace(mebibytes: number): void {
    for (let blocks = 0; blocks < mebibytes * MIB_BLOCKS; ) {
      const file = this.files.any();
      this.files.overwrite(file, hard(file.sizes.length));
      blocks += file.sizes.length;
      this.#encrypted.push({ lsn: this.disk.lsn, blocks });
    }
  }

  encryptBeside(mebibytes: number): void {
    for (let blocks = 0; blocks < mebibytes * MIB_BLOCKS; ) {
      const file = this.files.any();
      this.files.create(hard(file.sizes.length));
      this.files.remove(file);
      blocks += file.sizes.length;
      this.#encrypted.push({ lsn: this.disk.lsn, blocks });
    }
  }

  /** What was encrypted already at the moment that is named as the last before it. */
  get lostMebibytes(): number {
    const { lastLsnBefore } = this.suspicions[0] as Suspicion;
    const last = this.#encrypted.findLast(({ lsn }) => lsn <= lastLsnBefore);
    return (last?.blocks ?? 0) / MIB_BLOCKS;
  }
}

function hard(count: number): Sizes {
  return new Array<number>(count).fill(RAW_8);
}

describe("with the files of this machine", () => {
  before(() => {
    content = ["/usr/share", "/usr/bin"].flatMap((folder) => filesBelow(folder, 16 * MIB_BLOCKS));
    ok(content.length > 50, "there are files to look at");
  });

  for (const seed of [1, 2]) {
    for (const bytesPerSecond of [1e6, 100e6])
      test(`encryption in place at ${bytesPerSecond / 1e6} MB/s is noticed (seed ${seed})`, () => {
        const used = new Used(seed);
        const { disk } = used;
        equal(used.suspicions.length, 0);
        const beginMicros = disk.micros;
        disk.bytesPerSecond = bytesPerSecond;
        used.encryptInPlace(160);
        equal(used.suspicions.length, 1);
        const [suspicion] = used.suspicions;
        ok(
          used.lostMebibytes < 4,
          "the moment before is before it, but for a file that didn't shrink",
        );
        ok(suspicion!.lastMicrosBefore > beginMicros - 20e6, "and not long before");
        ok(suspicion!.noticedMicros - beginMicros < (160e6 * 1e6) / bytesPerSecond);
      });

    test(`files written anew encrypted are noticed where freed space is trimmed (seed ${seed})`, () => {
      const used = new Used(seed, true);
      equal(used.suspicions.length, 0);
      used.encryptBeside(400);
      equal(used.suspicions.length, 1);
      ok(used.lostMebibytes < 4);
    });

    test(`what else doesn't shrink is not suspicious (seed ${seed})`, () => {
      for (const isDiscarding of [false, true]) {
        const used = new Used(seed, isDiscarding);
        // A restore of films to new space; logs that are packed and removed; then as always.
        used.createHard(300);
        used.edit(50);
        for (let day = 0; day < 4; day++) {
          const log = used.files.create(new Array<number>(40 * MIB_BLOCKS).fill(120));
          used.createHard(4);
          used.files.remove(log);
        }
        used.edit(100);
        equal(used.suspicions.length, 0);
      }
    });
  }
});
