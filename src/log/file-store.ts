// SPDX-License-Identifier: Apache-2.0
//
// Open files of the log's directory, for readers: opened on first use, at most `openMax` at once, the one used
// longest ago closed first, never while a read is under way.

import type { Directory, DiskFile } from "../host/ports.ts";

interface Entry {
  readonly opening: Promise<DiskFile>;
  /** Once it is open. */
  file: DiskFile | undefined;
  readers: number;
  /** Forgotten or pushed out: closed when the last read ends. */
  isGone: boolean;
}

export class FileStore {
  readonly #directory: Directory;
  readonly #nameOf: (number: number) => string;
  readonly #openMax: number;
  /** In order of use, oldest first. */
  readonly #entries: Map<number, Entry> = new Map();

  constructor(directory: Directory, nameOf: (number: number) => string, openMax: number) {
    this.#directory = directory;
    this.#nameOf = nameOf;
    this.#openMax = openMax;
  }

  async read(number: number, target: Uint8Array, position: number): Promise<number> {
    const entry = this.#entryFor(number);
    entry.readers += 1;
    try {
      const file = await entry.opening;
      return await file.read(target, position);
    } finally {
      entry.readers -= 1;
      if (entry.isGone && entry.readers === 0) await close(entry);
    }
  }

  async sizeBytes(number: number): Promise<number> {
    const entry = this.#entryFor(number);
    entry.readers += 1;
    try {
      return await (await entry.opening).sizeBytes();
    } finally {
      entry.readers -= 1;
      if (entry.isGone && entry.readers === 0) await close(entry);
    }
  }

  /** Reads without waiting, if the file is open already; else -1. Throws DISK_IO. */
  readNow(number: number, target: Uint8Array, position: number): number {
    const file = this.#entries.get(number)?.file;
    return file === undefined ? -1 : file.readSync(target, position);
  }

  /** The file is about to be removed. */
  async forget(number: number): Promise<void> {
    const entry = this.#entries.get(number);
    if (entry === undefined) return;
    this.#entries.delete(number);
    entry.isGone = true;
    if (entry.readers === 0) await close(entry);
  }

  async closeAll(): Promise<void> {
    for (const number of [...this.#entries.keys()]) await this.forget(number);
  }

  #entryFor(number: number): Entry {
    const present = this.#entries.get(number);
    if (present !== undefined) {
      this.#entries.delete(number);
      this.#entries.set(number, present);
      return present;
    }
    const entry: Entry = {
      opening: this.#directory.open(this.#nameOf(number), "read"),
      file: undefined,
      readers: 0,
      isGone: false,
    };
    entry.opening.then(
      (file) => {
        entry.file = file;
      },
      // A failed open is not kept; the read that asked for it reports it.
      () => this.#entries.delete(number),
    );
    this.#entries.set(number, entry);
    if (this.#entries.size > this.#openMax) this.#pushOut(number);
    return entry;
  }

  /** Closes the file used longest ago that nobody reads; never the one just opened. */
  #pushOut(opened: number): void {
    for (const [number, entry] of this.#entries) {
      if (entry.readers > 0 || number === opened) continue;
      this.#entries.delete(number);
      entry.isGone = true;
      void close(entry);
      return;
    }
  }
}

async function close(entry: Entry): Promise<void> {
  const file = await entry.opening.catch(() => undefined);
  await file?.close();
}
