// SPDX-License-Identifier: Apache-2.0
//
// What this machine is called, for people who look at what it left in a place that several machines use. Nothing goes by
// it: names of machines change, and two may have the same.

import { hostname } from "node:os";

const LENGTH_MAX = 64;

export function hostName(): string {
  return hostname().slice(0, LENGTH_MAX);
}
