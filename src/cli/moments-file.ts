// SPDX-License-Identifier: Apache-2.0
//
// Which moment of a volume each record of an imported log became: a table in a file, for grep and for
// programs. A pool's own times never go back, so the log's times can't become the volume's: this file is
// where they are kept.
//
//   time                      moment      record           change  offset  bytes
//   2024-03-01T06:03:12.000Z  db@#1204    metafile…:17     write   40960   4096
//
// Columns are parted by tabs. Where the log has no times, or the LSN of a change isn't known, there is "-".

import { basename, dirname } from "node:path";
import { StorageError } from "../base/errors.ts";
import { stableName } from "../base/moment.ts";
import { formatTime } from "../base/units.ts";
import { openDirectory } from "../host/node/directory.ts";
import { fileKind } from "../host/node/text-file.ts";
import type { Directory, DiskFile } from "../host/ports.ts";
import type { ReplayedChange } from "../image/log-replay.ts";
import { checkPlaceFor, opening } from "./named-file.ts";

const TITLES = ["time", "moment", "record", "change", "offset", "bytes"];

export interface MomentRow {
  readonly timeMicros: number;
  readonly lsn: number;
  readonly place: string;
  readonly what: string;
}

/** What a table of moments takes. */
export interface MomentsTable {
  addRow(row: MomentRow): Promise<void>;
}

export class MomentsFile implements MomentsTable {
  readonly #directory: Directory;
  readonly #file: DiskFile;
  readonly #name: string;
  readonly #volume: string;
  #position = 0;

  private constructor(
    directory: Directory,
    file: DiskFile,
    about: { name: string; volume: string },
  ) {
    this.#directory = directory;
    this.#file = file;
    this.#name = about.name;
    this.#volume = about.volume;
  }

  /** Throws IMAGE_EXISTS. */
  static async create(path: string, volume: string): Promise<MomentsFile> {
    const what = `table "${path}": not written`;
    if ((await opening(what, () => fileKind(path))) !== "missing")
      throw new StorageError("IMAGE_EXISTS", `${what}: it exists`, { hint: "choose another name" });
    await checkPlaceFor(path);
    const name = basename(path);
    const directory = await opening(what, () => openDirectory(dirname(path)));
    const file = await opening(what, () => directory.open(name, "create"));
    const table = new MomentsFile(directory, file, { name, volume });
    await table.#append([TITLES]);
    return table;
  }

  add(replayed: readonly ReplayedChange[]): Promise<void> {
    return this.#append(
      replayed.map(({ change, lsn }) => [
        change.timeMicros === undefined ? "-" : formatTime(change.timeMicros),
        lsn === undefined ? "-" : stableName(this.#volume, lsn),
        change.place,
        change.kind,
        String(change.offsetBytes),
        String(change.lengthBytes),
      ]),
    );
  }

  /** A moment of a backup that was made anew. */
  addRow(row: MomentRow): Promise<void> {
    const { timeMicros, lsn, place, what } = row;
    return this.#append([
      [formatTime(timeMicros), stableName(this.#volume, lsn), place, what, "-", "-"],
    ]);
  }

  async close(): Promise<void> {
    await this.#file.datasync();
    await this.#file.close();
    await this.#directory.sync();
  }

  /** Half a table is none. */
  async discard(): Promise<void> {
    await this.#file.close();
    await this.#directory.remove(this.#name);
  }

  async #append(rows: readonly (readonly string[])[]): Promise<void> {
    const bytes = Buffer.from(`${rows.map((row) => row.join("\t")).join("\n")}\n`);
    await this.#file.write(bytes, this.#position);
    this.#position += bytes.length;
  }
}
