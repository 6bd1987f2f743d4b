// SPDX-License-Identifier: Apache-2.0
//
// A disk is an export: connect to the pool's socket, name the volume, and write and read bytes anywhere.
//
//   bin/varve create example 16M
//   node examples/01-write-and-read.ts varve-pool/nbd.sock example

import { connectStream, NbdClient } from "../src/varve.ts";

const [path = "varve-pool/nbd.sock", exportName = "example"] = process.argv.slice(2);

const stream = await connectStream({ kind: "unix", path });
const disk = await NbdClient.open(stream, { exportName });
console.log(`${exportName} has ${disk.sizeBytes} bytes`);

await disk.write(4096, Buffer.from("layers of sediment"));
await disk.flush(); // from here on it survives a power cut
console.log(Buffer.from(await disk.read(4096, 18)).toString());

await disk.close();
