// SPDX-License-Identifier: Apache-2.0
//
// A volume as the source or the sink of an image copy. Copies go through the NBD door like any other
// client's requests: same path, same promises, same access lists; there is no second way into a volume
// that could be wrong on its own. The volume's own map of zeros spares the reading of what isn't there.

import { StorageError } from "../base/errors.ts";
import { connectStream } from "../host/node/socket-connect.ts";
import type { Extent, ImageSink, ImageSource } from "../image/image.ts";
import { NbdClient } from "../nbd/client.ts";
import type { DaemonClient } from "./daemon-client.ts";

const ALLOCATION_CONTEXT = "base:allocation";
/** base:allocation: reads as zeros. */
const ZERO_FLAG = 2;
/** What one status or zero request covers: servers without extended headers know 32 bits. */
const RANGE_BYTES_MAX: number = 1 << 30;
const GRANULE_BYTES = 4096;

/** Opens a volume over the daemon's Unix socket. */
export async function openVolume(daemon: DaemonClient, volume: string): Promise<NbdClient> {
  const { uris } = await daemon.call("getVolume", { volume });
  const socketPath = uris
    .map((uri) => /^nbd\+unix:.*\?socket=(.+)$/.exec(uri)?.[1])
    .find((path) => path !== undefined);
  if (socketPath === undefined) {
    throw new StorageError(
      "EXPORT_NOT_FOUND",
      `volume "${volume}": not opened: the daemon has no Unix socket`,
      {
        hint: "let the daemon serve one: varve serve --socket PATH",
      },
    );
  }
  const stream = await connectStream({ kind: "unix", path: decodeURIComponent(socketPath) });
  return NbdClient.open(stream, { exportName: volume, contexts: [ALLOCATION_CONTEXT] });
}

/** True when all of the volume reads as zeros without being looked at. */
export async function isBlank(client: NbdClient): Promise<boolean> {
  const source = new VolumeSource(client);
  for (let at = 0; at < client.sizeBytes; ) {
    const { end, kind } = await source.extentAt(at);
    if (kind === "data") return false;
    at = end;
  }
  return true;
}

export class VolumeSource implements ImageSource {
  readonly format = "volume";
  readonly sizeBytes: number;
  readonly warnings: readonly string[] = [];
  readonly #client: NbdClient;
  /** Of the latest answer, ascending and contiguous. */
  #known: Extent[] = [];

  constructor(client: NbdClient) {
    this.#client = client;
    this.sizeBytes = client.sizeBytes;
  }

  async extentAt(offset: number): Promise<Extent> {
    const known = this.#find(offset);
    if (known !== undefined) return { ...known, start: offset };
    const lengthBytes = Math.min(RANGE_BYTES_MAX, this.sizeBytes - offset);
    const answer = await this.#client.blockStatus(offset, lengthBytes);
    this.#known = (answer.get(ALLOCATION_CONTEXT) ?? []).map((extent) => ({
      start: extent.offsetBytes,
      // The last one may reach beyond what was asked for.
      end: Math.min(this.sizeBytes, extent.offsetBytes + extent.lengthBytes),
      kind: (extent.flags & ZERO_FLAG) === 0 ? "data" : "zero",
    }));
    // A server without the context, or an answer without progress: all of it is data.
    return this.#find(offset) ?? { start: offset, end: offset + lengthBytes, kind: "data" };
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    await this.#client.readInto(target, offset);
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  #find(offset: number): Extent | undefined {
    return this.#known.find(({ start, end }) => start <= offset && offset < end);
  }
}

export class VolumeSink implements ImageSink {
  readonly granuleBytes: number = GRANULE_BYTES;
  readonly isSequential = false;
  readonly #client: NbdClient;
  /** Everything that isn't written reads as zeros already. */
  readonly #isBlank: boolean;

  constructor(client: NbdClient, { isBlank }: { readonly isBlank: boolean }) {
    this.#client = client;
    this.#isBlank = isBlank;
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    return this.#client.write(offset, source);
  }

  async zero(start: number, end: number): Promise<void> {
    if (this.#isBlank) return;
    for (let at = start; at < end; at += RANGE_BYTES_MAX) {
      await this.#client.writeZeroes(at, Math.min(RANGE_BYTES_MAX, end - at));
    }
  }

  /** What lies behind the image is zeros too. */
  async finish(sizeBytes: number): Promise<void> {
    await this.zero(sizeBytes, this.#client.sizeBytes);
    await this.#client.flush();
  }
}
