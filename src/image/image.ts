// SPDX-License-Identifier: Apache-2.0
//
// What a disk image is to the rest of Varve: a source to read from and a sink to write to, both sparse.
// A file (raw or qcow2), a stream and a volume behind NBD all fit these three small interfaces, so one
// copy engine (copy.ts) serves import and export alike.
//
//   ImageSource    random access, knows its size and which parts are zero without reading them
//   StreamSource   bytes in order, size perhaps unknown (stdin)
//   ImageSink      takes pieces and zero extents, each byte once, and is told when all is there
//
// Every byte of an image file is hostile: whatever it says is checked before it is used. Errors are
// IMAGE_UNSUPPORTED (a feature that isn't read here, or isn't allowed) and IMAGE_CORRUPT (it contradicts
// itself); failures of the disk below keep their own codes.

import type { DiskFile } from "../host/ports.ts";

export const IMAGE_FORMATS = ["raw", "qcow2"] as const;
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

/** A half-open run of bytes of the disk. `zero` reads as zeros; `data` may hold anything. */
export interface Extent {
  readonly start: number;
  readonly end: number;
  readonly kind: "data" | "zero";
}

export interface ImageSource {
  readonly format: string;
  /** What the disk is long, in bytes: any number, not always a multiple of 512. */
  readonly sizeBytes: number;
  /** What the user should know although reading goes on: "the image is marked dirty ...". */
  readonly warnings: readonly string[];
  /**
   * The extent that starts at `offset` (below sizeBytes). It may end before the property does; nobody
   * wants to know what lies beyond `enough`.
   */
  extentAt(offset: number, enough?: number): Promise<Extent>;
  /** Fills `target` from `offset`; all of it lies within sizeBytes. Calls may overlap. */
  read(target: Uint8Array, offset: number): Promise<void>;
  close(): Promise<void>;
}

export interface StreamSource {
  readonly format: string;
  /** Known beforehand, or undefined: then the end of the stream is the size. */
  readonly sizeBytes: number | undefined;
  readonly warnings: readonly string[];
  /** The next bytes; fewer than asked only at the end. One call at a time. */
  readNext(target: Uint8Array): Promise<number>;
  close(): Promise<void>;
}

export interface ImageSink {
  /** Pieces start at multiples of this and end at one, or at the end of the disk. A power of two. */
  readonly granuleBytes: number;
  /** True if pieces must arrive in ascending order, one at a time (a stream). */
  readonly isSequential: boolean;
  /** `source` belongs to the sink until the promise resolves. Calls may overlap, their ranges don't. */
  write(source: Uint8Array, offset: number): Promise<void>;
  /** [start, end) reads as zeros. */
  zero(start: number, end: number): Promise<void>;
  /** All is written: `sizeBytes` is the length of the disk. Resolves once it is on stable storage. */
  finish(sizeBytes: number): Promise<void>;
}

/** Opens the file at `path` for reading; throws StorageError. The image layer knows no paths of its own. */
export type OpenFile = (path: string) => Promise<DiskFile>;

/** No disk is larger: offsets stay safe integers. 8 PiB less one block. */
export const IMAGE_BYTES_MAX: number = 2 ** 53 - 4096;
