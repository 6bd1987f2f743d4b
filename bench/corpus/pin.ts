// SPDX-License-Identifier: Apache-2.0
//
// `node bench/corpus/pin.ts`: writes manifest.tsv anew, with what the mirrors have today. Run by hand, once
// a year or when too much of the corpus has vanished: results of different manifests can't be compared.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../test/interop/command.ts";
import { cacheDirectory } from "./build.ts";
import { type Artifact, formatManifest, MANIFEST_PATH } from "./manifest.ts";
import { DEBIAN_IMAGES, NPM_PACKAGES, SUITES, type Suite } from "./sets.ts";
import { type DebianPackage, npmPack, readIndex, sha256Of } from "./sources.ts";

const cache = cacheDirectory();
const artifacts = new Map<string, Artifact>();

const indexes = new Map<Suite, ReadonlyMap<string, DebianPackage[]>>();
for (const suite of SUITES) indexes.set(suite, await readIndex(suite, cache));

for (const image of DEBIAN_IMAGES) {
  for (const name of image.packages) {
    const candidates = image.suites.flatMap((suite) =>
      (indexes.get(suite)!.get(name) ?? []).map((found) => ({ suite, ...found })),
    );
    let best = candidates[0];
    for (const one of candidates.slice(1)) {
      if (await isOlder(one.version, best!.version)) best = image.pick === "oldest" ? one : best;
      else if (image.pick === "newest") best = one;
    }
    if (!best) {
      console.error(`${image.name}: no ${name}`);
      continue;
    }
    add(image.name, {
      kind: "deb",
      package: name,
      version: best.version,
      sha256: best.sha256,
      source: `${best.suite}:${best.path}`,
    });
  }
}

const specs = new Map<string, string[]>();
for (const [name, versions] of Object.entries(NPM_PACKAGES)) {
  for (const [index, version] of versions.entries()) {
    const spec = `${name}@${version}`;
    specs.set(spec, [...(specs.get(spec) ?? []), `npm-${index + 1}`]);
  }
}
for (const { name, version, filename } of await npmPack([...specs.keys()], join(cache, "npm"))) {
  const sha256 = await sha256Of(join(cache, "npm", filename));
  for (const image of specs.get(`${name}@${version}`)!)
    add(image, { kind: "npm", package: name, version, sha256, source: filename });
}

const day = new Date().toISOString().slice(0, 10);
await writeFile(MANIFEST_PATH, formatManifest([...artifacts.values()], day));
console.log(`${MANIFEST_PATH}: ${artifacts.size} artifacts`);

function add(image: string, artifact: Omit<Artifact, "images">): void {
  // The same version in two suites is the same file, named by whichever came first.
  const key = `${artifact.kind} ${artifact.package} ${artifact.version} ${artifact.sha256}`;
  const known = artifacts.get(key);
  artifacts.set(key, { ...(known ?? artifact), images: [...(known?.images ?? []), image] });
}

async function isOlder(version: string, than: string): Promise<boolean> {
  const args = ["--compare-versions", version, "lt", than];
  return (await run("dpkg", args, { accept: [0, 1] })).status === 0;
}
