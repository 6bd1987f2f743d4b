// SPDX-License-Identifier: Apache-2.0
//
// How a command is told the key of a backup target (backup-target.ts): by the name of a file, never by the key itself,
// for others can see what stands on a command line.

import type { OptionRow } from "./command.ts";

export const KEY_OPTIONS: readonly OptionRow[] = [
  { name: "key-file", value: "FILE", help: "The target's key: 32 random bytes, or 64 hex digits" },
  { name: "passphrase-file", value: "FILE", help: "A file with the target's passphrase" },
];
