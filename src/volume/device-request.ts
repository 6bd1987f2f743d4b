// SPDX-License-Identifier: Apache-2.0
//
// A request to a volume: the part of the doors' requests that a volume needs (nbd owns the full interface), and one
// whose end can be awaited, for callers in this program.

import { NBD_ERROR, StorageError } from "../base/errors.ts";
import type { Waiter } from "../log/batch-buffer.ts";

export interface DeviceRequest extends Waiter {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly address: number;
  readonly isForceUnitAccess: boolean;
  /** The pool's own: a read-only volume takes it. */
  readonly isInternal?: boolean;
}

export class PromisedRequest implements DeviceRequest {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly address: number;
  readonly isForceUnitAccess: boolean;
  readonly isInternal = true;
  readonly done: Promise<void>;
  #settle: (errno: number) => void = () => undefined;

  constructor(request: {
    offsetBytes: number;
    lengthBytes: number;
    address?: number;
    isForceUnitAccess?: boolean;
  }) {
    this.offsetBytes = request.offsetBytes;
    this.lengthBytes = request.lengthBytes;
    this.address = request.address ?? 0;
    this.isForceUnitAccess = request.isForceUnitAccess ?? false;
    this.done = new Promise((resolve, reject) => {
      this.#settle = (errno) => (errno === 0 ? resolve() : reject(failure(errno)));
    });
  }

  complete(errno: number): void {
    this.#settle(errno);
  }
}

function failure(errno: number): StorageError {
  const code = errno === NBD_ERROR.ENOSPC ? "POOL_FULL" : "POOL_STOPPED";
  return new StorageError(code, `request: failed with error ${errno}`);
}
