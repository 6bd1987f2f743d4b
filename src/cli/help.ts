// SPDX-License-Identifier: Apache-2.0
//
// --help, made from the command table: what it does, how it is written, its options, examples and exit
// codes. Man pages say the same at more length; both read the texts below.

import { EXIT_CODE } from "../base/errors.ts";
import type { ArgumentRow, CommandRow, OptionRow } from "./command.ts";
import { COMMANDS, optionsOf } from "./command-table.ts";

const WIDTH = 80;

const EXIT_TEXTS: Readonly<Record<keyof typeof EXIT_CODE, string>> = {
  ok: "done",
  failed: "failed; the message says why",
  usage: "the command line or a setting is wrong",
  notFound: "what was named isn't there",
  conflict: "it exists already, is in use, or is locked",
  unavailable: "the daemon doesn't run or can't serve now",
  corrupt: "damaged data was found",
  bug: "a bug of varve",
};

/** Every command's exit codes, in ascending order. */
export function exitsOf(row: CommandRow): readonly (readonly [number, string])[] {
  const names = new Set<keyof typeof EXIT_CODE>(["ok", "failed", "usage", ...row.exits]);
  return [...names]
    .map((name) => [EXIT_CODE[name], EXIT_TEXTS[name]] as const)
    .sort((a, b) => a[0] - b[0]);
}

/** "varve create NAME SIZE [options]" */
export function usageOf(row: CommandRow): string {
  return ["varve", row.name, ...row.arguments.map(argumentText), "[options]"].join(" ");
}

export function argumentText({ name, isOptional, isVariadic }: ArgumentRow): string {
  const text = isVariadic ? `${name}...` : name;
  return isOptional ? `[${text}]` : text;
}

/** "-v, --verbose" or "--size SIZE" */
export function optionText({ name, letter, value }: OptionRow): string {
  const long = value === undefined ? `--${name}` : `--${name} ${value}`;
  return letter === undefined ? long : `-${letter}, ${long}`;
}

export function optionHelp({ help, choices, standard }: OptionRow): string {
  const facts = [
    choices === undefined ? undefined : choices.join(", "),
    standard === undefined ? undefined : `default: ${standard}`,
  ].filter((fact) => fact !== undefined);
  return facts.length === 0 ? help : `${help} (${facts.join("; ")})`;
}

export function renderHelp(row: CommandRow): string {
  const lines = [
    `varve ${row.name} - ${row.summary}`,
    "",
    `Usage: ${usageOf(row)}`,
    ...row.description.flatMap((text) => ["", ...wrap(text, 0)]),
    ...section(
      "Arguments",
      row.arguments.map(({ name, help }) => [name, help]),
    ),
    ...section(
      "Options",
      optionsOf(row).map((option) => [optionText(option), optionHelp(option)]),
    ),
    ...section("JSON", [], wrap(row.json, 2)),
    ...section(
      "Examples",
      [],
      row.examples.flatMap(({ command, effect }) => [`  ${command}`, `      ${effect}`]),
    ),
    ...section(
      "Exit status",
      exitsOf(row).map(([code, text]) => [String(code), text]),
    ),
  ];
  return `${lines.join("\n")}\n`;
}

export function renderOverview(): string {
  const lines = [
    "varve - block storage that remembers",
    "",
    "Usage: varve COMMAND [arguments] [options]",
    ...section(
      "Commands",
      COMMANDS.map(({ name, summary }) => [name, summary]),
    ),
    "",
    ...wrap(
      'Commands talk to the daemon of a pool, which "varve serve" starts. Every command takes --pool DIR (or VARVE_POOL), --json and --help.',
      0,
    ),
  ];
  return `${lines.join("\n")}\n`;
}

/** The commands of two words that begin with the same one. */
export function renderFamily(word: string, rows: readonly CommandRow[]): string {
  const lines = [
    `Usage: varve ${word} COMMAND [arguments] [options]`,
    ...section(
      "Commands",
      rows.map(({ name, summary }) => [name, summary]),
    ),
  ];
  return `${lines.join("\n")}\n`;
}

function section(
  title: string,
  rows: readonly (readonly [string, string])[],
  lines: readonly string[] = [],
): string[] {
  if (rows.length === 0 && lines.length === 0) return [];
  const column = Math.min(26, Math.max(0, ...rows.map(([term]) => term.length)) + 4);
  const entries = rows.flatMap(([term, text]) => {
    const wrapped = wrap(text, column);
    const head = `  ${term}`;
    if (head.length + 2 > column) return [head, ...wrapped];
    return [head.padEnd(column) + (wrapped[0] ?? "").trimStart(), ...wrapped.slice(1)];
  });
  return ["", `${title}:`, ...entries, ...lines];
}

/** Lines of at most WIDTH characters, each behind `indent` spaces. */
function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines.map((part) => " ".repeat(indent) + part);
}
