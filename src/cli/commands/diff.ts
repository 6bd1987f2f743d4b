// SPDX-License-Identifier: Apache-2.0
//
// `varve diff`: what differs between two moments, as a list of ranges, as JSON, as a picture, or as a map of bytes for backup
// programs. There may be millions of ranges: each is printed as it comes, and none is kept.

import type { DiffEndJson, DiffHeadJson, DiffKindJson } from "../../api/diff.ts";
import { StorageError } from "../../base/errors.ts";
import { parseVolumeMoment } from "../../base/moment.ts";
import { formatSize, parseSize } from "../../base/units.ts";
import { environmentVariable } from "../../host/node/environment.ts";
import { ByteMap } from "../byte-map.ts";
import type { CommandContext } from "../command.ts";
import { DiffPicture } from "../diff-picture.ts";
import { writeNamed } from "../named-file.ts";
import type { Output } from "../output.ts";
import { showsBars } from "../sparkline.ts";
import { counted } from "../values.ts";

const GRANULARITY_STANDARD = "64K";
const GRANULARITY_MIN = 4096;
/** A byte says which step it was. */
const STEPS_MAX = 255;

type TakeExtent = (offsetBytes: number, lengthBytes: number, kind: DiffKindJson) => void;

interface Compared {
  readonly head: DiffHeadJson;
  readonly end: DiffEndJson;
}

export async function run(context: CommandContext): Promise<undefined> {
  const moments = momentsOf(context.variadic("VOLUME@MOMENT"));
  const [from, to] = moments as [string, string];
  const path = context.option("cbt-map");
  if (path !== undefined) return await writeByteMap(context, path, moments);
  if (context.option("granularity") !== undefined)
    throw refused("--granularity is of the map that --cbt-map writes");
  if (moments.length > 2) throw refused(`${moments.length} moments are compared only by --cbt-map`);
  if (context.flag("map")) return await drawPicture(context, from, to);
  if (context.isJson) return await printJson(context, from, to);
  return await printRanges(context, from, to);
}

/** What is compared with the next; one alone with what the volume is now. Throws USAGE, MOMENT_INVALID. */
function momentsOf(texts: readonly string[]): readonly string[] {
  const volumes = texts.map((text) => parseVolumeMoment(text).volume);
  if (volumes.some((volume) => volume === "")) throw refused("a moment has no volume before its @");
  const [first] = volumes;
  return texts.length === 1 && first !== undefined ? [...texts, first] : texts;
}

/** Throws what the daemon says, and BUSY when its answer has no end. */
async function compare(
  context: CommandContext,
  { from, to }: { readonly from: string; readonly to: string },
  begin: (head: DiffHeadJson) => TakeExtent,
): Promise<Compared> {
  let head: DiffHeadJson | undefined;
  let take: TakeExtent = () => undefined;
  for await (const line of (await context.daemon()).diff({ from, to })) {
    if ("from" in line) {
      head = line;
      take = begin(line);
    } else if ("kind" in line) {
      for (let at = 0; at < line.extents.length; at += 2)
        take(line.extents[at] as number, line.extents[at + 1] as number, line.kind);
    } else if (head !== undefined) return { head, end: line };
  }
  throw new StorageError(
    "BUSY",
    `diff of "${from}" and "${to}": the daemon's answer was cut short`,
  );
}

async function printRanges(context: CommandContext, from: string, to: string): Promise<undefined> {
  const { output } = context;
  const row = (offset: string | number, length: string, kind: string): void =>
    output.line(`${String(offset).padStart(14)}  ${length.padStart(9)}  ${kind}`);
  let isFirst = true;
  const { head, end } = await compare(context, { from, to }, () => (offset, length, kind) => {
    if (isFirst) row("OFFSET", "LENGTH", "KIND");
    isFirst = false;
    row(offset, formatSize(length), kind);
  });
  tell(output, head, end);
}

async function printJson(context: CommandContext, from: string, to: string): Promise<undefined> {
  const { output } = context;
  let before = "\n";
  const { end } = await compare(context, { from, to }, (head) => {
    output.raw(`${JSON.stringify(head).slice(0, -1)},"extents":[`);
    return (offset, length, kind) => {
      output.raw(`${before}{"offsetBytes":${offset},"lengthBytes":${length},"kind":"${kind}"}`);
      before = ",\n";
    };
  });
  output.raw(`\n],${JSON.stringify(end).slice(1)}\n`);
}

async function drawPicture(context: CommandContext, from: string, to: string): Promise<undefined> {
  const { output } = context;
  let picture: DiffPicture | undefined;
  const { head, end } = await compare(context, { from, to }, ({ to: { sizeBytes } }) => {
    const drawn = new DiffPicture({
      sizeBytes,
      columns: output.width,
      isUnicode: showsBars(environmentVariable),
    });
    picture = drawn;
    return (offset, length) => drawn.add(offset, length);
  });
  if (context.isJson) return output.json({ ...head, ...end, ...picture?.toJson() }) as undefined;
  for (const line of picture?.lines() ?? []) output.line(line);
  tell(output, head, end);
}

async function writeByteMap(
  context: CommandContext,
  path: string,
  moments: readonly string[],
): Promise<undefined> {
  const { output } = context;
  const granularityBytes = granularityOf(context.option("granularity") ?? GRANULARITY_STANDARD);
  if (moments.length - 1 > STEPS_MAX)
    throw refused(`${moments.length - 1} steps: a byte tells of ${STEPS_MAX} at most`);
  const map = new ByteMap(granularityBytes);
  const steps: Compared[] = [];
  await writeNamed({ what: "map", path, isForced: context.flag("force") }, async (file) => {
    for (const [step, to] of moments.slice(1).entries()) {
      const from = moments[step] as string;
      const compared = await compare(context, { from, to }, (head) => {
        map.begin(step + 1, head);
        return (offset, length) => map.add(offset, length);
      });
      steps.push(compared);
    }
    await file.write(map.bytes, 0);
  });
  const last = steps[steps.length - 1] as Compared;
  if (context.isJson) {
    const { sizeBytes } = last.head.to;
    const told = steps.map(({ head: { from, to }, end }) => ({ from, to, ...end }));
    return output.json({ file: path, granularityBytes, sizeBytes, steps: told }) as undefined;
  }
  output.line(
    `map "${path}" written: ${counted(map.bytes.length, "byte")}, one for each ${formatSize(granularityBytes)}; ${counted(map.changedCount, "piece")} changed`,
  );
  for (const { head, end } of steps) sayUntold(output, head, end);
}

function granularityOf(text: string): number {
  const bytes = parseSize(text) ?? 0;
  if (bytes >= GRANULARITY_MIN && Number.isInteger(Math.log2(bytes))) return bytes;
  throw new StorageError(
    "USAGE",
    `option "--granularity": "${text}" refused: it isn't a power of two from 4K up`,
    {
      hint: "write it like 64K or 1M",
    },
  );
}

function tell(output: Output, head: DiffHeadJson, end: DiffEndJson): void {
  const { from, to } = head;
  const { extentCount, dataBytes, zeroBytes, holeBytes } = end;
  const names = `from ${from.stableName} to ${to.stableName}`;
  if (extentCount === 0) output.line(`nothing differs ${names}`);
  else {
    const sums = [
      [dataBytes, "data"],
      [zeroBytes, "zeros"],
      [holeBytes, "holes"],
    ] as const;
    const parts = sums
      .filter(([bytes]) => bytes > 0)
      .map(([bytes, what]) => `${formatSize(bytes)} of ${what}`);
    const bytes = formatSize(dataBytes + zeroBytes + holeBytes);
    output.line(`${bytes} in ${counted(extentCount, "range")} ${names}: ${parts.join(", ")}`);
  }
  if (from.sizeBytes !== to.sizeBytes)
    output.note(`the disk had ${formatSize(from.sizeBytes)}, and then ${formatSize(to.sizeBytes)}`);
  sayUntold(output, head, end);
}

function sayUntold(output: Output, { from, to }: DiffHeadJson, { untoldBytes }: DiffEndJson): void {
  if (untoldBytes === 0) return;
  output.note(
    `${formatSize(untoldBytes)} of it from ${from.stableName} to ${to.stableName} can't be compared, because what is stored is damaged; see "varve scrub"`,
  );
}

function refused(why: string): StorageError {
  return new StorageError("USAGE", `diff: refused: ${why}`, {
    hint: "name two moments: varve diff db@v1 db@v2; see varve diff --help",
  });
}
