// SPDX-License-Identifier: Apache-2.0
//
// What a read may show while requests fail, on the model alone: the smallest histories in which a model too
// strict refuses a store that is right, and one too lax lets a store lose what it acknowledged.

import { equal, notEqual } from "node:assert/strict";
import { test } from "node:test";
import { fillContent, SECTOR_BYTES } from "../../src/sim/content.ts";
import { DiskModel } from "../../src/sim/model.ts";
import type { ModelOperation } from "../../src/sim/model-operation.ts";
import type { VolumeModel } from "../../src/sim/model-volume.ts";
import type { Violation } from "../../src/sim/violation.ts";

const EIO = 5;

/** A model of one volume, in which every operation is on its first sector. */
class Sector {
  readonly model: DiskModel = new DiskModel({ ack: "written" });
  readonly volume: VolumeModel;

  constructor() {
    this.model.areFailuresExpected = true;
    const creation = this.model.createVolume("a", 8 * SECTOR_BYTES);
    this.volume = creation.volume as VolumeModel;
    this.model.end(creation, 0);
    this.flush(0);
  }

  begin(options: { readonly isForced?: boolean } = {}): ModelOperation {
    return this.model.begin(this.volume, {
      change: { kind: "write", pattern: "stamped" },
      lengthBytes: SECTOR_BYTES,
      isForceUnitAccess: options.isForced ?? false,
    });
  }

  write(errno: number): ModelOperation {
    const operation = this.begin();
    this.model.end(operation, errno);
    return operation;
  }

  flush(errno: number): void {
    this.model.endFlush(this.model.beginFlush(), errno);
  }

  /** Begins a read; the function that is returned ends it with what `shown` wrote. */
  read(): (shown: ModelOperation | undefined) => Violation | undefined {
    const read = this.model.beginRead(this.volume, 0, SECTOR_BYTES);
    return (shown) => this.model.endRead(read, contentOf(shown));
  }
}

function contentOf(operation: ModelOperation | undefined): Uint8Array {
  const bytes = new Uint8Array(SECTOR_BYTES);
  if (operation === undefined) return bytes;
  const { volume, sequence } = operation;
  fillContent(bytes, { volumeId: volume.id, sequence, pattern: "stamped" }, 0);
  return bytes;
}

/** Two writes under way when a read is called; the first becomes durable, then the second fails. */
function uncovered(): { sector: Sector; first: ModelOperation; second: ModelOperation } & {
  end: (shown: ModelOperation | undefined) => Violation | undefined;
} {
  const sector = new Sector();
  const first = sector.begin({ isForced: true });
  const second = sector.begin();
  const end = sector.read();
  // Later writes lie over both as long as nobody knows better.
  sector.begin();
  sector.model.end(first, 0);
  sector.model.end(second, EIO);
  return { sector, first, second, end };
}

test("a read shows what became durable while it waited, where the write over that failed", () => {
  const { first, end } = uncovered();
  equal(end(first), undefined);
});

test("a read may show a write that failed while it waited", () => {
  const { second, end } = uncovered();
  equal(end(second), undefined);
});

test("a read never shows what lay below a write that was called before it and ended well", () => {
  const { end } = uncovered();
  notEqual(end(undefined), undefined);
});

test("a write that ended well is not uncovered by one that was called before it and failed later", () => {
  const sector = new Sector();
  const first = sector.begin();
  const second = sector.begin({ isForced: true });
  const end = sector.read();
  sector.model.end(second, 0);
  sector.model.end(first, EIO);
  sector.flush(0);
  notEqual(end(first), undefined);
  equal(sector.read()(second), undefined);
});

test("a failed flush takes nothing back from reads, durable or not", () => {
  const sector = new Sector();
  const durable = sector.write(0);
  sector.flush(0);
  const acknowledged = sector.write(0);
  sector.flush(EIO);
  const failed = sector.write(EIO);
  equal(sector.read()(acknowledged), undefined);
  equal(sector.read()(failed), undefined);
  notEqual(sector.read()(durable), undefined);
});
