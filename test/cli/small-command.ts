// SPDX-License-Identifier: Apache-2.0
//
// A command with a small daemon behind it, in this process: for what a command prints of answers that a real
// daemon gives only after hours.

import type { OperationName, Operations } from "../../src/api/types.ts";
import type { Command, CommandContext } from "../../src/cli/command.ts";
import { Output } from "../../src/cli/output.ts";

export interface Printed {
  readonly exitCode: number;
  /** Stdout, line by line. */
  readonly lines: readonly string[];
  /** Stderr. */
  readonly notes: readonly string[];
  readonly json: unknown;
}

// Each command's output listens there, and a test runs many commands.
process.stdout.setMaxListeners(100);

class KeptOutput extends Output {
  readonly lines: string[] = [];
  readonly notes: string[] = [];
  lastJson: unknown;

  override line(text = ""): void {
    this.lines.push(text);
  }

  override note(text: string): void {
    this.notes.push(text);
  }

  override json(value: unknown): void {
    this.lastJson = value;
  }
}

/** Runs it with flags ("--all") and options ("--every-write=1h"). Throws what it throws. */
export async function runCommand(
  command: Command,
  operations: Operations,
  words: readonly string[] = [],
): Promise<Printed> {
  const output = new KeptOutput(words.includes("--json"));
  const option = (name: string): string | undefined =>
    words.find((word) => word.startsWith(`--${name}=`))?.slice(name.length + 3);
  const daemon = {
    call: (operation: OperationName, input: never) => operations[operation](input),
  };
  const context = {
    argument: () => undefined,
    variadic: () => [],
    option,
    flag: (name: string) => words.includes(`--${name}`),
    output,
    isJson: output.isJson,
    daemon: async () => daemon,
  } as unknown as CommandContext;
  const exitCode = (await command.run(context)) ?? 0;
  return { exitCode, lines: output.lines, notes: output.notes, json: output.lastJson };
}
