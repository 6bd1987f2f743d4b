// SPDX-License-Identifier: Apache-2.0
//
// A volume's device as one client sees it: the same device, and counters of what this client did, so
// that an operator can see who is busy. On the data path: it adds a call and an addition to a request,
// and nothing that has to be freed. The size is the one at the time of opening: NBD clients learn of a
// resize when they reconnect, so a volume that has grown must not answer beyond what this one was told.
// A client of a relative moment isn't told to open a second connection: that would be another disk.

import type { BlockDevice, BlockRequest, ExtentSink, ZeroOptions } from "../nbd/block-device.ts";

export class CountedDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly canMultiConnect: boolean;
  readonly #device: BlockDevice;
  requestCount = 0;
  readBytes = 0;
  writeBytes = 0;

  constructor(device: BlockDevice, { isRelative = false }: { isRelative?: boolean } = {}) {
    this.#device = device;
    this.sizeBytes = device.sizeBytes;
    this.isReadOnly = device.isReadOnly;
    this.canMultiConnect = device.canMultiConnect && !isRelative;
  }

  readNow(offsetBytes: number, lengthBytes: number, address: number): boolean {
    if (!this.#device.readNow(offsetBytes, lengthBytes, address)) return false;
    this.requestCount += 1;
    this.readBytes += lengthBytes;
    return true;
  }

  read(request: BlockRequest): void {
    this.requestCount += 1;
    this.readBytes += request.lengthBytes;
    this.#device.read(request);
  }

  writeNow(request: BlockRequest): boolean {
    // The request may be complete and in use again when the call returns.
    const { lengthBytes } = request;
    if (!this.#device.writeNow(request)) return false;
    this.requestCount += 1;
    this.writeBytes += lengthBytes;
    return true;
  }

  write(request: BlockRequest): void {
    this.requestCount += 1;
    this.writeBytes += request.lengthBytes;
    this.#device.write(request);
  }

  flush(request: BlockRequest): void {
    this.requestCount += 1;
    this.#device.flush(request);
  }

  trim(request: BlockRequest): void {
    this.requestCount += 1;
    this.#device.trim(request);
  }

  writeZeroes(request: BlockRequest, options: ZeroOptions): void {
    this.requestCount += 1;
    this.#device.writeZeroes(request, options);
  }

  cache(request: BlockRequest): void {
    this.requestCount += 1;
    this.#device.cache(request);
  }

  blockStatus(request: BlockRequest, sink: ExtentSink): void {
    this.requestCount += 1;
    this.#device.blockStatus(request, sink);
  }
}
