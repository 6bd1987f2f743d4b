// SPDX-License-Identifier: Apache-2.0
//
// A thin disk knows what was never written or was trimmed: the metadata context base:allocation tells a
// copy or a backup what it may skip.
//
//   node examples/03-what-is-there.ts varve-pool/nbd.sock example

import { ALLOCATION, connectStream, NbdClient } from "../src/varve.ts";

const CONTEXT = "base:allocation";
const MIB = 1024 * 1024;

const [path = "varve-pool/nbd.sock", exportName = "example"] = process.argv.slice(2);
const stream = await connectStream({ kind: "unix", path });
const disk = await NbdClient.open(stream, { exportName, contexts: [CONTEXT] });

await disk.write(8 * MIB, Buffer.alloc(MIB, "sand"));
await disk.trim(8 * MIB + 256 * 1024, 512 * 1024);

let dataBytes = 0;
for (let offset = 0; offset < disk.sizeBytes; ) {
  const answer = await disk.blockStatus(offset, disk.sizeBytes - offset);
  for (const { offsetBytes, lengthBytes, flags } of answer.get(CONTEXT) ?? []) {
    const isHole = (flags & ALLOCATION.HOLE) !== 0;
    if (!isHole) dataBytes += lengthBytes;
    console.log(`${offsetBytes}: ${lengthBytes} bytes of ${isHole ? "nothing" : "data"}`);
    offset = offsetBytes + lengthBytes;
  }
}
console.log(`${dataBytes} of ${disk.sizeBytes} bytes are worth copying`);

await disk.close();
