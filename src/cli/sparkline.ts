// SPDX-License-Identifier: Apache-2.0
//
// A row of numbers as a row of small bars: ▁▂▃▄▅▆▇█ where the terminal shows them, .:-=+*#@ where it may not. Nothing is a
// space, and the least of something is the lowest bar, so that one write in a quiet night can be seen. More numbers than
// columns: each column shows the largest of its own, for a peak is what is looked for.

const UNICODE = "▁▂▃▄▅▆▇█";
const ASCII = ".:-=+*#@";

export interface SparklineOptions {
  /** Columns there are. */
  readonly columns: number;
  /** What a full bar means; without it, the largest of the numbers. */
  readonly full?: number;
  readonly isUnicode: boolean;
}

export function sparkline(values: readonly number[], options: SparklineOptions): string {
  const { columns, isUnicode } = options;
  const bars = isUnicode ? UNICODE : ASCII;
  const shown = largestPerColumn(values, columns);
  const full = options.full ?? Math.max(0, ...shown);
  return shown
    .map((value) => {
      if (value <= 0 || full <= 0) return " ";
      const height = Math.ceil((Math.min(value, full) / full) * bars.length);
      return bars[Math.max(1, height) - 1];
    })
    .join("");
}

/** The values, if they fit; else the largest of those that fall on each column. */
function largestPerColumn(values: readonly number[], columns: number): number[] {
  if (values.length <= columns) return [...values];
  const shown: number[] = [];
  for (let column = 0; column < columns; column++) {
    const from = Math.floor((column * values.length) / columns);
    const end = Math.floor(((column + 1) * values.length) / columns);
    shown.push(Math.max(...values.slice(from, end)));
  }
  return shown;
}

/** Whether the locale is UTF-8 and the terminal's font has the bars: that of the Linux console has not. */
export function showsBars(variable: (name: string) => string | undefined): boolean {
  const locale = variable("LC_ALL") ?? variable("LC_CTYPE") ?? variable("LANG") ?? "";
  const terminal = variable("TERM") ?? "dumb";
  return /utf-?8/i.test(locale) && terminal !== "dumb" && terminal !== "linux";
}
