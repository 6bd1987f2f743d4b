// SPDX-License-Identifier: Apache-2.0
//
// The table of bench/reduction.ts: what each system stored, as plain text that is also Markdown. Ratios
// below 1 in the last column mean that Varve stores less than that system.

import type { Machine } from "./machine.ts";
import { PEER_KINDS, type PeerKind, type StoreResult } from "./reduction-stores.ts";
import type { VarveResult } from "./reduction-varve.ts";

const MIB = 1024 * 1024;

/** What there is to store, whoever stores it. */
export interface Content {
  readonly logicalBytes: number;
  readonly nonZeroBytes: number;
  /** Bytes in distinct 4 KiB blocks: what deduplication alone would leave. */
  readonly distinctBytes: number;
}

export interface ReductionResults {
  readonly date: string;
  readonly machine: Machine;
  readonly corpus: {
    readonly manifestSha256: string;
    readonly images: readonly {
      readonly name: string;
      readonly sizeBytes: number;
      readonly sha256: string;
    }[];
    readonly notes: readonly string[];
  };
  readonly content: Content;
  readonly varve?: VarveResult;
  readonly peers: { readonly [kind in PeerKind]?: StoreResult | string };
}

export function reductionReport(results: ReductionResults): string {
  const { date, machine, corpus, content, varve, peers } = results;
  const of = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB`;
  const lines = [
    "# What the same images take, in bytes",
    "",
    `    date      ${date}`,
    `    commit    ${machine.commit}`,
    `    node      ${machine.node}`,
    `    images    ${corpus.images.length}: ${corpus.images.map(({ name }) => name).join(", ")}`,
    `    manifest  ${corpus.manifestSha256.slice(0, 16) || "none"}`,
    `    logical   ${of(content.logicalBytes)}`,
    `    non-zero  ${of(content.nonZeroBytes)} in blocks of 4 KiB`,
    `    distinct  ${of(content.distinctBytes)} of these: deduplication of blocks alone`,
    "",
    row("", ["stored", "of non-zero", "non-zero : stored", "seconds", "varve is"]),
  ];
  const best = varve && Math.min(varve.storedBytes, varve.afterGc?.storedBytes ?? Infinity);
  const add = (name: string, bytes: number, seconds: number, isOther: boolean): void => {
    lines.push(
      row(name, [
        of(bytes),
        `${((bytes / content.nonZeroBytes) * 100).toFixed(1)} %`,
        (content.nonZeroBytes / bytes).toFixed(2),
        seconds.toFixed(0),
        isOther && best !== undefined ? `${(best / bytes).toFixed(2)} ×` : "",
      ]),
    );
  };
  if (varve) add("varve", varve.storedBytes, varve.seconds, false);
  if (varve?.afterGc)
    add("varve, after gc", varve.afterGc.storedBytes, varve.afterGc.seconds, false);
  for (const kind of PEER_KINDS) {
    const result = peers[kind];
    if (typeof result === "string") lines.push(`    ${kind.padEnd(18)} ${result}`);
    else if (result) add(kind, result.storedBytes, result.seconds, true);
  }
  lines.push("", "`-trees`: the unpacked files instead of the images.", "");
  lines.push(...corpus.notes.map((note) => `* corpus: ${note}`));
  const all: [string, StoreResult | string | undefined][] = [
    ["varve", varve],
    ...PEER_KINDS.map((kind): [string, StoreResult | string | undefined] => [kind, peers[kind]]),
  ];
  for (const [name, result] of all) {
    if (result === undefined || typeof result === "string") continue;
    lines.push(`* ${name}: ${result.version}; \`${result.command}\``);
    lines.push(...result.notes.map((note) => `  * ${note}`));
  }
  lines.push("", "Stored after each image, MiB:", "");
  for (const [index, { name, sizeBytes }] of corpus.images.entries()) {
    const counts = all.flatMap(([kind, result]) =>
      typeof result === "object"
        ? [`${kind} ${((result.after[index] ?? 0) / MIB).toFixed(0)}`]
        : [],
    );
    lines.push(
      `    ${name.padEnd(28)} ${(sizeBytes / MIB).toFixed(0).padStart(5)}: ${counts.join(", ")}`,
    );
  }
  return lines.join("\n");
}

function row(name: string, cells: readonly string[]): string {
  return `    ${name.padEnd(16)}${cells.map((cell) => cell.padStart(18)).join("")}`.trimEnd();
}
