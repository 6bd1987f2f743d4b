// SPDX-License-Identifier: Apache-2.0
//
// Makes a volume's past anew: the disk as it was when the window of the backup began, then each change in its order, so that
// each is a moment of the new volume. Times can't be taken over, for a pool's own never go back: a table says which moment
// each of the old ones became (moments-file.ts has the same of imported logs). Names of moments are given again.

import { EXTENT_KIND, type ExtentBatch } from "../backup/extents.ts";
import type { HistoryVisitor } from "../backup/history-page.ts";
import { HistoryReader } from "../backup/history-reader.ts";
import type { ManifestHistory } from "../backup/manifest.ts";
import { BLOCK_BYTES, GROUP_BYTES, GROUP_SLOTS, ordinalOf, slotOf } from "../backup/place.ts";
import type { TargetReader } from "../backup/target-reader.ts";
import type { NbdClient } from "../nbd/client.ts";
import type { DaemonClient } from "./daemon-client.ts";
import type { MomentsTable } from "./moments-file.ts";

/** One record each. */
const PIECE_BYTES: number = 1 << 20;

export interface HistoryRestore {
  readonly reader: TargetReader;
  readonly history: ManifestHistory;
  readonly daemon: DaemonClient;
  /** The new volume. */
  readonly volume: string;
  readonly client: NbdClient;
  readonly table: MomentsTable | undefined;
  readonly signal: AbortSignal;
  readonly onProgress: (entryCount: number) => void;
}

/** How many entries there were. */
export async function replayHistory(options: HistoryRestore): Promise<number> {
  const { reader, history } = options;
  const { store, sealer, packTable } = reader;
  const histories = new HistoryReader({ store, sealer, packs: packTable });
  const replay = new HistoryReplay(options);
  for (const part of history.parts) await histories.read(part, replay);
  return replay.entryCount;
}

class HistoryReplay implements HistoryVisitor {
  readonly #options: HistoryRestore;
  entryCount = 0;

  constructor(options: HistoryRestore) {
    this.#options = options;
  }

  async changed(
    lsn: number,
    timeMicros: number,
    extents: ExtentBatch,
    _hasMore: boolean,
  ): Promise<void> {
    for (let index = 0; index < extents.length; ) {
      const end = joinedEnd(extents, index);
      await this.#apply(extents, index, end);
      index = end;
    }
    await this.#done("change", lsn, timeMicros);
  }

  async flushed(lsn: number, timeMicros: number): Promise<void> {
    await this.#options.client.flush();
    await this.#done("flush", lsn, timeMicros);
  }

  async named(lsn: number, timeMicros: number, name: string): Promise<void> {
    const { daemon, volume } = this.#options;
    await daemon.call("takeSnapshot", { targets: [{ volume, name }] });
    await this.#done(`name ${name}`, lsn, timeMicros);
  }

  /** Extents [from, end), which lie one behind the other: one record of the old volume, one of the new. */
  async #apply(extents: ExtentBatch, from: number, end: number): Promise<void> {
    const { client } = this.#options;
    const offsetBytes = extents.lbas[from]! * BLOCK_BYTES;
    const last = extents.lbas[end - 1]! + extents.blockCounts[end - 1]!;
    // A change may reach beyond a disk that was made smaller later.
    const lengthBytes = Math.min(last * BLOCK_BYTES, client.sizeBytes) - offsetBytes;
    if (lengthBytes <= 0) return;
    const kind = extents.kinds[from]!;
    if (kind === EXTENT_KIND.hole) await client.trim(offsetBytes, lengthBytes);
    else if (kind === EXTENT_KIND.zero)
      await client.writeZeroes(offsetBytes, lengthBytes, { isHoleForbidden: true });
    else {
      const bytes = new Uint8Array(last * BLOCK_BYTES - offsetBytes);
      for (let index = from; index < end; index += 1)
        await this.#read(extents, index, bytes, offsetBytes);
      for (let at = 0; at < lengthBytes; at += PIECE_BYTES)
        await client.write(
          offsetBytes + at,
          bytes.subarray(at, Math.min(lengthBytes, at + PIECE_BYTES)),
        );
    }
  }

  async #read(
    extents: ExtentBatch,
    index: number,
    into: Uint8Array,
    offsetBytes: number,
  ): Promise<void> {
    const place = extents.places[index]!;
    const [first, count] = [slotOf(place), extents.blockCounts[index]!];
    const firstGroup = Math.floor(first / GROUP_SLOTS);
    const endGroup = Math.ceil((first + count) / GROUP_SLOTS);
    const groups = this.#options.reader.packs.groups(ordinalOf(place), firstGroup, endGroup);
    const target = extents.lbas[index]! * BLOCK_BYTES - offsetBytes;
    const start = first * BLOCK_BYTES;
    const end = start + count * BLOCK_BYTES;
    for (const [number, group] of groups.entries()) {
      const groupStart = (firstGroup + number) * GROUP_BYTES;
      const bytes = await group;
      const from = Math.max(start, groupStart);
      const to = Math.min(end, groupStart + bytes.length);
      into.set(bytes.subarray(from - groupStart, to - groupStart), target + from - start);
    }
  }

  async #done(what: string, lsn: number, timeMicros: number): Promise<void> {
    const { table, daemon, signal, onProgress } = this.#options;
    signal.throwIfAborted();
    this.entryCount += 1;
    onProgress(this.entryCount);
    if (table === undefined) return;
    const { headLsn } = await daemon.call("getPool", {});
    await table.addRow({ timeMicros, lsn: headLsn - 1, place: `#${lsn}`, what });
  }
}

/** Behind the extents that continue the one at `from`, and are of its kind. */
function joinedEnd({ lbas, blockCounts, kinds, length }: ExtentBatch, from: number): number {
  let end = from + 1;
  while (
    end < length &&
    kinds[end] === kinds[from] &&
    lbas[end] === lbas[end - 1]! + blockCounts[end - 1]!
  )
    end += 1;
  return end;
}
