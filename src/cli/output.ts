// SPDX-License-Identifier: Apache-2.0
//
// Where a command's words go: results to stdout, everything else to stderr, so that a pipe gets results
// only. Nothing from outside reaches a terminal raw: a volume's description could otherwise move the
// cursor. A reader that goes away early ends the command: quietly where the output was for people to look
// at (`varve list | head -1`), as a failure where it was a disk's content (`varve export db - | ...`), which
// is worthless when it is cut short.

import { EXIT_CODE, StorageError } from "../base/errors.ts";
import { fromSystem } from "../host/node/disk-file.ts";

/** The control characters that a terminal would obey, and those that would end a line or shift a column. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: exactly those are meant
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g;

export class Output {
  readonly isJson: boolean;
  /** Stdout carries a disk's content: bytes() throws what goes wrong with it. */
  #isContent = false;

  constructor(isJson: boolean) {
    this.isJson = isJson;
    process.stdout.on("error", (error: NodeJS.ErrnoException) => {
      if (!this.#isContent) this.#endEarly(error);
    });
  }

  get isTerminal(): boolean {
    return process.stdout.isTTY === true;
  }

  get width(): number {
    return process.stdout.columns ?? 80;
  }

  get height(): number {
    return process.stdout.rows ?? 24;
  }

  /** A line for people. */
  line(text = ""): void {
    process.stdout.write(`${plain(text)}\n`);
  }

  /** Text as it is: terminal sequences of our own, scripts. */
  raw(text: string): void {
    process.stdout.write(text);
  }

  /** One JSON document on lines of its own. */
  json(value: unknown): void {
    process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
  }

  /** One JSON document on one line, for streams. */
  jsonLine(value: unknown): void {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** Columns under their titles; numbers stand on the right. Nothing but the titles when empty. */
  table(titles: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
    for (const text of formatTable(titles, rows)) this.line(text);
  }

  /** "name: value" with the values in one column; a row without a name goes on with the one before. */
  facts(rows: readonly (readonly [string, string] | undefined)[]): void {
    const present = rows.filter((row) => row !== undefined);
    const width = Math.max(...present.map(([name]) => name.length)) + 2;
    for (const [name, value] of present) {
      const label = name === "" ? "" : `${name}:`;
      this.line(`${label.padEnd(width)}${value}`);
    }
  }

  /** A disk's content to stdout; resolves when there is room for more. Throws OUTPUT_CLOSED, DISK_FULL, DISK_IO. */
  async bytes(bytes: Uint8Array): Promise<void> {
    this.#isContent = true;
    await new Promise<void>((resolve, reject) => {
      process.stdout.write(bytes, (error) => (error ? reject(outputError(error)) : resolve()));
    });
  }

  /** Throws USAGE where binary content would land on a terminal. */
  refuseTerminal(what: string): void {
    if (!this.isTerminal) return;
    throw new StorageError("USAGE", `${what}: not written: stdout is a terminal`, {
      hint: "send it to a file or a pipe",
    });
  }

  /** Something worth knowing that isn't the result. */
  note(text: string): void {
    process.stderr.write(`varve: ${plain(text)}\n`);
  }

  /** A result for programs when stdout carries content. */
  noteJson(value: unknown): void {
    process.stderr.write(`${JSON.stringify(value)}\n`);
  }

  error(error: StorageError): void {
    if (this.isJson) {
      process.stderr.write(`${JSON.stringify({ error })}\n`);
      return;
    }
    process.stderr.write(`varve: error: ${plain(error.message)} [${error.code}]\n`);
    process.stderr.write(`varve: hint: ${plain(error.hint)}\n`);
  }

  #endEarly(error: NodeJS.ErrnoException): never {
    if (error.code === "EPIPE") process.exit(EXIT_CODE.ok);
    const failure = outputError(error);
    if (failure instanceof StorageError) this.error(failure);
    process.exit(EXIT_CODE.failed);
  }
}

/** What went wrong with stdout, as an error of ours. */
function outputError(error: NodeJS.ErrnoException): unknown {
  if (error.code !== "EPIPE") return fromSystem({ operation: "write", path: "stdout" }, error);
  return new StorageError("OUTPUT_CLOSED", "stdout: not written to its end: its reader has gone", {
    cause: error,
  });
}

export function formatTable(
  titles: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string[] {
  const cells = [titles.map(String), ...rows.map((row) => row.map((cell) => plain(String(cell))))];
  const widths = titles.map((_, column) =>
    Math.max(...cells.map((row) => row[column]?.length ?? 0)),
  );
  const isNumber = titles.map((_, column) =>
    rows.every((row) => typeof row[column] === "number" || isQuantity(String(row[column]))),
  );
  return cells.map((row) =>
    row
      .map((cell, column) =>
        isNumber[column] && rows.length > 0
          ? cell.padStart(widths[column]!)
          : cell.padEnd(widths[column]!),
      )
      .join("  ")
      .trimEnd(),
  );
}

function isQuantity(text: string): boolean {
  return /^(-|-?[\d.]+( ?[KMGTP]?i?B(\/s)?|%)?)$/.test(text);
}

/** Control characters made visible, tabs and line ends too: what is printed is one line. */
export function plain(text: string): string {
  return text.replace(CONTROL, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
}

/**
 * Asks on the terminal; anything but "yes" or "y" is no. Without a terminal nobody can be asked, and
 * the command must not guess.
 */
export async function confirm(question: string, instead: string): Promise<boolean> {
  if (process.stdin.isTTY !== true) {
    throw new StorageError("USAGE", `${question}: not done: there is no terminal to ask on`, {
      hint: instead,
    });
  }
  process.stderr.write(`${plain(question)}? [y/N] `);
  process.stdin.setEncoding("utf8");
  for await (const chunk of process.stdin) {
    process.stdin.pause();
    return /^y(es)?\s*$/i.test(String(chunk));
  }
  return false;
}
