// SPDX-License-Identifier: Apache-2.0
//
// `varve log export`: what happened to a volume between two moments, as a log that another system's tools
// replay. Reads the pool's files like the other log commands, with or without a daemon. A file takes its name
// when it is complete.

import { StorageError } from "../../base/errors.ts";
import { type Moment, parseMoment, stableName } from "../../base/moment.ts";
import { checkName } from "../../base/names.ts";
import { formatSize } from "../../base/units.ts";
import { createClock } from "../../host/node/clock.ts";
import { createZstd } from "../../host/node/zstd.ts";
import { TransactionLogWriter } from "../../image/transaction-log-writer.ts";
import { READER_MEMORY_BYTES } from "../../log/log-dump.ts";
import { type PastMoment, type PastSource, RecordedPast } from "../../pool/recorded-past.ts";
import { tellEvents } from "../../pool/volume-events.ts";
import { BlockMemory, shapeOf } from "../../reduce/block-memory.ts";
import { type CommandContext, required } from "../command.ts";
import { writeNamed } from "../named-file.ts";
import { openOfflinePool } from "../offline-pool.ts";
import { counted } from "../values.ts";

const BUFFER_BYTES: number = 1 << 20;

type WriteBytes = (bytes: Uint8Array) => Promise<void>;

interface Range {
  readonly past: RecordedPast;
  readonly fromLsn: number;
  readonly fromBytes: number;
  readonly to: PastMoment;
}

export async function run(context: CommandContext): Promise<undefined> {
  const { output } = context;
  const asked = parseRange(required(context, "VOLUME[@A..B]"));
  const path = context.option("output") ?? "-";
  if (path === "-") output.refuseTerminal(`volume "${asked.volume}"`);
  const { log, poolId } = await openOfflinePool(await context.pool(), output);
  const source: PastSource = { memory: new BlockMemory(shapeOf(READER_MEMORY_BYTES)), log, poolId };
  const range = await findRange(source, asked);
  const counts = { write: 0, zero: 0, trim: 0, flush: 0 };
  let logBytes = 0;
  await writeTo(context, path, async (writeBytes) => {
    const writer = new TransactionLogWriter((bytes) => {
      logBytes += bytes.length;
      return writeBytes(bytes);
    });
    await writer.begin();
    await tellEvents({
      ...{ ...source, ...range, zstd: createZstd() },
      onEvent: (event) => {
        counts[event.kind] += 1;
        return writer.add(event);
      },
    });
    await writer.end();
  });
  tell(context, { path, range, counts, logBytes });
}

interface AskedRange {
  readonly volume: string;
  /** Undefined: from when it was made. */
  readonly from: Moment | undefined;
  readonly to: Moment;
}

/** "db", "db@A..B", "db@A..", "db@..B". Throws USAGE, NAME_INVALID, MOMENT_INVALID. */
function parseRange(text: string): AskedRange {
  const at = text.indexOf("@");
  const volume = at < 0 ? text : text.slice(0, at);
  checkName("volume", volume);
  if (at < 0) return { volume, from: undefined, to: { kind: "now" } };
  const moments = text.slice(at + 1);
  const dots = moments.indexOf("..");
  if (dots < 0) {
    throw new StorageError("USAGE", `range "${text}": refused: it has no ".."`, {
      hint: `name two moments, as in ${volume}@-1h..now, or none for all of its history`,
    });
  }
  const [from, to] = [moments.slice(0, dots), moments.slice(dots + 2)];
  return {
    volume,
    from: from === "" ? undefined : parseMoment(from),
    to: to === "" ? { kind: "now" } : parseMoment(to),
  };
}

async function findRange(source: PastSource, { volume, from, to }: AskedRange): Promise<Range> {
  const nowMicros = createClock().wallMicros();
  const past = await RecordedPast.read(source);
  const end = await past.resolve(volume, to, nowMicros);
  const made = end.volume.states[0];
  if (from === undefined) {
    const { fromLsn = 0, sizeBytes = 0 } = made ?? {};
    return { past, fromLsn, fromBytes: sizeBytes, to: end };
  }
  const begin = await past.resolve(volume, from, nowMicros);
  if (begin.volume.id !== end.volume.id) {
    throw new StorageError(
      "MOMENT_NOT_FOUND",
      `volume "${volume}": not exported: at #${begin.lsn} and #${end.lsn} that was the name of two volumes`,
      { hint: `this one was made at #${made?.fromLsn}: ${volume}@..#${end.lsn}` },
    );
  }
  if (begin.lsn > end.lsn) {
    throw new StorageError(
      "USAGE",
      `volume "${volume}": not exported: #${begin.lsn} comes behind #${end.lsn}`,
      { hint: "the earlier moment comes first" },
    );
  }
  return { past, fromLsn: begin.lsn, fromBytes: begin.state.sizeBytes, to: end };
}

async function writeTo(
  context: CommandContext,
  path: string,
  write: (writeBytes: WriteBytes) => Promise<void>,
): Promise<void> {
  if (path === "-") {
    // The pipe may still hold the bytes when the buffer is used again.
    const sink = new Buffered((bytes) => context.output.bytes(bytes.slice()));
    await write((bytes) => sink.add(bytes));
    await sink.flush();
    return;
  }
  await writeNamed({ what: "log", path, isForced: context.flag("force") }, async (file) => {
    let position = 0;
    const sink = new Buffered(async (bytes) => {
      await file.write(bytes, position);
      position += bytes.length;
    });
    await write((bytes) => sink.add(bytes));
    await sink.flush();
  });
}

/** Gathers small pieces. */
class Buffered {
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  readonly #write: WriteBytes;
  #bytes = 0;

  constructor(write: WriteBytes) {
    this.#write = write;
  }

  async add(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const part = bytes.subarray(done, done + BUFFER_BYTES - this.#bytes);
      this.#buffer.set(part, this.#bytes);
      this.#bytes += part.length;
      done += part.length;
      if (this.#bytes === BUFFER_BYTES) await this.flush();
    }
  }

  async flush(): Promise<void> {
    if (this.#bytes > 0) await this.#write(this.#buffer.subarray(0, this.#bytes));
    this.#bytes = 0;
  }
}

interface Exported {
  readonly path: string;
  readonly range: Range;
  readonly counts: Readonly<Record<"write" | "zero" | "trim" | "flush", number>>;
  readonly logBytes: number;
}

function tell(context: CommandContext, { path, range, counts, logBytes }: Exported): void {
  const { output } = context;
  const { fromLsn, fromBytes, to } = range;
  const volume = to.state.name;
  const sizeBytes = to.state.sizeBytes;
  if (context.isJson) {
    const answer = {
      ...{ volume, output: path, fromLsn, lsn: to.lsn, fromSizeBytes: fromBytes, sizeBytes },
      ...{ changes: counts, logBytes },
    };
    if (path === "-") output.noteJson(answer);
    else output.json(answer);
    return;
  }
  const changes = counts.write + counts.zero + counts.trim + counts.flush;
  const names = `${stableName(volume, fromLsn)} to ${stableName(volume, to.lsn)}`;
  const text = `volume "${volume}" exported: ${names}: ${counted(changes, "change")}, ${formatSize(logBytes)}`;
  if (path === "-") output.note(text);
  else output.line(text);
  if (fromBytes !== sizeBytes)
    output.note(
      `volume "${volume}": its size went from ${fromBytes} to ${sizeBytes} bytes, which the log can't say`,
    );
}
