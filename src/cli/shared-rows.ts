// SPDX-License-Identifier: Apache-2.0
//
// Rows of the command table that several of its parts have: an option of one name means the same to every command, and
// is described in the same words.

import type { OptionRow } from "./command.ts";

export const EXIT_WITH_PARENT: OptionRow = {
  name: "exit-with-parent",
  help: "End when standard input does: with the program that started it and holds it open",
};

export const PROGRESS: OptionRow = {
  name: "progress",
  value: "STYLE",
  help: "How to show progress on stderr; json is a line per second",
  standard: "bar on a terminal, else a line per minute",
  choices: ["bar", "lines", "json", "none"],
};
