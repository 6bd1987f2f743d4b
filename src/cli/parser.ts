// SPDX-License-Identifier: Apache-2.0
//
// The command table as a commander program. Commander splits the command line; what it refuses comes out
// as one of our errors with the nearest known word as the hint, and help is our own.

import { Argument, Command, CommanderError, Option } from "commander";
import { StorageError } from "../base/errors.ts";
import { nearest } from "../base/names.ts";
import type { CommandRow } from "./command.ts";
import { COMMANDS, optionsOf } from "./command-table.ts";
import { argumentText, optionText, renderFamily, renderHelp, renderOverview } from "./help.ts";

export type Parsed =
  | { readonly kind: "help"; readonly text: string; readonly isAsked: boolean }
  | { readonly kind: "version" }
  | { readonly kind: "command"; readonly row: CommandRow; readonly line: CommandLine };

export interface CommandLine {
  readonly arguments: ReadonlyMap<string, string | readonly string[]>;
  /** By name; true for one without a value, a list for a repeatable one. */
  readonly options: Readonly<Record<string, string | readonly string[] | boolean | undefined>>;
}

/** Throws USAGE. `words` is what stands behind "varve". */
export function parseCommandLine(words: readonly string[]): Parsed {
  const [first] = words;
  if (first === undefined) return { kind: "help", text: renderOverview(), isAsked: false };
  if (first === "--version" || first === "-V") return { kind: "version" };
  if (first === "--help" || first === "-h") return overview();
  if (first === "help") return helpFor(words.slice(1));
  const { before, words: own } = splitOptionsBefore(words);
  const found = findCommand(own);
  if (found === undefined) return family(own);
  const rest = [...before, ...own.slice(found.name.split(" ").length)];
  const end = rest.indexOf("--");
  const options = end === -1 ? rest : rest.slice(0, end);
  if (options.includes("--help") || options.includes("-h")) {
    return { kind: "help", text: renderHelp(found), isAsked: true };
  }
  return { kind: "command", row: found, line: parseWith(found, rest) };
}

/** `varve --pool DIR list`: what every command takes may stand before it, too. */
function splitOptionsBefore(words: readonly string[]): { before: string[]; words: string[] } {
  let count = 0;
  while (words[count]?.startsWith("-")) {
    const word = words[count] ?? "";
    if (word === "--pool") count += 2;
    else if (word === "--json" || word.startsWith("--pool=")) count += 1;
    else break;
  }
  return { before: words.slice(0, count), words: words.slice(count) };
}

/** The commands that begin with a word which is none itself ("log"). Throws USAGE for other words. */
function family(words: readonly string[]): Parsed {
  const [first, ...rest] = words;
  const isAsked = rest.includes("--help") || rest.includes("-h");
  const rows = COMMANDS.filter(({ name }) => name.startsWith(`${first} `));
  if (first === undefined || rows.length === 0 || (rest.length > 0 && !isAsked)) {
    throw unknownCommand(words);
  }
  return { kind: "help", text: renderFamily(first, rows), isAsked };
}

function overview(): Parsed {
  return { kind: "help", text: renderOverview(), isAsked: true };
}

function helpFor(words: readonly string[]): Parsed {
  if (words.length === 0) return overview();
  const found = findCommand(words);
  if (found === undefined) return family([...words, "--help"]);
  return { kind: "help", text: renderHelp(found), isAsked: true };
}

function findCommand(words: readonly string[]): CommandRow | undefined {
  const two = words.slice(0, 2).join(" ");
  return (
    COMMANDS.find(({ name }) => name === two) ?? COMMANDS.find(({ name }) => name === words[0])
  );
}

function unknownCommand(words: readonly string[]): StorageError {
  const first = words[0];
  if (first === undefined) return usage("command: missing", '"varve --help" lists all commands');
  if (first.startsWith("-")) {
    return usage(
      `option "${first}": not known before a command`,
      'write "varve COMMAND [options]"',
    );
  }
  const families = COMMANDS.filter(({ name }) => name.startsWith(`${first} `));
  if (families.length > 0) {
    const names = families.map(({ name }) => `"varve ${name}"`);
    const second = words[1] === undefined ? "" : ` ${words[1]}`;
    return usage(`command "${first}${second}": not known`, `write ${names.join(" or ")}`);
  }
  const guess = nearest(
    first,
    COMMANDS.map(({ name }) => name),
  );
  const hint =
    guess === undefined ? '"varve --help" lists all commands' : `did you mean "varve ${guess}"?`;
  return usage(`command "${first}": not known`, hint);
}

function parseWith(row: CommandRow, words: readonly string[]): CommandLine {
  const command = new Command(row.name)
    .helpOption(false)
    .exitOverride()
    .allowExcessArguments(false)
    .showSuggestionAfterError(false)
    .configureOutput({ writeErr: () => {}, writeOut: () => {} });
  const innerVariadic = row.arguments.slice(0, -1).findIndex(({ isVariadic }) => isVariadic);
  const declared =
    innerVariadic < 0
      ? row.arguments.map((argument) =>
          argumentText(argument).startsWith("[") ? bracket(argument) : angle(argument),
        )
      : ["[words...]"];
  for (const text of declared) command.addArgument(new Argument(text));
  for (const option of optionsOf(row)) {
    if (option.name === "help") continue;
    const value = option.value === undefined ? "" : ` <${option.value}>`;
    const letter = option.letter === undefined ? "" : `-${option.letter}, `;
    const declaredOption = new Option(`${letter}--${option.name}${value}`);
    if (option.isRepeatable)
      declaredOption.argParser((text: string, before: string[] = []) => [...before, text]);
    command.addOption(declaredOption);
  }
  try {
    command.parse([...words], { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) throw translate(error, row, words);
    throw error;
  }
  const values = command.opts() as CommandLine["options"];
  // Commander's own spelling of names is camelCase.
  const options = Object.fromEntries(
    optionsOf(row).map(({ name }) => [name, values[camelCase(name)]]),
  );
  checkChoices(row, options);
  const processed = command.processedArgs as (string | string[] | undefined)[];
  const dealt = innerVariadic < 0 ? processed : deal(row, innerVariadic, processed[0] ?? []);
  const found = row.arguments.map(({ name }, index) => [name, dealt[index]] as const);
  return {
    arguments: new Map(
      found.filter((pair): pair is [string, string | string[]] => pair[1] !== undefined),
    ),
    options,
  };
}

/**
 * Commander lets only the last argument take many words. Where it is another (IMAGE... VOLUME), all words come
 * as one list, and each argument but that one has one of them. Throws USAGE.
 */
function deal(row: CommandRow, variadic: number, list: string | string[]): (string | string[])[] {
  const words = [...list];
  const missing = row.arguments[words.length];
  if (missing !== undefined)
    throw usage(`argument ${missing.name}: missing`, `write "${usageShort(row)}"`);
  const behind = row.arguments.length - 1 - variadic;
  const end = words.length - behind;
  return [...words.slice(0, variadic), words.slice(variadic, end), ...words.slice(end)];
}

function bracket({ name, isVariadic }: CommandRow["arguments"][number]): string {
  return `[${name}${isVariadic ? "..." : ""}]`;
}

function angle({ name, isVariadic }: CommandRow["arguments"][number]): string {
  return `<${name}${isVariadic ? "..." : ""}>`;
}

function camelCase(name: string): string {
  return name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function checkChoices(row: CommandRow, options: CommandLine["options"]): void {
  for (const option of optionsOf(row)) {
    const value = options[option.name];
    if (option.choices === undefined || typeof value !== "string") continue;
    if (option.choices.includes(value)) continue;
    const guess = nearest(value, option.choices);
    throw usage(
      `option "--${option.name}": "${value}" refused: it is none of ${option.choices.join(", ")}`,
      guess === undefined ? `see "varve ${row.name} --help"` : `did you mean "${guess}"?`,
    );
  }
}

/** Commander's complaint in our words. */
function translate(error: CommanderError, row: CommandRow, words: readonly string[]): StorageError {
  const see = `see "varve ${row.name} --help"`;
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? "";
  switch (error.code) {
    case "commander.unknownOption": {
      const name = quoted.replace(/^-+/, "").replace(/=.*/, "");
      const names = optionsOf(row).map((option) => option.name);
      const guess = nearest(name, names);
      const hint = guess === undefined ? see : `did you mean "--${guess}"?`;
      return usage(`option "${quoted}": not known to "varve ${row.name}"`, hint);
    }
    case "commander.missingArgument":
      return usage(`argument ${quoted}: missing`, `write "${usageShort(row)}"`);
    case "commander.optionMissingArgument": {
      const option = row.options.find(({ name }) => quoted.includes(`--${name}`));
      const text = option === undefined ? quoted.replaceAll(/[<>]/g, "") : optionText(option);
      return usage(`option "${text}": its value is missing`, see);
    }
    case "commander.excessArguments": {
      const extra = words.filter((word) => !word.startsWith("-")).at(row.arguments.length);
      const which = extra === undefined ? "argument" : `argument "${extra}"`;
      return usage(
        `${which}: too many arguments for "varve ${row.name}"`,
        `write "${usageShort(row)}"`,
      );
    }
    default:
      return usage(error.message.replace(/^error: /, ""), see);
  }
}

function usageShort(row: CommandRow): string {
  return ["varve", row.name, ...row.arguments.map(argumentText)].join(" ");
}

function usage(message: string, hint: string): StorageError {
  return new StorageError("USAGE", message, { hint });
}
