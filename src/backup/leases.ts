// SPDX-License-Identifier: Apache-2.0
//
// Who reads from a target (restore, serve, verify) has a lease: while it holds, nothing is deleted that was condemned after
// it began. Readers may vanish without a word and are never waited for longer than a lease, so it ends by time and must be
// renewed. One that ended under its reader, whose machine slept, costs an error in the middle of a restore, never data.

import { StorageError } from "../base/errors.ts";
import type { CatalogState, LeaseEntry } from "./catalog-state.ts";
import { newId } from "./sessions.ts";
import type { TargetCatalog, TargetHost } from "./target-catalog.ts";

export const LEASE_MICROS: number = 3600 * 1_000_000;
/** Clocks of two machines may differ: others take a lease for ended only this much later. */
const SKEW_MICROS: number = 600 * 1_000_000;
const RENEW_MS: number = LEASE_MICROS / 1000 / 4;

/** Whether others must go by it. */
export function holds({ expiresMicros }: LeaseEntry, nowMicros: number): boolean {
  return expiresMicros + SKEW_MICROS > nowMicros;
}

export class Lease implements AsyncDisposable {
  /** The state with the lease in it: its points stay whole while the lease holds. */
  readonly state: CatalogState;
  readonly #catalog: TargetCatalog;
  readonly #host: TargetHost;
  readonly #id: string;
  #expiresMicros: number;
  #cancel: (() => void) | undefined;
  #isOver = false;

  private constructor(catalog: TargetCatalog, host: TargetHost, begun: BegunLease) {
    this.#catalog = catalog;
    this.#host = host;
    this.#id = begun.lease.id;
    this.#expiresMicros = begun.lease.expiresMicros;
    this.state = begun.state;
    this.#renewLater();
  }

  /** `purpose` is for people: "restore". `await using` ends it. */
  static async begin(
    catalog: TargetCatalog,
    options: TargetHost & { readonly purpose: string },
  ): Promise<Lease> {
    const { clock, random, purpose } = options;
    const expiresMicros = clock.wallMicros() + LEASE_MICROS;
    const lease = { id: newId(random), generation: 0, expiresMicros, purpose };
    const state = await catalog.update((before) => {
      const nowMicros = clock.wallMicros();
      const others = before.leases.filter(
        (other) => other.id !== lease.id && holds(other, nowMicros),
      );
      const own = { ...lease, generation: before.generation + 1 };
      return { ...before, leases: [...others, own] };
    });
    return new Lease(catalog, options, { lease, state });
  }

  /** Throws TARGET_UNAVAILABLE when the lease ended before its reader did: what is read may be gone. */
  check(): void {
    if (this.#host.clock.wallMicros() <= this.#expiresMicros) return;
    const what = "target: reading ended: its lease is lost, and what it reads may be deleted";
    throw new StorageError("TARGET_UNAVAILABLE", what, {
      hint: "start it again; the points themselves are whole",
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    this.#cancel?.();
    // Who can't take it away lets it expire.
    await this.#catalog.update((state) => this.#without(state)).catch(() => {});
  }

  #without(state: CatalogState): CatalogState | undefined {
    const leases = state.leases.filter(({ id }) => id !== this.#id);
    return leases.length === state.leases.length ? undefined : { ...state, leases };
  }

  /** A renewal that fails is tried again, until there is nothing left to renew. */
  #renewLater(): void {
    this.#cancel = this.#host.clock.after(RENEW_MS, () => {
      const again = (): void => {
        if (!this.#isOver) this.#renewLater();
      };
      this.#renew().then(again, again);
    });
  }

  async #renew(): Promise<void> {
    let expiresMicros = this.#expiresMicros;
    await this.#catalog.update((state) => {
      const nowMicros = this.#host.clock.wallMicros();
      const own = state.leases.find(({ id }) => id === this.#id);
      // One that ended may have been gone by already, and never comes back.
      if (this.#isOver || own === undefined || own.expiresMicros < nowMicros) return undefined;
      expiresMicros = nowMicros + LEASE_MICROS;
      const others = state.leases.filter((lease) => lease !== own);
      return { ...state, leases: [...others, { ...own, expiresMicros }] };
    });
    this.#expiresMicros = expiresMicros;
  }
}

interface BegunLease {
  readonly lease: LeaseEntry;
  readonly state: CatalogState;
}
