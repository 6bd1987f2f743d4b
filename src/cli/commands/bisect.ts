// SPDX-License-Identifier: Apache-2.0
//
// `varve bisect`: which write broke it. A command looks at the volume as it was, at one moment after the other, each as a
// read-only disk behind an NBD URI, and says with its exit code what it thinks: 0 good, 125 can't say, anything else bad.

import { VOLUME_BYTES_MAX } from "../../api/schemas.ts";
import type { MomentJson } from "../../api/types.ts";
import { hasCode, StorageError } from "../../base/errors.ts";
import { formatMoment, parsePastMoment, stableName } from "../../base/moment.ts";
import { runProgram } from "../../host/node/program.ts";
import { bisect, type Verdict } from "../bisection.ts";
import { type CommandContext, required } from "../command.ts";
import type { DaemonClient } from "../daemon-client.ts";
import type { Output } from "../output.ts";
import { counted, shortTime } from "../values.ts";

const SKIP_STATUS = 125;
/** More than these aren't listed: their numbers are halved first. */
const CHANGES_MAX = 4096;

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const volume = required(context, "VOLUME");
  const daemon = await context.daemon();
  const resolve = (text: string): Promise<MomentJson> =>
    daemon.call("resolveMoment", { volume, moment: formatMoment(parsePastMoment(text)) });
  const good = await resolve(context.option("from") ?? "");
  const bad = await resolve(context.option("to") ?? "now");
  const prober = new Prober(daemon, output, { volume, command: context.variadic("COMMAND") });
  if (!context.flag("assume")) {
    await prober.require(good.lsn, "good", "from");
    await prober.require(bad.lsn, "bad", "to");
  }
  const found = await bisect(
    {
      changesBetween: (from, to) => changesBetween(daemon, volume, { from, to }),
      probe: (lsn, leftCount) => prober.probe(lsn, `${leftCount} left`),
    },
    { good: good.lsn, bad: bad.lsn },
  );
  if (found === undefined)
    throw new StorageError(
      "USAGE",
      `volume "${volume}": nothing changed from #${good.lsn} to #${bad.lsn}`,
      { hint: `see "varve history ${volume}" for what happened when` },
    );
  const [lastGood, firstBad] = [await resolve(`#${found.good}`), await resolve(`#${found.bad}`)];
  if (context.isJson) {
    const place = ({ stableName: name, lsn, at }: MomentJson) => ({ stableName: name, lsn, at });
    const { probeCount } = prober;
    const { skipped } = found;
    output.json({ volume, good: place(lastGood), bad: place(firstBad), skipped, probeCount });
    return;
  }
  output.line(`last good: ${lastGood.stableName} (${shortTime(lastGood.at)})`);
  output.line(`first bad: ${firstBad.stableName} (${shortTime(firstBad.at)})`);
  if (found.skipped.length > 0)
    output.note(`between them nothing can be said of ${counted(found.skipped.length, "moment")}`);
}

/** Records that changed the volume, ascending; undefined: too many. */
async function changesBetween(
  daemon: DaemonClient,
  volume: string,
  { from, to }: { readonly from: number; readonly to: number },
): Promise<readonly number[] | undefined> {
  const { changes, isMore, knownFromLsn } = await daemon.call("getChanges", {
    volume,
    offset: "0",
    length: String(VOLUME_BYTES_MAX),
    from: `#${from}`,
    to: `#${to}`,
    limit: String(CHANGES_MAX),
  });
  if (isMore || knownFromLsn > from + 1) return undefined;
  return changes.map(({ lsn }) => lsn).reverse();
}

/** Asks the command. */
class Prober {
  readonly #daemon: DaemonClient;
  readonly #output: Output;
  readonly #volume: string;
  readonly #command: readonly string[];
  probeCount = 0;

  constructor(
    daemon: DaemonClient,
    output: Output,
    { volume, command }: { readonly volume: string; readonly command: readonly string[] },
  ) {
    this.#daemon = daemon;
    this.#output = output;
    this.#volume = volume;
    this.#command = command;
  }

  async require(lsn: number, wanted: Verdict, option: string): Promise<void> {
    const verdict = await this.probe(lsn, `must be ${wanted}`);
    if (verdict === wanted) return;
    const name = stableName(this.#volume, lsn);
    const what = verdict === "skip" ? "can't say" : `says ${verdict}`;
    throw usage(`option "--${option}": ${name} refused: the command ${what}, not ${wanted}`);
  }

  async probe(lsn: number, note: string): Promise<Verdict> {
    const name = stableName(this.#volume, lsn);
    const verdict = await this.#ask(lsn);
    this.probeCount += 1;
    this.#output.note(`${name}: ${verdict === "skip" ? "skipped" : verdict} (${note})`);
    return verdict;
  }

  async #ask(lsn: number): Promise<Verdict> {
    const uri = await this.#uriOf(lsn);
    if (uri === undefined) return "skip";
    const [program = "", ...rest] = this.#command;
    const args = rest.map((word) => word.replaceAll("{}", uri));
    const { status } = await runProgram(program, args, { VARVE_URI: uri });
    if (status === 0) return "good";
    return status === SKIP_STATUS ? "skip" : "bad";
  }

  /** Undefined: retention has let the moment go. */
  async #uriOf(lsn: number): Promise<string | undefined> {
    const asked = { volume: this.#volume, moment: `#${lsn}` };
    try {
      return (await this.#daemon.call("resolveMoment", asked)).uris[0];
    } catch (error) {
      if (hasCode(error, "MOMENT_GONE")) return undefined;
      throw error;
    }
  }
}

function usage(message: string): StorageError {
  return new StorageError("USAGE", message, {
    hint: "the command's exit code is 0 for good, 125 for can't say, anything else for bad",
  });
}
