// SPDX-License-Identifier: Apache-2.0
//
// Writes lines to a descriptor in the background and never lets it hurt the writer: what waits is
// bounded, a reader that stalls, goes away or has a full disk costs lines, and the lines that were lost
// are counted in the next one that gets through. (pino's own destination retries some failures for ever,
// at the end of the process too.)
//
//   write(line) ─▶ waiting lines (1 MiB) ─▶ one write under way ─▶ descriptor

import { write, writeSync } from "node:fs";

const WAITING_CHARACTERS_MAX = 1 << 20;
/** A full pipe is asked again after this; the end of the process waits for it no longer than that. */
const RETRY_MS = 100;
const FLUSH_MS_MAX = 1000;

export class LineWriter {
  readonly #descriptor: number;
  #waiting = "";
  /** What is being written; empty when nothing is. */
  #underWay: Uint8Array = new Uint8Array(0);
  /** A write is under way, or about to begin. */
  #isBusy = false;
  #lostCount = 0;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** Takes one line, with its newline. */
  write(line: string): void {
    if (this.#waiting.length + line.length > WAITING_CHARACTERS_MAX) this.#lostCount += 1;
    else this.#waiting += line;
    if (this.#isBusy) return;
    this.#isBusy = true;
    // The lines of one turn go out in one write.
    setImmediate(() => this.#next());
  }

  /** Writes what waits now, as far as the descriptor takes it within a second. */
  flush(): void {
    const deadline = performance.now() + FLUSH_MS_MAX;
    // What is under way may already be on its way out: twice is better than never.
    let rest: Uint8Array = Buffer.concat([this.#underWay, this.#takeWaiting()]);
    this.#underWay = new Uint8Array(0);
    const sleeper = new Int32Array(new SharedArrayBuffer(4));
    while (rest.length > 0 && performance.now() < deadline) {
      try {
        rest = rest.subarray(writeSync(this.#descriptor, rest));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN") return;
        Atomics.wait(sleeper, 0, 0, RETRY_MS);
      }
    }
  }

  #next(): void {
    if (this.#underWay.length === 0) this.#underWay = this.#takeWaiting();
    this.#isBusy = this.#underWay.length > 0;
    if (!this.#isBusy) return;
    write(this.#descriptor, this.#underWay, (error, writtenBytes) => {
      if (error?.code === "EAGAIN") {
        // Nobody waits for a log line: this timer keeps no process alive.
        setTimeout(() => this.#finish(0), RETRY_MS).unref();
        return;
      }
      if (error) {
        this.#lostCount += 1;
        this.#underWay = new Uint8Array(0);
      }
      this.#finish(writtenBytes);
    });
  }

  #finish(writtenBytes: number): void {
    this.#underWay = this.#underWay.subarray(writtenBytes);
    this.#next();
  }

  #takeWaiting(): Uint8Array {
    const lines = this.#waiting;
    this.#waiting = "";
    if (lines === "" || this.#lostCount === 0) return Buffer.from(lines);
    const lost = { level: "warn", event: "log.lines-lost", atLeast: this.#lostCount };
    this.#lostCount = 0;
    return Buffer.from(`${JSON.stringify(lost)}\n${lines}`);
  }
}
