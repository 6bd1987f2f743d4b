// SPDX-License-Identifier: Apache-2.0
//
// manifest.tsv pins what the corpus is made of: a line per package and version, with its checksum and the
// images it goes into. Text, sorted, one artifact per line: a new pinning can be read as a diff.
//
//   kind  package  version  sha256  source  images
//   deb   git      1:2.39…  1f09…   bookworm:pool/main/g/git/git_2.39….deb   server-2-bookworm,…
//   npm   next     14.1.1   77ab…   next-14.1.1.tgz                          npm-1

import { readFile } from "node:fs/promises";
import { join } from "node:path";

export interface Artifact {
  readonly kind: "deb" | "npm";
  readonly package: string;
  readonly version: string;
  readonly sha256: string;
  /** deb: suite, colon, path below the mirror. npm: the file name that `npm pack` gives it. */
  readonly source: string;
  readonly images: readonly string[];
}

export const MANIFEST_PATH: string = join(import.meta.dirname, "manifest.tsv");

export async function readManifest(): Promise<Artifact[]> {
  const text = await readFile(MANIFEST_PATH, "utf8");
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return lines.map((line) => {
    const [kind, name, version, sha256, source, images] = line.split("\t");
    if ((kind !== "deb" && kind !== "npm") || !name || !version || !sha256 || !source || !images)
      throw new Error(`${MANIFEST_PATH}: not a line of six fields: ${line}`);
    return { kind, package: name, version, sha256, source, images: images.split(",") };
  });
}

export function formatManifest(artifacts: readonly Artifact[], day: string): string {
  const lines = artifacts.map((one) =>
    [one.kind, one.package, one.version, one.sha256, one.source, one.images.join(",")].join("\t"),
  );
  const head = `# What the corpus is made of, pinned on ${day} by bench/corpus/pin.ts. See manifest.ts.\n`;
  return `${head}${lines.sort().join("\n")}\n`;
}

/** Where an artifact is kept, relative to the cache. */
export function fileOf({ kind, source }: Pick<Artifact, "kind" | "source">): string {
  return join(kind, source.slice(source.lastIndexOf("/") + 1));
}
