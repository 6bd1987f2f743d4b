// SPDX-License-Identifier: Apache-2.0
//
// Events that a damaged disk can cause by the thousand: the first of a kind is told at once, then one in ten seconds
// with the newest place and how many were left out. So a log stays readable, and a disk that is full of errors isn't
// filled with words about them. A kind is an event with its error code; there are few.

import type { Clock } from "../host/ports.ts";
import type { PoolEvent } from "./types.ts";

export type Tell = (
  level: PoolEvent["level"],
  event: string,
  fields: Readonly<Record<string, unknown>>,
) => void;

interface Kind {
  /** What came since the last line; undefined: nothing. */
  newest: Parameters<Tell> | undefined;
  count: number;
  cancel: () => void;
}

export const TELL_EVERY_MS = 10_000;

export class BoundedEvents {
  readonly #clock: Clock;
  readonly #tell: Tell;
  /** Those that were told less than ten seconds ago. */
  readonly #kinds: Map<string, Kind> = new Map();

  constructor(clock: Clock, tell: Tell) {
    this.#clock = clock;
    this.#tell = tell;
  }

  readonly tell: Tell = (level, event, fields) => {
    const name = `${event} ${String(fields.code)}`;
    const kind = this.#kinds.get(name);
    if (kind === undefined) {
      this.#tell(level, event, fields);
      this.#wait(name);
    } else {
      kind.newest = [level, event, fields];
      kind.count += 1;
    }
  };

  /** Tells what was held back. */
  close(): void {
    for (const kind of this.#kinds.values()) {
      kind.cancel();
      this.#tellNewest(kind);
    }
    this.#kinds.clear();
  }

  #wait(name: string): void {
    const cancel = this.#clock.after(TELL_EVERY_MS, () => {
      const kind = this.#kinds.get(name);
      this.#kinds.delete(name);
      if (kind?.newest === undefined) return;
      this.#tellNewest(kind);
      this.#wait(name);
    });
    this.#kinds.set(name, { newest: undefined, count: 0, cancel });
  }

  #tellNewest({ newest, count }: Kind): void {
    if (newest === undefined) return;
    const [level, event, fields] = newest;
    this.#tell(level, event, { ...fields, suppressed: count - 1 });
  }
}
