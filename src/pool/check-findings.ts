// SPDX-License-Identifier: Apache-2.0
//
// What a check has found: each contradiction once, whoever meets it, and not without end. The report is for people and
// for programs: a code that says what to do, a sentence, and where.

import type { StorageError } from "../base/errors.ts";
import { isDamage } from "../log/log-reach.ts";

export interface CheckFinding {
  readonly code: string;
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>>;
}

const FINDINGS_MAX = 1000;

export class CheckFindings {
  readonly list: CheckFinding[] = [];
  readonly #messages: Set<string> = new Set();

  add(code: string, message: string, data: Readonly<Record<string, unknown>>): void {
    // What several readings meet is found once.
    if (this.#messages.has(message) || this.list.length >= FINDINGS_MAX) return;
    this.#messages.add(message);
    this.list.push({ code, message, data });
  }

  addError({ code, message, data }: StorageError): void {
    this.add(code, message, data);
  }

  /** Damage that `work` meets is a finding, and ends it. */
  async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.addError(error);
    }
  }
}
