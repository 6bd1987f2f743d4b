// SPDX-License-Identifier: Apache-2.0
//
// The only reader of environment variables. Few are read, and all begin with VARVE_ or belong to a
// protocol (LISTEN_FDS of systemd). Whoever needs one asks here, so that a search for
// `environmentVariable` lists everything that the surroundings can change.

/** The variable's value; unset and empty are the same. */
export function environmentVariable(name: string): string | undefined {
  const value = process.env[name];
  return value === "" ? undefined : value;
}

/** The names of all variables that begin with VARVE_ and aren't empty. */
export function environmentNames(): readonly string[] {
  return Object.keys(process.env).filter(
    (name) => name.startsWith("VARVE_") && environmentVariable(name) !== undefined,
  );
}
