// SPDX-License-Identifier: Apache-2.0
//
// The real log: one line of JSON per event on stderr, written by pino. `event` is a constant name, the
// fields are values; nothing is composed into sentences, so that a log can be searched and counted.
// Lines are written in the background (line-writer.ts): a stalled log reader costs log lines, never the
// clients' time. `flush` writes what waits; the daemon calls it before it ends.

import { type DestinationStream, pino } from "pino";
import { StorageError } from "../../base/errors.ts";
import type { Logger, LogLevel } from "../ports.ts";
import { LineWriter } from "./line-writer.ts";

const STDERR = 2;

export interface LoggerOptions {
  /** Events below this level are dropped. */
  readonly level: LogLevel;
  /** An open descriptor; default stderr. */
  readonly descriptor?: number;
}

export interface NodeLogger extends Logger {
  /** Writes what waits, synchronously, for at most a second. */
  flush(): void;
}

export function createLogger(options: LoggerOptions): NodeLogger {
  const lines = new LineWriter(options.descriptor ?? STDERR);
  return { ...loggerTo(lines, options.level), flush: () => lines.flush() };
}

/** The same log to any stream of lines. */
export function loggerTo(destination: DestinationStream, level: LogLevel): Logger {
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: describeError },
    },
    destination,
  );
  return { log: (at, event, fields) => log[at]({ event, ...fields }) };
}

/** An error as a log line shows it: ours with code and data, others with their stack. */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const cause = error.cause === undefined ? {} : { cause: describeError(error.cause) };
  if (error instanceof StorageError) return { ...error.toJSON(), ...cause };
  return { name: error.name, message: error.message, stack: error.stack, ...cause };
}
