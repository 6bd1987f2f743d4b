// SPDX-License-Identifier: Apache-2.0
//
// A log whose level can be changed while the daemon runs (`varve set log-level=debug`): the logger below
// writes everything it is given, this one decides what it is given.

import type { Logger, LogLevel } from "../host/ports.ts";

const RANK: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

export class LeveledLogger implements Logger {
  readonly #logger: Logger;
  level: LogLevel;

  constructor(logger: Logger, level: LogLevel) {
    this.#logger = logger;
    this.level = level;
  }

  log(level: LogLevel, event: string, fields?: Readonly<Record<string, unknown>>): void {
    if (RANK[level] >= RANK[this.level]) this.#logger.log(level, event, fields);
  }
}
