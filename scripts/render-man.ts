// SPDX-License-Identifier: Apache-2.0
//
// Man pages from the command table and the settings table: one per command, an overview, and the
// configuration file. They are kept in docs/man so that a package only has to copy them; a tidy test
// compares them with what they should be, and UPDATE=1 makes it rewrite them.

import { EXPORTS_TABLE, environmentName, SETTING_NAMES, SETTINGS } from "../src/api/settings.ts";
import type { CommandRow } from "../src/cli/command.ts";
import { COMMANDS, optionsOf } from "../src/cli/command-table.ts";
import { argumentText, exitsOf, optionHelp, optionText } from "../src/cli/help.ts";

const FILES: readonly (readonly [string, string])[] = [
  ["DIR/control.sock", "where commands reach the daemon"],
  ["DIR/nbd.sock", "where NBD clients reach the volumes"],
  ["/etc/varve.toml", "the configuration file, by custom; name it with --config"],
];

/** File names below docs/man, and their texts. */
export function renderManPages(): ReadonlyMap<string, string> {
  const pages = new Map<string, string>();
  pages.set("varve.1", overviewPage());
  for (const row of COMMANDS) pages.set(`${pageName(row)}.1`, commandPage(row));
  pages.set("varve.toml.5", configurationPage());
  return pages;
}

function pageName(row: CommandRow): string {
  return `varve-${row.name.replace(" ", "-")}`;
}

function commandPage(row: CommandRow): string {
  const usage = [
    `\\fBvarve ${roff(row.name)}\\fR`,
    ...row.arguments.map(italicArgument),
    "[\\fIoptions\\fR]",
  ];
  return page(pageName(row), 1, [
    ["NAME", [`${roff(pageName(row))} \\- ${roff(row.summary)}`]],
    ["SYNOPSIS", [usage.join(" ")]],
    ["DESCRIPTION", paragraphs(row.description)],
    [
      "EXAMPLES",
      row.examples.flatMap(({ command, effect }) => term(`\\fB${roff(command)}\\fR`, effect)),
    ],
    [
      "OPTIONS",
      [
        ...row.arguments.flatMap(({ name, help }) => term(`\\fI${roff(name)}\\fR`, help)),
        ...optionsOf(row).flatMap((option) =>
          term(`\\fB${roff(optionText(option))}\\fR`, optionHelp(option)),
        ),
      ],
    ],
    ["JSON", [`With \\fB\\-\\-json\\fR: ${roff(row.json)}.`]],
    ["EXIT STATUS", exitsOf(row).flatMap(([code, text]) => term(String(code), text))],
    ["FILES", FILES.flatMap(([file, text]) => term(`\\fI${roff(file)}\\fR`, text))],
    ["SEE ALSO", [seeAlso(["varve(1)", ...(row.seeAlso ?? [])])]],
  ]);
}

function overviewPage(): string {
  return page("varve", 1, [
    ["NAME", ["varve \\- block storage that remembers"]],
    ["SYNOPSIS", ["\\fBvarve\\fR \\fICOMMAND\\fR [\\fIarguments\\fR] [\\fIoptions\\fR]"]],
    [
      "DESCRIPTION",
      paragraphs([
        "Varve serves virtual disks over NBD from one log on your own file system. A pool is a directory; its daemon is started with varve serve, and every other command talks to that daemon over a socket in the directory.",
        "Every command takes --pool DIR (or VARVE_POOL), --json and --help. Sizes are written like 512M, 10G or 1.5T and are binary. Results go to stdout, everything else to stderr.",
      ]),
    ],
    ["COMMANDS", COMMANDS.flatMap((row) => term(`\\fB${roff(pageName(row))}\\fR(1)`, row.summary))],
    [
      "EXAMPLES",
      [
        ...term("\\fBvarve serve &\\fR", "the daemon, in the default place"),
        ...term("\\fBvarve create db 100G\\fR", "a disk"),
        ...term("\\fBmkfs.ext4 $(varve attach db)\\fR", "a file system on it"),
      ],
    ],
    [
      "EXIT STATUS",
      exitsOf({
        ...COMMANDS[0]!,
        exits: ["notFound", "conflict", "unavailable", "corrupt", "bug"],
      }).flatMap(([code, text]) => term(String(code), text)),
    ],
    ["FILES", FILES.flatMap(([file, text]) => term(`\\fI${roff(file)}\\fR`, text))],
    ["SEE ALSO", [seeAlso([...COMMANDS.map((row) => `${pageName(row)}(1)`), "varve.toml(5)"])]],
  ]);
}

function configurationPage(): string {
  return page("varve.toml", 5, [
    ["NAME", ["varve.toml \\- settings of the varve daemon"]],
    ["SYNOPSIS", ["\\fBvarve serve \\-\\-config\\fR \\fIvarve.toml\\fR"]],
    [
      "DESCRIPTION",
      paragraphs([
        "A TOML file. Its keys are the options of varve serve without the dashes; each is also a variable of the environment. An option wins over the variable, the variable over the file. Unknown keys are refused.",
        'Sizes are texts like "10G" or numbers of bytes; times are texts like "10s". A list of addresses is a text with commas or a list of texts.',
      ]),
    ],
    [
      "EXAMPLES",
      [
        ".nf",
        'pool = "/srv/pool"',
        'memory = "2G"',
        'listen = "10.0.0.5:10809"',
        'tls = "required"',
        'tls\\-certificate = "/etc/varve/server.pem"',
        'tls\\-key = "/etc/varve/server.key"',
        'tls\\-ca = "/etc/varve/clients.pem"',
        "",
        "[exports.db]",
        'allow = ["certificate:backup address:10.0.0.0/8", "uid:1000"]',
        ".fi",
      ],
    ],
    [
      "OPTIONS",
      [
        ...SETTING_NAMES.flatMap((name) => {
          const row = SETTINGS[name];
          const standard = row.standardText ?? row.standard ?? "none";
          const facts = `${row.help}. Default: ${standard}. ${row.reason}`;
          return term(`\\fB${roff(name)}\\fR (\\fB${roff(environmentName(name))}\\fR)`, facts);
        }),
        ...term(
          `\\fB[${EXPORTS_TABLE}.NAME] allow\\fR`,
          'Who may open the volume NAME ("*": every volume without a table of its own): a list of entries, one of which must let the client in. An entry is one or more conditions, all of which must hold: address:NETWORK, uid:NUMBER, certificate:NAME, psk:IDENTITY; or everyone. Default: everyone.',
        ),
        ...term(
          `\\fB[${EXPORTS_TABLE}.NAME] needs\\-tls\\fR`,
          "true: the volume is only to be had over TLS. Default: false.",
        ),
      ],
    ],
    [
      "EXIT STATUS",
      ["An error in the file ends \\fBvarve serve\\fR with 2 before anything is touched."],
    ],
    ["FILES", FILES.flatMap(([file, text]) => term(`\\fI${roff(file)}\\fR`, text))],
    ["SEE ALSO", [seeAlso(["varve(1)", "varve-serve(1)"])]],
  ]);
}

type Section = readonly [title: string, lines: readonly string[]];

function page(name: string, section: number, sections: readonly Section[]): string {
  const lines = [
    '.\\" SPDX-License-Identifier: Apache-2.0',
    ".\\\" Generated from the command table; don't edit.",
    `.TH ${roff(name.toUpperCase())} ${section} "" "varve" "Varve"`,
    ...sections
      .filter(([, body]) => body.length > 0)
      .flatMap(([title, body]) => [`.SH ${title}`, ...body]),
  ];
  return `${lines.join("\n")}\n`;
}

function paragraphs(texts: readonly string[]): string[] {
  return texts.flatMap((text, index) => (index === 0 ? [roff(text)] : [".PP", roff(text)]));
}

function term(head: string, text: string): string[] {
  return [".TP", head, roff(text)];
}

function italicArgument(argument: CommandRow["arguments"][number]): string {
  return `\\fI${roff(argumentText(argument))}\\fR`;
}

function seeAlso(pages: readonly string[]): string {
  return [...new Set(pages)].map((name) => `\\fB${roff(name).replace("(", "\\fR(")}`).join(", ");
}

/** What roff would take for its own: backslashes, dashes that are options, dots and quotes that begin a line. */
function roff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll("`", "\\(ga")
    .replace(/^([.'])/gm, "\\&$1")
    .replace(/[^ -~\n]/g, (character) => {
      return `\\[u${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
    });
}
