// SPDX-License-Identifier: Apache-2.0
//
// From the names on the command line to a log: the file that nbd-server wrote, or BlockCDP's pairs. A
// directory stands for all pairs in it. Pairs are read in the order of their names, which is that of time;
// a name that comes twice would be two disks, and is refused.

import { basename, dirname, join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { fileKind, listNames } from "../host/node/text-file.ts";
import { BLOCKCDP_UTC_OFFSET, isUtcOffset, suffixOf } from "../image/blockcdp.ts";
import { type BlockCdpPair, BlockCdpSource } from "../image/blockcdp-source.ts";
import type { SeedLog, SeedLogFormat } from "../image/seed-log.ts";
import { TransactionLogSource } from "../image/transaction-log-source.ts";
import type { CommandContext } from "./command.ts";
import { checkReadable, openNamed } from "./named-file.ts";

export async function openSeedLog(
  context: CommandContext,
  format: SeedLogFormat,
  paths: readonly string[],
): Promise<SeedLog> {
  if (paths.includes("-")) {
    throw new StorageError("USAGE", 'log "-": refused: a log is read twice, a pipe can\'t be', {
      hint: "save it to a file first",
    });
  }
  const offset = context.option("utc-offset");
  if (format === "blockcdp") return openPairs(paths, offset ?? BLOCKCDP_UTC_OFFSET);
  if (offset !== undefined) {
    throw new StorageError("USAGE", 'option "--utc-offset": refused: this log has no times', {
      hint: "it belongs to --format blockcdp",
    });
  }
  const [path = "", second] = paths;
  if (second !== undefined) {
    throw new StorageError("USAGE", `log "${second}": refused: one transaction log at a time`, {
      hint: "import the oldest first, then the next onto the volume with --force",
    });
  }
  await checkReadable(path);
  return new TransactionLogSource(await openNamed(path), path);
}

async function openPairs(paths: readonly string[], utcOffset: string): Promise<SeedLog> {
  if (!isUtcOffset(utcOffset)) {
    throw new StorageError("USAGE", `option "--utc-offset": "${utcOffset}" refused: no offset`, {
      hint: "write it like +08:00, -03:30 or Z",
    });
  }
  const metafiles = (await Promise.all(paths.map(metafilesAt))).flat().sort(byName);
  metafiles.forEach((path, at) => {
    const before = metafiles[at - 1];
    if (before === undefined || basename(before) !== basename(path)) return;
    throw new StorageError(
      "USAGE",
      `log "${path}": refused: "${before}" has the same name: are they of two disks?`,
      { hint: "import each disk into a volume of its own" },
    );
  });
  const pairs: BlockCdpPair[] = [];
  for (const path of metafiles) {
    const suffix = suffixOf("metafile", basename(path)) ?? "";
    const dataPath = join(dirname(path), `datafile.${suffix}`);
    await checkReadable(path);
    await checkReadable(dataPath);
    pairs.push({
      name: basename(path),
      openMeta: () => openNamed(path),
      openData: () => openNamed(dataPath),
    });
  }
  return new BlockCdpSource(pairs, { utcOffset });
}

/** The metafile that is named, or all of a directory. */
async function metafilesAt(path: string): Promise<string[]> {
  if ((await fileKind(path)) === "directory") {
    const names = ((await listNames(path)) ?? []).filter(
      (name) => suffixOf("metafile", name) !== undefined,
    );
    if (names.length > 0) return names.map((name) => join(path, name));
    throw new StorageError("IMAGE_NOT_FOUND", `log "${path}": not read: it holds no metafile`, {
      hint: "name the directory with the files metafile.* and datafile.*",
    });
  }
  if (suffixOf("metafile", basename(path)) !== undefined) return [path];
  throw new StorageError(
    "IMAGE_UNSUPPORTED",
    `log "${path}": not read: it isn't named metafile.*`,
    {
      hint: "name the metafiles; each one's datafile is found beside it, by the same ending",
    },
  );
}

function byName(a: string, b: string): number {
  const [first, second] = [basename(a), basename(b)];
  return first < second ? -1 : Number(first > second);
}
