// SPDX-License-Identifier: Apache-2.0
//
// Opens an image file for reading, with what belongs to it. A qcow2 image may name other files: the one
// its missing parts come from (backing file) and the one its data is in (external data file). Whoever made
// the image chose those names, so they are followed only where the user says so (allowBacking), only to
// files whose format the image states, and at most CHAIN_DEPTH_MAX deep, never in a circle.
//
// The files are opened by a function of the caller's: this layer knows names, not the file system.

import { dirname, isAbsolute, join } from "node:path";
import type { DiskFile } from "../host/ports.ts";
import { ByteCache } from "./byte-cache.ts";
import { DETECT_BYTES, detectFormat } from "./detect.ts";
import type { ImageFormat, ImageSource, OpenFile } from "./image.ts";
import { corrupt, printable, unsupported } from "./image-error.ts";
import { CLUSTER_BITS_MAX, parseHeader, type Qcow2Header } from "./qcow2-header.ts";
import { CHAIN_MEMORY_BYTES, Qcow2Source } from "./qcow2-source.ts";
import { fileSizeBytes, RawSource } from "./raw.ts";

/** Images in one chain, the first included. */
export const CHAIN_DEPTH_MAX = 32;

export interface OpenImageOptions {
  readonly openFile: OpenFile;
  /** Default: by the first bytes. Say raw for a raw disk that others could write to. */
  readonly format?: ImageFormat | undefined;
  /** Follow backing and external data files. Default: refuse an image that has one. */
  readonly allowBacking?: boolean | undefined;
}

interface Chain {
  readonly openFile: OpenFile;
  readonly allowBacking: boolean;
  readonly cache: ByteCache;
  /** Paths from the first image to the one being opened. */
  readonly paths: readonly string[];
}

export function openImage(path: string, options: OpenImageOptions): Promise<ImageSource> {
  const chain: Chain = {
    openFile: options.openFile,
    allowBacking: options.allowBacking ?? false,
    cache: new ByteCache(CHAIN_MEMORY_BYTES),
    paths: [],
  };
  return openLink(path, options.format, chain);
}

async function openLink(
  path: string,
  format: ImageFormat | undefined,
  before: Chain,
): Promise<ImageSource> {
  if (before.paths.includes(path)) throw corrupt(path, "it is its own backing file");
  if (before.paths.length >= CHAIN_DEPTH_MAX) {
    throw unsupported(path, `more than ${CHAIN_DEPTH_MAX} images, each backed by the next`);
  }
  const chain = { ...before, paths: [...before.paths, path] };
  const file = await chain.openFile(path);
  try {
    const fileBytes = await fileSizeBytes(file);
    const found = format ?? detectFormat(await readHead(file, DETECT_BYTES), path);
    if (found === "raw") return new RawSource(file, fileBytes, path);
    return await openQcow2(path, file, fileBytes, chain);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openQcow2(
  path: string,
  file: DiskFile,
  fileBytes: number,
  chain: Chain,
): Promise<ImageSource> {
  const head = await readHead(file, Math.min(fileBytes, 2 ** CLUSTER_BITS_MAX));
  const header = parseHeader(head, fileBytes, path);
  if (header.backing && !chain.allowBacking) {
    const name = printable(header.backing.name);
    throw unsupported(
      path,
      `it has a backing file, "${name}"`,
      "if you trust that name, pass --allow-backing; else see qemu-img info",
    );
  }
  if (header.dataFile !== undefined && !chain.allowBacking) {
    throw unsupported(
      path,
      `its data is in another file, "${printable(header.dataFile)}"`,
      "if you trust that name, pass --allow-backing; else see qemu-img info",
    );
  }
  const dataFile = await openDataFile(path, header, chain);
  try {
    const backing = header.backing ? await openBacking(path, header.backing, chain) : undefined;
    const warnings = header.isDirty
      ? [`image "${path}": marked as in use: was it closed? Its content is read as it stands`]
      : [];
    const depth = chain.paths.length;
    return new Qcow2Source({
      ...{ path, file, fileBytes, header, cache: chain.cache, depth },
      ...{ backing, dataFile, warnings },
    });
  } catch (error) {
    await dataFile?.file.close();
    throw error;
  }
}

async function openBacking(
  path: string,
  backing: NonNullable<Qcow2Header["backing"]>,
  chain: Chain,
): Promise<ImageSource> {
  const { format } = backing;
  if (format !== "raw" && format !== "qcow2") {
    const name = printable(backing.name);
    if (format !== undefined) {
      throw unsupported(
        path,
        `its backing file "${name}" is ${printable(format)}, not raw or qcow2`,
      );
    }
    throw unsupported(
      path,
      `it doesn't say the format of its backing file "${name}", and guessing isn't safe`,
      `say it: qemu-img rebase -u -b "${name}" -F FORMAT "${path}"`,
    );
  }
  return openLink(neighbour(path, backing.name), format, chain);
}

async function openDataFile(
  path: string,
  header: Qcow2Header,
  chain: Chain,
): Promise<{ file: DiskFile; bytes: number } | undefined> {
  if (header.dataFile === undefined) return undefined;
  if (header.dataFile === "") throw unsupported(path, "it doesn't say which file its data is in");
  const file = await chain.openFile(neighbour(path, header.dataFile));
  try {
    return { file, bytes: await fileSizeBytes(file) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The path of a file that the image at `path` names; names without a root are beside the image. */
function neighbour(path: string, name: string): string {
  const plain = name.startsWith("file:") ? name.slice("file:".length) : name;
  // What stands before a colon is a protocol (nbd://, json:, https:) unless a slash comes first.
  if (/^[^/]*:/.test(plain) || plain.includes("\0") || plain === "") {
    throw unsupported(path, `it names "${printable(name)}", and only files are followed`);
  }
  return isAbsolute(plain) ? plain : join(dirname(path), plain);
}

async function readHead(file: DiskFile, bytes: number): Promise<Uint8Array> {
  const head = new Uint8Array(bytes);
  return head.subarray(0, await file.read(head, 0));
}
