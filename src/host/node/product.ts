// SPDX-License-Identifier: Apache-2.0
//
// Which Varve this is: the version in package.json, read from the checkout or the installed package, so
// that it is said in one place only.

import { readFileSync } from "node:fs";

export const NODE_VERSION: string = process.versions.node;

let version: string | undefined;

export function productVersion(): string {
  // src/host/node/ and dist/host/node/ are equally deep.
  version ??= (
    JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
      version: string;
    }
  ).version;
  return version;
}
