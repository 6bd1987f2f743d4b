// SPDX-License-Identifier: Apache-2.0
//
// The real sockets: the reading shortcut works on this runtime, the plain way does the same, and what
// listens where is what was asked for.

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Socket as NetSocket, connect as netConnect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { hasCode } from "../../base/errors.ts";
import type { ListenAddress, Listener, Socket, SocketHandler } from "../sockets.ts";
import { connectStream } from "./socket-connect.ts";
import { createSockets } from "./socket-listener.ts";
import { peerUidOf } from "./socket-peer.ts";
import { StreamSocket } from "./socket-stream.ts";

const directory = mkdtempSync(join(tmpdir(), "varve-sockets-"));
const sockets = createSockets();
let counter = 0;

function freshPath(): string {
  counter += 1;
  return join(directory, `${counter}.sock`);
}

/** Shared memory, as the slab is: the runtime must take it for reading and for writing. */
const memory = new Uint8Array(
  new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true }).buffer,
);

/** Keeps what arrives; where it lands alternates between two places. */
class Recorder implements SocketHandler {
  readonly received$: number[] = [];
  bytes: number[] = [];
  readonly addresses = [1000, 200_000];
  turn = 0;
  sentCount = 0;
  hasEnded = false;
  isClosed = false;
  error: Error | undefined;
  onReceived: (() => void) | undefined;

  target(): Uint8Array {
    const address = this.addresses[this.turn % 2] as number;
    return memory.subarray(address, address + 50_000);
  }

  received(countBytes: number): void {
    const address = this.addresses[this.turn % 2] as number;
    this.bytes.push(...memory.subarray(address, address + countBytes));
    this.turn += 1;
    this.onReceived?.();
  }

  sent(): void {
    this.sentCount += 1;
  }

  ended(): void {
    this.hasEnded = true;
  }

  closed(error?: Error): void {
    this.isClosed = true;
    this.error = error;
  }
}

async function until(isTrue: () => boolean): Promise<void> {
  for (let count = 0; count < 400 && !isTrue(); count++) await delay(5);
  ok(isTrue(), "not so after two seconds");
}

interface Pair {
  readonly socket: Socket;
  readonly client: NetSocket;
  readonly recorder: Recorder;
  readonly listener: Listener;
}

async function pair(address: ListenAddress): Promise<Pair> {
  let accepted: ((socket: Socket) => void) | undefined;
  const arrived = new Promise<Socket>((resolve) => {
    accepted = resolve;
  });
  const listener = await sockets.listen(address, (socket) => accepted?.(socket));
  const client =
    address.kind === "unix"
      ? netConnect(address.path)
      : netConnect(Number(listener.address.split(":").pop()), "127.0.0.1");
  const socket = await arrived;
  const recorder = new Recorder();
  socket.start(recorder);
  return { socket, client, recorder, listener };
}

async function close({ socket, client, listener }: Pair): Promise<void> {
  client.destroy();
  socket.destroy();
  await listener.close();
}

describe("sockets", () => {
  after(() => rmSync(directory, { recursive: true }));

  for (const kind of ["unix", "tcp"] as const) {
    const address = (): ListenAddress =>
      kind === "unix" ? { kind, path: freshPath() } : { kind, host: "127.0.0.1", port: 0 };

    test(`${kind}: reads land where the handler wants them, without a copy`, async () => {
      const all = await pair(address());
      const { socket, client, recorder } = all;
      equal((socket as StreamSocket).isDirect, true, "the shortcut doesn't work on this runtime");
      const wanted = Array.from({ length: 120_000 }, (_, index) => index % 251);
      client.write(Uint8Array.from(wanted));
      await until(() => recorder.bytes.length === wanted.length);
      deepEqual(recorder.bytes, wanted);
      await close(all);
    });

    test(`${kind}: a paused socket reads nothing until it is resumed`, async () => {
      const all = await pair(address());
      const { socket, client, recorder } = all;
      recorder.onReceived = () => socket.pause();
      client.write(new Uint8Array(10));
      await until(() => recorder.bytes.length === 10);
      client.write(new Uint8Array(10));
      await delay(20);
      equal(recorder.bytes.length, 10);
      socket.resume();
      await until(() => recorder.bytes.length === 20);
      await close(all);
    });

    test(`${kind}: a send that the peer doesn't read is done when it does`, async () => {
      const all = await pair(address());
      const { socket, client, recorder } = all;
      equal(socket.send([memory.subarray(0, 10), memory.subarray(10, 20)]), true);
      client.pause();
      const large = memory.subarray(0, 4 << 20);
      equal(socket.send([large, memory.subarray(0, 5)]), false);
      await delay(20);
      equal(recorder.sentCount, 0);
      let count = 0;
      client.on("data", (bytes) => {
        count += bytes.length;
      });
      client.resume();
      await until(() => recorder.sentCount === 1);
      await until(() => count === (4 << 20) + 25);
      await close(all);
    });

    test(`${kind}: the peer's end and its disappearance are told`, async () => {
      const all = await pair(address());
      all.client.end();
      await until(() => all.recorder.hasEnded);
      equal(all.recorder.isClosed, false);
      equal(all.socket.send([memory.subarray(0, 3)]), true, "a half-closed socket can be answered");
      all.socket.end();
      await until(() => all.recorder.isClosed);
      await close(all);
      const second = await pair(address());
      second.socket.destroy();
      await until(() => second.recorder.isClosed);
      await close(second);
    });
  }

  test("the plain way does what the shortcut does", async () => {
    const path = freshPath();
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(path);
    const client = netConnect(path);
    const [accepted] = (await once(server, "connection")) as [NetSocket];
    const socket = new StreamSocket(accepted, false);
    const recorder = new Recorder();
    recorder.onReceived = () => {
      if (recorder.bytes.length === 50_000) socket.pause();
    };
    socket.start(recorder);
    equal(socket.isDirect, false);
    const wanted = Array.from({ length: 120_000 }, (_, index) => index % 249);
    client.write(Uint8Array.from(wanted));
    client.end();
    await until(() => recorder.bytes.length >= 50_000);
    await delay(20);
    ok(recorder.bytes.length < 120_000);
    equal(recorder.hasEnded, false);
    socket.resume();
    await until(() => recorder.hasEnded);
    deepEqual(recorder.bytes, wanted);
    socket.destroy();
    server.close();
  });

  test("TCP peers are known by address, IPv4 ones also on an IPv6 socket", async () => {
    const four = await pair({ kind: "tcp", host: "127.0.0.1", port: 0 });
    equal(four.socket.peerAddress, "127.0.0.1");
    ok(/^127\.0\.0\.1:\d+$/.test(four.socket.peer), four.socket.peer);
    await close(four);
    const both = await pair({ kind: "tcp", host: "::", port: 0 });
    equal(both.socket.peerAddress, "127.0.0.1");
    await close(both);
  });

  test("a Unix socket has the mode that was asked for, 0600 by default", async () => {
    for (const [mode, wanted] of [
      [undefined, 0o600],
      [0o660, 0o660],
      [0o666, 0o666],
    ] as const) {
      const path = freshPath();
      const umask = process.umask();
      const address = { kind: "unix", path, ...(mode === undefined ? {} : { mode }) } as const;
      const listener = await sockets.listen(address, () => {});
      equal(statSync(path).mode & 0o777, wanted);
      equal(process.umask(), umask);
      await listener.close();
    }
  });

  test("a path that a dead server left behind is taken over", async () => {
    const path = freshPath();
    const dead = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
    spawnSync(process.execPath, ["-e", dead]);
    ok(statSync(path).isSocket());
    const all = await pair({ kind: "unix", path });
    await close(all);
  });

  test("a path or port that somebody answers on is refused, and so is a plain file", async () => {
    const path = freshPath();
    const first = await sockets.listen({ kind: "unix", path }, (socket) => socket.destroy());
    const refused = (error: unknown): boolean => hasCode(error, "LISTEN_FAILED");
    await rejects(
      sockets.listen({ kind: "unix", path }, () => {}),
      refused,
    );
    await first.close();
    const file = freshPath();
    writeFileSync(file, "precious");
    await rejects(
      sockets.listen({ kind: "unix", path: file }, () => {}),
      refused,
    );
    equal(statSync(file).size, 8);
    const tcp = await sockets.listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, () => {});
    const port = Number(tcp.address.split(":").pop());
    await rejects(
      sockets.listen({ kind: "tcp", host: "127.0.0.1", port }, () => {}),
      refused,
    );
    await tcp.close();
  });

  test("a listening socket that was inherited is used as it is", async () => {
    const server = createServer((socket) => socket.destroy()).listen(freshPath());
    await once(server, "listening");
    const descriptor = (server as unknown as { _handle: { fd: number } })._handle.fd;
    // A process of its own, as systemd's service is: two listeners here would share the clients.
    const program = `
      import { createSockets } from ${JSON.stringify(join(import.meta.dirname, "socket-listener.ts"))};
      const listener = await createSockets().listen({ kind: "descriptor", descriptor: 3, name: "" }, (socket) => {
        console.log(socket.peer);
        process.exit(0);
      });
      console.log(listener.address);
    `;
    const path = server.address() as string;
    const { spawn } = await import("node:child_process");
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit", descriptor],
    });
    let output = "";
    child.stdout?.on("data", (bytes: Buffer) => {
      output += bytes.toString();
    });
    const ended = once(child, "close");
    await until(() => output.includes(path));
    // Either of the two may take a client: connect until it was the child.
    for (let count = 0; count < 200 && child.exitCode === null; count++) {
      netConnect(path)
        .on("error", () => {})
        .unref();
      await delay(10);
    }
    child.kill();
    await ended;
    server.close();
    equal(output, `${path}\nunix\n`);
  });

  test("the uid of a Unix client is what the kernel says", async () => {
    const all = await pair({ kind: "unix", path: freshPath() });
    equal(await all.socket.peerUid(), process.getuid?.());
    // Asking has left the socket as it was: reading it still doesn't block.
    all.client.write(new Uint8Array(3));
    await until(() => all.recorder.bytes.length === 3);
    await close(all);
    const tcp = await pair({ kind: "tcp", host: "127.0.0.1", port: 0 });
    equal(await tcp.socket.peerUid(), undefined);
    await close(tcp);
    const file = openSync("/dev/null", "r");
    equal(await peerUidOf(file), undefined, "what isn't a Unix socket has no peer");
    closeSync(file);
  });

  test("nothing to connect to is an error that says where", async () => {
    await rejects(
      connectStream({ kind: "unix", path: freshPath() }),
      (error) => hasCode(error, "PEER_FAILED") && /\.sock: ENOENT/.test(error.message),
    );
  });
});
