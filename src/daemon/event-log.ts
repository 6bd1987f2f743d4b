// SPDX-License-Identifier: Apache-2.0
//
// The latest events of the daemon, for `varve events` and the control door, and whoever wants those to
// come. An event is a change of state that an operator may want to know, never a request; each is also a
// line in the log. A fixed number is kept: the log on stderr is the place for the past.

import type { EventJson, EventSource } from "../api/types.ts";
import { formatTime } from "../base/units.ts";
import type { Clock, Logger } from "../host/ports.ts";
import type { PoolEvent } from "../pool/types.ts";

const RECENT_MAX = 1000;

export class EventLog implements EventSource {
  readonly #clock: Clock;
  readonly #logger: Logger;
  /** Oldest first. */
  readonly #recent: EventJson[] = [];
  readonly #listeners = new Set<(event: EventJson) => void>();

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock;
    this.#logger = logger;
  }

  recent(): readonly EventJson[] {
    return [...this.#recent];
  }

  subscribe(listener: (event: EventJson) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** An event of the daemon itself. */
  add(
    level: EventJson["level"],
    event: string,
    fields: Readonly<Record<string, unknown>> = {},
  ): void {
    this.#logger.log(level, event, fields);
    this.tell({ timeMicros: this.#clock.wallMicros(), level, event, fields });
  }

  /** An event that its source has logged already. */
  tell({ timeMicros, level, event, fields }: PoolEvent): void {
    const row: EventJson = { at: formatTime(timeMicros), level, event, fields };
    this.#recent.push(row);
    if (this.#recent.length > RECENT_MAX) this.#recent.shift();
    for (const listener of this.#listeners) listener(row);
  }
}
