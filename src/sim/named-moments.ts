// SPDX-License-Identifier: Apache-2.0
//
// Names of moments as the oracle keeps them: which certainly hold, which may, because an answer is missing or their
// time is up, and which may not be seen again.

import type { NameFound } from "./history-under-test.ts";
import { violationOf } from "./rig.ts";
import type { Violation } from "./violation.ts";

export interface NamedMoment {
  readonly volume: number;
  readonly name: string;
  /** Undefined while nobody has said. */
  lsn: number | undefined;
  /** Not let go before the clock shows this. */
  readonly expiresMicros: number;
  /** asked: it may be there already. leaving: it may be gone already. expired: both, for good. */
  state: "asked" | "held" | "leaving" | "expired";
}

export class NamedMoments {
  readonly #all = new Set<NamedMoment>();

  all(): NamedMoment[] {
    return [...this.#all];
  }

  ask(moment: Omit<NamedMoment, "state">): NamedMoment {
    const asked: NamedMoment = { ...moment, state: "asked" };
    this.#all.add(asked);
    return asked;
  }

  drop(moment: NamedMoment): void {
    this.#all.delete(moment);
  }

  find(volume: number, name: string): NamedMoment | undefined {
    return this.all().find((moment) => moment.volume === volume && moment.name === name);
  }

  /** Whether a name certainly holds the moment. */
  isHeld(volume: number, lsn: number): boolean {
    return this.all().some(
      (moment) => moment.volume === volume && moment.lsn === lsn && moment.state === "held",
    );
  }

  note(wallMicros: number): void {
    for (const moment of this.#all)
      if (moment.expiresMicros <= wallMicros && moment.state !== "asked") moment.state = "expired";
  }

  /** These are there after a crash; volumes by the model's ids. */
  recovered(found: readonly NameFound[], wallMicros: number): Violation | undefined {
    this.note(wallMicros);
    const text = ({ volumeId, name }: NameFound): string => `${name} of volume ${volumeId}`;
    const seen = new Map(found.map((one) => [text(one), one]));
    for (const moment of this.all()) {
      const one = seen.get(text({ volumeId: moment.volume, ...moment, lsn: 0 }));
      seen.delete(one === undefined ? "" : text(one));
      const isRight =
        one === undefined ? moment.state !== "held" : (moment.lsn ?? one.lsn) === one.lsn;
      if (!isRight)
        return violationOf(
          "a name that was given survives a crash",
          `${moment.name} of volume ${moment.volume} for #${moment.lsn}, ${moment.state}`,
          one === undefined ? "nothing" : `#${one.lsn}`,
        );
      if (one === undefined) this.#all.delete(moment);
      else {
        moment.lsn = one.lsn;
        if (moment.state !== "expired") moment.state = "held";
      }
    }
    this.note(wallMicros);
    const [stray] = seen.keys();
    if (stray === undefined) return undefined;
    return violationOf("a name that was let go stays away after a crash", "nothing", stray);
  }
}
