// SPDX-License-Identifier: Apache-2.0
//
// What an image is, by its first bytes. Only asked when the user didn't say: a disk's content is written
// by whoever uses the disk, and he may well write a qcow2 header into the first sector of a raw disk. So
// an image that was named raw is never looked at.
//
// Formats that are known but not read are refused rather than taken for raw: a VMDK or a gzip file copied
// byte by byte into a volume would look like success.

import type { ImageFormat } from "./image.ts";
import { unsupported } from "./image-error.ts";

/** How many bytes from the start detectFormat wants to see; fewer if the image is shorter. */
export const DETECT_BYTES = 512;

export const QCOW_MAGIC = 0x514649fb;

interface ForeignFormat {
  readonly name: string;
  readonly at: number;
  readonly magic: string; // in latin1
  readonly unpack?: string;
}

const FOREIGN: readonly ForeignFormat[] = [
  { name: "a VMDK image", at: 0, magic: "KDMV" },
  { name: "a VMDK image", at: 0, magic: "COWD" },
  { name: "a VMDK description", at: 0, magic: "# Disk DescriptorFile" },
  { name: "a VHDX image", at: 0, magic: "vhdxfile" },
  { name: "a VHD image", at: 0, magic: "conectix" },
  { name: "a VDI image", at: 0x40, magic: "\x7f\x10\xda\xbe" },
  { name: "a QED image", at: 0, magic: "QED\0" },
  { name: "a Parallels image", at: 0, magic: "WithoutFreeSpace" },
  { name: "a Parallels image", at: 0, magic: "WithouFreSpacExt" },
  { name: "compressed with gzip", at: 0, magic: "\x1f\x8b\x08", unpack: "zcat" },
  { name: "compressed with bzip2", at: 0, magic: "BZh", unpack: "bzcat" },
  { name: "compressed with xz", at: 0, magic: "\xfd7zXZ\0", unpack: "xzcat" },
  { name: "compressed with zstd", at: 0, magic: "\x28\xb5\x2f\xfd", unpack: "zstdcat" },
];

/** The format of an image that begins with `head`; throws for one that is known but not read. */
export function detectFormat(head: Uint8Array, path: string): ImageFormat {
  const text = Buffer.from(head.buffer, head.byteOffset, head.byteLength).toString("latin1");
  if (text.startsWith("QFI\xfb")) return "qcow2";
  for (const { name, at, magic, unpack } of FOREIGN) {
    if (!text.startsWith(magic, at)) continue;
    const first =
      unpack === undefined
        ? `convert it first: qemu-img convert -O qcow2 "${path}" disk.qcow2`
        : `unpack it on the way: ${unpack} "${path}" | varve import - VOLUME`;
    throw unsupported(
      path,
      `it looks like ${name}`,
      `${first}; if these bytes are the disk, say --format raw`,
    );
  }
  return "raw";
}
