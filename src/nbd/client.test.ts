// SPDX-License-Identifier: Apache-2.0
//
// The client against servers that are old, wrong or out of their minds. (Against a right one it is tested
// with the server's tests, and with other people's in test/interop.)

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { hasCode } from "../base/errors.ts";
import { type ClientStream, NbdClient, type NbdClientOptions } from "./client.ts";
import { HEADERS } from "./codec.ts";

/** Answers each thing that the client sends with the next of these bytes. */
class FakeServer implements ClientStream {
  readonly heard: string[] = [];
  readonly #answers: Uint8Array[];
  #received: ((bytes: Uint8Array) => void) | undefined;
  #ended: ((error?: Error) => void) | undefined;
  isClosed = false;
  /** Says everything at once, whatever it hears, and hangs up. */
  isDeaf = false;

  constructor(greeting: string, ...answers: string[]) {
    this.#answers = [greeting, ...answers].map((hex) => Uint8Array.from(Buffer.from(hex, "hex")));
  }

  start(received: (bytes: Uint8Array) => void, ended: (error?: Error) => void): void {
    this.#received = received;
    this.#ended = ended;
    const count = this.isDeaf ? this.#answers.length + 1 : 1;
    for (let index = 0; index < count; index++) this.#answer();
  }

  send(bytes: Uint8Array): void {
    this.heard.push(Buffer.from(bytes).toString("hex"));
    // The client's flags aren't answered.
    if (bytes.length > 4 && !this.isDeaf) this.#answer();
  }

  startTls(): Promise<void> {
    return Promise.reject(new Error("a fake has no TLS"));
  }

  close(): void {
    this.isClosed = true;
  }

  hangUp(): void {
    this.#ended?.();
  }

  #answer(): void {
    const bytes = this.#answers.shift();
    queueMicrotask(() => {
      if (bytes === undefined) this.#ended?.();
      else for (const byte of bytes) this.#received?.(Uint8Array.of(byte));
    });
  }
}

const GREETING = `${Buffer.from("NBDMAGICIHAVEOPT").toString("hex")}0003`;

function reply(option: number, type: number, data = ""): string {
  const length = (data.length / 2).toString(16).padStart(8, "0");
  const code = option.toString(16).padStart(8, "0");
  return `0003e889045565a9${code}${(type >>> 0).toString(16).padStart(8, "0")}${length}${data}`;
}

const UNSUP = 0x80000001;
const EXPORT_INFO = `0000${"0000000000100000"}${"0001"}`;
const STRUCTURED_OK = reply(8, 1);
const GO_OK = reply(7, 3, EXPORT_INFO) + reply(7, 1);

async function open(
  server: FakeServer,
  options: Partial<NbdClientOptions> = {},
): Promise<NbdClient> {
  return await NbdClient.open(server, {
    exportName: "db",
    headers: HEADERS.STRUCTURED,
    ...options,
  });
}

test("a server that knows no option but EXPORT_NAME is enough", async () => {
  const server = new FakeServer(
    GREETING,
    reply(11, UNSUP),
    reply(8, UNSUP),
    reply(7, UNSUP),
    `0000000000100000${"0003"}`,
  );
  const nbd = await open(server, { headers: HEADERS.EXTENDED, contexts: ["base:allocation"] });
  equal(nbd.sizeBytes, 1 << 20);
  equal(nbd.agreement.headers, HEADERS.SIMPLE);
  equal(nbd.isReadOnly, true);
  deepEqual(nbd.contexts, []);
});

test("a server that sends the historic zeroes is understood", async () => {
  const greeting = GREETING.replace(/0003$/, "0001");
  const end = `0000000000100000${"0001"}${"00".repeat(124)}`;
  const server = new FakeServer(greeting, reply(8, UNSUP), reply(7, UNSUP), end);
  const nbd = await open(server);
  equal(server.heard[0], "00000001");
  equal(nbd.sizeBytes, 1 << 20);
});

test("an old-style server, and one that is no NBD server, are told apart from a good one", async () => {
  for (const greeting of [
    `${Buffer.from("NBDMAGIC").toString("hex")}00420281861253${"00".repeat(40)}`,
    Buffer.from("SSH-2.0-OpenSSH_9.2\r\n").toString("hex"),
    GREETING.replace(/0003$/, "0002"),
  ]) {
    const server = new FakeServer(greeting);
    await rejects(open(server), (error) => hasCode(error, "PEER_FAILED"));
    equal(server.isClosed, true);
  }
});

test("a server that hangs up in the handshake is an error, not a hang", async () => {
  await rejects(open(new FakeServer(GREETING)), (error) => hasCode(error, "PEER_FAILED"));
});

test("TLS that is wanted and refused is an error: there is no way back to plain text", async () => {
  const server = new FakeServer(GREETING, reply(5, 0x80000002, "6e6f"));
  await rejects(
    open(server, { isTlsWanted: true }),
    (error) => hasCode(error, "PEER_REFUSED") && /TLS refused: ERR_POLICY: no/.test(error.message),
  );
});

test("a GO that names no size, and a reply to another option, are broken", async () => {
  for (const answer of [reply(7, 1), reply(6, 1), `ffffffffffffffff${reply(7, 1).slice(16)}`]) {
    const server = new FakeServer(GREETING, STRUCTURED_OK, answer);
    await rejects(open(server), (error) => hasCode(error, "PEER_FAILED"));
  }
});

test("an option reply of impossible length isn't waited for", async () => {
  const server = new FakeServer(GREETING, `0003e889045565a900000008${"00000001"}ffffffff`);
  await rejects(open(server), /option reply of 4294967295 bytes/);
});

test("replies that break the protocol end everything that is open", async () => {
  const cookie = "0000000000000001";
  for (const answer of [
    "deadbeef",
    `67446698${"00000000"}${"0000000000000099"}`, // a cookie that isn't open
    `67446698${"00000000"}${cookie}`, // a simple reply to a read
    `668e33ef${"0001"}${"0001"}${cookie}${"00000009"}${"0000000000009999"}aa`, // not asked for
    `668e33ef${"0001"}${"0001"}${cookie}${"00000008"}${"0000000000000000"}`, // no data
    `668e33ef${"0001"}${"0001"}${cookie}${"ffffffff"}`,
    `668e33ef${"0001"}${"0002"}${cookie}${"0000000c"}${"0000000000000000"}${"00000201"}`,
    `668e33ef${"0001"}${"0005"}${cookie}${"0000000c"}${"00000001"}${"0000100000000000"}`,
    `668e33ef${"0001"}${"0007"}${cookie}${"00000000"}`,
    `668e33ef${"0001"}${"8001"}${cookie}${"00000002"}${"0000"}`,
    `668e33ef${"0001"}${"0000"}${cookie}${"00000000"}`, // an end without the data
  ]) {
    const nbd = await open(new FakeServer(GREETING, STRUCTURED_OK, GO_OK, answer));
    await rejects(nbd.read(0, 512), (error) => hasCode(error, "PEER_FAILED"), answer);
  }
});

test("an error chunk's words and number reach the caller", async () => {
  const chunk = `668e33ef${"0001"}${"8001"}${"0000000000000001"}${"00000008"}${"0000001c"}00026e6f`;
  const nbd = await open(new FakeServer(GREETING, STRUCTURED_OK, GO_OK, chunk));
  await rejects(
    nbd.write(4096, new Uint8Array(512)),
    (error) =>
      hasCode(error, "PEER_REFUSED") &&
      error.data.errno === 28 &&
      error.message === "nbd server: write of 512 bytes at 4096 failed: ENOSPC: no",
  );
});

test("a connection that ends fails what is open and all that comes later", async () => {
  const server = new FakeServer(GREETING, STRUCTURED_OK, GO_OK, "", "");
  const nbd = await open(server);
  const reads = [nbd.read(0, 1), nbd.read(1, 1)];
  server.hangUp();
  for (const read of reads) await rejects(read, (error) => hasCode(error, "PEER_FAILED"));
  await rejects(nbd.flush(), (error) => hasCode(error, "PEER_FAILED"));
  await nbd.close();
});

test("no bytes of a server's break the client", async () => {
  const piece = fc.oneof(
    fc.constantFrom(STRUCTURED_OK, GO_OK, reply(7, 1), reply(8, UNSUP), reply(10, 4, "00000001")),
    fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes).toString("hex")),
    fc
      .uint8Array({ minLength: 16, maxLength: 60 })
      .map((bytes) => `668e33ef${Buffer.from(bytes).toString("hex")}`),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 6 }), async (pieces) => {
      const server = new FakeServer(GREETING, ...pieces);
      server.isDeaf = true;
      try {
        const nbd = await open(server, { contexts: ["base:allocation"] });
        await Promise.all([nbd.read(0, 512), nbd.blockStatus(0, 512)]);
      } catch (error) {
        ok(hasCode(error, "PEER_FAILED") || hasCode(error, "PEER_REFUSED"), String(error));
      }
    }),
    { numRuns: 500 },
  );
});
