// SPDX-License-Identifier: Apache-2.0
//
// `varve`: parses the command line, runs the command, and turns whatever it throws into a message, a
// hint and an exit code. Results go to stdout, words about them to stderr. Only the command that runs is
// loaded.

import { AssertionError, must } from "../base/assert.ts";
import { EXIT_CODE, StorageError, spell } from "../base/errors.ts";
import type { CommandContext } from "./command.ts";
import { connectDaemon } from "./daemon-client.ts";
import { LOADERS } from "./loaders.ts";
import { Output } from "./output.ts";
import { type CommandLine, parseCommandLine } from "./parser.ts";
import { poolDirectory } from "./pool-directory.ts";

async function main(words: readonly string[]): Promise<number> {
  const output = new Output(words.includes("--json"));
  try {
    const parsed = parseCommandLine(words);
    if (parsed.kind === "help") {
      if (parsed.isAsked) output.raw(parsed.text);
      else process.stderr.write(parsed.text);
      return parsed.isAsked ? EXIT_CODE.ok : EXIT_CODE.usage;
    }
    const name = parsed.kind === "command" ? parsed.row.name : "version";
    const line = parsed.kind === "command" ? parsed.line : { arguments: new Map(), options: {} };
    const load = must(LOADERS[name], "every command of the table has code");
    const command = await load();
    return (await command.run(contextOf(line, output))) ?? EXIT_CODE.ok;
  } catch (error) {
    return report(error, output);
  }
}

function contextOf(line: CommandLine, output: Output): CommandContext {
  const option = (name: string): string | undefined => {
    const value = line.options[name];
    return typeof value === "string" ? value : undefined;
  };
  const pool = (): Promise<string> => poolDirectory(option("pool"));
  return {
    argument: (name) => {
      const value = line.arguments.get(name);
      return typeof value === "string" ? value : undefined;
    },
    variadic: (name) => {
      const value = line.arguments.get(name);
      return typeof value === "object" ? value : [];
    },
    option,
    options: (name) => {
      const value = line.options[name];
      return typeof value === "object" ? value : [];
    },
    flag: (name) => line.options[name] === true,
    output,
    isJson: output.isJson,
    pool,
    daemon: async () => connectDaemon(await pool()),
  };
}

function report(error: unknown, output: Output): number {
  if (error instanceof StorageError) {
    output.error(error);
    return spell(error.code, "exit");
  }
  const { message, stack } = error as Error;
  const what = error instanceof AssertionError ? `broken invariant: ${message}` : message;
  output.error(new StorageError("INTERNAL", `varve: failed: ${what}`, { cause: error }));
  process.stderr.write(`${stack}\n`);
  return EXIT_CODE.bug;
}

process.exitCode = await main(process.argv.slice(2));
