// SPDX-License-Identifier: Apache-2.0
//
// Pairs of BlockCDP as changes of a disk, in the order of their names and, within one, of their lines. The
// time of a line is when it was written, to the second, and may go back when somebody set the clock: the
// order stays that of the lines.

import type { DiskFile } from "../host/ports.ts";
import { BLOCKCDP_BYTES_MAX, LINE_BYTES_MAX, type MetaLine, parseMetaLine } from "./blockcdp.ts";
import { unsupported } from "./image-error.ts";
import {
  type LogDamage,
  type LoggedChange,
  type LogSurvey,
  logChanged,
  type SeedLog,
} from "./seed-log.ts";

export interface BlockCdpPair {
  /** Of the metafile, as messages say it. */
  readonly name: string;
  /** There may be thousands of pairs: each is open only while it is read. */
  readonly openMeta: () => Promise<DiskFile>;
  readonly openData: () => Promise<DiskFile>;
}

export interface BlockCdpOptions {
  /** How far the clock that made the times was ahead of UTC, as in "+08:00". */
  readonly utcOffset: string;
}

export class BlockCdpSource implements SeedLog {
  readonly format = "blockcdp";
  readonly #pairs: readonly BlockCdpPair[];
  readonly #options: BlockCdpOptions;
  /** How many lines of each pair count, once that is known. */
  #accepted: readonly number[] = [];

  constructor(pairs: readonly BlockCdpPair[], options: BlockCdpOptions) {
    this.#pairs = pairs;
    this.#options = options;
  }

  async survey(): Promise<LogSurvey> {
    const survey = new PairsSurvey();
    for (const pair of this.#pairs) {
      await survey.take(pair, this.#options);
      if (survey.damage !== undefined) break;
    }
    this.#accepted = survey.accepted;
    if (survey.changeCount === 0 && survey.damage === undefined) {
      throw unsupported(
        this.#pairs.map(({ name }) => name).join(" "),
        "it records no write",
        "name all metafiles, or the directory that holds the pairs",
      );
    }
    const { logBytes, changeCount, endBytes, damage } = survey;
    return {
      ...{ logBytes, changeCount, endBytes, warnings: survey.warnings(), damage },
      ...{ leftOutCount: 0, leftOut: [] },
    };
  }

  async *changes(): AsyncGenerator<LoggedChange, void, undefined> {
    let doneBytes = 0;
    for (const [at, pair] of this.#pairs.entries()) {
      const acceptedCount = this.#accepted[at] ?? 0;
      const { meta, data } = await openPair(pair);
      try {
        const lines = new MetaLines(meta, await meta.sizeBytes());
        for (let count = 0; count < acceptedCount; count += 1) {
          const text = await lines.next();
          const line = parseMetaLine(text ?? "", this.#options.utcOffset);
          if (line === undefined) throw logChanged(pair.name);
          doneBytes += line.lengthBytes;
          if (line.lengthBytes === 0) continue;
          const { offsetBytes, lengthBytes, dataPosition, timeMicros } = line;
          yield {
            ...{ kind: "write", offsetBytes, lengthBytes, dataPosition, timeMicros, doneBytes },
            ...{ isHoleForbidden: false, isForceUnitAccess: false, file: data },
            place: `${pair.name}:${lines.number}`,
          };
        }
      } finally {
        await meta.close();
        await data.close();
      }
    }
  }

  async close(): Promise<void> {}
}

async function openPair({ openMeta, openData }: BlockCdpPair): Promise<Record<Part, DiskFile>> {
  const meta = await openMeta();
  try {
    return { meta, data: await openData() };
  } catch (error) {
    await meta.close();
    throw error;
  }
}

type Part = "meta" | "data";

class PairsSurvey {
  readonly accepted: number[] = [];
  logBytes = 0;
  changeCount = 0;
  endBytes = 0;
  damage: LogDamage | undefined;
  #gapCount = 0;
  #firstGap = "";
  #backCount = 0;
  #firstBack = "";
  #lastMicros = 0;

  async take(pair: BlockCdpPair, options: BlockCdpOptions): Promise<void> {
    const { meta, data } = await openPair(pair);
    try {
      const lines = new MetaLines(meta, await meta.sizeBytes());
      await this.#takeLines(pair.name, { lines, dataBytes: await data.sizeBytes() }, options);
    } finally {
      await meta.close();
      await data.close();
    }
  }

  async #takeLines(
    name: string,
    { lines, dataBytes }: { lines: MetaLines; dataBytes: number },
    { utcOffset }: BlockCdpOptions,
  ): Promise<void> {
    let count = 0;
    let dataEnd = 0;
    for (;;) {
      const text = await lines.next();
      if (text === undefined) break;
      const place = `${name}:${lines.number}`;
      const line = parseMetaLine(text, utcOffset);
      const reason =
        line === undefined ? wrongLine(lines) : wrongPlace(line, { dataEnd, dataBytes });
      if (line === undefined || reason !== undefined) {
        this.damage = { place, reason: reason ?? "" };
        break;
      }
      this.#note(line, place, dataEnd);
      dataEnd = line.dataPosition + line.lengthBytes;
      count += 1;
    }
    if (this.damage === undefined && dataBytes > dataEnd)
      this.#noteGap(`${name}:${lines.number + 1}`);
    this.accepted.push(count);
  }

  warnings(): string[] {
    const warnings: string[] = [];
    if (this.#gapCount > 0) {
      warnings.push(
        `gaps in the datafile, bytes that no line is about: ${this.#gapCount}, first before ${this.#firstGap}: writes are missing`,
      );
    }
    if (this.#backCount > 0) {
      warnings.push(
        `steps back of the clock: ${this.#backCount}, first at ${this.#firstBack}: the order of the lines counts, not their times`,
      );
    }
    if (this.endBytes === BLOCKCDP_BYTES_MAX)
      warnings.push("it writes up to 2 TiB, where its sectors end: was the disk larger?");
    return warnings;
  }

  #note(line: MetaLine, place: string, dataEnd: number): void {
    if (line.dataPosition > dataEnd) this.#noteGap(place);
    if (line.timeMicros < this.#lastMicros) {
      if (this.#backCount === 0) this.#firstBack = place;
      this.#backCount += 1;
    }
    this.#lastMicros = line.timeMicros;
    if (line.lengthBytes === 0) return;
    this.changeCount += 1;
    this.logBytes += line.lengthBytes;
    this.endBytes = Math.max(this.endBytes, line.offsetBytes + line.lengthBytes);
  }

  #noteGap(place: string): void {
    if (this.#gapCount === 0) this.#firstGap = place;
    this.#gapCount += 1;
  }
}

function wrongLine(lines: MetaLines): string {
  return lines.isLastCut ? "the last line is cut short" : "this line is no record of a write";
}

function wrongPlace(
  { dataPosition, lengthBytes }: MetaLine,
  { dataEnd, dataBytes }: { dataEnd: number; dataBytes: number },
): string | undefined {
  if (dataPosition < dataEnd) {
    return `its data begins at ${dataPosition}, inside that of the line before: two disks may have written the same files`;
  }
  const end = dataPosition + lengthBytes;
  if (end <= dataBytes) return undefined;
  return `its data ends at ${end}, the datafile at ${dataBytes}`;
}

/** The lines of a metafile, one in memory at a time. */
class MetaLines {
  readonly #file: DiskFile;
  readonly #fileBytes: number;
  readonly #window = Buffer.alloc(16 << 10);
  #start = 0;
  #end = 0;
  #position = 0;
  /** Of the line that was given last, from 1. */
  number = 0;
  /** The line that was given last has no end. */
  isLastCut = false;

  constructor(file: DiskFile, fileBytes: number) {
    this.#file = file;
    this.#fileBytes = fileBytes;
  }

  /** The next line that isn't empty, a long one without its content; undefined at the end. */
  async next(): Promise<string | undefined> {
    for (;;) {
      let at = this.#window.subarray(this.#start, this.#end).indexOf("\n");
      if (at < 0 && this.#end - this.#start <= LINE_BYTES_MAX) {
        await this.#fill();
        at = this.#window.subarray(this.#start, this.#end).indexOf("\n");
      }
      const rest = this.#end - this.#start;
      if (rest === 0) return undefined;
      this.number += 1;
      this.isLastCut = at < 0 && rest <= LINE_BYTES_MAX;
      const bytes = at < 0 ? rest : at;
      const text = this.#window.toString("latin1", this.#start, this.#start + bytes).trim();
      this.#start += at < 0 ? rest : at + 1;
      if (bytes > LINE_BYTES_MAX) return "(a long line)";
      if (text !== "") return text;
    }
  }

  async #fill(): Promise<void> {
    this.#window.copyWithin(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    const room = Math.min(this.#window.length - this.#end, this.#fileBytes - this.#position);
    if (room <= 0) return;
    const target = this.#window.subarray(this.#end, this.#end + room);
    const count = await this.#file.read(target, this.#position);
    this.#position += count;
    this.#end += count;
  }
}
