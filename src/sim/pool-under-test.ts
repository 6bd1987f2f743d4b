// SPDX-License-Identifier: Apache-2.0
//
// What the simulator asks of a store: volumes that can be made and changed, requests with an end, and
// flushes. The pool is one implementation (test/sim/pool-driver.ts), the reference store and its broken
// relatives are others, so that the harness itself is tested before it judges anything.

import type { StoreHost } from "./machine.ts";

export interface VolumeShape {
  readonly name: string;
  readonly sizeBytes: number;
}

export type StoreRequest =
  | { readonly kind: "read"; readonly offsetBytes: number; readonly target: Uint8Array }
  | {
      readonly kind: "write";
      readonly offsetBytes: number;
      readonly source: Uint8Array;
      readonly isForceUnitAccess: boolean;
    }
  | {
      readonly kind: "trim" | "zero";
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly isForceUnitAccess: boolean;
    }
  | { readonly kind: "flush" };

export interface PoolUnderTest {
  volumes(): readonly VolumeShape[];
  createVolume(name: string, sizeBytes: number): Promise<void>;
  resizeVolume(name: string, sizeBytes: number): Promise<void>;
  removeVolume(name: string): Promise<void>;
  renameVolume(name: string, newName: string): Promise<void>;
  /**
   * Hands a request in; `done` gets 0 or an error number, perhaps before this returns. Buffers belong to
   * the store until then. Requests of any length; whoever is in between cuts them as the door would.
   */
  submit(volume: string, request: StoreRequest, done: (errno: number) => void): void;
  /** Everything acknowledged before the call is on stable storage when it ends. */
  flush(): Promise<void>;
  checkpoint(): Promise<void>;
  /** Ends in order; everything acknowledged is on stable storage. */
  close(): Promise<void>;
  /** Throws when the store's own books don't add up. */
  checkInvariants?(): void;
}

export interface PoolDriver {
  readonly name: string;
  /** Smallest volume in bytes. */
  readonly volumeBytesMin: number;
  /** When writes are acknowledged: decides what the death of the process may lose. */
  readonly ack: "written" | "memory" | "durable";
  /** Opens the store, or makes it when there is none yet or its making was cut short. */
  start(host: StoreHost): Promise<PoolUnderTest>;
}
