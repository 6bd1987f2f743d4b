// SPDX-License-Identifier: Apache-2.0
//
// Completion scripts from the command table. Each script holds the words of all commands and options;
// only the names of volumes are asked for when they are needed, from `varve list --names`, which fails
// silently without a daemon. The scripts stay in what each shell has had for ten years.

import { StorageError } from "../base/errors.ts";
import type { ArgumentRow, CommandRow, OptionRow } from "./command.ts";
import { COMMANDS, optionsOf } from "./command-table.ts";

const SHELLS: Readonly<Record<string, () => string>> = { bash, zsh, fish };

export function completionScript(shell: string): string {
  const script = SHELLS[shell];
  if (script === undefined) {
    throw new StorageError("USAGE", `shell "${shell}": not known`, {
      hint: `it is one of ${Object.keys(SHELLS).join(", ")}`,
    });
  }
  return script();
}

/** First words: "log" once for all of its commands. */
function firstWords(): string[] {
  return [...new Set(COMMANDS.map(({ name }) => name.split(" ")[0]!))];
}

function secondWords(first: string): string[] {
  return COMMANDS.filter(({ name }) => name.startsWith(`${first} `)).map(({ name }) =>
    name.slice(first.length + 1),
  );
}

function flagWords(row: CommandRow): string[] {
  return optionsOf(row).map(({ name }) => `--${name}`);
}

function takesFile(option: OptionRow): boolean {
  return ["FILE", "DIR", "PATH", "PROGRAM"].includes(option.value ?? "");
}

/** Bash: what completes an argument. */
function bashWords(argument: ArgumentRow | undefined): string {
  const completes = argument?.completes;
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's, not ours
  if (completes === "volume") return '$(varve list --names "${pool[@]}" 2>/dev/null)';
  if (typeof completes === "object") return completes.join(" ");
  return "";
}

function bash(): string {
  const families = firstWords().filter((word) => secondWords(word).length > 0);
  const cases = COMMANDS.map((row) => {
    const files = row.arguments.some(({ completes }) => completes === "file") ? "file" : "";
    const first = bashWords(row.arguments.find(({ completes }) => completes !== "file"));
    return [
      `    "${row.name}")`,
      `      options="${flagWords(row).join(" ")}"`,
      `      words="${first}"`,
      `      files="${files}" ;;`,
    ].join("\n");
  });
  // By name alone: an option that two commands have is completed to what either takes.
  const values = new Map<string, Set<string>>();
  for (const row of COMMANDS) {
    for (const { name, choices = [] } of optionsOf(row)) {
      const known = values.get(name) ?? new Set();
      for (const choice of choices) values.set(name, known.add(choice));
    }
  }
  const withFiles = [
    ...new Set(
      COMMANDS.flatMap((row) =>
        optionsOf(row)
          .filter(takesFile)
          .map(({ name }) => `--${name}`),
      ),
    ),
  ];
  return `# bash completion for varve; made by "varve completion bash"
_varve() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  local command= options= words= files= i
  local pool=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      --pool) pool=(--pool "\${COMP_WORDS[i+1]}") ;;
      -*) ;;
      *) if [ -z "$command" ]; then command=\${COMP_WORDS[i]}
         elif [[ " ${families.join(" ")} " == *" $command "* ]]; then command="$command \${COMP_WORDS[i]}"; fi ;;
    esac
  done
  case $previous in
    ${withFiles.join("|")}) COMPREPLY=($(compgen -f -- "$current")); return ;;
${[...values].map(([name, words]) => `    --${name}) COMPREPLY=($(compgen -W "${[...words].join(" ")}" -- "$current")); return ;;`).join("\n")}
  esac
  case $command in
    "") COMPREPLY=($(compgen -W "${firstWords().join(" ")} --help --version" -- "$current")); return ;;
${families.map((word) => `    "${word}") COMPREPLY=($(compgen -W "${secondWords(word).join(" ")}" -- "$current")); return ;;`).join("\n")}
${cases.join("\n")}
  esac
  if [[ $current == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [ -n "$files" ]; then COMPREPLY=($(compgen -f -- "$current") $(compgen -W "$words" -- "$current"))
  else COMPREPLY=($(compgen -W "$words" -- "$current")); fi
}
complete -o filenames -F _varve varve
`;
}

function zsh(): string {
  const describe = (name: string, summary: string): string =>
    `'${name}:${summary.replaceAll("'", "'\\''")}'`;
  const cases = COMMANDS.map((row) => {
    const options = optionsOf(row).map((option) => {
      const action = option.choices
        ? `:${option.value}:(${option.choices.join(" ")})`
        : option.value === undefined
          ? ""
          : `:${option.value}:${takesFile(option) ? "_files" : ""}`;
      const help = option.help.replaceAll(/[[\]:']/g, " ");
      return `'--${option.name}[${help}]${action}'`;
    });
    // Behind an argument that takes many words zsh knows no other place.
    const many = row.arguments.findIndex(({ isVariadic }) => isVariadic);
    const placed = many < 0 ? row.arguments : row.arguments.slice(0, many + 1);
    const positions = placed.map((argument) => {
      const place = argument.isVariadic ? "*" : argument.isOptional ? "::" : ":";
      const head = argument.isVariadic ? "*:" : place;
      return `'${head}${argument.name}:${zshAction(argument)}'`;
    });
    return `    '${row.name}') _arguments ${[...options, ...positions].join(" ")} ;;`;
  });
  const families = firstWords().filter((word) => secondWords(word).length > 0);
  return `#compdef varve
# zsh completion for varve; made by "varve completion zsh"
_varve_volumes() {
  local -a names
  names=(\${(f)"$(varve list --names 2>/dev/null)"})
  compadd -a names
}
_varve() {
  local command=$words[2]
  if (( CURRENT == 2 )); then
    local -a commands
    commands=(
${firstWords()
  .map(
    (word) =>
      `      ${describe(word, COMMANDS.find(({ name }) => name === word)?.summary ?? secondWords(word).join(", "))}`,
  )
  .join("\n")}
    )
    _describe command commands
    return
  fi
  case $command in
${families.map((word) => `    ${word}) if (( CURRENT == 3 )); then compadd ${secondWords(word).join(" ")}; return; fi; command="$command $words[3]"; shift words; (( CURRENT-- )) ;;`).join("\n")}
  esac
  shift words; (( CURRENT-- ))
  case $command in
${cases.join("\n")}
  esac
}
if [ "$funcstack[1]" = _varve ]; then _varve "$@"; else compdef _varve varve; fi
`;
}

function zshAction({ completes }: ArgumentRow): string {
  if (completes === "volume") return "_varve_volumes";
  if (completes === "file") return "_files";
  return typeof completes === "object" ? `(${completes.join(" ")})` : "";
}

function fish(): string {
  const quote = (text: string): string =>
    `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  const lines = [
    '# fish completion for varve; made by "varve completion fish"',
    "complete -c varve -f",
  ];
  for (const word of firstWords()) {
    const summary =
      COMMANDS.find(({ name }) => name === word)?.summary ?? secondWords(word).join(", ");
    lines.push(`complete -c varve -n __fish_use_subcommand -a ${word} -d ${quote(summary)}`);
  }
  for (const row of COMMANDS) {
    const [first, second] = row.name.split(" ");
    const seen = `__fish_seen_subcommand_from ${first}`;
    const condition =
      second === undefined ? seen : `${seen}; and __fish_seen_subcommand_from ${second}`;
    if (second !== undefined) {
      const others = secondWords(first!).join(" ");
      lines.push(
        `complete -c varve -n ${quote(`${seen}; and not __fish_seen_subcommand_from ${others}`)} -a ${second}`,
      );
    }
    for (const option of optionsOf(row)) {
      const kind = option.choices
        ? ` -x -a ${quote(option.choices.join(" "))}`
        : takesFile(option)
          ? " -r -F"
          : option.value === undefined
            ? ""
            : " -x";
      const letter = option.letter === undefined ? "" : ` -s ${option.letter}`;
      lines.push(
        `complete -c varve -n ${quote(condition)} -l ${option.name}${letter}${kind} -d ${quote(option.help)}`,
      );
    }
    for (const { completes } of row.arguments) {
      if (completes === "volume")
        lines.push(
          `complete -c varve -n ${quote(condition)} -a '(varve list --names 2>/dev/null)'`,
        );
      if (completes === "file") lines.push(`complete -c varve -n ${quote(condition)} -F`);
      if (typeof completes === "object")
        lines.push(`complete -c varve -n ${quote(condition)} -a ${quote(completes.join(" "))}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
