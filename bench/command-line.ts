// SPDX-License-Identifier: Apache-2.0
//
// What the benchmarks' command lines have in common: choices out of a list, sizes, and a scratch directory that
// goes with them, also when they are interrupted.

import { Scratch } from "../test/interop/scratch.ts";
import { placeForStores } from "./machine.ts";
import { KIB } from "./rows.ts";

/** Ends with a sentence and the status of a wrong command line. */
export function refuse(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(2);
}

/** The names of a list with commas, each one of `all`; undefined: all of them. */
export function chosen<T extends string>(
  list: string | undefined,
  all: readonly T[],
  what: string,
): T[] {
  if (list === undefined) return [...all];
  return list.split(",").map((name) => {
    const found = all.find((one) => one === name);
    return found ?? refuse(`unknown ${what} "${name}": choose of ${all.join(", ")}`);
  });
}

/** Bytes. `units`: letters that may, or without `isPlainAllowed` must, follow the number. */
export function sizeOf(
  text: string,
  { units, example, isPlainAllowed = false }: SizeSpelling,
): number {
  const match = new RegExp(`^(\\d+)([${units}]${isPlainAllowed ? "?" : ""})$`).exec(text);
  if (!match) return refuse(`"${text}" isn't a size: write it like ${example}`);
  return Number(match[1]) * (match[2] ? KIB ** ("KMGT".indexOf(match[2]) + 1) : 1);
}

export interface SizeSpelling {
  /** Of KMGT. */
  readonly units: string;
  readonly example: string;
  readonly isPlainAllowed?: boolean;
}

/** Where the stores go: the named place, or one on the disk of the checkout. */
export async function openScratch(place: string | undefined): Promise<Scratch> {
  const scratch = await Scratch.create(place ?? (await placeForStores()));
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      void scratch[Symbol.asyncDispose]().finally(() => process.exit(130));
    });
  }
  return scratch;
}
