// SPDX-License-Identifier: Apache-2.0
//
// A picture of a disk in a terminal: rows of cells from its beginning to its end, each the darker the more of it differs.
//
//            0 │        ░▓█▒                                │
//      1.0 GiB │   ░                                        │

import { formatSize } from "../base/units.ts";

const UNICODE = "░▒▓█";
const ASCII = ".+x#";
const CELL_BYTES_MIN = 4096;
/** As many cells as a screen shows well; less where a disk is small. */
const ROWS_MAX = 16;
const LABEL_COLUMNS = 10;
const COLUMNS_MIN = 16;
const COLUMNS_MAX = 128;

export class DiffPicture {
  readonly #columns: number;
  readonly #cellBytes: number;
  readonly #cells: Float64Array;
  readonly #shades: string;

  constructor(options: {
    readonly sizeBytes: number;
    /** Of the terminal. */
    readonly columns: number;
    readonly isUnicode: boolean;
  }) {
    const { sizeBytes, columns, isUnicode } = options;
    const room = columns - LABEL_COLUMNS - 4;
    this.#columns = 2 ** Math.floor(Math.log2(Math.max(COLUMNS_MIN, Math.min(COLUMNS_MAX, room))));
    const cells = ROWS_MAX * this.#columns;
    const leastBytes = Math.max(CELL_BYTES_MIN, sizeBytes / cells);
    this.#cellBytes = 2 ** Math.ceil(Math.log2(leastBytes));
    this.#cells = new Float64Array(Math.ceil(sizeBytes / this.#cellBytes));
    this.#shades = isUnicode ? UNICODE : ASCII;
  }

  add(offsetBytes: number, lengthBytes: number): void {
    const endBytes = offsetBytes + lengthBytes;
    const end = Math.ceil(endBytes / this.#cellBytes);
    for (let cell = Math.floor(offsetBytes / this.#cellBytes); cell < end; cell++) {
      const from = Math.max(offsetBytes, cell * this.#cellBytes);
      const to = Math.min(endBytes, (cell + 1) * this.#cellBytes);
      this.#cells[cell] = (this.#cells[cell] as number) + to - from;
    }
  }

  lines(): string[] {
    const lines: string[] = [];
    const [left, right] = this.#shades === UNICODE ? ["│", "│"] : ["|", "|"];
    for (let first = 0; first < this.#cells.length; first += this.#columns) {
      const row = [...this.#cells.subarray(first, first + this.#columns)];
      const cells = row.map((bytes) => this.#shadeOf(bytes)).join("");
      const label = first === 0 ? "0" : formatSize(first * this.#cellBytes);
      lines.push(`${label.padStart(LABEL_COLUMNS)} ${left}${cells.padEnd(this.#columns)}${right}`);
    }
    const [least = "", , , most = ""] = this.#shades;
    lines.push(
      `${"".padEnd(LABEL_COLUMNS)}  a cell is ${formatSize(this.#cellBytes)}: "${least}" up to a quarter of it differs, "${most}" more than three`,
    );
    return lines;
  }

  /** Bytes that differ in each cell. */
  toJson(): { readonly cellBytes: number; readonly changedBytes: readonly number[] } {
    return { cellBytes: this.#cellBytes, changedBytes: [...this.#cells] };
  }

  #shadeOf(bytes: number): string {
    if (bytes === 0) return " ";
    const quarter = Math.ceil((bytes / this.#cellBytes) * this.#shades.length);
    return this.#shades[Math.min(this.#shades.length, quarter) - 1] as string;
  }
}
