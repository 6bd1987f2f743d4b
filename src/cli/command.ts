// SPDX-License-Identifier: Apache-2.0
//
// What a command is: a row of the command table (command-table.ts) and the code behind it, which is only
// loaded when it runs, so that `varve serve` starts without paying for the others. Everything that
// describes a command (--help, man pages, shell completion, the parser itself) is made from the row.

import type { EXIT_CODE } from "../base/errors.ts";
import type { DaemonClient } from "./daemon-client.ts";
import type { Output } from "./output.ts";

export interface OptionRow {
  /** "force" is --force. */
  readonly name: string;
  /** "f" is -f. */
  readonly letter?: string;
  /** What stands behind it, "SIZE"; undefined: nothing. */
  readonly value?: string;
  readonly isRequired?: boolean;
  /** May be given several times. */
  readonly isRepeatable?: boolean;
  readonly help: string;
  /** Shown as the default. */
  readonly standard?: string;
  readonly choices?: readonly string[];
}

export interface ArgumentRow {
  /** As it is shown: VOLUME. */
  readonly name: string;
  readonly help: string;
  readonly isOptional?: boolean;
  /** Takes all that follow. */
  readonly isVariadic?: boolean;
  /** What a shell completes it to. */
  readonly completes?: "volume" | "file" | "nothing" | readonly string[];
}

export interface ExampleRow {
  readonly command: string;
  readonly effect: string;
}

export interface CommandRow {
  /** "create"; "log dump" for a command of two words. */
  readonly name: string;
  /** One line, lower-case, without a period. */
  readonly summary: string;
  /** Paragraphs. */
  readonly description: readonly string[];
  readonly arguments: readonly ArgumentRow[];
  /** Beyond --pool, --json and --help, which every command has. */
  readonly options: readonly OptionRow[];
  readonly examples: readonly ExampleRow[];
  /** Beyond ok, failed and usage, which every command has. */
  readonly exits: readonly (keyof typeof EXIT_CODE)[];
  /** What --json prints. */
  readonly json: string;
  readonly seeAlso?: readonly string[];
  /** Doesn't look for a pool: --pool is not taken. */
  readonly isPoolless?: boolean;
}

export interface Command {
  /** Returns the exit code, when it isn't 0. Failures are thrown. */
  run(context: CommandContext): Promise<number | undefined>;
}

/** What a command gets to work with. */
export interface CommandContext {
  /** By the names in the table; a missing optional one is undefined. */
  readonly argument: (name: string) => string | undefined;
  readonly variadic: (name: string) => readonly string[];
  /** The text behind an option. */
  readonly option: (name: string) => string | undefined;
  /** Those behind a repeatable option, in order. */
  readonly options: (name: string) => readonly string[];
  readonly flag: (name: string) => boolean;
  readonly output: Output;
  readonly isJson: boolean;
  /** The pool's directory as the user named it, or the default. */
  readonly pool: () => Promise<string>;
  /** The daemon of that pool. */
  readonly daemon: () => Promise<DaemonClient>;
}

/** An argument that the parser has made sure of. */
export function required(context: CommandContext, name: string): string {
  return context.argument(name) ?? "";
}
